#!/usr/bin/env python3
"""Makes golden.json: what a NumPy forward pass of Qwen2 computes for three prompts.

The GGUF's tensors are dequantized to float32 by the Python package gguf; the pass is written from the
architecture's description (RMS norm, biases on Q, K and V, rotation of halves, grouped attention, SwiGLU),
shares no code with ours and computes in float32. README.md describes the file. To make it again (8 GB of
memory, a few minutes):

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 tokenizers==0.23.3 transformers==5.23.0
    venv/bin/python make_golden.py --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
"""

import argparse
import hashlib
import json
import os
import sys

import gguf
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../tokenizer"))
import make_golden as tokenizer_golden  # noqa: E402

TOP, SAMPLED_POSITIONS, GREEDY_TOKENS, STRIDE = 20, 6, 12, 61
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
CODE = """def mean(values: list[float]) -> float:
    # Größe 3.14159, naïve — 12,345 items; 速度 42 km/h
    total = 0.0
    for i, value in enumerate(values):
        total += value * (i % 7 == 0)
    return total / max(1, len(values))


assert mean([1.5, 2.5, -3e-8]) == """


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

        def number(key):
            return reader.fields[f"qwen2.{key}"].contents()

        self.layers, self.hidden = number("block_count"), number("embedding_length")
        self.heads, self.kv_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.theta, self.eps = number("rope.freq_base"), number("attention.layer_norm_rms_epsilon")
        self.head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps)) * self.tensors[name]

    def rotate(self, x):
        """x [tokens][heads][d]: channels i and i + d/2 turn by position * theta^(-2i/d)."""
        half = x.shape[-1] // 2
        angles = np.outer(np.arange(len(x)), self.theta ** (-np.arange(half) / half))[:, None, :]
        cos, sin = np.cos(angles).astype("f4"), np.sin(angles).astype("f4")
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def project(self, x, name, heads):
        t = self.tensors
        return (x @ t[name + ".weight"].T + t[name + ".bias"]).reshape(len(x), heads, -1)

    def attend(self, x, p):
        q = self.rotate(self.project(x, p + "attn_q", self.heads))
        k = self.rotate(self.project(x, p + "attn_k", self.kv_heads))
        v = self.project(x, p + "attn_v", self.kv_heads)
        k, v = (np.repeat(m, self.heads // self.kv_heads, axis=1) for m in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
        scores += np.triu(np.full(scores.shape[1:], -np.inf, "f4"), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1)
        return out @ self.tensors[p + "attn_output.weight"].T

    def feed_forward(self, x, p):
        gate, up = (x @ self.tensors[p + name].T for name in ("ffn_gate.weight", "ffn_up.weight"))
        return (gate / (1 + np.exp(-gate)) * up) @ self.tensors[p + "ffn_down.weight"].T

    def logits(self, ids, positions):
        x = self.tensors["token_embd.weight"][ids]
        for layer in range(self.layers):
            p = f"blk.{layer}."
            x = x + self.attend(self.norm(x, p + "attn_norm.weight"), p)
            x = x + self.feed_forward(self.norm(x, p + "ffn_norm.weight"), p)
        assert x.dtype == np.float32
        return self.norm(x[positions], "output_norm.weight") @ self.head.T


def run_prompt(model, name, ids):
    positions = sorted({round(p) for p in np.linspace(0, len(ids) - 1, SAMPLED_POSITIONS)})
    logits = model.logits(ids, positions)
    sampled = []
    for position, row in zip(positions, logits):
        top = np.argsort(-row)[:TOP]
        sampled.append(
            {
                "position": position,
                "top_ids": top.tolist(),
                "top_logits": [round(float(x), 5) for x in row[top]],
                "norm": round(float(np.linalg.norm(row.astype("f8"))), 4),
            }
        )
    last, greedy, margins = logits[-1], [], []
    every = [round(float(x), 5) for x in last[::STRIDE]]
    for _ in range(GREEDY_TOKENS):
        best = np.sort(last)[-2:]
        greedy.append(int(last.argmax()))
        margins.append(round(float(best[1] - best[0]), 5))
        last = model.logits(ids + greedy, [len(ids) + len(greedy) - 1])[0]
    return {
        "name": name,
        "ids": ids,
        "sampled": sampled,
        "last_every_61st": every,
        "greedy": {"ids": greedy, "margins": margins},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the GGUF of Qwen2.5-Coder-1.5B-Instruct")
    args = parser.parse_args()
    pre = tokenizer_golden.split_pre_tokenizer(tokenizer_golden.QWEN2_REGEX)
    tokenizer, _ = tokenizer_golden.read_gguf(args.model, pre)
    chat = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWrite a Python function that reverses the "
        "words of a sentence.<|im_end|>\n<|im_start|>assistant\n"
    )
    texts = {"sentence": "The capital of France is", "chat": chat, "code": CODE}
    with open(args.model, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    model = Model(args.model)
    prompts = []
    for name, text in texts.items():
        prompts.append(run_prompt(model, name, tokenizer.encode(text, add_special_tokens=False).ids))
        print(name, len(prompts[-1]["ids"]), repr(tokenizer.decode(prompts[-1]["greedy"]["ids"])))
    with open(os.path.join(HERE, "golden.json"), "w", encoding="utf-8") as out:
        lines = ",\n".join(json.dumps(prompt, separators=(",", ":")) for prompt in prompts)
        out.write(f'{{"model":{{"sha256":"{sha256}","vocab":{len(model.head)}}},\n"prompts":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
