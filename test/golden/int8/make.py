"""Tiny int8 folders by compressed-tensors' own compressor: python3 test/golden/int8/make.py [gpt2]

Of GPT-2, whose Conv1D it does not compress, the tensors are made by its arithmetic here, and it is transformers
that makes sense of them (`dequantize=True`).

<name>/                      model.safetensors and config.json with quantization_config
<name>/expected.safetensors  ids i32 [2, 16]; logits f32 [2, 16, 64] from float64, of the dequantised weights;
                             dequantized.<name>: two of those weights, f32
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization import apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.quantization.lifecycle.forward import quantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, GPT2Config, LlamaConfig, Qwen3Config

HERE = Path(__file__).parent
SIZE = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1)
FOLDERS = {
    # the output layer is quantised, too; scales float32
    "channel": (LlamaConfig(**SIZE, attention_bias=True), torch.float32,
                QuantizationArgs(strategy="channel"), []),
    # a tied output layer is left out; scales bfloat16
    "group": (Qwen3Config(**SIZE, head_dim=16, tie_word_embeddings=True), torch.bfloat16,
              QuantizationArgs(strategy="group", group_size=32), ["lm_head"]),
}


def make_gpt2(name: str, weights: QuantizationArgs, head: bool) -> None:
    torch.manual_seed(9)
    ids = torch.randint(0, 64, (2, 16))
    config = GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=1,
                        tie_word_embeddings=not head)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for n, p in model.named_parameters():
        p.data = 0.2 * torch.randn(p.shape) + (1 if "ln_" in n and n.endswith("weight") else 0)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for n in [n for n in tensors if n.endswith(".weight") and (".c_" in n or n == "lm_head.weight")]:
        # what is multiplied by one row of x stands in a row of [out, in], in a column of Conv1D's [in, out]
        conv, dense = ".c_" in n, tensors[n]
        group = weights.block_structure[0] if weights.strategy == "block" else dense.shape[0 if conv else 1]
        parts = dense.unflatten(0 if conv else 1, (-1, group))
        axis = 1 if conv else 2
        scale, _ = calculate_qparams(parts.amin(axis), parts.amax(axis), weights)
        zero = torch.zeros_like(scale, dtype=torch.int8)
        tensors[n] = quantize(dense, scale, zero, weights, dtype=torch.int8)
        tensors[f"{n}_scale"] = scale.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    targets = ["Conv1D", "Linear"] if head else ["Conv1D"]
    scheme = QuantizationScheme(targets=targets, weights=weights, format="int-quantized")
    ignore = [] if head else ["lm_head"]
    quantization = QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignore, format="int-quantized",
                                      quantization_status="compressed")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization.model_dump()},
                               indent=2, default=str) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    dense = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)).double().eval()
    with torch.no_grad():
        logits = dense(ids, use_cache=False).logits
    parts = {n: p for n, p in dense.named_parameters() if n.endswith("0.attn.c_proj.weight")}
    save_file({"ids": ids.int(), "logits": logits.float().contiguous(),
               **{f"dequantized.{n}": p.detach().float().contiguous() for n, p in parts.items()}},
              folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(name, "bytes:", sum(f.stat().st_size for f in folder.iterdir()), sorted(k for k in tensors if "scale" in k))


def main() -> None:
    if sys.argv[1:] in ([], ["gpt2"]):
        make_gpt2("gpt2-channel", QuantizationArgs(strategy="channel"), head=True)
        make_gpt2("gpt2-blocks", QuantizationArgs(strategy="block", block_structure=[32, 1]), head=False)
    if sys.argv[1:] == ["gpt2"]:
        return
    torch.manual_seed(8)
    ids = torch.randint(0, SIZE["vocab_size"], (2, 16))
    for name, (config, dtype, weights, ignore) in FOLDERS.items():
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        for n, p in model.named_parameters():
            noise = torch.randn(p.shape)
            p.data = (1 + 0.2 * noise if "norm" in n else 0.2 * noise).to(dtype)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights, format="int-quantized")
        apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignore))
        for module in model.modules():
            if getattr(module, "quantization_scheme", None) is None:
                continue
            rows = module.weight.data
            groups = rows if weights.strategy == "channel" else rows.unflatten(1, (-1, weights.group_size))
            least, most = groups.amin(-1), groups.amax(-1)
            scale, _ = calculate_qparams(least, most, weights)
            module.weight_scale.data = scale.reshape(module.weight_scale.shape).to(dtype)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        compressor = ModelCompressor.from_pretrained_model(model, "int-quantized")
        compressor.compress_model(model)
        values = torch.cat([m.weight.flatten() for m in model.modules() if getattr(m, "quantization_scheme", None)])
        assert values.dtype == torch.int8
        print(f"{name}: int8 values from {int(values.min())} to {int(values.max())}")
        model.save_pretrained(folder)
        compressor.update_config(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)

        dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        with torch.no_grad():
            logits = dense(ids, use_cache=False).logits
        parts = {n: p for n, p in dense.named_parameters() if n.endswith(("0.self_attn.k_proj.weight", "1.mlp.down_proj.weight"))}
        assert all(p.dtype == torch.float64 for p in parts.values())
        save_file({"ids": ids.int(), "logits": logits.float().contiguous(),
                   **{f"dequantized.{n}": p.detach().float().contiguous() for n, p in parts.items()}},
                  folder / "expected.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
        print(json.dumps(json.loads((folder / "config.json").read_text())["quantization_config"], indent=1))
    print("bytes:", sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()))


if __name__ == "__main__":
    main()
