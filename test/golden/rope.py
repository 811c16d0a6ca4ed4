"""Writes rope.safetensors: python3 test/golden/rope.py

The rotation as Hugging Face's Llama applies it (rotate_half), with phases in float64.
"""
import torch
from golden import Golden, integers, normal


def rope(x, theta, inverse, positions=None):
    size = x.shape[-1]
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    frequencies = (1.0 / theta**exponents).float().double()
    if positions is None:
        positions = torch.arange(x.shape[1])
    phase = positions.double()[..., None] * frequencies
    phase = torch.cat([phase, phase], dim=-1).unsqueeze(-2)
    if inverse:
        phase = -phase
    half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1)
    return {"y": x * phase.cos().to(x.dtype) + half * phase.sin().to(x.dtype)}


g = Golden("rope")
plain = {"theta": 10000.0, "inverse": False}
g.case("plain", rope, {"x": normal(2, 9, 3, 16)}, plain)
g.case("positions per batch", rope, {"x": normal(2, 5, 2, 64), "positions": integers(2, 5, hi=4000)}, plain)
g.case("past 2^16", rope, {"x": normal(1, 6, 2, 64), "positions": integers(6, lo=65536, hi=1 << 20)}, plain)
g.case("theta 500000", rope, {"x": normal(1, 40, 1, 32)}, {"theta": 500000.0, "inverse": False})
g.write()
