"""Writes swiglu.safetensors: python3 test/golden/swiglu.py"""
import torch
from golden import Golden, normal


def swiglu(gate, up):
    return {"y": torch.nn.functional.silu(gate) * up}


g = Golden("swiglu")
g.case("odd", swiglu, {"gate": normal(3, 65), "up": normal(3, 65)})
g.case("wide", swiglu, {"gate": normal(4, 16, scale=20.0), "up": normal(4, 16)})
g.write()
