"""Writes cross_entropy.safetensors: python3 test/golden/cross_entropy.py"""
import torch
from golden import Golden, integers, normal

REDUCTIONS = ["mean", "sum", "none"]
NONE = 2


def shifted(labels, shift, ignore):
    """Labels one position earlier, the last one ignored: the loss then has the shape of labels."""
    labels = labels.long()
    if not shift:
        return labels
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], ignore)], dim=-1)


def cross_entropy(logits, labels, ignoreIndex, labelSmoothing, zLoss, shift, reduction):
    labels = shifted(labels, shift, ignoreIndex)
    rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = torch.nn.functional.cross_entropy(
        rows, targets, ignore_index=ignoreIndex, label_smoothing=labelSmoothing, reduction=REDUCTIONS[reduction]
    )
    if zLoss > 0:
        z = zLoss * torch.logsumexp(rows, -1).square() * (targets != ignoreIndex)
        loss = loss + {"mean": z.sum() / (targets != ignoreIndex).sum(), "sum": z.sum(), "none": z}[REDUCTIONS[reduction]]
    return {"loss": loss.reshape(labels.shape) if reduction == NONE else loss}


def labels(*shape, hi, ignore=-100):
    ids = integers(*shape, hi=hi)
    ids.view(-1)[::4] = ignore
    return ids


def options(ignoreIndex=-100, labelSmoothing=0.0, zLoss=0.0, shift=False, reduction=0):
    return {
        "ignoreIndex": ignoreIndex, "labelSmoothing": labelSmoothing, "zLoss": zLoss, "shift": shift,
        "reduction": reduction,
    }


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
g.case(
    "a loss per label, smoothed, shifted",
    cross_entropy,
    {"logits": normal(3, 6, 25, scale=3.0), "labels": labels(3, 6, hi=25)},
    options(labelSmoothing=0.1, shift=True, reduction=NONE),
)
g.case(
    "sum, z loss",
    cross_entropy,
    {"logits": normal(8, 30, scale=2.0), "labels": labels(8, hi=30)},
    options(zLoss=0.01, reduction=1),
)
g.write()
