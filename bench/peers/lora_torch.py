"""PEFT training the same adapter beside the same base on the same tokens, driven line by line.

Prints one JSON object when ready, then one per command read from standard input:
  {"run": N}   trains N steps: {"seconds": [...], "cpuSeconds": [...], "losses": [...], "peakRssBytes": n}
FOLDER holds `base` and `adapter`; tokens are a file of int32, steps x batch x context, used round and round.

bf16 is how PEFT is used: a frozen base in bfloat16, the adapter in float32, autocast to bfloat16, fused AdamW.
"""

import argparse
from pathlib import Path

import torch
import training
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--folder", type=Path, required=True)
    training.add_arguments(p)
    a = p.parse_args()

    torch.set_num_threads(a.threads)
    dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
    base = AutoModelForCausalLM.from_pretrained(a.folder / "base", dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    model = PeftModel.from_pretrained(base, a.folder / "adapter", is_trainable=True).train().to(a.device)
    trainable = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=a.learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=a.weight_decay, fused=True
    )
    training.serve(a, lambda batch: model(batch, labels=batch).loss, trainable, optimizer)


if __name__ == "__main__":
    main()
