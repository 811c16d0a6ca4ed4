"""Writes linear_int8.safetensors, linear_int8_dynamic.safetensors and linear_int8.dx.safetensors:
python3 test/golden/linear_int8.py

The weights are dequantised and PyTorch's linear does the rest; x is quantised by quantize_int8.py.
"""
import torch
from golden import Golden, integers, normal
from quantize_int8 import dequantize_int8, quantize_int8

linear = torch.nn.functional.linear


def weight(values, scales, group, dtype):
    return dequantize_int8(values, scales, group, dtype)["w"].to(dtype)


def linear_int8(x, values, scales, group, bias=None):
    return {"y": linear(x, weight(values, scales.detach(), group, x.dtype), bias)}


def linear_int8_dynamic(x, values, scales, group, bias=None):
    x = x.detach()
    q = quantize_int8(x.reshape(-1, x.shape[-1]), group)
    coarse = weight(q["values"], q["scales"], group, x.dtype).reshape(x.shape)
    return {"y": linear(coarse, weight(values, scales.detach(), group, x.dtype), None if bias is None else bias.detach())}


def linear_int8_dx(dy, values, scales, group):
    return {"dx": dy.detach() @ weight(values, scales.detach(), group, dy.dtype)}


def case(n, k, group, **inputs):
    groups = -(-k // group) if group else 1
    scales = normal(n, groups).abs() * 0.01
    return {**inputs, "values": integers(n, k, lo=-127, hi=128), "scales": scales if group else scales[:, 0]}


for op in (linear_int8, linear_int8_dynamic):
    g = Golden(op.__name__)
    g.case("rows", op, {**case(17, 33, 0, x=normal(2, 9, 33)), "bias": normal(17)}, {"group": 0})
    g.case("one row", op, case(20, 75, 0, x=normal(1, 75)), {"group": 0})
    g.case("groups of 32, ragged", op, {**case(40, 75, 32, x=normal(20, 75)), "bias": normal(40)}, {"group": 32})
    g.case("groups of 128", op, case(9, 256, 128, x=normal(5, 256)), {"group": 128})
    g.write()
g = Golden("linear_int8.dx")
g.case("rows", linear_int8_dx, case(17, 33, 0, dy=normal(2, 9, 17)), {"group": 0})
g.case("groups of 64", linear_int8_dx, case(20, 100, 64, dy=normal(7, 20)), {"group": 64})
g.write()
