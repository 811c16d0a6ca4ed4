"""Writes cross_entropy.safetensors: python3 test/golden/cross_entropy.py"""
import torch
from golden import Golden, integers, normal


def cross_entropy(logits, labels, ignoreIndex, labelSmoothing, shift):
    labels = labels.long()
    if shift:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        labels.reshape(-1),
        ignore_index=ignoreIndex,
        label_smoothing=labelSmoothing,
    )
    return {"loss": loss}


def labels(*shape, hi, ignore=-100):
    ids = integers(*shape, hi=hi)
    ids.view(-1)[::4] = ignore
    return ids


def options(ignoreIndex=-100, labelSmoothing=0.0, shift=False):
    return {"ignoreIndex": ignoreIndex, "labelSmoothing": labelSmoothing, "shift": shift}


g = Golden("cross_entropy")
g.case("plain", cross_entropy, {"logits": normal(9, 33), "labels": labels(9, hi=33)}, options())
g.case(
    "label smoothing, large logits",
    cross_entropy,
    {"logits": normal(2, 7, 20, scale=6.0), "labels": labels(2, 7, hi=20)},
    options(labelSmoothing=0.2),
)
g.case(
    "shifted, ignoreIndex 0",
    cross_entropy,
    {"logits": normal(3, 5, 17), "labels": labels(3, 5, hi=17, ignore=0)},
    options(ignoreIndex=0, shift=True),
)
g.write()
