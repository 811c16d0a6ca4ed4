"""Makes sample.safetensors: transformers' logits warpers, then the inverse of the cumulative
distribution at a uniform from a Philox written in Python."""

import torch
from transformers import (
    MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
)

from golden import Golden, integers, normal
from philox import uniform

g = Golden("sample")


def sample(logits, key, temperature, topK, topP, minP, repetitionPenalty, history=None) -> dict[str, torch.Tensor]:
    z = logits.double()
    if history is not None:
        penalty = RepetitionPenaltyLogitsProcessor(repetitionPenalty)
        # -1 is padding
        z = torch.cat([penalty(h[h >= 0].long()[None], row[None]) for h, row in zip(history, z)])

    def chosen(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logprobs = logits.double().log_softmax(-1).gather(-1, ids.long()[:, None])[:, 0]
        return {"ids": ids, "logprobs": logprobs.to(logits.dtype)}

    if temperature == 0:
        return chosen(z.argmax(-1).int())
    for warper in (
        [TemperatureLogitsWarper(temperature)] + ([TopKLogitsWarper(topK)] if topK else [])
        + ([TopPLogitsWarper(topP)] if topP < 1 else []) + ([MinPLogitsWarper(minP)] if minP > 0 else [])
    ):
        z = warper(None, z)
    ids = []
    for row, words in zip(z.softmax(-1), key):
        u = uniform(tuple(int(k) & 0xFFFFFFFF for k in words), 0)
        cumulative = row.cumsum(0)
        # the margin: a uniform next to a border could fall to either side by rounding
        assert (cumulative - u).abs().min() > 1e-5, "choose another seed"
        ids.append(int((cumulative <= u).sum()))
    return chosen(torch.tensor(ids, dtype=torch.int32))


def options(temperature=1.0, topK=0, topP=1.0, minP=0.0, repetitionPenalty=1.0) -> dict:
    return {
        "temperature": temperature, "topK": topK, "topP": topP, "minP": minP,
        "repetitionPenalty": repetitionPenalty,
    }


for name, b, v, attributes in [
    ("greedy", 5, 33, options(temperature=0.0)),
    ("plain", 40, 65, options()),
    ("warm", 40, 127, options(temperature=0.7)),
    ("top k", 40, 127, options(temperature=1.3, topK=7)),
    ("top p", 40, 127, options(temperature=0.8, topP=0.9)),
    ("both", 40, 63, options(temperature=0.9, topK=20, topP=0.6)),
    ("min p", 40, 127, options(temperature=1.2, minP=0.1)),
    ("penalty", 40, 63, options(temperature=0.8, repetitionPenalty=1.4)),
    ("all", 40, 63, options(temperature=0.9, topK=30, topP=0.8, minP=0.05, repetitionPenalty=1.2)),
]:
    inputs = {"logits": normal(b, v, scale=2.0), "key": integers(b, 4, hi=2**31 - 1)}
    if attributes["repetitionPenalty"] != 1:
        inputs["history"] = integers(b, 24, lo=-1, hi=v)
    g.case(name, sample, inputs, attributes, bf16=False, no_grad=("logprobs",))
g.write()
