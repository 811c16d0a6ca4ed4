"""Writes distillation_loss.safetensors: python3 test/golden/distillation_loss.py

The formula of Hinton et al. with PyTorch's kl_div and cross_entropy, over the rows that have a label.
"""
import torch
import torch.nn.functional as F
from golden import Golden, integers, normal


def distillation_loss(logits, teacher, labels, temperature, alpha, ignoreIndex, shift, reduction):
    teacher = teacher.detach()
    labels = labels.long()
    if shift:
        labels = torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], ignoreIndex)], dim=-1)
    kept = (labels != ignoreIndex).reshape(-1)
    student, taught = (x.reshape(-1, x.shape[-1])[kept] for x in (logits, teacher))
    soft = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(taught / temperature, -1),
        reduction="none" if reduction == 2 else ["batchmean", "sum"][reduction],
    )
    hard = F.cross_entropy(student, labels.reshape(-1)[kept], reduction=["mean", "sum", "none"][reduction])
    if reduction == 2:
        each = alpha * temperature**2 * soft.sum(-1) + (1 - alpha) * hard
        return {"loss": torch.zeros(kept.shape, dtype=each.dtype).masked_scatter(kept, each).reshape(labels.shape)}
    return {"loss": alpha * temperature**2 * soft + (1 - alpha) * hard}


def labels(*shape, hi, ignore=-100):
    ids = integers(*shape, hi=hi)
    ids.view(-1)[::4] = ignore
    return ids


def options(temperature=2.0, alpha=0.5, ignoreIndex=-100, shift=False, reduction=0):
    return {
        "temperature": temperature, "alpha": alpha, "ignoreIndex": ignoreIndex, "shift": shift,
        "reduction": reduction,
    }


def inputs(*rows, v, scale=1.0):
    return {"logits": normal(*rows, v, scale=scale), "teacher": normal(*rows, v, scale=scale), "labels": labels(*rows, hi=v)}


g = Golden("distillation_loss")
g.case("plain", distillation_loss, inputs(9, v=33), options())
g.case("temperature 4, alpha 0.9", distillation_loss, inputs(2, 7, v=20, scale=4.0), options(temperature=4.0, alpha=0.9))
g.case("shifted, sum", distillation_loss, inputs(3, 5, v=17), options(shift=True, reduction=1))
g.case("a loss per label", distillation_loss, inputs(2, 6, v=40, scale=2.0), options(temperature=3.0, alpha=0.7, reduction=2))
g.write()
