"""Writes top_k.safetensors: python3 test/golden/top_k.py"""
import torch
from golden import Golden, normal


def top_k(x, k):
    # torch.topk says nothing of ties; a stable sort does
    values, indices = torch.sort(x, dim=-1, descending=True, stable=True)
    return {"values": values[..., :k], "indices": indices[..., :k].int()}


g = Golden("top_k")
g.case("odd", top_k, {"x": normal(3, 65)}, {"k": 7}, bf16=False)
g.case("three axes", top_k, {"x": normal(2, 3, 40)}, {"k": 1}, bf16=False)
g.case("ties", top_k, {"x": normal(4, 33).round()}, {"k": 12}, bf16=False)
g.write()
