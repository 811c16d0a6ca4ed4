"""A plain LLaMA in PyTorch: the other side of the parity test. One function per stage, no cleverness.

Shapes: B batch, T positions, D hidden, H query heads, K key/value heads, E head size, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Config:
    vocab_size: int = 512
    hidden_size: int = 64
    intermediate_size: int = 176
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 64
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


def parameter_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Hugging Face names; lm_head is tied to the embedding, so it has no entry of its own."""
    d, e = c.hidden_size, c.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, d)}
    for i in range(c.num_hidden_layers):
        p = f"model.layers.{i}."
        shapes[p + "input_layernorm.weight"] = (d,)
        shapes[p + "self_attn.q_proj.weight"] = (c.num_attention_heads * e, d)
        shapes[p + "self_attn.k_proj.weight"] = (c.num_key_value_heads * e, d)
        shapes[p + "self_attn.v_proj.weight"] = (c.num_key_value_heads * e, d)
        shapes[p + "self_attn.o_proj.weight"] = (d, c.num_attention_heads * e)
        shapes[p + "post_attention_layernorm.weight"] = (d,)
        shapes[p + "mlp.gate_proj.weight"] = (c.intermediate_size, d)
        shapes[p + "mlp.up_proj.weight"] = (c.intermediate_size, d)
        shapes[p + "mlp.down_proj.weight"] = (d, c.intermediate_size)
    shapes["model.norm.weight"] = (d,)
    return shapes


def initial_weights(c: Config, seed: int) -> dict[str, torch.Tensor]:
    """float64, each exactly representable in bf16, so that every compute dtype starts alike.

    Matrices are far above the usual 0.02 and the norm weights random: at 0.02 the logits barely
    depend on attention, and a wrong rope would pass.
    """
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in parameter_shapes(c).items():
        noise = torch.randn(shape, generator=g, dtype=torch.float64)
        if len(shape) == 1:
            value = 1 + 0.2 * noise
        elif "embed" in name:
            value = 0.15 * noise
        else:
            value = 0.2 * noise
        weights[name] = value.to(torch.bfloat16).to(torch.float64)
    return weights


def rms_norm(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    # in bf16 the statistics are float32, as in transformers and in fuselm
    wide = x.float() if x.dtype == torch.bfloat16 else x
    return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope(x_BHTE: torch.Tensor, theta: float, interleaved: bool = False) -> torch.Tensor:
    t, e = x_BHTE.shape[-2:]
    phase_dtype = torch.float64 if x_BHTE.dtype == torch.float64 else torch.float32
    frequency = theta ** (-torch.arange(0, e, 2, dtype=phase_dtype) / e)
    phase_TE = torch.outer(torch.arange(t, dtype=phase_dtype), frequency)
    cos, sin = phase_TE.cos().to(x_BHTE.dtype), phase_TE.sin().to(x_BHTE.dtype)
    if interleaved:
        a, b = x_BHTE[..., 0::2], x_BHTE[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    a, b = x_BHTE[..., : e // 2], x_BHTE[..., e // 2 :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def logits(w: dict[str, torch.Tensor], ids_BT: torch.Tensor, c: Config, interleaved: bool = False) -> torch.Tensor:
    b, t = ids_BT.shape
    x = F.embedding(ids_BT, w["model.embed_tokens.weight"])
    for i in range(c.num_hidden_layers):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], c.rms_norm_eps)

        def heads(name: str, count: int) -> torch.Tensor:
            return F.linear(h, w[f"{p}self_attn.{name}.weight"]).view(b, t, count, c.head_dim).transpose(1, 2)

        q = rope(heads("q_proj", c.num_attention_heads), c.rope_theta, interleaved)
        k = rope(heads("k_proj", c.num_key_value_heads), c.rope_theta, interleaved)
        v = heads("v_proj", c.num_key_value_heads)
        group = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        score = q @ k.transpose(-1, -2) * c.head_dim**-0.5
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        score = score.masked_fill(hidden, float("-inf"))
        wide = score.float() if score.dtype == torch.bfloat16 else score
        mixed = (wide.softmax(-1).to(score.dtype) @ v).transpose(1, 2).reshape(b, t, -1)
        x = x + F.linear(mixed, w[p + "self_attn.o_proj.weight"])
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], c.rms_norm_eps)
        gate, up = F.linear(h, w[p + "mlp.gate_proj.weight"]), F.linear(h, w[p + "mlp.up_proj.weight"])
        x = x + F.linear(F.silu(gate) * up, w[p + "mlp.down_proj.weight"])
    x = rms_norm(x, w["model.norm.weight"], c.rms_norm_eps)
    return F.linear(x, w["model.embed_tokens.weight"])


def loss(w: dict[str, torch.Tensor], ids_BT: torch.Tensor, c: Config, interleaved: bool = False) -> torch.Tensor:
    """Position t predicts t + 1; the mean over all targets of the batch."""
    z = logits(w, ids_BT, c, interleaved)[:, :-1]
    wide = z.float() if z.dtype == torch.bfloat16 else z
    return F.cross_entropy(wide.reshape(-1, c.vocab_size), ids_BT[:, 1:].reshape(-1))
