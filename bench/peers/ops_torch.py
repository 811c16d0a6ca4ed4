"""PyTorch doing the work of one op, driven line by line (bench/compare.ts).

Prints one JSON object when ready, then one per command read from standard input:
  {"prepare": {"work": name, ...arguments}, "dtype": d, "inputs": {...}, "outputs": path}
      makes the inputs, writes the results as float32 to the path, answers {"modes": [...]}
  {"time": mode, "calls": n}    {"seconds": s} of n calls
  {"limits": true}              what a GPU does at most (bench/limits.ts)
  {"forget": true}              {} once the tensors are gone
A command that fails is answered by {"error": "..."}.

An input is {"shape", "offset", "scale"?, "dtype"?, "grad"?}: the table of normals, from the offset,
round and round; {"shape", "below"}: (7919 i + 13) mod below; or {"shape", "zeros": dtype}.
"""

import argparse
import gc
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

device = torch.device("cpu")  # set by --device


def settle():
    if device.type == "cuda":
        torch.cuda.synchronize()


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make(given, dtype, normals):
    if "zeros" in given:
        return torch.zeros(given["shape"], device=device)
    size = int(np.prod(given["shape"]))
    if "below" in given:
        ids = (np.arange(size, dtype=np.int64) * 7919 + 13) % given["below"]
        return torch.from_numpy(ids).view(given["shape"]).to(device)
    table = np.roll(normals, -given["offset"])
    values = np.resize(table, size) * np.float32(given.get("scale", 1))
    t = torch.from_numpy(values.astype(np.float32, copy=False)).view(given["shape"])
    t = t.to(DTYPES[given.get("dtype", dtype)]).to(device)
    return t.requires_grad_(given.get("grad", False))


# Each takes its inputs by name and the arguments of `peer` in bench/*.bench.ts, and returns functions
# by mode: each does the whole work once and returns its results.


def linear(i):
    def run():
        with torch.no_grad():
            return [F.linear(i["x"], i["weight"])]

    return {"eager": run}


def linear_dx(i):
    return {"eager": lambda: [i["dy"] @ i["weight"]]}


def linear_dw(i):
    return {"eager": lambda: [i["dy"].t() @ i["x"]]}


def linear_int8(i, group):
    """Weight-only int8; one scale per row is all that PyTorch's own kernel knows."""
    w, x = i["weight"], i["x"]
    rows, columns = w.shape
    per = w.reshape(rows, -1, group or columns)
    scales = per.abs().amax(dim=2, keepdim=True) / 127
    values = torch.round(per / scales)
    bf16 = (values * scales).reshape(rows, columns).bfloat16()
    modes = {"bf16 weights": lambda: [F.linear(x, bf16)]}
    if not group:
        packed, one_per_row = values.reshape(rows, columns).to(torch.int8), scales.reshape(-1).bfloat16()
        modes["int8 weights"] = lambda: [torch.ops.aten._weight_int8pack_mm(x, packed, one_per_row)]
    return modes


def attention(i, backward):
    """[B, T, H, D] as a model has them after its projections, or laid out anew beforehand."""

    def mode(lay_out):
        q, k, v = (lay_out(i[n].detach().transpose(1, 2)).requires_grad_(bool(backward)) for n in "qkv")
        dy = lay_out(i["dy"].transpose(1, 2)) if backward else None

        def run():
            if not backward:
                with torch.no_grad():
                    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return [out.transpose(1, 2)]
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return [g.transpose(1, 2) for g in torch.autograd.grad(out, (q, k, v), dy)]

        return run

    modes = {"transposed": mode(lambda t: t), "contiguous": mode(lambda t: t.contiguous())}
    if device.type == "cuda":

        def only(backend):
            plain = modes["contiguous"]

            def run():
                with sdpa_kernel(backend):
                    return plain()

            return run

        modes["flash"] = only(SDPBackend.FLASH_ATTENTION)
        modes["cudnn"] = only(SDPBackend.CUDNN_ATTENTION)
    return modes


def pointwise(f, names):
    """f forward, or gradients of the named inputs through it."""

    def work(i, backward):
        compiled = torch.compile(f)

        def mode(g):
            if not backward:

                def forward():
                    with torch.no_grad():
                        return [g(i)]

                return forward
            return lambda: torch.autograd.grad(g(i), [i[n] for n in names], i["dy"])

        return {"eager": mode(f), "compile": mode(compiled)}

    return work


def rms_norm(i):
    return F.rms_norm(i["x"].float(), (i["x"].shape[-1],), i["w"], 1e-5).to(i["x"].dtype)


def layer_norm(i):
    return F.layer_norm(i["x"].float(), (i["x"].shape[-1],), i["w"], i["b"], 1e-5).to(i["x"].dtype)


def linear_cross_entropy(i, backward):
    def loss(x, weight):
        return F.cross_entropy(F.linear(x, weight)[:-1].float(), i["labels"][1:])

    compiled = torch.compile(loss)

    def mode(f):
        if not backward:

            def forward():
                with torch.no_grad():
                    return [f(i["x"], i["weight"])]

            return forward
        return lambda: torch.autograd.grad(f(i["x"], i["weight"]), (i["x"], i["weight"]))

    return {"eager": mode(loss), "compile": mode(compiled)}


def cross_entropy(i, backward):
    def loss(logits):
        return F.cross_entropy(logits.float(), i["labels"])

    compiled = torch.compile(loss)

    def mode(f):
        if not backward:

            def forward():
                with torch.no_grad():
                    return [f(i["logits"])]

            return forward
        return lambda: torch.autograd.grad(f(i["logits"]), (i["logits"],))

    return {"eager": mode(loss), "compile": mode(compiled)}


def adam_w(i):
    # float32 masters, as autocast trains them; ours hold the same bits in two halves
    p = i["param"].float().requires_grad_()
    p.grad = i["grad"]
    optimizer = torch.optim.AdamW([p], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=True)

    def run():
        optimizer.step()
        return [p]

    return {"fused": run}


def grad_norm(i):
    return {"eager": lambda: [torch.nn.utils.get_total_norm([i["grad"]])]}


WORK = {
    "linear": linear,
    "linear.dx": linear_dx,
    "linear.dw": linear_dw,
    "linear_int8": linear_int8,
    "attention": attention,
    "rms_norm": pointwise(rms_norm, ["x", "w"]),
    "layer_norm": pointwise(layer_norm, ["x", "w", "b"]),
    "swiglu": pointwise(lambda i: F.silu(i["gate"]) * i["up"], ["gate", "up"]),
    "gelu": pointwise(lambda i: F.gelu(i["x"]), ["x"]),
    "gelu_tanh": pointwise(lambda i: F.gelu(i["x"], approximate="tanh"), ["x"]),
    "residual_add": pointwise(lambda i: i["x"] + i["y"], ["x", "y"]),
    "softmax": pointwise(lambda i: F.softmax(i["x"], dim=-1), ["x"]),
    "linear_cross_entropy": linear_cross_entropy,
    "cross_entropy": cross_entropy,
    "adam_w": adam_w,
    "grad_norm": grad_norm,
}


def limits():
    """What the GPU does at most, as PyTorch reaches it: for benches on a GPU, which have no other."""

    def best_seconds(run, calls):
        times = []
        for _ in range(5):
            settle()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            settle()
            times.append((time.perf_counter() - start) / calls)
        return min(times)

    def product(n, dtype):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        return 2 * n**3 / best_seconds(lambda: a @ b, 4) / 1e9

    def int8_product(n):
        a, b = (torch.randint(-127, 127, (n, n), device=device, dtype=torch.int8) for _ in range(2))
        return 2 * n**3 / best_seconds(lambda: torch._int_mm(a, b), 4) / 1e9

    x = torch.randn(1 << 28, device=device)
    y = torch.empty_like(x)
    copy = 2 * x.nbytes / best_seconds(lambda: y.copy_(x), 4) / 1e9
    write = x.nbytes / best_seconds(lambda: y.fill_(1.0), 4) / 1e9
    del x, y
    return {
        "f32Gflops": product(4096, torch.float32),
        "bf16Gflops": product(8192, torch.bfloat16),
        "int8Gops": int8_product(8192),
        "readGBs": copy,
        "copyGBs": copy,
        "writeGBs": write,
    }


def main():
    global device
    p = argparse.ArgumentParser()
    p.add_argument("--normals", required=True)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--device", choices=["cpu", "cuda"], required=True)
    a = p.parse_args()
    device = torch.device(a.device)
    torch.set_num_threads(a.threads)
    normals = np.fromfile(a.normals, dtype=np.float32)
    modes = {}

    def prepare(command):
        arguments = dict(command["prepare"])
        work = WORK[arguments.pop("work")]
        inputs = {n: make(g, command["dtype"], normals) for n, g in command["inputs"].items()}
        made = work(inputs, **arguments)
        first, *others = made
        results = made[first]()
        flat = [t.detach().float().reshape(-1) for t in results]
        torch.cat(flat).cpu().numpy().tofile(command["outputs"])
        modes[first] = made[first]
        for name in others:
            try:  # torch.compile wants a C++ compiler, for one
                made[name]()
                modes[name] = made[name]
            except Exception as error:
                print(f"{name}: {error}", file=sys.stderr)
        return {"modes": list(modes)}

    def measure(command):
        run = modes[command["time"]]
        settle()
        start = time.perf_counter()
        for _ in range(command["calls"]):
            run()
        settle()
        return {"seconds": time.perf_counter() - start}

    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "prepare" in command:
                answer = prepare(command)
            elif "time" in command:
                answer = measure(command)
            elif "limits" in command:
                answer = limits()
            else:
                modes.clear()
                gc.collect()
                answer = {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
