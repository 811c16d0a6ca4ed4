"""Writes lora_linear.safetensors: python3 test/golden/lora_linear.py"""
import torch
from golden import Golden, normal

linear = torch.nn.functional.linear


def lora_linear(x, scale0, scale1, scale2, **members):
    """Members by number: `0.weight`, `0.bias`, `0.base`, `0.a`, `0.b`, `0.dropped`, each where present."""
    outputs = {}
    for i, scale in enumerate((scale0, scale1, scale2)):
        part = {key[2:]: value for key, value in members.items() if key.startswith(f"{i}.")}
        if not part:
            break
        y = part["base"] if "base" in part else linear(x, part["weight"], part.get("bias"))
        if "a" in part:
            xa = scale * linear(part.get("dropped", x), part["a"])
            y = y + linear(xa, part["b"])
            outputs[f"xa{i}"] = xa
        outputs[f"y{i}"] = y
    return outputs


g = Golden("lora_linear")


def case(name, x, members, *scales):
    """`members`: per member the outputs, its rank or none, and what it has of bias, base and dropped."""

    def inputs():
        found = {"x": normal(*x)}
        for i, (n, r, *has) in enumerate(members):
            if "base" in has:
                found[f"{i}.base"] = normal(*x[:-1], n)
            else:
                found[f"{i}.weight"] = normal(n, x[-1])
            if "bias" in has:
                found[f"{i}.bias"] = normal(n)
            if r:
                found |= {f"{i}.a": normal(r, x[-1]), f"{i}.b": normal(n, r)}
            if "dropped" in has:
                found[f"{i}.dropped"] = normal(*x)
        return found

    scales = (*scales, 1.0, 1.0, 1.0)
    attributes = {f"scale{i}": scales[i] for i in range(3)}
    g.case(name, lora_linear, inputs, attributes, no_grad=("xa0", "xa1", "xa2"))


case("bias", (2, 9, 33), [(17, 4, "bias")], 2.0)
case("no bias", (31, 20), [(65, 16)], 0.5)
case("first and last of three", (2, 9, 33), [(17, 4, "bias"), (9, None), (15, 8)], 2.0, 1.0, 0.5)
case("base and weight", (31, 20), [(33, 5, "base"), (7, 3)], 0.25, 2.0)
case("dropped", (3, 5, 17), [(31, 4, "dropped"), (9, 2, "base", "dropped")], 2.0, 1.5)
g.write()
