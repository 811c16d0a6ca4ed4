"""Writes rms_norm.safetensors: python3 test/golden/rms_norm.py"""
import torch
from golden import Golden, normal


def rms_norm(x, w, eps):
    return {"y": torch.nn.functional.rms_norm(x, w.shape, w, eps)}


g = Golden("rms_norm")
g.case("odd", rms_norm, {"x": normal(3, 65), "w": normal(65)}, {"eps": 1e-5})
g.case("small values", rms_norm, {"x": normal(2, 3, 32, scale=1e-3), "w": normal(32)}, {"eps": 1e-6})
g.write()
