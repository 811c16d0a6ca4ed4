"""Folders that transformers writes, with all that belongs to them: python3 test/golden/interop/make.py [OUT]

Without OUT it makes the committed one, test/golden/interop/llama.

<name>/              save_pretrained of model, tokenizer and generation config; chat_template.jinja
<name>/expected.json texts and their ids, a conversation with its text and ids, ids that end an answer
<name>/expected.safetensors  ids i32 [1, T]; logits f32 [1, T, V], float64 on the saved weights
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast,
                          Qwen2Config, Qwen3Config)

HERE = Path(__file__).parent
TEXT = "Once there was a fox who lived by the sea; every day, at 7 o'clock, the fox said: 'Öl, über, 今天天气很好!'\n"
TEXTS = ["the fox said", " sea;  every\n\nday", "Öl über 今天 🦊", "<|end|>the end<|stop|>", "1234567890", ""]
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi, fox!"}]
TEMPLATE = ("{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
SPECIAL = ["<|begin|>", "<|end|>", "<|stop|>", "<|pad|>"]
SMALL = dict(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
GPT2 = dict(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64)
CONFIGS = {
    "llama": (LlamaConfig(**SMALL), torch.bfloat16),
    "gpt2": (GPT2Config(**GPT2), torch.float32),
    "gpt2-bf16": (GPT2Config(**GPT2, tie_word_embeddings=False), torch.bfloat16),
    "mistral": (MistralConfig(**SMALL, head_dim=8, sliding_window=6), torch.float32),
    "qwen2": (Qwen2Config(**SMALL), torch.bfloat16),
    "qwen3": (Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True), torch.float16),
    "llama3": (LlamaConfig(**SMALL, rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0,
                                                         low_freq_factor=1.0, high_freq_factor=4.0,
                                                         original_max_position_embeddings=16)), torch.float32),
}


def tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=SMALL["vocab_size"], special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    plain.train_from_iterator([TEXT] * 40, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<|begin|>", eos_token="<|end|>",
                                   pad_token="<|pad|>", clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def make(folder: Path, config, dtype: torch.dtype) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(12)
    fast = tokenizer()
    begin, end, stop, pad = (fast.convert_tokens_to_ids(token) for token in SPECIAL)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = begin, [end, stop], pad
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, dtype=torch.float64)
        p.data = 0.2 * noise + (1 if p.dim() == 1 and name.endswith("weight") else 0)
    model.generation_config.bos_token_id = begin
    model.generation_config.eos_token_id = [end, stop]
    model.generation_config.pad_token_id = pad
    model.to(dtype).save_pretrained(folder)
    fast.save_pretrained(folder)
    ids = torch.randint(0, SMALL["vocab_size"], (1, 20))
    # loaded anew: the model above has rounded its rotary frequencies, too
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = saved(ids, use_cache=False).logits
    save_file({"ids": ids.int(), "logits": logits.float().contiguous()}, folder / "expected.safetensors")
    chat = dict(conversation=CHAT, add_generation_prompt=True)
    expected = dict(
        texts=[[text, fast.encode(text)] for text in TEXTS],
        chat=dict(messages=CHAT, text=fast.apply_chat_template(**chat, tokenize=False),
                  ids=fast.apply_chat_template(**chat, tokenize=True, return_dict=False)),
        ends=[end, stop],
    )
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


def main() -> None:
    if len(sys.argv) > 1:
        for name, (config, dtype) in CONFIGS.items():
            make(Path(sys.argv[1]) / name, config, dtype)
        return
    make(HERE / "llama", *CONFIGS["llama"])
    print("bytes:", sum(f.stat().st_size for f in (HERE / "llama").iterdir()))


if __name__ == "__main__":
    main()
