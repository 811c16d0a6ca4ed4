"""What transformers' generate makes of test/golden/parity: python3 test/golden/generate/make.py

expected.safetensors, for each folder:
  <name>.prompt         i32 [T]
  <name>.greedy         i32 [N]  do_sample=False with the repetition penalty
  <name>.logprobs       f32 [N]  of those tokens by the logits as they are
  <name>.probabilities  f32 [V]  of the first token after all of OPTIONS, in generate's own order
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
PARITY = HERE.parent / "parity"
PENALTY = 1.3
OPTIONS = dict(temperature=0.8, top_k=40, top_p=0.9, repetition_penalty=1.4)
NEW = 24

out = {}
for name, folder in [("llama", PARITY / "model"), ("gpt2", PARITY / "gpt2" / "model")]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    eos = model.config.eos_token_id
    model.generation_config.eos_token_id = None  # the whole length, whatever comes
    for seed in range(100):
        g = torch.Generator().manual_seed(seed)
        # some twice: once named or twice, a token is penalised once
        prompt = torch.randint(2, model.config.vocab_size, (1, 12), generator=g)
        prompt = torch.cat([prompt, prompt[:, :3]], dim=1)
        shared = dict(max_new_tokens=NEW, return_dict_in_generate=True, output_scores=True, output_logits=True)
        greedy = model.generate(prompt, do_sample=False, repetition_penalty=PENALTY, **shared)
        ids = greedy.sequences[0, prompt.shape[1]:]
        gaps = torch.stack([s[0].topk(2).values.diff().abs()[0] for s in greedy.scores])
        # a near tie could fall to either side in float32; an end would cut ours short
        if gaps.min() > 1e-3 and eos not in ids.tolist():
            break
    else:
        raise SystemExit("no prompt without near ties")
    plain = torch.stack([z[0].double().log_softmax(-1)[i] for z, i in zip(greedy.logits, ids)])
    sampled = model.generate(prompt, do_sample=True, **OPTIONS, **{**shared, "max_new_tokens": 1})
    unpenalised = model.generate(prompt, do_sample=False, **shared).sequences[0, prompt.shape[1]:]
    probabilities = sampled.scores[0][0].double().softmax(-1)
    print(name, "seed", seed, "kept", int((probabilities > 0).sum()), "greedy differs without the penalty:",
          bool((unpenalised != ids).any()))
    assert (unpenalised != ids).any() and 4 < (probabilities > 0).sum() < 40
    out |= {f"{name}.prompt": prompt[0].int(), f"{name}.greedy": ids.int(), f"{name}.logprobs": plain.float(),
            f"{name}.probabilities": probabilities.float()}
save_file(out, HERE / "expected.safetensors")
