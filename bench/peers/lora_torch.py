"""PEFT training the same adapter beside the same base on the same tokens, driven line by line.

Prints one JSON object when ready, then one per command read from standard input:
  {"run": N}   trains N steps: {"seconds": [...], "cpuSeconds": [...], "losses": [...], "peakRssBytes": n}
FOLDER holds `base` and `adapter`; tokens are a file of int32, steps x batch x context, used round and round.

bf16 is how PEFT is used: a frozen base in bfloat16, the adapter in float32, autocast to bfloat16, fused AdamW.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--tokens", required=True)
    p.add_argument("--batch", type=int, required=True)
    p.add_argument("--context", type=int, required=True)
    p.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    p.add_argument("--learning-rate", type=float, required=True)
    p.add_argument("--weight-decay", type=float, required=True)
    p.add_argument("--clip-norm", type=float, required=True)
    p.add_argument("--threads", type=int, required=True)
    a = p.parse_args()

    torch.set_num_threads(a.threads)
    dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
    base = AutoModelForCausalLM.from_pretrained(a.folder / "base", dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    model = PeftModel.from_pretrained(base, a.folder / "adapter", is_trainable=True).train()
    trainable = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=a.learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=a.weight_decay, fused=True
    )
    tokens = torch.from_numpy(np.fromfile(a.tokens, dtype=np.int32).astype(np.int64)).view(-1, a.batch, a.context)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16")
    done = 0

    def step():
        nonlocal done
        batch = tokens[done % len(tokens)]
        done += 1
        with autocast:
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, a.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds, cpu_seconds, losses = [], [], []
        for _ in range(json.loads(line)["run"]):
            start, cpu_start = time.perf_counter(), time.process_time()
            losses.append(step())
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "cpuSeconds": cpu_seconds, "losses": losses, "peakRssBytes": peak}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
