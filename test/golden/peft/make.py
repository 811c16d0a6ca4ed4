"""Writes the folders beside this script: python3 test/golden/peft/make.py

Each is a tiny model of transformers (`base/`) with an adapter that PEFT made and saved (`adapter/`), A and
B drawn at random, and `expected.safetensors`: ids, logits of the base and with the adapter, and those of
the merged model. `training` holds an adapter as PEFT begins one, and the losses of its first steps.

The other way round, `node test/golden/peft/write.mjs FOLDER` lets this library write bases, adapters and
logits, and this script prints how far PEFT's logits are from them:

    python3 test/golden/peft/make.py check FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent


def llama(tied: bool = False) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, attn_implementation="eager",
    ))


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, attn_implementation="eager",
    ))


def randomize(model: torch.nn.Module, std: float) -> None:
    """Initial values would hide a term: B of PEFT begins at zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * std + (1.0 if p.dim() == 1 and std == 0.2 else 0.0))


def tidy(folder: Path) -> None:
    """What is not read, and names that differ from machine to machine."""
    for name in ("README.md", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = "base"
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def case(name: str, model, **config) -> None:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(sum(name.encode()))
    randomize(model, 0.2)
    model.eval()
    model.save_pretrained(folder / "base")
    ids = torch.randint(0, 40, (2, 9))
    with torch.no_grad():
        expected = {"ids": ids.int(), "base": model(ids).logits.clone()}
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        for key, p in peft.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                p.copy_(torch.randn_like(p) * 0.3)
        peft.eval()
        expected["logits"] = peft(ids).logits.clone()
        peft.save_pretrained(folder / "adapter")
        if not config.get("modules_to_save") and not any("wte" in t for t in config["target_modules"]):
            expected["merged"] = peft.merge_and_unload()(ids).logits.clone()
    difference = (expected["logits"] - expected["base"]).abs().max().item()
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    tidy(folder / "base")
    tidy(folder / "adapter")
    print(f"{name}: the adapter moves logits by up to {difference:.3f}")


def training() -> None:
    folder = HERE / "training"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(7)
    model = llama()
    randomize(model, 0.2)
    model.save_pretrained(folder / "base")
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=16, lora_dropout=0.0,
        target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"],
    )
    peft = get_peft_model(model, config)
    peft.save_pretrained(folder / "adapter")
    ids = torch.randint(0, 40, (20, 4, 12))
    trainable = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    losses, norms = [], []
    for step in ids:
        loss = peft(step, labels=step).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trainable, 1.0))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    peft.save_pretrained(folder / "trained")
    save_file(
        {"ids": ids.int(), "losses": torch.stack(losses), "norms": torch.stack(norms)},
        folder / "expected.safetensors",
    )
    for part in ("base", "adapter", "trained"):
        tidy(folder / part)
    print(f"training: losses {losses[0]:.4f} to {losses[-1]:.4f}")


def check(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    peft = PeftModel.from_pretrained(model, folder / "adapter").eval()
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        logits = peft(expected["ids"].long()).logits
    error = (logits - expected["logits"]).abs().max().item()
    print(f"{folder.name}: PEFT's logits differ by up to {error:.2e}")
    if not error < 1e-4:
        sys.exit(1)


if len(sys.argv) == 3 and sys.argv[1] == "check":
    for each in sorted(Path(sys.argv[2]).iterdir()):
        check(each)
else:
    case("llama-names", llama(), r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    case(
        "llama-all", llama(), r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True,
        rank_pattern={"o_proj": 5, r"layers\.1\.mlp\.up_proj": 2}, alpha_pattern={"down_proj": 7},
    )
    case("llama-expression", llama(tied=True), r=2, lora_alpha=2, target_modules=r".*\.1\.(self_attn\.[kv]|mlp\.gate)_proj")
    case("llama-saved", llama(), r=4, lora_alpha=4, target_modules=["v_proj", "embed_tokens"], modules_to_save=["lm_head"])
    case("llama-head", llama(), r=4, lora_alpha=4, target_modules=["q_proj", "lm_head"])
    case("gpt2", gpt2(), r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    case("gpt2-embedding", gpt2(), r=4, lora_alpha=8, target_modules=["c_attn", "wte"], fan_in_fan_out=True)
    training()
