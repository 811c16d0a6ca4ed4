"""Makes adam_w.safetensors: the last of several steps of torch.optim.AdamW, from the state that the
steps before it left, clipped by clip_grad_norm_. 1-D parameters have no weight decay."""

import torch

from golden import Golden

SHAPES = [(5, 33), (17,), (2, 64), (1,)]
g = Golden("adam_w")


def step(norm, hyper, decay, state, beta1, beta2, eps, clipNorm, **group):
    """One step from a given state; `norm` is only given, PyTorch computes its own."""
    params = [group[f"{i}.param"].detach().clone().requires_grad_() for i in range(len(SHAPES))]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": float(d.detach())} for p, d in zip(params, decay)],
        lr=float(hyper[0].detach()), betas=(beta1, beta2), eps=eps, foreach=False, fused=False,
    )
    for i, p in enumerate(params):
        p.grad = group[f"{i}.grad"].detach().clone()
        optimizer.state[p] = {
            "step": torch.tensor(float(state[0])),
            "exp_avg": group[f"{i}.m"].detach().clone(), "exp_avg_sq": group[f"{i}.v"].detach().clone(),
        }
    torch.nn.utils.clip_grad_norm_(params, clipNorm if clipNorm > 0 else float("inf"))
    optimizer.step()
    result = {"state!": torch.tensor([int(state[0]) + 1, int(state[1])], dtype=torch.int32)}
    for i, p in enumerate(params):
        result |= {f"{i}.param!": p.detach()}
        result |= {f"{i}.m!": optimizer.state[p]["exp_avg"], f"{i}.v!": optimizer.state[p]["exp_avg_sq"]}
    return result


def case(name, *, steps, learning_rate, decay, seed, scale, **attributes):
    r = torch.Generator().manual_seed(seed)
    inputs = {
        "norm": torch.zeros(()), "hyper": torch.tensor([learning_rate, 1.0]),
        "decay": torch.tensor([decay if len(s) > 1 else 0.0 for s in SHAPES]),
        "state": torch.tensor([0, 3], dtype=torch.int32),
    }
    for i, s in enumerate(SHAPES):
        inputs |= {f"{i}.param": torch.randn(s, generator=r), f"{i}.m": torch.zeros(s), f"{i}.v": torch.zeros(s)}
    for k in range(steps):
        grads = {f"{i}.grad": torch.randn(s, generator=r) * scale for i, s in enumerate(SHAPES)}
        inputs |= grads
        inputs["norm"] = torch.nn.utils.get_total_norm([x.double() for x in grads.values()])
        if k + 1 < steps:
            wide = {key: v.double() if v.dtype.is_floating_point else v for key, v in inputs.items()}
            after = step(**wide, **attributes)
            inputs |= {key[:-1]: v.float() if v.dtype.is_floating_point else v for key, v in after.items()}
    print(name, "norm", float(inputs["norm"]), "clip", attributes["clipNorm"])
    g.case(name, step, inputs, attributes, bf16=False)


case("first", steps=1, learning_rate=1e-2, decay=0.1, seed=1, scale=1.0, beta1=0.9, beta2=0.999, eps=1e-8, clipNorm=0.0)
case("sixth", steps=6, learning_rate=1e-2, decay=0.1, seed=2, scale=1.0, beta1=0.9, beta2=0.95, eps=1e-6, clipNorm=0.0)
case("clipped", steps=4, learning_rate=3e-3, decay=0.01, seed=3, scale=0.3, beta1=0.9, beta2=0.95, eps=1e-8, clipNorm=1.0)
case("below", steps=3, learning_rate=3e-3, decay=0.0, seed=4, scale=0.01, beta1=0.8, beta2=0.9, eps=1e-8, clipNorm=1.0)
g.write()
