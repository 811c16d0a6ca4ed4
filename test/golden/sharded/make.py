"""A sharded Hugging Face folder: python3 test/golden/sharded/make.py [FOLDER]

model/                  what save_pretrained(max_shard_size="16KB") wrote: bf16, several shards, an index
expected.safetensors    ids i32 [2, 24]; logits f32 [2, 24, 64] from float64

With FOLDER: loads that folder by transformers instead and compares its logits with expected.safetensors.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.safetensors"


def logits_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.to(torch.float64).eval()(ids, use_cache=False).logits.float().contiguous()


def make() -> None:
    torch.manual_seed(6)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, dtype=torch.float64)
        # exact in bf16, and far above initial scales
        p.data = (1 + 0.2 * noise if "norm" in name else 0.2 * noise).to(torch.bfloat16).to(torch.float64)
    ids = torch.randint(0, config.vocab_size, (2, 24))
    save_file({"ids": ids.int(), "logits": logits_of(model, ids)}, EXPECTED)
    shutil.rmtree(HERE / "model", ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(HERE / "model", max_shard_size="16KB")
    (HERE / "model" / "generation_config.json").unlink(missing_ok=True)
    for file in (HERE / "model").iterdir():
        file.chmod(0o644)
    print("bytes:", sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()))


def check(folder: str) -> None:
    expected = load_file(EXPECTED)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    error = (logits_of(model, expected["ids"].long()) - expected["logits"]).abs().max().item()
    print(f"{folder}: largest difference of logits {error:.1e}")
    assert error == 0, error


if __name__ == "__main__":
    check(sys.argv[1]) if len(sys.argv) > 1 else make()
