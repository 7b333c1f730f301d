#!/usr/bin/env python3
"""Makes golden.json: blocks of random bytes in every block format, and the values the Python package
gguf (llama.cpp's own) gives them.

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0
    venv/bin/python make_golden.py
"""

import importlib.metadata
import json
import os

import gguf
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# Where the fp16 fields of a block are: random bytes would make infinities of some.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}
BLOCKS = 4


def main():
    rng = np.random.default_rng(1)
    formats = []
    for name, halves in HALVES.items():
        kind = gguf.GGMLQuantizationType[name]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for offset in halves:
            scales = rng.normal(0, 1, BLOCKS).astype("<f2")
            scales[0] = 2.0**-24  # the smallest there is
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
        want = gguf.quants.dequantize(blocks.reshape(1, -1), kind).astype("<f4")
        formats.append(
            {"name": name, "cols": values * BLOCKS, "bytes": blocks.tobytes().hex(), "values": want.tobytes().hex()}
        )
    with open(os.path.join(HERE, "golden.json"), "w", encoding="utf-8") as out:
        lines = ",\n".join(json.dumps(entry) for entry in formats)
        out.write(f'{{"made_by": "gguf {importlib.metadata.version("gguf")}",\n"formats": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
