"""What fuselm wrote, read by the libraries of others: python3 test/golden/interop/check.py FOLDER

FOLDER is what scripts/check-interop.mjs makes: models/<name> with expected.json and expected.safetensors
beside the model's files, onnx/<name> likewise, run/ of a Trainer. Ends with one line per check.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig, GenerationConfig
from transformers.utils import logging

LIMIT = 1e-4  # of a logit
logging.set_verbosity_error()
logging.disable_progress_bar()


def check_tokens(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    fast = AutoTokenizer.from_pretrained(folder)
    for text, ids in expected["texts"]:
        assert fast.encode(text) == ids, (text, fast.encode(text), ids)
        assert fast.decode(ids, skip_special_tokens=False) == text, text
    roles = {role: getattr(fast, f"{role}_token_id") for role in ("bos", "eos", "pad", "unk")}
    assert roles == expected["special"], (roles, expected["special"])
    chat = expected.get("chat")
    if chat is not None:
        given = dict(conversation=chat["messages"], add_generation_prompt=True)
        assert fast.apply_chat_template(**given, tokenize=False) == chat["text"]
        assert fast.apply_chat_template(**given, tokenize=True, return_dict=False) == chat["ids"]
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert (ends if isinstance(ends, list) else [ends]) == expected["ends"], ends


def check_model(folder: Path) -> None:
    check_tokens(folder)
    golden = load_file(folder / "expected.safetensors")
    raw = load_file(folder / "model.safetensors")
    quantized = [name for name in raw if name.endswith(".weight_scale")]
    # compressed-tensors knows no Conv1D: transformers reads it back into float32
    conv = bool(quantized) and json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    options = dict(quantization_config=CompressedTensorsConfig(dequantize=True), dtype=torch.float32) if conv else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, **(dict(dtype=torch.float64) | options), attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    if conv:
        model = model.double()
        refused = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        try:
            refused(golden["ids"].long())
        except RuntimeError:
            pass  # float and int8 do not multiply: nothing is computed in silence
        else:
            raise AssertionError("transformers took int8 values for weights")
    with torch.no_grad():
        logits = model.eval()(golden["ids"].long(), use_cache=False).logits.float()
    for name in quantized:
        values, scales = raw[name.removesuffix("_scale")].double(), raw[name].double()
        if conv and ".c_" in name:
            expected = (values.unflatten(0, (scales.shape[0], -1)) * scales[:, None]).flatten(0, 1)
        else:
            expected = (values.unflatten(1, (scales.shape[1], -1)) * scales[..., None]).flatten(1)
        expected = expected.float().double() if conv else expected
        assert torch.equal(model.get_parameter(name.removesuffix("_scale")).double(), expected), name
    error = float((logits - golden["logits"]).abs().max())
    print(f"{folder.name}: {type(model).__name__}, logits within {error:.1e}, tokens equal,"
          f" {len(quantized)} int8 matrices equal")
    assert error < LIMIT, error


def check_generation(folder: Path) -> None:
    """The same generation_config.json makes the same defaults, and the same greedy answer."""
    expected = json.loads((folder / "expected.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    config, _ = model._prepare_generation_config(None)
    theirs = dict(temperature=config.temperature if config.do_sample else 0, topK=config.top_k, topP=config.top_p,
                  minP=config.min_p, repetitionPenalty=config.repetition_penalty, maxNewTokens=config.max_new_tokens)
    ours = expected["defaults"]
    assert all(theirs[key] == value for key, value in ours.items()), (ours, theirs)
    # what is left out there is a plain draw here, too
    plain = dict(temperature=1, topK=50, topP=1, minP=None, repetitionPenalty=1, maxNewTokens=None)
    assert all(theirs[key] == plain[key] for key in plain if key not in ours and (config.do_sample or key != "topK"))
    if not config.do_sample:
        prompt = torch.tensor([expected["prompt"]])
        answer = model.generate(prompt, attention_mask=torch.ones_like(prompt))[0, prompt.shape[1]:].tolist()
        if answer[-1] in expected["ends"]:
            answer.pop()
        assert answer == expected["answer"], (answer, expected["answer"])
    print(f"{folder.name}: defaults {ours}{'' if config.do_sample else f', {len(answer)} tokens equal'}")


def check_onnx(folder: Path) -> None:
    check_tokens(folder)
    golden = load_file(folder / "expected.safetensors")
    for path in sorted((folder / "onnx").glob("*.onnx")):
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        domains = {node.domain for node in model.graph.node}
        assert domains == {""}, domains
        options = onnxruntime.SessionOptions()
        if "int8" in path.name:  # beyond, onnxruntime quantises activations, too
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = onnxruntime.InferenceSession(path, options)
        ids = golden["ids"].numpy().astype(np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
        for value in session.get_inputs()[3:]:
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        logits = session.run(["logits"], feeds)[0]
        error = float(np.abs(logits - golden["logits"].numpy()).max())
        print(f"{folder.name}/{path.name}: checked, {len(model.graph.node)} nodes, logits within {error:.1e}")
        assert error < LIMIT, error


def check_run(folder: Path) -> None:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    wanted = {"Loss/train", "Loss/eval", "LR/train", "GradNorm", "Throughput/tokens_per_s", "Perplexity/eval"}
    assert wanted <= tags, tags
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for tag, kind, key in (("Loss/train", "step", "loss"), ("Perplexity/eval", "eval", "perplexity"),
                           ("LR/train", "step", "learningRate"), ("GradNorm", "step", "gradientNorm")):
        ours = [(line["step"], np.float32(line[key])) for line in lines if line["type"] == kind]
        theirs = [(event.step, np.float32(event.value)) for event in events.Scalars(tag)]
        assert ours and ours == theirs, (tag, ours, theirs)
    print(f"tensorboard: {len(lines)} lines of metrics.jsonl, the same values in {sorted(tags)}")


def main() -> None:
    root = Path(sys.argv[1])
    for folder in sorted((root / "models").iterdir()):
        check_model(folder)
    for folder in sorted((root / "generation").iterdir()):
        check_generation(folder)
    for folder in sorted((root / "onnx").iterdir()):
        check_onnx(folder)
    check_run(root / "run")


if __name__ == "__main__":
    main()
