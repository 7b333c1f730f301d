#!/usr/bin/env python3
"""Runs gpu_bench over its tiny geometry and checks the JSON: its shape, its byte formulas (recomputed
here), that every case is there or says why not. Never a time.

    gpu_bench_json_test.py --bench build/release/bin/gpu_bench [--cuda-module MODULE.so]
"""
import argparse
import json
import math
import subprocess
import sys

PATHS = ["empty", "full", "sketch", "store", "device", "inline"]
BUDGETS = {"longbench": (8, 64, 32), "ruler": (12, 128, 96), "default": (24, 64, 32)}
CODE_BITS = 4  # of the one quantized layer


def check(condition, message):
    if not condition:
        print(f"FAIL {message}")
        sys.exit(1)


def formula(g, path, budget, context, batch):
    """Device, PCIe and host bytes of one step, from the anchors' definitions."""
    channels, window, top_k = BUDGETS[budget]
    device, pcie, host = g["weight_bytes_per_step"], 0, 0
    token_row = 2 * g["kv_heads"] * g["head_dim"] * 2
    if path == "full":
        device += batch * context * token_row * g["layers"]
    if path in ("sketch", "store", "device", "inline"):
        sparse = g["layers"] - 1
        codes = 2 * g["kv_heads"] * g["head_dim"] * CODE_BITS / 8
        params = 2 * g["kv_heads"] * g["head_dim"] / 64 * 4
        rows = batch * sparse * top_k * token_row
        scored = batch * sparse * context * g["kv_heads"] * channels * (4 / 8 + 8 / 128)
        device += batch * (context * (codes + params) + window * token_row * sparse) + 2 * rows
        pcie, host = rows, rows
        if path == "sketch":
            device += scored
        else:
            host += scored
        if path == "device":
            pcie += scored
    return {"device": device, "pcie": pcie, "host": host}


def check_decode(out):
    g, seen = out["geometry"], set()
    for row in out["decode"]:
        name = f"{row['path']} {row['budget']} {row['context']} x {row['batch']}"
        want = formula(g, row["path"], row["budget"], row["context"], row["batch"])
        for kind, value in want.items():
            check(math.isclose(row["bytes"]["formula"][kind], value, rel_tol=1e-9),
                  f"{name}: formula of {kind} is {row['bytes']['formula'][kind]}, want {value}")
        counted = row["bytes"]["counted"]
        if row["path"] in ("empty", "full"):
            check(counted == want, f"{name}: counted {counted}, want {want}")
        elif row["row_cache_rows"] == 0 and row["path"] != "device":
            check(counted["pcie"] == want["pcie"], f"{name}: counted {counted}, want {want}")
        check(row["ms"] > 0 and row["p99_ms"] > 0 and row["floor_ms"] > 0, f"{name}: no times")
        check(math.isclose(row["ms_over_floor"], row["ms"] / row["floor_ms"], rel_tol=1e-9),
              f"{name}: ms / floor does not divide")
        seen.add((row["path"], row["context"], row["batch"]))
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--cuda-module", default="")
    parser.add_argument("--seconds", default="550")
    args = parser.parse_args()
    command = [args.bench, "--geometry", "tiny", "--threads", "2", "--rounds", "1", "--round-steps", "1",
               "--seconds", args.seconds, "--revision", "test"]
    command += (["--cuda-module", args.cuda_module] if args.cuda_module else ["--backend", "cpu"])
    done = subprocess.run(command, capture_output=True, text=True)
    check(done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-3000:]}")
    out = json.loads(done.stdout)
    for key in ("revision", "build", "machine", "backend", "geometry", "ceilings", "kernels", "decode",
                "prefill", "resume", "dropped", "skipped", "session_bytes", "targets", "seconds"):
        check(key in out, f"no {key} in the JSON")
    check("failed" not in out, f"failed: {out.get('failed')}")
    check(all(value > 0 for value in out["ceilings"].values()), f"ceilings {out['ceilings']}")
    seen = check_decode(out)
    reasons = out["dropped"] + out["skipped"]
    check(all(r["case"] and r["reason"] for r in reasons), "a case was left out without a reason")
    left_out = " | ".join(r["case"] for r in reasons)
    for path in PATHS:
        for context in (256, 512, 1024):
            for batch in (1, 2):
                check((path, context, batch) in seen or f"{path} longbench, {context} tokens, batch {batch}"
                      in left_out or f"decode of {context} tokens, batch {batch}" in left_out,
                      f"{path} at {context} x {batch} is neither there nor left out")
    check({t["id"] for t in out["targets"]} == {"D1", "D2", "D6", "D9", "M1", "M2", "M3", "F1", "F3"},
          f"targets {out['targets']}")
    check(all(t["verdict"] == "not measured" for t in out["targets"]), "tiny decides a target")
    if args.seconds == "550":
        check(not out["dropped"], f"dropped {out['dropped']}")
        check([p["tokens"] for p in out["prefill"] if p["whole"]] == [96], f"prefill {out['prefill']}")
        check(len(out["resume"]) == 4, f"resume {out['resume']}")
        kernels = {k["kernel"].split(",")[0] for k in out["kernels"]}
        check({"decode attention", "prefill attention", "quantized attention", "product BF16 wq"}
              <= kernels, f"kernels {kernels}")
    else:
        check(out["dropped"], "no time, but nothing was dropped")
    print(f"ok: {len(out['decode'])} decode rows, {len(out['kernels'])} kernels, {len(reasons)} left out")


if __name__ == "__main__":
    main()
