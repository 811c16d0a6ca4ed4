"""Writes embedding.safetensors: python3 test/golden/embedding.py"""
import torch
from golden import Golden, integers, normal


def embedding(ids, table):
    return {"out": torch.nn.functional.embedding(ids.long(), table)}


g = Golden("embedding")
g.case("repeated ids", embedding, {"ids": integers(3, 7, hi=5), "table": normal(5, 33)})
g.write()
