"""Writes linear_cross_entropy.safetensors: python3 test/golden/linear_cross_entropy.py"""
import torch
from golden import Golden, integers, normal


def linear_cross_entropy(h, weight, labels, ignoreIndex, shift, bias=None):
    logits, labels = torch.nn.functional.linear(h, weight, bias), labels.long()
    if shift:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=ignoreIndex
    )
    return {"loss": loss}


def labels(*shape, hi, ignore=-100):
    ids = integers(*shape, hi=hi)
    ids.view(-1)[::4] = ignore
    return ids


g = Golden("linear_cross_entropy")
g.case(
    "next token",
    linear_cross_entropy,
    {"h": normal(2, 9, 16), "weight": normal(33, 16), "labels": labels(2, 9, hi=33)},
    {"ignoreIndex": -100, "shift": True},
)
g.case(
    "bias, labels as they are",
    linear_cross_entropy,
    {"h": normal(13, 20), "weight": normal(40, 20), "bias": normal(40), "labels": labels(13, hi=40, ignore=7)},
    {"ignoreIndex": 7, "shift": False},
)
g.write()
