"""Writes lora_linear.safetensors: python3 test/golden/lora_linear.py"""
import torch
from golden import Golden, normal


def lora_linear(x, weight, a, b, scale, bias=None):
    linear = torch.nn.functional.linear
    return {"y": linear(x, weight, bias) + scale * linear(linear(x, a), b)}


g = Golden("lora_linear")
g.case(
    "bias",
    lora_linear,
    {"x": normal(2, 9, 33), "weight": normal(17, 33), "bias": normal(17), "a": normal(4, 33), "b": normal(17, 4)},
    {"scale": 2.0},
)
g.case(
    "no bias",
    lora_linear,
    {"x": normal(31, 20), "weight": normal(65, 20), "a": normal(16, 20), "b": normal(65, 16)},
    {"scale": 0.5},
)
g.write()
