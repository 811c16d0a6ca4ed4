"""Goldens of the primitives: python3 test/golden/primitives.py

A primitive's float64 loop is the last reference there is, so these values, and not the library's own,
are what it is held to. `special` cases hold NaN, infinities and zeros of either sign.
"""

import math

import torch

from golden import Golden, integers, normal
from philox import uniform as philox_uniform

INF, NAN = math.inf, math.nan
DTYPES = {1: torch.float32, 2: torch.bfloat16, 3: torch.float64, 4: torch.int32, 7: torch.uint8}


def values(*items: float) -> torch.Tensor:
    return torch.tensor(items, dtype=torch.float64)


def positive(*shape: int) -> torch.Tensor:
    return normal(*shape).abs() * 3 + 0.01


def away_from_zero(*shape: int) -> torch.Tensor:
    x = normal(*shape)
    return x + 0.1 * x.sign()


def with_edges(at: int, edge: float) -> torch.Tensor:
    """Normal values with the edge twice, in a row longer than any vector."""
    x = normal(70)
    x[at] = x[at + 3] = edge
    return x


# every pair of these meets
EDGES = values(NAN, INF, -INF, 0.0, -0.0, 1.0, -2.0)


def edge_pairs() -> dict[str, torch.Tensor]:
    n = len(EDGES)
    return {"a": EDGES.repeat_interleave(n), "b": EDGES.repeat(n)}


BROADCASTS = [
    ("same shape", (5, 13), (5, 13)),
    ("row", (3, 4, 17), (17,)),
    ("column", (6, 37), (6, 1)),
    ("both expand", (4, 1, 7), (5, 1)),
    ("short rows", (5, 9, 3), (5, 1, 3)),
    ("scalar", (33,), ()),
    ("scalars", (), ()),
    ("empty", (0, 3), (3,)),
]


def binary(name: str, f, second=normal, whole=None) -> None:
    g = Golden(name)
    for case, a, b in BROADCASTS:
        g.case(case, lambda a, b: {"y": f(a, b)}, lambda: {"a": normal(*a), "b": second(*b)})
    g.case("special", lambda a, b: {"y": f(a, b)}, edge_pairs, bf16=False, no_grad=("y",))
    g.case(
        "integers",
        lambda a, b: {"y": (whole or f)(a, b)},
        lambda: {"a": integers(3, 35, lo=-50, hi=50), "b": integers(3, 35, lo=1, hi=9)},
        bf16=False,
    )
    g.write()


def comparison(name: str, f) -> None:
    g = Golden(name)
    compare = lambda a, b: {"y": f(a, b).int()}
    for case, a, b in BROADCASTS:
        # halves: many are equal
        g.case(case, compare, lambda: {"a": (2 * normal(*a)).round() / 2, "b": (2 * normal(*b)).round() / 2})
    g.case("special", compare, edge_pairs, bf16=False)
    g.case("integers", compare, lambda: {"a": integers(135, hi=5), "b": integers(135, hi=5)}, bf16=False)
    g.write()


def unary(name: str, f, inputs=lambda *shape: 2 * normal(*shape), special=EDGES) -> None:
    g = Golden(name)
    of = lambda x: {"y": f(x)}
    for case, shape in [("matrix", (5, 13)), ("vector", (127,)), ("rank 3", (2, 3, 33)), ("scalar", ())]:
        g.case(case, of, lambda: {"x": inputs(*shape)})
    g.case("transposed", of, lambda: {"x": inputs(17, 19)}, strides={"x": "transposed"})
    g.case("empty", of, lambda: {"x": inputs(0, 3)})
    g.case("special", of, lambda: {"x": special}, bf16=False, no_grad=("y",))
    g.write()


binary("add", torch.add)
binary("sub", torch.sub)
binary("mul", torch.mul)
binary(
    "div", torch.div, lambda *shape: normal(*shape).abs() + 0.5,
    lambda a, b: torch.div(a, b, rounding_mode="trunc"),
)
binary("maximum", torch.maximum)
binary("minimum", torch.minimum)

comparison("equal", torch.eq)
comparison("not_equal", torch.ne)
comparison("less", torch.lt)
comparison("less_equal", torch.le)

unary("neg", torch.neg)
unary("exp", torch.exp)
unary("log", torch.log, positive)
unary("sqrt", torch.sqrt, positive)
unary("rsqrt", torch.rsqrt, positive)
unary("sin", torch.sin)
unary("cos", torch.cos)
unary("tanh", torch.tanh)
unary("sigmoid", torch.sigmoid)
unary("erf", torch.erf)
unary("abs", torch.abs, away_from_zero)

g = Golden("pow")
for exponent, inputs in [(3.0, normal), (-1.0, away_from_zero), (2.5, positive), (0.0, normal), (-2.0, positive)]:
    g.case(f"to {exponent}", lambda x, exponent: {"y": x.pow(exponent)}, lambda: {"x": inputs(3, 43)}, {"exponent": exponent})
g.case("special", lambda x, exponent: {"y": x.pow(exponent)}, lambda: {"x": EDGES}, {"exponent": 3.0}, bf16=False, no_grad=("y",))
g.write()

g = Golden("matmul")
for case, a, b in [
    ("square", (16, 16), (16, 16)),
    ("odd", (7, 13), (13, 5)),
    ("row", (1, 33), (33, 9)),
    ("batched", (2, 3, 5, 7), (2, 3, 7, 4)),
    ("deep", (3, 257), (257, 3)),
]:
    g.case(case, lambda a, b: {"y": a @ b}, lambda: {"a": normal(*a), "b": normal(*b)})
g.write()

g = Golden("where")
for case, shapes in [("matrix", [(5, 9)] * 3), ("broadcast", [(5, 1), (9,), ()]), ("long", [(130,)] * 3)]:
    g.case(
        case,
        lambda cond, a, b: {"y": torch.where(cond.bool(), a, b)},
        lambda: {"cond": integers(*shapes[0], hi=2), "a": normal(*shapes[1]), "b": normal(*shapes[2])},
    )
g.case(
    "special",
    lambda cond, a, b: {"y": torch.where(cond.bool(), a, b)},
    lambda: {"cond": integers(49, hi=2), **edge_pairs()},
    bf16=False, no_grad=("y",),
)
g.write()

g = Golden("take")
for case, table, ids in [
    ("rows", (11, 7), (5,)), ("matrix of ids", (9, 17), (2, 6)), ("elements", (40,), (3, 21)),
    ("rank 3", (4, 3, 5), (6,)), ("no ids", (4, 3), (0,)),
]:
    g.case(
        case,
        lambda table, ids: {"y": table[ids.long()]},
        lambda: {"table": normal(*table), "ids": integers(*ids, hi=table[0])},
    )
g.case(
    "strided",
    lambda table, ids: {"y": table[ids.long()]},
    lambda: {"table": normal(9, 17), "ids": integers(4, 5, hi=9)},
    strides={"table": "transposed", "ids": "padded"},
)
g.write()

g = Golden("scatter_add")
for case, base, n in [("repeated ids", (6, 5), 13), ("wide", (3, 140), 40), ("elements", (7,), 30), ("no ids", (4, 3), 0)]:
    g.case(
        case,
        lambda base, ids, rows: {"y": base.index_add(0, ids.long(), rows)},
        lambda: {"base": normal(*base), "ids": integers(n, hi=base[0]), "rows": normal(n, *base[1:])},
    )
g.write()


def axes_of(mask: int, rank: int) -> list[int]:
    return [axis for axis in range(rank) if mask >> axis & 1]


REDUCTIONS = [
    ("rows", (5, 33), 2), ("columns", (9, 7), 1), ("outer two", (3, 5, 7), 3), ("outer and inner", (3, 5, 7), 5),
    ("all", (6, 70), 3), ("long", (1, 4200), 2), ("few columns", (900, 3), 1),
]
for name, f in [("sum", torch.sum), ("mean", torch.mean), ("max", torch.amax), ("min", torch.amin)]:
    g = Golden(name)
    reduced = lambda x, axes: {"y": f(x, axes_of(axes, x.dim()), keepdim=True)}
    for case, shape, mask in REDUCTIONS:
        g.case(case, reduced, lambda: {"x": normal(*shape)}, {"axes": mask})
    g.case("transposed", reduced, lambda: {"x": normal(19, 21)}, {"axes": 1}, strides={"x": "transposed"})
    for case, axes in [("special rows", 2), ("special columns", 1)]:
        # each edge alone among numbers, in and past the first vector of lanes
        g.case(
            case, reduced,
            lambda: {"x": torch.stack([with_edges(i * 9, float(e)) for i, e in enumerate(EDGES)])},
            {"axes": axes}, bf16=False, no_grad=("y",),
        )
    if name != "mean":
        g.case(
            "integers",
            lambda x, axes: {"y": f(x, axes_of(axes, x.dim()), keepdim=True)},
            lambda: {"x": integers(7, 133, lo=-1000, hi=1000)}, {"axes": 2}, bf16=False,
        )
    if name == "sum":
        g.case("nothing", reduced, lambda: {"x": normal(3, 0)}, {"axes": 2})
    g.write()

g = Golden("argmax")
of = lambda x: {"y": x.argmax(-1)}
for case, shape in [("rows", (5, 33)), ("rank 3", (2, 3, 7)), ("long", (3, 1000)), ("one", (4, 1))]:
    g.case(case, of, lambda: {"x": normal(*shape)})
g.case("transposed", of, lambda: {"x": normal(9, 11)}, strides={"x": "transposed"})
g.case("special", of, lambda: {"x": torch.stack([EDGES, EDGES.flip(0), EDGES[1:].repeat(2)[:7], EDGES[2:].repeat(2)[:7]])}, bf16=False)
g.case("special, long", of, lambda: {"x": torch.stack([with_edges(5, INF), with_edges(40, NAN), with_edges(66, -INF)])}, bf16=False)
g.write()

g = Golden("cumsum")
def running(x, axis, reverse):
    return {"y": x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis)}
for case, shape, axis, reverse in [
    ("rows", (5, 33), 1, False), ("from the end", (5, 33), 1, True), ("columns", (9, 7), 0, False),
    ("middle, from the end", (3, 40, 5), 1, True), ("empty", (2, 0), 1, False),
]:
    g.case(case, running, lambda: {"x": normal(*shape)}, {"axis": axis, "reverse": reverse})
g.write()

g = Golden("concat")
for case, shapes, axis in [
    ("rows", [(2, 5), (3, 5)], 0), ("columns", [(3, 4), (3, 1), (3, 2)], 1), ("middle", [(2, 3, 9), (2, 1, 9)], 1),
    ("one empty", [(0, 3), (2, 3)], 0),
]:
    g.case(
        case,
        lambda axis, **parts: {"y": torch.cat(list(parts.values()), axis)},
        lambda: {f"{i}.part": normal(*shape) for i, shape in enumerate(shapes)},
        {"axis": axis},
    )
g.write()

g = Golden("cast")
cast = lambda x, dtype: {"y": x.to(DTYPES[dtype])}
for case, dtype in [("to f32", 1), ("to bf16", 2), ("to f64", 3)]:
    g.case(case, cast, lambda: {"x": normal(3, 65)}, {"dtype": dtype})
    g.case(f"{case}, special", cast, lambda: {"x": EDGES.repeat(5)}, {"dtype": dtype}, bf16=False, no_grad=("y",))
# halfway between two bf16 numbers, and one float32 step to either side: ties go to even
ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3895314e38, 2**-133 + 2**-134], dtype=torch.float32)
nearly = torch.cat([ties, torch.nextafter(ties, torch.tensor(INF)), torch.nextafter(ties, torch.tensor(-INF))])
g.case("ties to bf16", cast, lambda: {"x": nearly.double().repeat(3)}, {"dtype": 2}, bf16=False, no_grad=("y",))
g.case("to i32", cast, lambda: {"x": 1000 * normal(5, 9)}, {"dtype": 4}, bf16=False)
g.case("to u8", cast, lambda: {"x": 255 * normal(5, 9).abs().clamp(max=1)}, {"dtype": 7}, bf16=False)
for case, dtype in [("i32 to f32", 1), ("i32 to bf16", 2), ("i32 to f64", 3)]:
    g.case(case, cast, lambda: {"x": integers(5, 35, lo=-(2**30), hi=2**30)}, {"dtype": dtype}, bf16=False, no_grad=("y",))
g.case("transposed", cast, lambda: {"x": normal(17, 19)}, {"dtype": 2}, strides={"x": "transposed"})
g.write()

LAYOUTS = [("padded", (4, 33)), ("transposed", (3, 17, 21))]
g = Golden("contiguous")
for layout, shape in LAYOUTS:
    g.case(layout, lambda x: {"y": x.clone()}, lambda: {"x": normal(*shape)}, strides={"x": layout})
g.case("special", lambda x: {"y": x.clone()}, lambda: {"x": EDGES.reshape(1, 7).repeat(3, 1)}, bf16=False, no_grad=("y",), strides={"x": "transposed"})
g.write()

for name, f in [("copy_into", lambda target, source: source.clone()), ("add_into", torch.add)]:
    g = Golden(name)
    into = lambda target, source: {"target!": f(target, source)}
    for to, shape in LAYOUTS:
        for of, _ in LAYOUTS:
            g.case(
                f"{of} into {to}", into, lambda: {"target": normal(*shape), "source": normal(*shape)},
                no_grad=("target!",), strides={"target": to, "source": of},
            )
    g.write()

g = Golden("fill")
filled = lambda y, value: {"y!": torch.full_like(y, value)}
g.case("floats", filled, lambda: {"y": normal(3, 65)}, {"value": -2.5}, no_grad=("y!",))
g.case("padded", filled, lambda: {"y": normal(3, 65)}, {"value": 0.1}, no_grad=("y!",), strides={"y": "padded"})
g.case("integers", filled, lambda: {"y": integers(33, hi=9)}, {"value": -4}, bf16=False)
g.write()

g = Golden("iota")
counted = lambda y, start, step: {"y!": (start + step * torch.arange(len(y), dtype=torch.float64)).to(y.dtype)}
g.case("floats", counted, lambda: {"y": normal(37)}, {"start": 3, "step": 0.25}, no_grad=("y!",))
g.case("integers", counted, lambda: {"y": integers(129, hi=9)}, {"start": 5, "step": -3}, bf16=False)
g.write()

g = Golden("uniform")


def drawn(key: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    words = tuple(int(k) & 0xFFFFFFFF for k in key)
    return {"y!": torch.tensor([philox_uniform(words, i) for i in range(y.numel())], dtype=torch.float64).reshape(y.shape)}


for case, words, shape in [("odd", [1, 2, 3, 4], (5, 33)), ("groups", [-1, 77, 0, 5], (200,))]:
    g.case(
        case, drawn, lambda: {"key": torch.tensor(words, dtype=torch.int32), "y": normal(*shape)},
        bf16=False, no_grad=("y!",),
    )
g.write()
