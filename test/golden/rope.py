"""Writes rope.safetensors: python3 test/golden/rope.py

The rotation as Hugging Face applies it: half-split by Llama's and Phi-3's apply_rotary_pos_emb (the
latter partial), interleaved by GLM's (partial too), which repeats cosines by pair. Phases are float64.
"""
import torch
from golden import Golden, integers, normal
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as glm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as phi3


def rope(x, theta, rotarySize, interleaved, attentionFactor, inverse, positions=None, frequencies=None):
    if frequencies is None:
        exponents = torch.arange(0, rotarySize, 2, dtype=torch.float64) / rotarySize
        frequencies = (1.0 / theta**exponents).float()
    if positions is None:
        positions = torch.arange(x.shape[1])
    if positions.dim() == 1:
        positions = positions.expand(x.shape[0], -1)
    phase = positions.double()[..., None] * frequencies.double().detach()
    phase = torch.cat([phase, phase], dim=-1)
    if inverse:
        phase = -phase
    cos, sin = (phase.cos() * attentionFactor).to(x.dtype), (phase.sin() * attentionFactor).to(x.dtype)
    apply = glm if interleaved else llama if rotarySize == x.shape[-1] else phi3
    return {"y": apply(x, x, cos, sin, unsqueeze_dim=2)[0]}


def turning(size, theta=10000.0, interleaved=False, attentionFactor=1.0, inverse=False):
    return {
        "theta": theta, "rotarySize": size, "interleaved": interleaved, "attentionFactor": attentionFactor,
        "inverse": inverse,
    }


g = Golden("rope")
g.case("plain", rope, {"x": normal(2, 9, 3, 16)}, turning(16))
g.case("positions per batch", rope, {"x": normal(2, 5, 2, 64), "positions": integers(2, 5, hi=4000)}, turning(64))
g.case(
    "past 2^16", rope, {"x": normal(1, 6, 2, 64), "positions": integers(6, lo=65536, hi=1 << 20)}, turning(64)
)
g.case("theta 500000", rope, {"x": normal(1, 40, 1, 32)}, turning(32, theta=500000.0))
g.case("interleaved", rope, {"x": normal(2, 9, 3, 32)}, turning(32, interleaved=True))
g.case("partial", rope, {"x": normal(2, 9, 3, 40)}, turning(24))
g.case("partial, interleaved", rope, {"x": normal(2, 9, 3, 40)}, turning(20, interleaved=True))
g.case("attention factor", rope, {"x": normal(2, 9, 3, 16)}, turning(16, attentionFactor=1.1386294361119891))
g.write()
