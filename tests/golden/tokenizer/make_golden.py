#!/usr/bin/env python3
"""Makes the golden files of this folder: token ids as Hugging Face's tokenizers gives them.

README.md describes the files. The real models' vocabularies and merges come from their GGUFs; the two small
vocabularies are trained here.
To make all again:

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 transformers==5.23.0 gguf==0.19.0
    venv/bin/python make_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf --qwen qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
"""

import argparse
import hashlib
import json
import os
import random

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import _compile_jinja_template

import templates
import texts

HERE = texts.HERE
VOCAB = 1500
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# meta-llama/llama3, tokenizer.py, as Llama 3's tokenizer.json has it.
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen/Qwen2, tokenizer.json.
QWEN2_REGEX = LLAMA3_REGEX.replace("{1,3}", "")


def write(name, value):
    """One element a line, so that a changed id is a changed line."""

    def lines(items):
        return ",\n".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items)

    path = os.path.join(HERE, name)
    with open(path, "w", encoding="utf-8") as out:
        body = [
            f"{json.dumps(key)}:"
            + (f"[\n{lines(part)}\n]" if isinstance(part, list) else json.dumps(part, ensure_ascii=False))
            for key, part in value.items()
        ]
        out.write("{" + ",\n".join(body) + "}\n")
    print(f"{name}: {os.path.getsize(path)} bytes")


def train(pre_tokenizer, specials, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    corpus = open(texts.DOCUMENT, encoding="utf-8").read().split("\n\n")
    tokenizer.train_from_iterator(corpus + 8 * texts.SENTENCES + 8 * texts.CODE, trainer)
    return tokenizer


def add_whole_pieces(tokenizer, pieces):
    """Tokens that no merge makes: only ignore_merges finds them."""
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for piece in pieces:
        symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)[
            0
        ][0]
        if symbols not in vocab:
            vocab[symbols] = len(vocab)
    return Tokenizer.from_str(json.dumps(state))


def small_gpt2():
    tokenizer = train(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), IM, False)
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in ("<tool_call>", "<tool_calls>")]
    )
    return tokenizer


def split_pre_tokenizer(regex):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def small_llama():
    tokenizer = train(split_pre_tokenizer(LLAMA3_REGEX), LLAMA, True)
    tokenizer = add_whole_pieces(
        tokenizer, [" biblioteca", "东京", " rattlesnake", "'LL", "123", "\n\n\n\n\n", "👍", " jumps"]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
    )
    return tokenizer


def smollm_pre_tokenizer():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def read_gguf(path, pre_tokenizer):
    fields = gguf.GGUFReader(path).fields
    vocab, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([t for t, kind in zip(vocab, types) if kind == 3])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(vocab, types) if kind == 4])
    return tokenizer, fields["tokenizer.chat_template"].contents()


def ids_of_texts(tokenizer, strings):
    """Control tokens in a text are text here, as in ours."""
    tokenizer.encode_special_tokens = True
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in strings]
    tokenizer.encode_special_tokens = False
    return ids


def conversations(rng):
    contents = [
        "Hi.",
        "",
        " leading and trailing \n",
        "\u3000wide\u2003",
        "\x1c\x85 odd space \x1f",
        "What's 12345 + 678?\n\n",
        "naïve 速度 👩🏽‍🚀",
        "\n\n",
        "1",
        "if x:\n\treturn 'y'",
        "'s",
        "!",
    ] + texts.SENTENCES[:10]
    for turns in (1, 1, 1, 2, 2, 3, 4) * 4:
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(contents)})
        for turn in range(turns):
            messages.append({"role": "user", "content": rng.choice(contents)})
            if turn + 1 < turns:
                messages.append({"role": "assistant", "content": rng.choice(contents)})
        yield messages


def chat_cases(template, tokenizer, bos):
    compiled = _compile_jinja_template(template)
    for messages in conversations(random.Random(7)):
        text = compiled.render(messages=messages, bos_token=bos, add_generation_prompt=True)
        yield {
            "messages": [[m["role"], m["content"]] for m in messages],
            "ids": tokenizer.encode(text, add_special_tokens=False).ids,
        }


def replaced_bytes(rng):
    """[hex, text] of byte strings near the borders of UTF-8 as Python's errors="replace" decodes them."""
    edges = [
        0x00,
        0x41,
        0x7F,
        0x80,
        0x8F,
        0x90,
        0x9F,
        0xA0,
        0xBF,
        0xC0,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xE1,
        0xEC,
        0xED,
        0xEE,
        0xEF,
        0xF0,
        0xF1,
        0xF3,
        0xF4,
        0xF5,
        0xFF,
    ]
    for _ in range(1500):
        data = bytes(rng.choice(edges) for _ in range(rng.randint(1, 6)))
        yield [data.hex(), data.decode("utf-8", "replace")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the GGUF of SmolLM2-135M-Instruct")
    parser.add_argument("--qwen", required=True, help="the GGUF of Qwen2.5-Coder-1.5B-Instruct")
    args = parser.parse_args()
    strings = texts.all_texts()
    real, real_template = read_gguf(args.model, smollm_pre_tokenizer())
    qwen, qwen_template = read_gguf(args.qwen, split_pre_tokenizer(QWEN2_REGEX))
    gpt2, llama = small_gpt2(), small_llama()
    smollm = Tokenizer.from_str(gpt2.to_str())
    smollm.pre_tokenizer = smollm_pre_tokenizer()
    qwen2 = Tokenizer.from_str(gpt2.to_str())
    qwen2.pre_tokenizer = split_pre_tokenizer(QWEN2_REGEX)
    for name, tokenizer in (("gpt-2", gpt2), ("llama-bpe", llama)):
        tokenizer.save(os.path.join(HERE, f"{name}.tokenizer.json"), pretty=False)
    write("texts.json", {"made_by": f"tokenizers {tokenizers.__version__}", "texts": strings})
    for name, tokenizer in (
        ("gpt-2", gpt2),
        ("smollm", smollm),
        ("llama-bpe", llama),
        ("smollm2-model", real),
        ("qwen2", qwen2),
        ("qwen2.5-model", qwen),
    ):
        write(f"{name}.ids.json", {"ids": ids_of_texts(tokenizer, strings)})
    chats = [
        ("llama3", templates.LLAMA3, llama, LLAMA[0]),
        ("llama3.1", templates.LLAMA31, llama, LLAMA[0]),
        ("chatml-small", real_template, gpt2, ""),
        ("chatml-model", real_template, real, ""),
        ("qwen2.5-small", qwen_template, gpt2, ""),
        ("qwen2.5-model", qwen_template, qwen, ""),
    ]
    for name, template, tokenizer, bos in chats:
        write(
            f"{name}.chat.json", {"template": template, "cases": list(chat_cases(template, tokenizer, bos))}
        )
    write("replace.json", {"cases": list(replaced_bytes(random.Random(3)))})
    for path in (args.model, args.qwen):
        with open(path, "rb") as model:
            print("sha256", hashlib.file_digest(model, "sha256").hexdigest(), path)


if __name__ == "__main__":
    main()
