#!/usr/bin/env python3
"""Makes golden.json and last_logits.bin: what PyTorch + transformers compute for five prompts.

The model is a GGUF of the Llama architecture; transformers dequantizes its tensors to float32, undoes
the GGUF's permutation of the rows of Q and K, and runs LlamaForCausalLM with eager attention, all in
float32. README.md describes the two files. To make them again:

    python3 -m venv venv && venv/bin/pip install torch transformers==4.46.3 gguf==0.10.0 sentencepiece
    venv/bin/python make_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf

With another GGUF give --out another folder: the committed files belong to the default model.
"""

import argparse
import hashlib
import json
import os

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

HERE = os.path.dirname(os.path.abspath(__file__))
DOCUMENT = os.path.join(HERE, "../../../deploy/quickstart/engineers-thumb.txt")
TOP = 20
SAMPLED_POSITIONS = 8
GREEDY_TOKENS = 24

CODE = """def mean(values: list[float]) -> float:
    # Größe 3.14159, naïve — 12,345 items; 速度 42 km/h
    total = 0.0
    for i, value in enumerate(values):
        total += value * (i % 7 == 0)
    return total / max(1, len(values))


assert mean([1.5, 2.5, -3e-8]) == """


def chat(system, user):
    """ChatML, as in the model's own template, up to where the answer begins."""
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
            "<|im_start|>assistant\n")


def read_tokenizer(reader):
    """SmolLM's tokenizer from the GGUF's fields: digits split apart, then byte-level BPE."""
    def texts(name):
        field = reader.fields[name]
        return [bytes(field.parts[i]).decode("utf-8") for i in field.data]
    types = [int(reader.fields["tokenizer.ggml.token_type"].parts[i][0])
             for i in reader.fields["tokenizer.ggml.token_type"].data]
    tokens = texts("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in texts("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def load_model(path):
    """The GGUF's weights in float32 in transformers' own LlamaForCausalLM."""
    checkpoint = load_gguf_checkpoint(path, return_tensors=True)
    config = transformers.LlamaConfig(**checkpoint["config"])
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config)
    tensors = {name: tensor.float() for name, tensor in checkpoint["tensors"].items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])  # tied
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise ValueError(f"{path}: missing tensors {missing}, unexpected tensors {unexpected}")
    print(f"rope_theta {config.rope_theta}, rms_norm_eps {config.rms_norm_eps}, "
          f"{config.num_hidden_layers} layers")
    return model.eval()


def make_prompts(tokenizer):
    """name -> token ids."""
    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids
    with open(DOCUMENT, encoding="utf-8") as source:
        book = source.read()
    default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    long_question = "\n\nAnswer in one short sentence: What is the profession of Victor Hatherley?"
    return {
        "sentence": ids("The capital of France is"),
        "chat": ids(chat(default_system, "Name three primary colours, and say why they are primary.")),
        "code": ids(CODE),
        "prose_1000": ids(book)[:1000],
        "document_4000": ids(chat(default_system, book[:15200] + long_question)),
    }


@torch.no_grad()
def run_prompt(model, ids):
    """The reference figures of one prompt: (dict for the JSON, last logits [vocab] float32)."""
    out = model.model(torch.tensor([ids]), use_cache=True)
    hidden = out.last_hidden_state[0]  # [tokens][hidden], after the final norm
    positions = sorted({round(p) for p in np.linspace(0, len(ids) - 1, SAMPLED_POSITIONS)})
    sampled = []
    for position in positions:
        logits = model.lm_head(hidden[position])
        top = torch.topk(logits, TOP)
        sampled.append({"position": position, "top_ids": top.indices.tolist(),
                        "top_logits": [round(x, 5) for x in top.values.tolist()],
                        "norm": round(float(logits.norm()), 4)})
    last = logits = model.lm_head(hidden[-1])
    greedy_ids, margins, past = [], [], out.past_key_values
    for _ in range(GREEDY_TOKENS):
        best = torch.topk(logits, 2)
        greedy_ids.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 5))
        out = model.model(torch.tensor([greedy_ids[-1:]]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits = model.lm_head(out.last_hidden_state[0, -1])
    return ({"ids": ids, "sampled": sampled, "greedy": {"ids": greedy_ids, "margins": margins}},
            last.numpy().astype("<f4"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a GGUF file of the Llama architecture")
    parser.add_argument("--out", default=HERE, help="folder for the two files")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    with open(args.model, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    model = load_model(args.model)
    tokenizer = read_tokenizer(gguf.GGUFReader(args.model))

    prompts, rows = [], []
    for index, (prompt, ids) in enumerate(make_prompts(tokenizer).items()):
        figures, last = run_prompt(model, ids)
        prompts.append({"name": prompt, "last_logits_row": index, **figures})
        rows.append(last)
        print(f"{prompt}: {len(ids)} tokens -> {tokenizer.decode(figures['greedy']['ids'])!r}")
    np.stack(rows).tofile(os.path.join(args.out, "last_logits.bin"))
    golden = {
        "version": 1,
        "model": {"file": os.path.basename(args.model), "sha256": sha256, "vocab": model.config.vocab_size},
        "reference": {"torch": torch.__version__, "transformers": transformers.__version__,
                      "dtype": "float32", "attention": "eager"},
        "prompts": prompts,
    }
    with open(os.path.join(args.out, "golden.json"), "w", encoding="utf-8") as out:
        # One prompt's field a line keeps diffs readable.
        text = json.dumps(golden, separators=(",", ":"))
        for key in ('"reference"', '"prompts"', '{"name"', '"ids"', '"sampled"', '{"position"', '"greedy"'):
            text = text.replace("," + key, ",\n" + key).replace("[" + key, "[\n" + key)
        out.write(text + "\n")


if __name__ == "__main__":
    main()
