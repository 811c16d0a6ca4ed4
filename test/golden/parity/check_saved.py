"""A folder that fuselm saved, loaded by transformers: python3 test/golden/parity/check_saved.py FOLDER CURVE

Asserts the logits of the first row of CURVE (curve.safetensors, or expected.safetensors of
test/golden/families: from the same weights in float64).
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
expected = golden["logits"].reshape(-1, *logits.shape)[0]
error = float((logits - expected).norm() / expected.norm())
print(f"{type(model).__name__}: logits within {error:.1e}")
assert error < 1e-5
