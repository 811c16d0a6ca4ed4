"""Writes layer_norm.safetensors: python3 test/golden/layer_norm.py"""
import torch
from golden import Golden, normal


def layer_norm(x, w, eps, b=None):
    return {"y": torch.nn.functional.layer_norm(x, w.shape, w, b, eps)}


g = Golden("layer_norm")
g.case("odd", layer_norm, {"x": normal(3, 65), "w": normal(65), "b": normal(65)}, {"eps": 1e-5})
g.case("no bias", layer_norm, {"x": normal(2, 3, 32), "w": normal(32)}, {"eps": 1e-5})
g.case(
    "far from zero", layer_norm, {"x": normal(3, 48) + 5, "w": normal(48), "b": normal(48)}, {"eps": 1e-6}
)
g.write()
