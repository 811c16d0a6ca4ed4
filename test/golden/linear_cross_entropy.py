"""Writes linear_cross_entropy.safetensors: python3 test/golden/linear_cross_entropy.py"""
import torch
from golden import Golden, integers, normal

REDUCTIONS = ["mean", "sum", "none"]
NONE = 2


def linear_cross_entropy(h, weight, labels, ignoreIndex, labelSmoothing, zLoss, shift, reduction, bias=None):
    logits, labels = torch.nn.functional.linear(h, weight, bias), labels.long()
    if shift:
        labels = torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], ignoreIndex)], dim=-1)
    rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = torch.nn.functional.cross_entropy(
        rows, targets, ignore_index=ignoreIndex, label_smoothing=labelSmoothing, reduction=REDUCTIONS[reduction]
    )
    if zLoss > 0:
        assert reduction == 0
        counted = targets != ignoreIndex
        loss = loss + zLoss * (torch.logsumexp(rows, -1).square() * counted).sum() / counted.sum()
    return {"loss": loss.reshape(labels.shape) if reduction == NONE else loss}


def labels(*shape, hi, ignore=-100):
    ids = integers(*shape, hi=hi)
    ids.view(-1)[::4] = ignore
    return ids


def options(ignoreIndex=-100, labelSmoothing=0.0, zLoss=0.0, shift=True, reduction=0):
    return {
        "ignoreIndex": ignoreIndex, "labelSmoothing": labelSmoothing, "zLoss": zLoss, "shift": shift,
        "reduction": reduction,
    }


g = Golden("linear_cross_entropy")
g.case(
    "next token",
    linear_cross_entropy,
    {"h": normal(2, 9, 16), "weight": normal(33, 16), "labels": labels(2, 9, hi=33)},
    options(),
)
g.case(
    "bias, labels as they are",
    linear_cross_entropy,
    {"h": normal(13, 20), "weight": normal(40, 20), "bias": normal(40), "labels": labels(13, hi=40, ignore=7)},
    options(ignoreIndex=7, shift=False),
)
g.case(
    "label smoothing, z loss",
    linear_cross_entropy,
    {"h": normal(2, 7, 20), "weight": normal(50, 20), "labels": labels(2, 7, hi=50)},
    options(labelSmoothing=0.1, zLoss=0.01),
)
g.case(
    "a loss per label",
    linear_cross_entropy,
    {"h": normal(2, 7, 12), "weight": normal(21, 12), "labels": labels(2, 7, hi=21)},
    options(labelSmoothing=0.2, reduction=NONE),
)
g.write()
