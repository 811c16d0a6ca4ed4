"""Makes dropout.safetensors: the mask from a Philox written in Python, the rest from PyTorch."""

import torch

from golden import Golden, normal
from philox import uniform

g = Golden("dropout")


def dropout(x: torch.Tensor, key: torch.Tensor, p: float) -> dict[str, torch.Tensor]:
    words = tuple(int(k) & 0xFFFFFFFF for k in key)
    kept = torch.tensor([uniform(words, i) >= p for i in range(x.numel())]).reshape(x.shape)
    return {"y": torch.where(kept, x / (1 - p), torch.zeros_like(x))}


def key(*words: int) -> torch.Tensor:
    return torch.tensor(words, dtype=torch.int32)


g.case("odd", dropout, {"x": normal(3, 65), "key": key(1, 2, 3, 4)}, {"p": 0.25})
g.case("groups", dropout, {"x": normal(1000), "key": key(2**31 - 1, 0, 77, 5)}, {"p": 0.5})
g.case("p 0", dropout, {"x": normal(33), "key": key(0, 0, 0, 0)}, {"p": 0.0})
g.write()
