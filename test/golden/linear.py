"""Writes linear.safetensors: python3 test/golden/linear.py"""
import torch
from golden import Golden, normal


def linear(x, weight, bias=None):
    return {"y": torch.nn.functional.linear(x, weight, bias)}


g = Golden("linear")
g.case("bias", linear, {"x": normal(2, 9, 33), "weight": normal(17, 33), "bias": normal(17)})
g.case("no bias", linear, {"x": normal(31, 20), "weight": normal(65, 20)})
g.write()
