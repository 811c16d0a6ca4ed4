"""Writes residual_add.safetensors: python3 test/golden/residual_add.py"""
from golden import Golden, normal


def residual_add(x, y):
    return {"z": x + y}


g = Golden("residual_add")
g.case("odd", residual_add, {"x": normal(3, 65), "y": normal(3, 65)})
g.write()
