"""Writes cached_attention.safetensors: python3 test/golden/cached_attention.py

PyTorch's scaled_dot_product_attention over the whole sequence of each row, of which a ring of slots
holds the last: the ring is filled here position by position.
"""
import torch
from golden import Golden, normal


def cached_attention(q, k, v, start, scale, window, first=None):
    batch, length, heads, _ = q.shape
    slots, groups = k.shape[1], heads // k.shape[2]
    out = torch.zeros_like(q)
    for b in range(batch):
        end = int(start[b]) + length
        held = range(max(0, end - slots), end)
        slot = [position % slots for position in held]
        keys, values = (x[b, slot].repeat_interleave(groups, 1) for x in (k, v))
        for t in range(length):
            own = int(start[b]) + t
            low = max(own - window + 1 if window else 0, int(first[b]) if first is not None else 0)
            seen = [i for i, position in enumerate(held) if low <= position <= own]
            if seen:
                out[b, t] = torch.nn.functional.scaled_dot_product_attention(
                    q[b, t][:, None], keys[seen].transpose(0, 1), values[seen].transpose(0, 1), scale=scale
                )[:, 0]
    return {"out": out}


def inputs(B, T, S, H, G, D, start):
    cache = {"k": normal(B, S, G, D), "v": normal(B, S, G, D)}
    return {"q": normal(B, T, H, D), **cache, "start": torch.tensor(start, dtype=torch.int32)}


g = Golden("cached_attention")
g.case("one query", cached_attention, inputs(3, 1, 40, 4, 2, 16, [39, 7, 0]), {"scale": 0.25, "window": 0})
g.case("five queries", cached_attention, inputs(2, 5, 40, 2, 1, 8, [35, 2]), {"scale": 8**-0.5, "window": 0})
g.case("twenty queries", cached_attention, inputs(2, 20, 40, 2, 2, 8, [20, 2]), {"scale": 8**-0.5, "window": 0})
for T in (1, 3, 12):
    g.case(
        f"rolled over, {T}", cached_attention, inputs(3, T, 24, 2, 1, 8, [50, 23, 1]), {"scale": 8**-0.5, "window": 11}
    )
    g.case(
        f"left padding, {T}",
        cached_attention,
        {**inputs(3, T, 24, 2, 1, 8, [10, 8, 3]), "first": torch.tensor([4, 9, 30], dtype=torch.int32)},
        {"scale": 8**-0.5, "window": 0},
    )
g.write()
