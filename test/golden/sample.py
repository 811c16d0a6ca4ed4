"""Makes sample.safetensors: transformers' logits warpers, then the inverse of the cumulative
distribution at a uniform from a Philox written in Python."""

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from golden import Golden, integers, normal
from philox import uniform

g = Golden("sample")


def sample(logits: torch.Tensor, key: torch.Tensor, temperature: float, topK: int, topP: float) -> dict[str, torch.Tensor]:
    if temperature == 0:
        return {"ids": logits.argmax(-1).int()}
    z = logits.double()
    for warper in (
        [TemperatureLogitsWarper(temperature)] + ([TopKLogitsWarper(topK)] if topK else [])
        + ([TopPLogitsWarper(topP)] if topP < 1 else [])
    ):
        z = warper(None, z)
    ids = []
    for row, words in zip(z.softmax(-1), key):
        u = uniform(tuple(int(k) & 0xFFFFFFFF for k in words), 0)
        cumulative = row.cumsum(0)
        # the margin: a uniform next to a border could fall to either side by rounding
        assert (cumulative - u).abs().min() > 1e-5, "choose another seed"
        ids.append(int((cumulative <= u).sum()))
    return {"ids": torch.tensor(ids, dtype=torch.int32)}


for name, b, v, attributes in [
    ("greedy", 5, 33, {"temperature": 0.0, "topK": 0, "topP": 1.0}),
    ("plain", 40, 65, {"temperature": 1.0, "topK": 0, "topP": 1.0}),
    ("warm", 40, 127, {"temperature": 0.7, "topK": 0, "topP": 1.0}),
    ("top k", 40, 127, {"temperature": 1.3, "topK": 7, "topP": 1.0}),
    ("top p", 40, 127, {"temperature": 0.8, "topK": 0, "topP": 0.9}),
    ("both", 40, 63, {"temperature": 0.9, "topK": 20, "topP": 0.6}),
]:
    inputs = {"logits": normal(b, v, scale=2.0), "key": integers(b, 4, hi=2**31 - 1)}
    g.case(name, sample, inputs, attributes, bf16=False)
g.write()
