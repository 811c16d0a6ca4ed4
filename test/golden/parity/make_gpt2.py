"""Makes the GPT-2 parity goldens with transformers' own model: python3 test/golden/parity/make_gpt2.py

gpt2/model/             what save_pretrained wrote, bf16
gpt2/curve.safetensors  as make.py describes it; ids and learning rates too
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.func import functional_call
from transformers import GPT2Config, GPT2LMHeadModel

import make
from make import BATCH, BETAS, CLIP, DECAY, EPS, LENGTH, STEPS, WARMUP, PEAK, SEED, curve_gap, learning_rate, relative_l2

HERE = Path(__file__).parent / "gpt2"
CONFIG = dict(vocab_size=512, n_positions=80, n_embd=64, n_layer=3, n_head=4, layer_norm_epsilon=1e-5,
              bos_token_id=0, eos_token_id=1)


def build(dtype: torch.dtype, weights: dict[str, torch.Tensor] | None = None, **changes) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(GPT2Config(**{**CONFIG, **changes}, attn_implementation="eager")).eval()  # no dropout
    if weights is not None:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
        model.tie_weights()
    return model.to(dtype)


def initial_weights() -> dict[str, torch.Tensor]:
    """float64, exact in bf16; far above GPT-2's 0.02, biases and norms random, so that nothing is hidden."""
    g = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, p in build(torch.float64).named_parameters():
        noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
        if p.dim() == 2:
            value = (0.15 if "wte" in name or "wpe" in name else 0.2) * noise
        else:
            value = 0.2 * noise + (1 if name.endswith("weight") else 0)
        weights[name] = value.to(torch.bfloat16).to(torch.float64)
    return weights


def logits(model: GPT2LMHeadModel, ids: torch.Tensor, **options) -> torch.Tensor:
    return model(ids, use_cache=False, **options).logits


def loss(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    z = logits(model, ids)[:, :-1]
    return F.cross_entropy((z.float() if z.dtype == torch.bfloat16 else z).reshape(-1, z.shape[-1]), ids[:, 1:].reshape(-1))


def gradients(weights, ids, dtype, autocast=False) -> dict[str, torch.Tensor]:
    model = build(dtype, weights)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(model, ids)
    value.backward()
    return {k: p.grad.double() for k, p in model.named_parameters()}


def train(weights, batches, dtype, **changes) -> tuple[list[float], list[float]]:
    model = build(dtype, weights, **changes)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() == 2], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=BETAS, eps=EPS, foreach=False, fused=False,
    )
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        value = loss(model, batches[step].long())
        value.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP).item())
        optimizer.step()
        losses.append(value.item())
    return losses, norms


def check_sensitivity(weights, ids) -> None:
    """Leaving out any feature moves the logits far past the test's tolerance."""
    exact = logits(build(torch.float64, weights), ids)
    model = build(torch.float64, weights)
    without = lambda keep: functional_call(model, {k: v for k, v in weights.items() if not keep(k)} | {
        k: torch.zeros_like(v) for k, v in weights.items() if keep(k)}, (ids,), {"use_cache": False}).logits
    shifted = torch.arange(1, ids.shape[1] + 1)[None]
    others = {
        "exact gelu": logits(build(torch.float64, weights, activation_function="gelu"), ids),
        "epsilon 1e-4": logits(build(torch.float64, weights, layer_norm_epsilon=1e-4), ids),
        "positions one later": logits(model, ids, position_ids=shifted),
        "unscaled scores": logits(build(torch.float64, weights, scale_attn_weights=False), ids),
        **{f"no {part}": without(lambda k, part=part: k.endswith(part)) for part in
           ["ln_1.bias", "ln_2.bias", "ln_f.bias", "c_attn.bias", "attn.c_proj.bias", "c_fc.bias", "mlp.c_proj.bias"]},
    }
    for name, other in others.items():
        moved = float((other - exact).norm() / exact.norm())
        print(f"{name}: logits move by {moved:.1e}")
        assert moved > 100 * 2e-6


def main() -> None:
    torch.set_num_threads(2)
    weights = initial_weights()
    batches = make.make_batches(CONFIG["vocab_size"])
    first = batches[0].long()
    with torch.no_grad():
        check_sensitivity(weights, first)
    exact = gradients(weights, first, torch.float64)
    errors = {
        "f32": relative_l2(gradients(weights, first, torch.float32), exact),
        "bf16": relative_l2(gradients(weights, first, torch.bfloat16), exact),
        "bf16Autocast": relative_l2(gradients(weights, first, torch.float32, autocast=True), exact),
    }
    for kind, by_name in errors.items():
        print(f"first-step gradient, relative L2, {kind}: {min(by_name.values()):.1e} .. {max(by_name.values()):.1e}")
    losses, norms = train(weights, batches, torch.float32)
    wide, _ = train(weights, batches, torch.float64)
    wrong, _ = train(weights, batches, torch.float32, scale_attn_weights=False)
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; float64 within {curve_gap(wide, losses):.1e}; "
          f"unscaled scores {curve_gap(wrong, losses):.1e}; norms {min(norms):.2f} .. {max(norms):.2f}")
    assert curve_gap(wide, losses) < 1e-5, "the float32 curve is itself too noisy to test against"
    assert curve_gap(wrong, losses) > 100 * 1e-4
    assert min(norms) > CLIP or min(norms) < CLIP < max(norms), "clipping never acts"

    build(torch.bfloat16, weights).save_pretrained(HERE / "model")
    (HERE / "model" / "generation_config.json").unlink(missing_ok=True)
    with torch.no_grad():
        row = logits(build(torch.float64, weights), first[:1])[0]
        # left padding: the first 20 places of the row are padding, the others keep their positions
        mask = torch.ones(1, LENGTH, dtype=torch.long)
        padded = torch.cat([torch.full((1, 20), 7), first[:1, : LENGTH - 20]], 1)
        mask[:, :20] = 0
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
        left = logits(build(torch.float64, weights), padded, attention_mask=mask, position_ids=position_ids)[0, 20:]
    save_file(
        {
            "ids": batches,
            "learning_rate": torch.tensor([learning_rate(s) for s in range(STEPS)], dtype=torch.float32),
            "loss": torch.tensor(losses, dtype=torch.float64),
            "gradient_norm": torch.tensor(norms, dtype=torch.float64),
            "logits": row.float().contiguous(),
            "left_padded.ids": padded.int(),
            "left_padded.logits": left.float().contiguous(),
            **{f"grad.{k}": v.float().contiguous() for k, v in exact.items()},
        },
        HERE / "curve.safetensors",
        {"settings": json.dumps({
            "steps": STEPS, "warmup": WARMUP, "peak": PEAK, "clip": CLIP, "weightDecay": DECAY,
            "betas": BETAS, "eps": EPS, "gradientError": errors, "torch": torch.__version__,
        })},
    )
    print("bytes:", sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()), "batch", BATCH)


if __name__ == "__main__":
    main()
