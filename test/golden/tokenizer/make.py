"""Writes the goldens beside it with the Hugging Face tokenizers library: python3 test/golden/tokenizer/make.py

Five tokenizers with the parts of real families (split patterns, normalizers, byte fallback, templates),
small vocabularies trained on mixed text; 10,000 seeded strings with Chinese, emoji, digits, combining
marks, control characters and special tokens (all assigned before Unicode 8: newer ones are symbols for one
Unicode table and nothing yet for another); their ids; and what random ids decode to.

<kind>.json       tokenizer.json
trained.json      vocabulary and merges of the library's trainer on the texts of goldens.json.gz
goldens.json.gz   {"texts": [...], "kinds": {kind: {"ids": [[...]], "random": [[...]], "decoded": [...]}}}
"""

import gzip
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

WORDS = """
the of and to in that is was he for it with as his on be at by had not are but from or have an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into
export interface function const return readonly number string boolean undefined declare class extends import
import's don't we're I'LL they'd 1 12 123 1234 98765 3.14159 2^16 0xff 1,000,000 v1.2.3
模型 训练 语言 的 是 在 不 了 有 人 我们 中国 北京 学习 机器 数据 今天 天气 很好 你好 世界 谢谢 再见
日本語 ひらがな カタカナ 東京 한국어 안녕하세요 서울
русский язык привет мир Ελληνικά γλώσσα العربية مرحبا עברית שלום हिन्दी नमस्ते ไทย สวัสดี
naïve café façade Ångström e\u0301te\u0301 n\u0303 a\u0308 o\u0302\u0323 ﬁne ½ ² Ⅷ ① ٣ ४
😀 😂 👍 🎉 👨‍👩‍👧‍👦 🇨🇳 🏳️‍🌈 ❤️ ☃ ★ → ∑ √ € ¥ … “ ” ‘ ’ — – «»
{ } ( ) [ ] < > => == != && || /* */ // # @ $ % ^ & * - _ + = ~ ` ' " ; : , . ? ! \\ |
""".split()
SPACES = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", "\u2009", "\u0085", "\ufeff", ""]
SPECIALS = ["<bos>", "<eos>", "<|user|>", "<unk>", "<pad>"]


def text(rng, words):
    parts = []
    for _ in range(words):
        kind = rng.random()
        if kind < 0.86:
            parts.append(rng.choice(WORDS))
        elif kind < 0.9:
            parts.append(rng.choice(SPECIALS))
        elif kind < 0.94:
            parts.append("".join(chr(rng.randrange(0x20, 0x250)) for _ in range(rng.randrange(1, 6))))
        elif kind < 0.97:
            parts.append("".join(chr(rng.choice([rng.randrange(0x3000, 0x9FFF), rng.randrange(0x1F300, 0x1F6D0), rng.randrange(0x300, 0x36F)])) for _ in range(rng.randrange(1, 5))))
        else:
            parts.append(chr(rng.randrange(1, 0x20)) + "\u200b\u200d"[: rng.randrange(3)])
        parts.append(rng.choice(SPACES))
    return "".join(parts)


def byte_level(splits):
    steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(tokenizer, corpus, size, alphabet=()):
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<unk>", "<bos>", "<eos>"] + list(alphabet),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if not alphabet else [],
            show_progress=False,
        ),
    )
    # the trainer takes the byte tokens for special ones; in real files they are plain entries
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] not in alphabet]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.add_special_tokens([AddedToken("<|user|>", special=True, normalized=False, rstrip=True)])
    tokenizer.add_tokens([AddedToken("interface", single_word=True, normalized=True), AddedToken("<pad>", lstrip=True, normalized=False)])
    return tokenizer


def gpt2(corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return trained(t, corpus, 900)


def llama3(corpus):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = byte_level([LLAMA3])
    t.decoder = decoders.ByteLevel()
    trained(t, corpus, 1200)
    t.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", t.token_to_id("<bos>"))])]
    )
    return t


def qwen2(corpus):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = byte_level([QWEN2])
    t.decoder = decoders.ByteLevel()
    return trained(t, corpus, 1000)


def deepseek(corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = byte_level(DEEPSEEK)
    t.decoder = decoders.ByteLevel()
    trained(t, corpus, 1100)
    t.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", t.token_to_id("<bos>")), ("<eos>", t.token_to_id("<eos>"))])
    return t


def llama2(corpus):
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    # only frequent characters get tokens; the others fall back to bytes
    latin = ["".join(c for c in line if c < "\u0400" or "\u4e00" < c < "\u6000") for line in corpus]
    pieces = [word for line in latin for word in line.split(" ")]
    return trained(t, pieces, 900, [f"<0x{byte:02X}>" for byte in range(256)])


def metaspace(corpus):
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return trained(t, corpus, 1500, [f"<0x{byte:02X}>" for byte in range(256)])


def main():
    rng = random.Random(7)
    corpus = [text(rng, 60) for _ in range(400)]
    texts = [text(rng, rng.randrange(1, 9)) for _ in range(9990)]
    texts += ["", " ", "  ", "\n", "a" * 3000, "x y " * 500, "ａｂｃ", "你" * 100, "👍" * 40, "\u0301"]
    kinds = {}
    for make in (gpt2, llama3, qwen2, deepseek, llama2, metaspace):
        t = make(corpus)
        name = make.__name__
        t.save(str(HERE / f"{name}.json"), pretty=False)
        random_ids = [[rng.randrange(t.get_vocab_size()) for _ in range(rng.randrange(1, 12))] for _ in range(1000)]
        kinds[name] = {
            "ids": [encoding.ids for encoding in t.encode_batch(texts)],
            "random": random_ids,
            "decoded": [t.decode(ids, skip_special_tokens=True) for ids in random_ids],
        }
    # what the library's own trainer makes of the same texts
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = byte_level([LLAMA3])
    t.train_from_iterator(
        [text for text in texts if len(text) < 2048],  # longer pieces are cut by our trainer
        trainers.BpeTrainer(
            vocab_size=2000,
            min_frequency=2,
            special_tokens=["<bos>", "<eos>", "<pad>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = json.loads(t.to_str())["model"]
    (HERE / "trained.json").write_text(json.dumps({"vocab": model["vocab"], "merges": model["merges"]}) + "\n")
    body = json.dumps({"texts": texts, "kinds": kinds}, ensure_ascii=True, separators=(",", ":")).encode()
    (HERE / "goldens.json.gz").write_bytes(gzip.compress(body, mtime=0))


if __name__ == "__main__":
    main()
