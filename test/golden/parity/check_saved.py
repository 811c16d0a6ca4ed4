"""A folder that fuselm saved, loaded by transformers: python3 test/golden/parity/check_saved.py FOLDER CURVE

Asserts the logits of CURVE's first row (curve.safetensors, from the same weights in float64).
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

folder, curve = sys.argv[1:]
golden = load_file(curve)
model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
ids = golden["ids"].reshape(-1, golden["ids"].shape[-1])[:1].long()
with torch.no_grad():
    logits = model.eval()(ids).logits[0].float()
error = float((logits - golden["logits"]).norm() / golden["logits"].norm())
print(f"{type(model).__name__}: logits within {error:.1e}")
assert error < 1e-5
