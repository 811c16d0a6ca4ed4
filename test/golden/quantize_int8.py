"""Writes quantize_int8.safetensors and dequantize_int8.safetensors: python3 test/golden/quantize_int8.py

Row by row in NumPy's float32, with its own rounding (rint: half to even).
"""
import numpy as np
import torch
from golden import Golden, integers, normal


def groups(columns, group):
    size = group or max(columns, 1)
    return [slice(at, min(at + size, columns)) for at in range(0, columns, size)]


def quantize_int8(w, group):
    x = w.detach().float().numpy()
    values = np.zeros(x.shape, np.int32)
    scales = np.ones((x.shape[0], len(groups(x.shape[1], group))), np.float32)
    for r, row in enumerate(x):
        for g, cut in enumerate(groups(x.shape[1], group)):
            absmax = np.abs(row[cut]).max()
            if absmax > 0:
                scales[r, g] = np.float32(absmax) / np.float32(127)
            values[r, cut] = np.rint(row[cut] / scales[r, g])
    return {"values": torch.from_numpy(values), "scales": torch.from_numpy(scales if group else scales[:, 0])}


def dequantize_int8(values, scales, group, dtype):
    w = torch.empty(values.shape, dtype=torch.float64)
    columns = scales.double() if group else scales.double()[:, None]
    for g, cut in enumerate(groups(values.shape[1], group)):
        w[:, cut] = values[:, cut].double() * columns[:, g : g + 1]
    return {"w": w}


if __name__ == "__main__":
    zero_row = normal(4, 50)
    zero_row[2] = 0
    g = Golden("quantize_int8")
    g.case("rows", quantize_int8, {"w": normal(9, 65)}, {"group": 0})
    g.case("groups of 32, ragged", quantize_int8, {"w": normal(7, 75, scale=0.02)}, {"group": 32})
    g.case("groups of 128", quantize_int8, {"w": normal(3, 256)}, {"group": 128})
    g.case("a row of zeros", quantize_int8, {"w": zero_row}, {"group": 0})
    g.write()
    g = Golden("dequantize_int8")
    code_f32 = 1
    g.case("rows", dequantize_int8, {"values": integers(9, 65, lo=-127, hi=128), "scales": normal(9)},
           {"group": 0, "dtype": code_f32}, bf16=False)
    g.case("groups of 64, ragged", dequantize_int8,
           {"values": integers(5, 100, lo=-127, hi=128), "scales": normal(5, 2)},
           {"group": 64, "dtype": code_f32}, bf16=False)
    g.write()
