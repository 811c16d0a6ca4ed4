"""Makes the parity goldens: python3 test/golden/parity/make.py

model/            config.json and model.safetensors (bf16 values), Hugging Face layout
curve.safetensors
  ids              i32 [200, 4, 64], the batches
  learning_rate    f32 [200]
  loss             f64 [200], PyTorch float32 training
  gradient_norm    f64 [200], before clipping
  logits           f32 [64, 512], first row of the first batch, from float64
  grad.<name>      f32, first-step gradient from float64
  metadata         settings; per parameter, the relative L2 error of PyTorch's own first-step
                   gradients in float32, with bf16 weights, and under bf16 autocast
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llama import Config, initial_weights, logits, loss

HERE = Path(__file__).parent
STEPS, WARMUP, PEAK, CLIP, DECAY, BETAS, EPS = 200, 20, 3e-4, 1.0, 0.01, (0.9, 0.95), 1e-8
BATCH, LENGTH, SEED = 4, 64, 20


def make_batches(vocab: int) -> torch.Tensor:
    """A Markov chain with a few likely successors each, so that there is something to learn."""
    rng = np.random.default_rng(SEED)
    successors = rng.integers(0, vocab, (vocab, 3))
    ids = np.empty((STEPS, BATCH, LENGTH), np.int32)
    ids[:, :, 0] = rng.integers(0, vocab, (STEPS, BATCH))
    for t in range(1, LENGTH):
        choice = rng.choice(3, (STEPS, BATCH), p=[0.6, 0.3, 0.1])
        likely = successors[ids[:, :, t - 1], choice]
        ids[:, :, t] = np.where(rng.random((STEPS, BATCH)) < 0.05, rng.integers(0, vocab, (STEPS, BATCH)), likely)
    return torch.from_numpy(ids)


def learning_rate(step: int) -> float:
    """step counts from 0: linear to the peak at step WARMUP - 1, then half a cosine to 0."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def leaves(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype).clone().requires_grad_() for k, v in weights.items()}


def gradients(weights, ids, c, dtype, autocast=False, **options) -> dict[str, torch.Tensor]:
    w = leaves(weights, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(w, ids, c, **options)
    value.backward()
    return {k: v.grad.double() for k, v in w.items()}


def train(weights, batches, c, dtype, **options) -> tuple[list[float], list[float]]:
    w = leaves(weights, dtype)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in w.values() if p.dim() == 2], "weight_decay": DECAY},
            {"params": [p for p in w.values() if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=BETAS, eps=EPS, foreach=False, fused=False,
    )
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        value = loss(w, batches[step].long(), c, **options)
        value.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(w.values(), CLIP).item())
        optimizer.step()
        losses.append(value.item())
    return losses, norms


def relative_l2(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {k: float((actual[k] - expected[k]).norm() / expected[k].norm()) for k in expected}


def curve_gap(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) / abs(y) for x, y in zip(a, b))


def check_against_transformers(weights, ids, c: Config, hf: LlamaConfig) -> None:
    model = LlamaForCausalLM(hf).double().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        # transformers computes rope phases and norms in float32 whatever the dtype
        theirs, ours = model(ids).logits, logits(weights, ids, c)
        other = logits(weights, ids, c, interleaved=True)
    gap, moved = float((theirs - ours).abs().max()), float((other - ours).abs().max())
    print(f"transformers' logits within {gap:.1e}; interleaved rope moves them by {moved:.1e}")
    assert gap < 1e-4 and moved > 100 * 1e-4


def main() -> None:
    torch.set_num_threads(2)
    c = Config()
    weights = initial_weights(c, SEED)
    batches = make_batches(c.vocab_size)
    first = batches[0].long()
    hf = LlamaConfig(
        **{k: getattr(c, k) for k in c.__dataclass_fields__ if k != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=True, attention_bias=False, mlp_bias=False, hidden_act="silu",
        bos_token_id=0, eos_token_id=1,
    )
    check_against_transformers(weights, first, c, hf)

    exact = gradients(weights, first, c, torch.float64)
    errors = {
        "f32": relative_l2(gradients(weights, first, c, torch.float32), exact),
        "bf16": relative_l2(gradients(weights, first, c, torch.bfloat16), exact),
        "bf16Autocast": relative_l2(gradients(weights, first, c, torch.float32, autocast=True), exact),
    }
    for kind, by_name in errors.items():
        print(f"first-step gradient, relative L2, {kind}: {min(by_name.values()):.1e} .. {max(by_name.values()):.1e}")

    losses, norms = train(weights, batches, c, torch.float32)
    wide, _ = train(weights, batches, c, torch.float64)
    wrong, _ = train(weights, batches, c, torch.float32, interleaved=True)
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; float64 within {curve_gap(wide, losses):.1e}; "
          f"interleaved rope {curve_gap(wrong, losses):.1e}; norms {min(norms):.2f} .. {max(norms):.2f}")
    assert curve_gap(wide, losses) < 1e-5, "the float32 curve is itself too noisy to test against"
    assert curve_gap(wrong, losses) > 100 * 1e-4, "the curve is blind to rope's layout"
    assert min(norms) < CLIP < max(norms) or min(norms) > CLIP, "clipping never acts"

    with torch.no_grad():
        row = logits(weights, first[:1], c)[0]
    model = HERE / "model"
    model.mkdir(exist_ok=True)
    save_file({k: v.to(torch.bfloat16) for k, v in weights.items()}, model / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        **{k: getattr(c, k) for k in c.__dataclass_fields__},
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    }
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {
        "ids": batches,
        "learning_rate": torch.tensor([learning_rate(s) for s in range(STEPS)], dtype=torch.float32),
        "loss": torch.tensor(losses, dtype=torch.float64),
        "gradient_norm": torch.tensor(norms, dtype=torch.float64),
        "logits": row.float().contiguous(),
        **{f"grad.{k}": v.float() for k, v in exact.items()},
    }
    settings = {
        "steps": STEPS, "warmup": WARMUP, "peak": PEAK, "clip": CLIP, "weightDecay": DECAY,
        "betas": BETAS, "eps": EPS, "gradientError": errors, "torch": torch.__version__,
    }
    save_file(tensors, HERE / "curve.safetensors", {"settings": json.dumps(settings)})
    print("bytes:", sum(f.stat().st_size for f in [HERE / "curve.safetensors", *model.iterdir()]))


if __name__ == "__main__":
    main()
