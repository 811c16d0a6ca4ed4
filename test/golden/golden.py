"""What every test/golden/<op>.py uses to write its <op>.safetensors.

    from golden import Golden, normal

    g = Golden("rms_norm")
    def rms_norm(x, w, eps):
        return {"y": torch.nn.functional.rms_norm(x, w.shape, w, eps)}
    g.case("odd", rms_norm, lambda: {"x": normal(3, 65), "w": normal(65)}, {"eps": 1e-5})
    g.write()

Inputs given as a function are drawn from a generator seeded by the name of the case: adding a case, or
running another script, leaves the others' values alone, and a rerun writes the same bytes.

The function is called in float64 on inputs rounded to float32, with the attributes as keyword
arguments, and returns its outputs by name. Gradients are of sum(output * dy) with dy ~ N(0, 1).
It is called again in bfloat16 and in float64 on inputs rounded to bfloat16: their distance is
PyTorch's own bf16 error, of which a bf16 kernel may make twice as much.

`strides` names inputs that are laid out otherwise than row-major: 'padded' or 'transposed', as in the
case tables. Outputs of in-place inputs are named `x!`.

Keys: `<case>.in.<input>`, `<case>.out.<output>`, `<case>.dy.<output>`, `<case>.grad.<input>` (f32, or
i32); metadata `<case>` (JSON of the attributes), `<case>.bf16_error` (JSON, `out.y` or `grad.x` to
the largest absolute error) and `<case>.strides` (JSON, by input).
"""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

Tensors = dict[str, torch.Tensor]
_generator = torch.Generator().manual_seed(0)


def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64) * scale


def integers(*shape: int, lo: int = 0, hi: int) -> torch.Tensor:
    return torch.randint(lo, hi, shape, generator=_generator, dtype=torch.int32)


def _is_float(t: torch.Tensor) -> bool:
    return t.dtype.is_floating_point


def _round(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    return {k: v.to(dtype) if _is_float(v) else v for k, v in inputs.items()}


def _run(f: Callable[..., Tensors], inputs: Tensors, attributes: dict, dy: Tensors, dtype: torch.dtype) -> Tensors:
    """Outputs as `out.y` and gradients as `grad.x`, in float64."""
    leaves = {
        k: v.to(dtype).clone().requires_grad_() if _is_float(v) else v for k, v in inputs.items()
    }
    outputs = f(**leaves, **attributes)
    targets = [(v, dy[k].to(v.dtype)) for k, v in outputs.items() if k in dy and v.requires_grad]
    result = {f"out.{k}": v.detach() for k, v in outputs.items()}
    if targets:
        torch.autograd.backward([v for v, _ in targets], [d for _, d in targets])
        result |= {f"grad.{k}": v.grad for k, v in leaves.items() if _is_float(v) and v.grad is not None}
    return {k: v.double() if _is_float(v) else v for k, v in result.items()}


class Golden:
    def __init__(self, op: str):
        self.op = op
        self.tensors: Tensors = {}
        self.metadata: dict[str, str] = {}

    def case(
        self, name: str, f: Callable[..., Tensors], inputs: Tensors | Callable[[], Tensors],
        attributes: dict | None = None, *, bf16: bool = True, no_grad: tuple[str, ...] = (),
        strides: dict[str, str] | None = None,
    ) -> None:
        """`no_grad` names outputs that take no dy (saved statistics such as rstd)."""
        attributes = attributes or {}
        seed = zlib.crc32(f"{self.op}/{name}".encode())
        if callable(inputs):
            _generator.manual_seed(seed + 1)
            inputs = inputs()
        # seeded by name: adding a case leaves the others' values alone
        g = torch.Generator().manual_seed(seed)
        inputs = _round(inputs, torch.float32)
        with torch.no_grad():
            outputs = f(**_round(inputs, torch.float64), **attributes)
        dy = {
            k: torch.randn(v.shape, generator=g, dtype=torch.float64).float()
            for k, v in outputs.items()
            if _is_float(v) and k not in no_grad
        }
        exact = _run(f, inputs, attributes, dy, torch.float64)
        stored = {f"in.{k}": v for k, v in inputs.items()} | {f"dy.{k}": v for k, v in dy.items()} | exact
        for key, value in stored.items():
            self.tensors[f"{name}.{key}"] = (value.float() if _is_float(value) else value.int()).contiguous()
        self.metadata[name] = json.dumps(attributes)
        if strides:
            self.metadata[f"{name}.strides"] = json.dumps(strides)
        if bf16:
            coarse, coarse_dy = _round(inputs, torch.bfloat16), _round(dy, torch.bfloat16)
            theirs = _run(f, coarse, attributes, coarse_dy, torch.bfloat16)
            wide = _run(f, coarse, attributes, coarse_dy, torch.float64)
            error = {k: (theirs[k] - v).abs().max().item() for k, v in wide.items() if _is_float(v) and v.numel()}
            self.metadata[f"{name}.bf16_error"] = json.dumps(error)

    def write(self) -> None:
        path = Path(__file__).parent / f"{self.op}.safetensors"
        path.write_bytes(_safetensors(self.tensors, self.metadata))
        print(f"{path.name}: {len(self.metadata)} entries, {path.stat().st_size} bytes")


def _safetensors(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """The file format of safetensors, names in order: the library's own writer shuffles the metadata."""
    header: dict = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    at = 0
    for name, tensor in sorted(tensors.items()):
        data = tensor.numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int32: "I32"}[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
