"""Writes add_rms_norm.safetensors: python3 test/golden/add_rms_norm.py"""
import torch
from golden import Golden, normal


def add_rms_norm(x, residual, w, eps):
    h = x + residual
    return {"h": h, "y": torch.nn.functional.rms_norm(h, w.shape, w, eps)}


g = Golden("add_rms_norm")
for name, shape in [("odd", (3, 65)), ("rank 3", (2, 3, 32))]:
    g.case(
        name, add_rms_norm, {"x": normal(*shape), "residual": normal(*shape), "w": normal(shape[-1])}, {"eps": 1e-5}
    )
g.write()
