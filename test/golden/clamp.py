"""Goldens of clamp, which is no op of its own but a composition: python3 test/golden/clamp.py

Values at the bounds, beyond them and NaN. Cases are named by their bounds.
"""

import math

import torch

from golden import Golden

INF = math.inf
g = Golden("clamp")
x = torch.tensor([-INF, -2.0, -1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0, 2.0, INF, math.nan], dtype=torch.float64)
for low, high in [(-1.0, 1.0), (-1.0, INF), (-INF, 1.0), (0.0, 0.0), (1.0, -1.0), (-INF, INF)]:
    g.case(f"{low} {high}", lambda x, low, high: {"y": torch.clamp(x, low, high)}, lambda: {"x": x},
           {"low": low, "high": high}, bf16=False)
g.write()
