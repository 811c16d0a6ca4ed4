"""Writes add_layer_norm.safetensors: python3 test/golden/add_layer_norm.py"""
import torch
from golden import Golden, normal


def add_layer_norm(x, residual, w, b, eps):
    h = x + residual
    return {"h": h, "y": torch.nn.functional.layer_norm(h, w.shape, w, b, eps)}


g = Golden("add_layer_norm")
for name, shape in [("odd", (3, 65)), ("rank 3", (2, 3, 32))]:
    inputs = {"x": normal(*shape), "residual": normal(*shape), "w": normal(shape[-1]), "b": normal(shape[-1])}
    g.case(name, add_layer_norm, inputs, {"eps": 1e-5})
g.write()
