"""Makes grad_norm.safetensors: torch.nn.utils.get_total_norm in float64 of float32 gradients. `wide`
has magnitudes whose float32 squares over- and underflow."""

import torch

from golden import Golden, normal

g = Golden("grad_norm")


def grad_norm(**grads: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"norm": torch.nn.utils.get_total_norm([x.detach() for x in grads.values()])}


for name, scales in {"plain": [1.0, 1.0, 1.0], "wide": [1e25, 1e-30, 1.0]}.items():
    shapes = [(7, 65), (33,), (1,)]
    inputs = {f"{i}.grad": normal(*s, scale=k) for i, (s, k) in enumerate(zip(shapes, scales))}
    g.case(name, grad_norm, inputs, bf16=False)
g.write()
