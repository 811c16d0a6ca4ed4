"""Tiny Hugging Face folders of every kind of decoder that loads: python3 test/golden/families/make.py

<name>/                      what save_pretrained wrote, bf16
<name>/expected.safetensors  ids i32 [2, 24]; logits f32 [2, 24, 64] from float64
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

HERE = Path(__file__).parent
SIZE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1)
CONFIGS = {
    "llama-bias": LlamaConfig(**SIZE, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5),
    "llama-gelu": LlamaConfig(**SIZE, hidden_act="gelu_pytorch_tanh", head_dim=12, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZE, head_dim=8, sliding_window=5),
    "qwen2": Qwen2Config(**SIZE, tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(**SIZE, use_sliding_window=True, sliding_window=6, max_window_layers=0),
    "qwen3": Qwen3Config(**SIZE, head_dim=16, tie_word_embeddings=True),
    "qwen3-bias": Qwen3Config(**SIZE, head_dim=8, attention_bias=True),
}


def randomize(model: torch.nn.Module) -> None:
    """Exact in bf16 and far above initial scales: a feature that is left out moves the logits."""
    g = torch.Generator().manual_seed(4)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
        value = 1 + 0.2 * noise if "norm" in name else 0.2 * noise
        p.data = value.to(torch.bfloat16).to(torch.float64)


def main() -> None:
    torch.manual_seed(4)
    ids = torch.randint(0, SIZE["vocab_size"], (2, 24))
    for name, config in CONFIGS.items():
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
        randomize(model)
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
            for part in ("bias", "q_norm.weight", "k_norm.weight"):
                parts = [p for n, p in model.named_parameters() if n.endswith(part)]
                if not parts:
                    continue
                kept = [p.clone() for p in parts]
                for p in parts:
                    p.fill_(0 if part == "bias" else 1)
                moved = float((model(ids, use_cache=False).logits - logits).norm() / logits.norm())
                for p, k in zip(parts, kept):
                    p.copy_(k)
                print(f"{name}: without {part} logits move by {moved:.1e}")
                assert moved > 100 * 2e-6
        folder = HERE / name
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({"ids": ids.int(), "logits": logits.float().contiguous()}, folder / "expected.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
    print("bytes:", sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()))


if __name__ == "__main__":
    main()
