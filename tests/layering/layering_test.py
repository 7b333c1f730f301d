#!/usr/bin/env python3
"""Holds every #include of the tree to the arrows of docs/ARCHITECTURE.md section 7.

    layering_test.py --root DIR     checks a tree; exit code 1 and one line per violation
    layering_test.py --self-test    shows on made-up trees that each rule catches its violation

A file's rule is that of the longest folder in ARROWS that contains it; a folder below kvstore/ or
worker/ without a rule is itself a violation, so that a new folder states its arrows here.
"""

import argparse
import os
import re
import sys
import tempfile
import unittest

# folder -> the tree's paths its files may include, besides the folder itself. A path ending in .h is
# one header; any other is a folder with all below it.
ARROWS = {
    "common": [],
    "kvstore": ["kvstore", "common"],
    # Pure functions over the layout: a CPU worker runs the same code.
    "kvstore/select": ["kvstore/layout.h", "common"],
    "worker/ops": ["common"],
    "worker/scheduler": ["common"],
    "worker/sampling": ["worker/ops/logits.h", "worker/ops/logit_math.h", "common"],
    "worker/policy": ["kvstore/select", "common"],
    "worker/cache": ["worker/ops", "worker/policy", "kvstore/client", "kvstore/select",
                     "kvstore/layout.h", "common"],
    "worker/model": ["worker/cache", "worker/ops", "common"],
    # Measures what the rest does; the one folder of the worker that sees text.
    "worker/quality": ["worker/model", "worker/cache", "worker/policy", "worker/ops",
                       "kvstore/client", "kvstore/select", "kvstore/layout.h", "common"],
    # The files directly in worker/: the engine, which wires the rest.
    "worker": ["worker/scheduler", "worker/policy", "worker/model", "worker/sampling",
               "worker/cache", "worker/ops/backend.h", "kvstore/client", "kvstore/select",
               "kvstore/layout.h", "common"],
    "services": ["worker", "kvstore", "protos", "common"],
    "protos": [],
    "tests": ["common", "kvstore", "worker", "services", "protos"],
}
ROOTS = sorted({folder.split("/")[0] for folder in ARROWS})
# Folders whose subfolders each need a rule of their own (their own files use the folder's rule).
SUBFOLDERS_NEED_RULES = {"worker"}

# (what, pattern of the header, where it may be included)
CONFINED = [
    ("gRPC, protobuf or HTTP header",
     re.compile(r"^(grpc|grpcpp|google/protobuf|tailor|src/proto|boost/(beast|asio))/|\.pb\.h$"
                r"|^(httplib\.h|boost/(beast|asio)\.hpp)$"),
     re.compile(r"^(services|tests/(services|integration))/")),
    ("CUDA header",
     re.compile(r"^(cuda|cublas|cudnn|nccl|nvrtc|nvToolsExt|cooperative_groups|curand|device_launch)"
                r"[^/]*(/.*)?$|^(cub|thrust)/"),
     re.compile(r"^(common/cuda|tests/gpu/emulator)/|\.(cu|cuh)$")),
]

SOURCE = re.compile(r"\.(h|hpp|cuh|inc|cc|cpp|cu)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>|(\S+))')


def is_within(path, target):
    """True if path is the header `target`, or lies in the folder `target`."""
    return path == target or (not target.endswith(".h") and path.startswith(target + "/"))


def rule_of(path):
    """The key of ARROWS for a file, or None if its folder has none."""
    folder = os.path.dirname(path)
    parts = folder.split("/")
    for length in range(len(parts), 0, -1):
        key = "/".join(parts[:length])
        if key in ARROWS:
            return None if key in SUBFOLDERS_NEED_RULES and key != folder else key
    return None


def owns(key, path):
    """True if path belongs to the rule's own folder; subfolders with rules of their own do not."""
    return is_within(path, key) and rule_of(path) == key


def check_include(root, path, header, quoted):
    """The reason why file `path` may not include `header`, or None."""
    for what, pattern, home in CONFINED:
        if pattern.search(header) and not home.search(path):
            return f"{what} {header} outside its home ({home.pattern})"
    if header.startswith("../") or "/../" in header or header.startswith("./"):
        return f"{header} is not relative to the root"
    if header.split("/")[0] not in ROOTS or "/" not in header:
        beside = os.path.join(root, os.path.dirname(path), header)
        return f"{header} is not relative to the root" if quoted and os.path.exists(beside) else None
    key = rule_of(path)
    if owns(key, header) or any(is_within(header, allowed) for allowed in ARROWS[key]):
        return None
    return f"{key} -> {header} is no arrow (allowed: {', '.join([key] + ARROWS[key])})"


def check_file(root, path):
    """Violations of one file, as 'path:line: reason'."""
    if rule_of(path) is None:
        return [f"{path}:1: no rule for {os.path.dirname(path)} in {os.path.basename(__file__)}"]
    found = []
    with open(os.path.join(root, path), encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, angled, computed = match.groups()
            reason = (f"computed include {computed} hides its arrow" if computed else
                      check_include(root, path, quoted or angled, quoted is not None))
            if reason:
                found.append(f"{path}:{number}: {reason}")
    return found


def sources(root):
    """Every source file of the tree, relative to root, sorted."""
    paths = []
    for top in ROOTS:
        for folder, _, names in os.walk(os.path.join(root, top)):
            paths += [os.path.relpath(os.path.join(folder, n), root) for n in names if SOURCE.search(n)]
    return sorted(paths)


def check_tree(root):
    return [violation for path in sources(root) for violation in check_file(root, path)]


class LayeringRules(unittest.TestCase):
    """Each rule against a tree of one file that breaks it, and one that keeps it."""

    def violations(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as out:
                    out.write(text)
            return check_tree(root)

    def test_each_broken_arrow_is_named_with_file_and_line(self):
        broken = [
            ("common/a.h", "kvstore/layout.h"), ("common/text/a.h", "worker/engine.h"),
            ("kvstore/a.cc", "worker/engine.h"), ("kvstore/a.cc", "services/status_grpc.h"),
            ("kvstore/select/a.cc", "kvstore/page_store.h"),
            ("worker/engine.cc", "services/status_grpc.h"), ("worker/engine.cc", "kvstore/arena.h"),
            ("worker/engine.cc", "tests/support/tiny_model.h"),
            ("worker/cache/a.h", "kvstore/page_store.h"), ("worker/cache/a.h", "worker/model/prefill.h"),
            ("worker/cache/a.h", "worker/engine.h"), ("worker/model/a.h", "worker/sampling/sampler.h"),
            ("worker/ops/a.cc", "worker/cache/layer_cache.h"), ("worker/ops/a.cc", "kvstore/layout.h"),
            ("worker/scheduler/a.cc", "worker/cache/layer_cache.h"),
            ("worker/scheduler/a.cc", "worker/model/prefill.h"),
            ("worker/policy/a.cc", "worker/ops/backend.h"),
            ("worker/quality/a.cc", "worker/engine.h"),
            ("worker/quality/a.cc", "kvstore/page_store.h"),
            ("worker/model/a.cc", "worker/quality/methods.h"),
            ("services/cli/a.cc", "tests/support/tiny_model.h"),
        ]
        for path, header in broken:
            with self.subTest(path=path, header=header):
                found = self.violations({path: f'// A file.\n\n#include "{header}"\n'})
                self.assertEqual(len(found), 1, found)
                self.assertTrue(found[0].startswith(f"{path}:3: "), found)
                self.assertIn(header, found[0])

    def test_arrows_that_exist_are_let_through(self):
        for path, header in [
                ("common/a.cc", "common/text/tokenizer.h"), ("kvstore/a.cc", "kvstore/select/top_k.h"),
                ("kvstore/select/a.cc", "kvstore/layout.h"), ("worker/engine.cc", "worker/turn.h"),
                ("worker/engine.cc", "worker/scheduler/scheduler.h"),
                ("worker/cache/a.cc", "kvstore/client/kv_client.h"),
                ("worker/quality/a.cc", "common/text/tokenizer.h"),
                ("services/cli/a.cc", "worker/quality/evaluation.h"),
                ("worker/model/a.cc", "worker/cache/sequence_cache.h"),
                ("services/kvstore/a.cc", "kvstore/page_store.h"),
                ("tests/worker/a_test.cc", "worker/cache/layer_cache.h")]:
            with self.subTest(path=path, header=header):
                self.assertEqual(self.violations({path: f'#include "{header}"\n'}), [])

    def test_rpc_headers_stay_in_services(self):
        for header in ["grpcpp/grpcpp.h", "google/protobuf/message.h", "tailor/v1/chat.grpc.pb.h",
                       "boost/beast/http.hpp"]:
            for path, count in [("worker/engine.cc", 1), ("kvstore/a.cc", 1), ("common/a.h", 1),
                                ("tests/worker/a_test.cc", 1), ("services/gateway/a.cc", 0),
                                ("tests/services/a_test.cc", 0), ("tests/integration/a_test.cc", 0)]:
                with self.subTest(path=path, header=header):
                    self.assertEqual(len(self.violations({path: f"#include <{header}>\n"})), count)

    def test_cuda_headers_stay_in_cuda_files(self):
        for header in ["cuda_runtime.h", "cuda_bf16.h", "cublasLt.h", "cub/cub.cuh", "cuda.h"]:
            for path, count in [("worker/ops/matmul.cc", 1), ("worker/ops/matmul.h", 1),
                                ("worker/ops/matmul_cuda.cu", 0), ("common/cuda/stream.h", 0)]:
                with self.subTest(path=path, header=header):
                    self.assertEqual(len(self.violations({path: f"#include <{header}>\n"})), count)

    def test_includes_are_relative_to_the_root_and_literal(self):
        files = {"kvstore/a.h": "", "kvstore/a.cc": '#include "a.h"\n'}
        self.assertIn("not relative to the root", self.violations(files)[0])
        self.assertEqual(len(self.violations({"kvstore/a.cc": '#include "../common/log.h"\n'})), 1)
        self.assertEqual(len(self.violations({"kvstore/a.cc": "#include HEADER\n"})), 1)
        self.assertEqual(self.violations({"kvstore/a.cc": "#include <vector>\n#include <xxhash.h>\n"}), [])

    def test_a_new_worker_folder_needs_a_rule(self):
        self.assertIn("no rule for worker/extra", self.violations({"worker/extra/a.cc": ""})[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--root", help="the tree to check")
    what.add_argument("--self-test", action="store_true", help="check the checker")
    args = parser.parse_args()
    if args.self_test:
        return 0 if unittest.main(argv=[sys.argv[0]], exit=False).result.wasSuccessful() else 1
    paths = sources(args.root)
    missing = [top for top in ROOTS if top != "protos" and not any(is_within(p, top) for p in paths)]
    if missing:
        print(f"{args.root}: no sources below {', '.join(missing)}: is this the tree's root?")
        return 1
    found = check_tree(args.root)
    print("\n".join(found + [f"{len(paths)} files, {len(found)} violations"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
