"""Writes softmax and log_softmax.safetensors: python3 test/golden/softmax.py"""
import torch
from golden import Golden, normal

for name, f in [("softmax", torch.softmax), ("log_softmax", torch.log_softmax)]:
    g = Golden(name)
    g.case("odd", lambda x: {"y": f(x, -1)}, {"x": normal(3, 65)})
    g.case("wide", lambda x: {"y": f(x, -1)}, {"x": normal(2, 3, 33, scale=10.0)})
    g.write()
