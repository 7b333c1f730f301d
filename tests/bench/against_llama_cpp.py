#!/usr/bin/env python3
"""Decode speed beside llama.cpp on the same file, interleaved: ours, theirs, ours, theirs ...

    python3 -m pip install llama-cpp-python      (a peer for this benchmark only)
    tests/bench/against_llama_cpp.py --bench build/release/bin/decode_bench --model MODEL.gguf

Refuses to run on a busy machine. Prints the medians and the ratios as JSON.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time


def llama_cpp_ms_per_token(model, context, tokens, threads):
    """Median time of one-token steps after `context` tokens, f16 cache, flash attention on."""
    from llama_cpp import Llama

    llm = Llama(model_path=model, n_ctx=context + tokens + 8, n_threads=threads,
                n_threads_batch=threads, n_batch=512, flash_attn=True, verbose=False)
    rng = random.Random(1)
    start = time.perf_counter()
    llm.eval([rng.randrange(llm.n_vocab()) for _ in range(context)])
    prefill_s = time.perf_counter() - start
    steps = []
    for i in range(tokens):
        start = time.perf_counter()
        llm.eval([100 + i])
        steps.append((time.perf_counter() - start) * 1000)
    return statistics.median(steps), context / prefill_s


def ours(bench, model, policy, context, threads):
    command = [bench, "--model", model, "--context", str(context), "--threads", str(threads)]
    if policy:
        command += ["--policy", policy]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the decode_bench program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--policy", default="")
    parser.add_argument("--context", type=int, default=7000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if args.peer_only:
        print(json.dumps(llama_cpp_ms_per_token(args.model, args.context, args.tokens, threads)))
        return 0
    if os.getloadavg()[0] > 0.5:
        print(f"load average is {os.getloadavg()[0]:.2f}, limit 0.5: timings would mean nothing",
              file=sys.stderr)
        return 1
    mine, peer = [], []
    for _ in range(args.rounds):
        mine.append(ours(args.bench, args.model, args.policy, args.context, threads))
        # A process of its own, as ours is one: no memory or thread of one round helps the next.
        out = subprocess.run([sys.executable, __file__, "--peer-only", "--bench", "-", "--model",
                              args.model, "--context", str(args.context), "--tokens",
                              str(args.tokens)], check=True, capture_output=True, text=True)
        peer.append(json.loads(out.stdout))
    hybrid = statistics.median(m["hybrid"]["ms_per_token"] for m in mine)
    full = statistics.median(m["full"]["ms_per_token"] for m in mine)
    theirs = statistics.median(p[0] for p in peer)
    print(json.dumps({
        "context_tokens": args.context, "threads": threads, "rounds": args.rounds,
        "hybrid_tokens_per_second": 1000 / hybrid, "full_tokens_per_second": 1000 / full,
        "llama_cpp_tokens_per_second": 1000 / theirs,
        "hybrid_over_llama_cpp": theirs / hybrid, "full_over_llama_cpp": theirs / full,
        "prefill_tokens_per_second": statistics.median(
            m["prefill_tokens_per_second"] for m in mine),
        "llama_cpp_prefill_tokens_per_second": statistics.median(p[1] for p in peer),
    }, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
