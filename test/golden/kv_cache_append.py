"""Writes kv_cache_append.safetensors: python3 test/golden/kv_cache_append.py

Token by token into the slot of its position.
"""
import torch
from golden import Golden, normal


def kv_cache_append(k_cache, v_cache, k, v, start):
    outputs = {}
    for name, cache, new in (("k_cache!", k_cache, k), ("v_cache!", v_cache, v)):
        cache = cache.clone()
        for b in range(new.shape[0]):
            for t in range(new.shape[1]):
                cache[b, (int(start[b]) + t) % cache.shape[1]] = new[b, t]
        outputs[name] = cache
    return outputs


def inputs(B, T, S, G, D, start):
    shapes = {"k_cache": S, "v_cache": S, "k": T, "v": T}
    return {**{n: normal(B, rows, G, D) for n, rows in shapes.items()}, "start": torch.tensor(start, dtype=torch.int32)}


g = Golden("kv_cache_append")
g.case("one token", kv_cache_append, inputs(3, 1, 6, 2, 8, [0, 5, 3]))
g.case("rolls over", kv_cache_append, inputs(2, 4, 6, 1, 5, [4, 77]))
g.case("more than slots", kv_cache_append, inputs(2, 15, 6, 2, 4, [0, 1]))
g.write()
