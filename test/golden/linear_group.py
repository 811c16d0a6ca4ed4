"""Writes linear_group.safetensors: python3 test/golden/linear_group.py"""
import torch
from golden import Golden, normal


def linear_group(x, weight0, weight1, bias0=None, bias1=None, weight2=None, bias2=None):
    linear = torch.nn.functional.linear
    y = {"y0": linear(x, weight0, bias0), "y1": linear(x, weight1, bias1)}
    return y if weight2 is None else y | {"y2": linear(x, weight2, bias2)}


g = Golden("linear_group")
g.case(
    "three",
    linear_group,
    {
        "x": normal(2, 9, 33),
        "weight0": normal(17, 33),
        "bias0": normal(17),
        "weight1": normal(65, 33),
        "weight2": normal(5, 33),
        "bias2": normal(5),
    },
)
g.case("two", linear_group, {"x": normal(31, 20), "weight0": normal(33, 20), "weight1": normal(33, 20)})
g.write()
