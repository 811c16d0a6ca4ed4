"""Makes the goldens of the rotary kinds: python3 test/golden/rope_kinds/make.py

model.safetensors   weights of a small Llama: matrices N(0, 0.2), norm weights N(1, 0.3), float32
kinds.safetensors
  ids                          i32 [1, T], T past the original context of every kind
  <kind>.logits                f32 [LAST, V], the last rows, from transformers' LlamaForCausalLM in float64
  <kind>.frequencies           f32, transformers' inv_freq at that length
  <kind>.short_frequencies     f32, at a length within the original context
  metadata <kind>              JSON: config (config.json), attention_factor

The model's phases are float64 here, as positions are few; transformers' own are float32. A kind is
told from the others by its logits: the smallest distance between any two is printed and must be a
hundred tolerances.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

HERE = Path(__file__).parent
T, LAST, ORIGINAL, SHORT, TOLERANCE = 48, 8, 16, 12, 1e-4
BASE = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
}
SHORT_FACTORS = [1.0, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0]
LONG_FACTORS = [1.0, 1.1, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5, 7.0, 9.0, 11.0, 13.0]
# as people's config.json files say it: transformers 4's names (`type` in the oldest), and 5's
KINDS = {
    "default": {"rope_theta": 100.0},
    "linear": {"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {
        "rope_theta": 100.0, "max_position_embeddings": ORIGINAL,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "llama3": {
        "rope_theta": 100.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": ORIGINAL,
        },
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": ORIGINAL,
            "beta_fast": 2.0, "beta_slow": 0.5,
        },
    },
    "yarn mscale": {
        "rope_theta": 100.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": ORIGINAL, "truncate": False,
            "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 1.4, "mscale_all_dim": 0.7,
        },
    },
    "longrope": {
        "rope_theta": 100.0, "max_position_embeddings": 8 * ORIGINAL, "original_max_position_embeddings": ORIGINAL,
        "rope_scaling": {"type": "longrope", "short_factor": SHORT_FACTORS, "long_factor": LONG_FACTORS},
    },
    "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    "partial yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100.0, "partial_rotary_factor": 0.5, "factor": 4.0,
            "original_max_position_embeddings": ORIGINAL, "attention_factor": 1.3,
        },
    },
}


def weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    model = LlamaForCausalLM(LlamaConfig(**BASE, max_position_embeddings=64))
    made = {}
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        made[name] = (0.2 * noise if p.dim() == 2 else 1 + 0.3 * noise).contiguous()
    return made


class DoublePhases(modeling_llama.LlamaRotaryEmbedding):
    """transformers' frequencies and factor; the product and its cosine in float64."""

    @modeling_llama.dynamic_rope_update
    def forward(self, x, position_ids):
        phase = position_ids.double()[..., None] * self.inv_freq.double()
        phase = torch.cat([phase, phase], dim=-1)
        return (phase.cos() * self.attention_scaling).to(x.dtype), (phase.sin() * self.attention_scaling).to(x.dtype)

    # Llama's own reads no partial_rotary_factor; Phi-3's is the same and does
    compute_default_rope_parameters = staticmethod(modeling_phi3.Phi3RotaryEmbedding.compute_default_rope_parameters)


def run(config: dict, state: dict, ids: torch.Tensor):
    hf = LlamaConfig(**config)
    model = LlamaForCausalLM(hf).double().eval()
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    rotary = DoublePhases(hf)
    model.model.rotary_emb = rotary
    with torch.no_grad():
        rotary(torch.zeros(1).double(), torch.arange(SHORT)[None])
        short = rotary.inv_freq.clone()
        logits = model(ids).logits[0]
    return logits[-LAST:], rotary.inv_freq.clone(), short, rotary.attention_scaling


def main() -> None:
    # Phi-3's rotation is Llama's, and leaves what lies past the cosines as it is
    modeling_llama.apply_rotary_pos_emb = modeling_phi3.apply_rotary_pos_emb
    generator = torch.Generator().manual_seed(3)
    state = weights(generator)
    ids = torch.randint(0, BASE["vocab_size"], (1, T), generator=generator)
    tensors, metadata, logits = {"ids": ids.int()}, {}, {}
    for kind, extra in KINDS.items():
        config = BASE | {"max_position_embeddings": 64} | extra
        logits[kind], frequencies, short, factor = run(config, state, ids)
        tensors[f"{kind}.logits"] = logits[kind].float().contiguous()
        tensors[f"{kind}.frequencies"] = frequencies.float().contiguous()
        tensors[f"{kind}.short_frequencies"] = short.float().contiguous()
        metadata[kind] = json.dumps({"config": config, "attention_factor": factor})
    names = list(KINDS)
    apart = {(a, b): float((logits[a] - logits[b]).abs().max()) for a in names for b in names if a < b}
    nearest = min(apart, key=apart.get)
    print(f"nearest kinds: {nearest}, {apart[nearest]:.3f} apart; logits up to {logits['default'].abs().max():.1f}")
    assert apart[nearest] > 100 * TOLERANCE
    save_file(state, HERE / "model.safetensors", {"format": "pt"})
    save_file(tensors, HERE / "kinds.safetensors", metadata)
    for name in ("model", "kinds"):
        (HERE / f"{name}.safetensors").chmod(0o644)
        print(name, (HERE / f"{name}.safetensors").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
