"""Writes attention.safetensors: python3 test/golden/attention.py

PyTorch's scaled_dot_product_attention with a boolean mask; queries that see no key give zeros.
"""
import torch
from golden import Golden, integers, normal


def attention(q, k, v, scale, causal, window=0, first=None, last=None):
    length, keys, groups = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    key = torch.arange(keys)
    allowed = torch.ones(q.shape[0], length, keys, dtype=torch.bool)
    if causal:
        allowed &= key <= torch.arange(length)[:, None] + keys - length
    if window > 0:
        allowed &= key > torch.arange(length)[:, None] + keys - length - window
    if first is not None:
        allowed &= key >= first[..., None]
    if last is not None:
        allowed &= key <= last[..., None]
    seen = allowed.any(-1)
    # what a query without keys computes is thrown away below; NaN there would reach the gradients
    allowed = allowed | ~seen[..., None]
    heads = [x.transpose(1, 2) for x in (q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2))]
    out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=allowed[:, None], scale=scale)
    return {"out": torch.where(seen[..., None, None], out.transpose(1, 2), torch.zeros((), dtype=q.dtype))}


def qkv(B, T, S, H, Hkv, D):
    return {"q": normal(B, T, H, D), "k": normal(B, S, Hkv, D), "v": normal(B, S, Hkv, D)}


g = Golden("attention")
g.case("causal", attention, qkv(2, 33, 33, 2, 2, 16), {"scale": 0.25, "causal": True, "window": 0})
g.case("grouped heads, more keys", attention, qkv(1, 9, 40, 4, 2, 32), {"scale": 32**-0.5, "causal": True, "window": 0})
g.case("all keys", attention, qkv(1, 17, 70, 1, 1, 64), {"scale": 0.125, "causal": False, "window": 0})
g.case(
    "intervals, some empty",
    attention,
    {**qkv(2, 12, 10, 2, 2, 8), "first": integers(2, 12, lo=-2, hi=12), "last": integers(2, 12, lo=-2, hi=12)},
    {"scale": 8**-0.5, "causal": False, "window": 0},
)
g.case("sliding window", attention, qkv(1, 75, 75, 4, 2, 16), {"scale": 0.25, "causal": True, "window": 9})
g.case(
    "window in packed documents",
    attention,
    {**qkv(2, 20, 20, 2, 1, 8), "first": (torch.arange(20) // 7 * 7).expand(2, 20).int()},
    {"scale": 8**-0.5, "causal": True, "window": 4},
)
g.write()
