#!/usr/bin/env python3
"""Fails when a CUDA kernel spills registers: a spill is memory traffic nobody counted.

    spill_gate.py --commands build/release/compile_commands.json [--table]

Runs the build's own compile commands (they carry -Xptxas=-v) through ccache where it is there, so a
tree that has just been built answers from the cache, and reads ptxas's report of every kernel and
architecture. --table lists registers, shared memory and stack of each.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def parse(report):
    """(kernel, architecture) -> [stack, stores, loads, registers, shared memory]."""
    kernels, current = {}, None
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            current = entry.groups()
            kernels[current] = [0, 0, 0, 0, 0]
        elif current and (spill := SPILL.search(line)):
            kernels[current][:3] = map(int, spill.groups())
        elif current and (used := USED.search(line)):
            kernels[current][3:] = [int(used[1]), int(used[2] or 0)]
    return kernels


def compile_report(entry):
    launcher = [shutil.which("ccache")] if shutil.which("ccache") else []
    command = entry["command"].split()
    if launcher and command[0].endswith("ccache"):
        launcher = []
    result = subprocess.run(launcher + command, cwd=entry["directory"], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{entry['file']}: the compiler failed:\n{result.stderr}")
    return parse(result.stdout + result.stderr)


def self_check():
    """The parser on a report that spills: a gate that cannot fail proves nothing."""
    report = ("ptxas info    : Compiling entry function '_Z1kv' for 'sm_80'\n"
              "ptxas info    : Function properties for _Z1kv\n"
              "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
              "ptxas info    : Used 255 registers, used 1 barriers, 512 bytes smem, 464 bytes cmem[0]\n")
    assert parse(report) == {("_Z1kv", "sm_80"): [16, 12, 8, 255, 512]}, parse(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commands", required=True)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    self_check()
    with open(args.commands, encoding="utf-8") as file:
        entries = [e for e in json.load(file) if e["file"].endswith(".cu")]
    kernels = {}
    for entry in entries:
        kernels.update(compile_report(entry))
    spilled = {k: v for k, v in kernels.items() if v[1] or v[2]}
    if args.table:
        for (name, arch), (stack, _, _, registers, shared) in sorted(kernels.items()):
            print(f"{arch} {registers:4} registers {shared:6} B shared {stack:4} B stack  {name}")
    for (name, arch), (_, stores, loads, registers, _) in sorted(spilled.items()):
        print(f"SPILL {arch} {stores} bytes stored, {loads} loaded, {registers} registers: {name}")
    print(f"{len(entries)} files, {len(kernels)} kernels, {len(spilled)} spill")
    if not kernels:
        print("no kernel was reported: are the commands without -Xptxas=-v?")
    return 1 if spilled or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
