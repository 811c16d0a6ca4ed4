"""Goldens of the primitives: python3 test/golden/primitives.py

A primitive's float64 loop is the last reference there is, so these values, and not the library's own,
are what it is held to.
"""

import torch

from golden import Golden, integers, normal


def binary(name: str, f, positive: bool = False) -> None:
    g = Golden(name)

    def second(*shape: int) -> torch.Tensor:
        b = normal(*shape)
        return b.abs() + 0.5 if positive else b

    for case, a, b in [
        ("same shape", (5, 13), (5, 13)),
        ("row", (3, 4, 17), (17,)),
        ("column", (6, 9), (6, 1)),
        ("both expand", (4, 1, 7), (5, 1)),
        ("scalar", (33,), ()),
    ]:
        g.case(case, lambda a, b: {"y": f(a, b)}, {"a": normal(*a), "b": second(*b)})
    g.write()


def unary(name: str, f, inputs=lambda *shape: 2 * normal(*shape)) -> None:
    g = Golden(name)
    for case, shape in [("matrix", (5, 13)), ("vector", (127,)), ("rank 3", (2, 3, 33))]:
        g.case(case, lambda x: {"y": f(x)}, {"x": inputs(*shape)})
    g.write()


def positive(*shape: int) -> torch.Tensor:
    return normal(*shape).abs() * 3 + 0.01


def away_from_zero(*shape: int) -> torch.Tensor:
    x = normal(*shape)
    return x + 0.1 * x.sign()


binary("add", torch.add)
binary("sub", torch.sub)
binary("mul", torch.mul)
binary("div", torch.div, positive=True)
binary("maximum", torch.maximum)
binary("minimum", torch.minimum)

unary("neg", torch.neg)
unary("exp", torch.exp)
unary("log", torch.log, positive)
unary("sqrt", torch.sqrt, positive)
unary("rsqrt", torch.rsqrt, positive)
unary("sin", torch.sin)
unary("cos", torch.cos)
unary("tanh", torch.tanh)
unary("sigmoid", torch.sigmoid)
unary("abs", torch.abs, away_from_zero)

g = Golden("matmul")
for case, a, b in [
    ("square", (16, 16), (16, 16)),
    ("odd", (7, 13), (13, 5)),
    ("row", (1, 33), (33, 9)),
    ("batched", (2, 3, 5, 7), (2, 3, 7, 4)),
    ("deep", (3, 257), (257, 3)),
]:
    g.case(case, lambda a, b: {"y": a @ b}, {"a": normal(*a), "b": normal(*b)})
g.write()

g = Golden("where")
g.case(
    "matrix",
    lambda cond, a, b: {"y": torch.where(cond.bool(), a, b)},
    {"cond": integers(5, 9, hi=2), "a": normal(5, 9), "b": normal(5, 9)},
)
g.write()

g = Golden("take")
for case, table, ids in [("rows", (11, 7), (5,)), ("matrix of ids", (9, 17), (2, 6))]:
    g.case(
        case,
        lambda table, ids: {"y": table[ids.long()]},
        {"table": normal(*table), "ids": integers(*ids, hi=table[0])},
    )
g.write()

g = Golden("scatter_add")
g.case(
    "repeated ids",
    lambda base, ids, rows: {"y": base.index_add(0, ids.long(), rows)},
    {"base": normal(6, 5), "ids": integers(13, hi=6), "rows": normal(13, 5)},
)
g.write()


def axes_of(mask: int, rank: int) -> list[int]:
    return [axis for axis in range(rank) if mask >> axis & 1]


for name, f in [("sum", torch.sum), ("max", torch.amax)]:
    g = Golden(name)
    for case, shape, mask in [("rows", (5, 33), 2), ("columns", (9, 7), 1), ("outer two", (3, 5, 7), 3)]:
        g.case(
            case,
            lambda x, axes: {"y": f(x, axes_of(axes, x.dim()), keepdim=True)},
            {"x": normal(*shape)},
            {"axes": mask},
        )
    g.write()

g = Golden("argmax")
for case, shape in [("rows", (5, 33)), ("rank 3", (2, 3, 7))]:
    g.case(case, lambda x: {"y": x.argmax(-1)}, {"x": normal(*shape)})
g.write()

g = Golden("concat")
for case, shapes, axis in [("rows", [(2, 5), (3, 5)], 0), ("columns", [(3, 4), (3, 1), (3, 2)], 1)]:
    g.case(
        case,
        lambda axis, **parts: {"y": torch.cat(list(parts.values()), axis)},
        {f"{i}.part": normal(*shape) for i, shape in enumerate(shapes)},
        {"axis": axis},
    )
g.write()

unary("erf", torch.erf)
