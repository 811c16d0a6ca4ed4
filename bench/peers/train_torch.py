"""PyTorch training the same decoder on the same weights and tokens, driven line by line.

Prints one JSON object when ready, then one per command read from standard input:
  {"run": N}   trains N steps: {"seconds": [...], "cpuSeconds": [...], "losses": [...], "peakRssBytes": n}
Weights come from a safetensors file under Hugging Face names; tokens from a file of int32,
steps x batch x context, used round and round; position t is trained on token t + 1.

bf16 is PyTorch's usual mixed precision: float32 parameters, autocast to bfloat16, fused AdamW.
"""

import argparse
import json
import struct

import torch
import torch.nn.functional as F
import training
from torch import nn


def read_safetensors(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        data = f.read()
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        if info["dtype"] != "F32":
            raise ValueError(f"{name}: expected F32, found {info['dtype']}")
        tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(info["shape"])
    return tensors


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rotate(x_BHTD, cos_TD, sin_TD):
    half = x_BHTD.shape[-1] // 2
    turned = torch.cat((-x_BHTD[..., half:], x_BHTD[..., :half]), dim=-1)
    return x_BHTD * cos_TD + turned * sin_TD


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, kv = c["hidden_size"], c["num_key_value_heads"] * c["head_dim"]
        self.c = c
        self.input_layernorm = RmsNorm(d, c["rms_norm_eps"])
        self.post_attention_layernorm = RmsNorm(d, c["rms_norm_eps"])
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(d, c["num_attention_heads"] * c["head_dim"], bias=False),
                "k_proj": nn.Linear(d, kv, bias=False),
                "v_proj": nn.Linear(d, kv, bias=False),
                "o_proj": nn.Linear(c["num_attention_heads"] * c["head_dim"], d, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(d, c["intermediate_size"], bias=False),
                "up_proj": nn.Linear(d, c["intermediate_size"], bias=False),
                "down_proj": nn.Linear(c["intermediate_size"], d, bias=False),
            }
        )

    def forward(self, x_BTD, cos, sin):
        c, a, m = self.c, self.self_attn, self.mlp
        batch, steps, _ = x_BTD.shape
        h = self.input_layernorm(x_BTD)
        q = a["q_proj"](h).view(batch, steps, -1, c["head_dim"]).transpose(1, 2)
        k = a["k_proj"](h).view(batch, steps, -1, c["head_dim"]).transpose(1, 2)
        v = a["v_proj"](h).view(batch, steps, -1, c["head_dim"]).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        grouped = c["num_key_value_heads"] != c["num_attention_heads"]
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x_BTD = x_BTD + a["o_proj"](o.transpose(1, 2).reshape(batch, steps, -1))
        h = self.post_attention_layernorm(x_BTD)
        return x_BTD + m["down_proj"](F.silu(m["gate_proj"](h)) * m["up_proj"](h))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(c["vocab_size"], c["hidden_size"]),
                "layers": nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"])),
                "norm": RmsNorm(c["hidden_size"], c["rms_norm_eps"]),
            }
        )

    def forward(self, ids_BT, cos, sin):
        x = self.model["embed_tokens"](ids_BT)
        for layer in self.model["layers"]:
            x = layer(x, cos, sin)
        logits = F.linear(self.model["norm"](x), self.model["embed_tokens"].weight)
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--config", required=True, help="JSON with Hugging Face keys")
    p.add_argument("--weights", required=True)
    p.add_argument("--mode", choices=["eager", "compile"], required=True)
    training.add_arguments(p)
    a = p.parse_args()

    torch.set_num_threads(a.threads)
    c = json.loads(a.config)
    model = Llama(c)
    # tied: the head is the embedding, so the file has no lm_head.weight
    model.load_state_dict(read_safetensors(a.weights), strict=True)
    model.to(a.device)
    decay = [q for q in model.parameters() if q.ndim > 1]
    plain = [q for q in model.parameters() if q.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": a.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=a.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )
    half = c["head_dim"] // 2
    inverse = 1.0 / (c["rope_theta"] ** (torch.arange(0, half, dtype=torch.float32) * 2 / c["head_dim"]))
    phase = torch.outer(torch.arange(a.context, dtype=torch.float32), inverse).repeat(1, 2)
    cos, sin = phase.cos().to(a.device), phase.sin().to(a.device)

    forward = torch.compile(model) if a.mode == "compile" else model
    training.serve(a, lambda batch: forward(batch, cos, sin), list(model.parameters()), optimizer)


if __name__ == "__main__":
    main()
