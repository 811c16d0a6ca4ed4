"""Writes gelu, geglu, silu, relu and relu_squared.safetensors: python3 test/golden/activations.py"""
import torch
import torch.nn.functional as F
from golden import Golden, normal

GELU = [lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), lambda x: x * torch.sigmoid(1.702 * x)]

g = Golden("gelu")
for code, name in enumerate(("none", "tanh", "quick")):
    f = lambda x, approximate: {"y": GELU[approximate](x)}
    g.case(f"odd {name}", f, {"x": normal(3, 65)}, {"approximate": code})
    g.case(f"wide {name}", f, {"x": normal(127, scale=4.0)}, {"approximate": code})
g.write()

g = Golden("geglu")
for code, name in enumerate(("none", "tanh", "quick")):
    f = lambda gate, up, approximate: {"y": GELU[approximate](gate) * up}
    g.case(f"odd {name}", f, {"gate": normal(3, 65, scale=2.0), "up": normal(3, 65)}, {"approximate": code})
g.write()

for name, f in [("silu", F.silu), ("relu", F.relu), ("relu_squared", lambda x: F.relu(x) ** 2)]:
    g = Golden(name)
    g.case("odd", lambda x: {"y": f(x)}, {"x": normal(3, 65)})
    g.case("wide", lambda x: {"y": f(x)}, {"x": normal(127, scale=20.0)})
    g.write()
