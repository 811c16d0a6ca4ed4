"""What the programs that train share: their arguments, the tokens, and the loop that is driven line by line."""

import json
import resource
import sys
import time

import numpy as np
import torch


def add_arguments(parser):
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--clip-norm", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)


def serve(a, loss_of, parameters, optimizer):
    """Trains a batch a step, the file's batches round and round, as standard input asks."""
    tokens = torch.from_numpy(np.fromfile(a.tokens, dtype=np.int32).astype(np.int64)).view(-1, a.batch, a.context)
    tokens = tokens.to(a.device)
    autocast = torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16")
    done = 0

    def step():
        nonlocal done
        batch = tokens[done % len(tokens)]
        done += 1
        with autocast:
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, a.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    print(json.dumps({"version": torch.__version__}), flush=True)
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

