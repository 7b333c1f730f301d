#!/usr/bin/env python3
"""The three real processes with the worker on `--backend cuda`: the emulated module over the tiny model, or
a device and any model.

    three_processes_cuda_test.py --bin-dir build/release/bin [--cuda-module MODULE.so] [--model MODEL.gguf]

With selector `sketch` and with `store` (the doorbell): a chat over the gateway, a follow-up that reuses it,
an answer whose worker is killed after its first bytes. Both selectors give the same answers.
Exit code 77: skipped (no device).
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from three_processes_test import TIMEOUT_S, Failure, Tailor, check, pages_add_up

EXIT_NO_DEVICE = 6
QUESTION = "What is this?"
STRUCK = ["--ask", "Go on.", "--max-tokens", "24", "--temperature", "1.5", "--seed", "3"]


def worker_log(t):
    return (t.root / "log" / "worker.log").read_text()


def chats_on_the_device(t, selector, document):
    answers = t.chat("talk", QUESTION, "And then?", documents=[document],
                     options=["--max-tokens", "6"])
    check("backend cuda" in worker_log(t), "the worker runs on another backend")
    reports = [a["report"] for a in answers]
    check(reports[1]["reused_tokens"] == answers[0]["session_tokens"] - 1,
          f"the follow-up recomputed: {reports[1]}")
    for report in reports:
        check(report["rows_fetched"] > 0, f"a hybrid turn fetched no rows: {report}")
        kv = report["bytes"]
        on_device = selector == "sketch"
        check((kv["sketch"] > 0) == on_device and (kv["row_cache"] > 0) == on_device,
              f"bytes with selector {selector}: {kv}")
    if selector == "store":
        log = worker_log(t)
        check("no doorbell" not in log, f"selections wait for the device: {log[-2000:]}")
        check(t.store()["selects"] > 0, "the store selected nothing")
    pages_add_up(t.store())
    return [a["answer"] for a in answers]


def a_killed_worker_loses_nothing(t):
    """The stream goes on after kill -9, equal to a twin's that was left alone."""
    for session in ("spared", "struck"):
        t.run("sessions", "fork", "talk", session, "--json")
    spared = t.run("chat", "spared", *STRUCK).stdout
    worker = t.pid("worker")
    chat = subprocess.Popen(t.command("chat", "struck", *STRUCK), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    first = os.read(chat.stdout.fileno(), 1)  # it streams: something is there before the rest
    check(first and chat.poll() is None, "the answer was complete before the worker could be killed")
    os.kill(worker, signal.SIGKILL)
    rest, err = chat.communicate(timeout=TIMEOUT_S)
    check(chat.returncode == 0, f"the answer broke off: {err}")
    struck = (first + rest).decode(errors="replace")
    check(struck == spared, f"the answer differs after the worker's death:\n{struck!r}\n{spared!r}")
    check(t.pid("worker") != worker, "the worker was not killed")
    check(worker_log(t).count("backend cuda") == 2, "the second worker runs on another backend")
    pages_add_up(t.store())
    return struck


def closing_frees_every_page(t):
    for session in t.sessions():
        t.run("sessions", "delete", session)
    store = t.store()
    check(store["pages_free"] == store["pages_total"], f"pages are left after all was closed: {store}")


def story(args, model, root, selector, document):
    root.mkdir()
    t = Tailor(args.bin_dir, model, root)
    options = ["--backend", "cuda", "--selector", selector, "--threads", "2"]
    if args.cuda_module:
        options += ["--cuda-module", args.cuda_module, "--device-memory", "256MiB"]
    try:
        t.up(*options)
        found = chats_on_the_device(t, selector, document)
        print(f"ok   {selector}: chats on the device", flush=True)
        found.append(a_killed_worker_loses_nothing(t))
        print(f"ok   {selector}: a killed worker loses nothing", flush=True)
        closing_frees_every_page(t)
        return found
    except (Failure, subprocess.TimeoutExpired) as failure:
        for log in sorted((t.root / "log").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        raise Failure(f"{selector}: {failure}") from failure
    finally:
        t.run("down", ok=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", required=True)
    parser.add_argument("--cuda-module", default="")
    parser.add_argument("--model", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailor_cuda_") as scratch:
        root = pathlib.Path(scratch)
        model = args.model
        if not model:
            model = str(root / "tiny.gguf")
            subprocess.run([str(pathlib.Path(args.bin_dir) / "write_tiny_model"), model], check=True)
        document = root / "document.txt"
        # Four pages of bytes, which the tiny model takes one a token: more than a step fetches.
        document.write_text(" ".join(f"line {i} of a short story" for i in range(24)))
        found = {}
        try:
            for selector in ("sketch", "store"):
                found[selector] = story(args, model, root / selector, selector, document)
            check(found["sketch"] == found["store"], f"the selectors' answers differ: {found}")
        except Failure as failure:
            print(f"FAIL {failure}")
            return 77 if not args.cuda_module and f"exit code {EXIT_NO_DEVICE}" in str(failure) else 1
    print("ok   both selectors give the same answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
