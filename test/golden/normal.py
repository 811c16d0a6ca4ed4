"""Makes normal.safetensors: Box-Muller in float64 over a Philox of plain Python integers."""

import math

import torch

from golden import Golden
from philox import uniform

g = Golden("normal")


def draw(key, y, std):
    words = tuple(int(k) & 0xFFFFFFFF for k in key)
    n = y.numel()
    second = (n + 63) // 64 * 64
    values = [
        std * math.sqrt(-2 * math.log(1 - uniform(words, i))) * math.cos(2 * math.pi * uniform(words, second + i))
        for i in range(n)
    ]
    return {"y!": torch.tensor(values, dtype=torch.float64).reshape(y.shape)}


def key(*words):
    return torch.tensor(words, dtype=torch.int32)


g.case("odd", draw, {"key": key(1, 2, 3, 4), "y": torch.zeros(3, 65)}, {"std": 1.0}, bf16=False)
g.case("groups", draw, {"key": key(2**31 - 1, 0, 77, 5), "y": torch.zeros(1000)}, {"std": 0.02}, bf16=False)
g.write()
