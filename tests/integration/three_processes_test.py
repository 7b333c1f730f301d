#!/usr/bin/env python3
"""The three real processes serve long-document chats: `tailor up`, then everything through the CLI.

    three_processes_test.py --bin-dir build/release/bin --document FILE [--model MODEL.gguf]
        [--ask QUESTION --answer-has TEXT]

Checks that follow-ups prefill only new tokens, that a fork diverges without touching its parent, that
page accounting is exact after every close, that killing a client frees its pages, that two chats at once
share the model's steps and change no answer, that a killed worker and a restarted gateway lose
nothing. With --ask: that hybrid and full attention find the same fact.
Exit code 77: skipped (no model).
"""
import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

TIMEOUT_S = 240
MIN_TOKENS = 6000  # of the document


class Failure(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failure(message)


class Tailor:
    """`tailor` with a run directory of its own."""

    def __init__(self, bin_dir, model, root):
        self.program = str(pathlib.Path(bin_dir) / "tailor")
        self.model = model
        self.root = pathlib.Path(root)
        self.run_dir = str(self.root / "run")

    def command(self, *args):
        return [self.program, *args, "--run-dir", self.run_dir]

    def run(self, *args, ok=True):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=TIMEOUT_S)
        if ok and done.returncode != 0:
            raise Failure(f"{args}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.run("up", "--model", self.model, "--detach", "--port", str(port), "--arena-bytes",
                 "1GiB", "--data-dir", str(self.root / "data"), "--log-dir", str(self.root / "log"), *options)

    def chat(self, session, *questions, documents=(), options=()):
        """Answers as the CLI's JSON objects, greedy."""
        args = ["chat", session, "--json", "--temperature", "0"]
        for document in documents:
            args += ["--document", str(document)]
        for question in questions:
            args += ["--ask", question]
        out = self.run(*args, *options).stdout
        answers = [json.loads(line) for line in out.splitlines() if line.strip()]
        check(len(answers) == len(questions), f"{len(answers)} answers to {len(questions)} questions")
        return answers

    def status(self):
        return json.loads(self.run("status", "--json").stdout)

    def store(self):
        return self.status()["store"]

    def pid(self, name):
        return next(p["pid"] for p in self.status()["processes"] if p["name"] == name)

    def sessions(self):
        out = self.run("sessions", "list", "--json").stdout
        return {s["id"]: s for s in map(json.loads, filter(str.strip, out.splitlines()))}

    def down(self):
        self.run("down")


def wait_until(what, condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (Failure, KeyError, StopIteration):
            pass  # a process is on its way down or up
        time.sleep(0.05)
    raise Failure(f"not within {timeout_s} s: {what}")


def pages_add_up(store):
    check(store["pages_free"] + store["pages_open"] + store["pages_sealed"] == store["pages_total"],
          f"pages do not add up: {store}")


def three_processes(t):
    status = t.status()
    pids = {p["name"]: p["pid"] for p in status["processes"]}
    check(set(pids) == {"kvstore", "worker", "gateway"}, f"processes are {pids}")
    for name, pid in pids.items():
        exe = os.readlink(f"/proc/{pid}/exe")
        check(exe.endswith(f"tailor-{name}"), f"{name} runs {exe}")
    store = t.store()
    check(store["pages_free"] == store["pages_total"], "a fresh store holds pages")


def follow_ups_prefill_only_new_tokens(t, document, question):
    questions = [question, "Say it again, in other words.", "Thank you. What else is there?"]
    answers = t.chat("talk", *questions, documents=[document], options=["--max-tokens", "24"])
    reports = [a["report"] for a in answers]
    check(reports[0]["prefilled_tokens"] >= MIN_TOKENS, f"document is short: {reports[0]}")
    for before, answer in zip(answers, answers[1:]):
        report = answer["report"]
        # All of the conversation is reused but its last token, which no step has computed yet.
        check(report["reused_tokens"] == before["session_tokens"] - 1,
              f"{report['reused_tokens']} reused of {before['session_tokens']}")
        check(report["prefilled_tokens"] < 120, f"{report['prefilled_tokens']} tokens prefilled")
        check(report["rows_fetched"] > 0, "a hybrid turn fetched no rows")
    kv = reports[2]["bytes"]
    check(kv["quantized_codes"] > 0 and kv["resident"] > 0, f"no hybrid cache: {kv}")
    pages_add_up(t.store())
    return answers


def a_fork_diverges_without_touching_its_parent(t):
    before = t.sessions()["talk"]["tokens"]
    t.run("sessions", "fork", "talk", "other", "--json")
    t.run("sessions", "fork", "talk", "twin", "--json")
    check(t.store()["pages_shared"] > 0, "a fork shares no pages")
    other = t.chat("other", "Count to five.", options=["--max-tokens", "16"])[0]
    check(other["report"]["reused_tokens"] == before - 1, f"fork recomputed: {other['report']}")
    check(t.sessions()["talk"]["tokens"] == before, "the parent changed")
    parent = t.chat("talk", "And then?", options=["--max-tokens", "24"])[0]
    twin = t.chat("twin", "And then?", options=["--max-tokens", "24"])[0]
    check(parent["answer"] == twin["answer"], "parent and twin answer the same question differently:"
          f" {parent['answer']!r} and {twin['answer']!r}")
    pages_add_up(t.store())


def a_long_answer(t):
    """Arguments of a chat that forks of "talk" answer at length, and the answer."""
    # Drawn, so that seeds must survive whatever happens; the first one that gives enough.
    for seed in range(20):
        ask = ["--ask", "Go on, at length.", "--max-tokens", "200", "--temperature", "1.5", "--seed",
               str(seed), "--json"]
        t.run("sessions", "fork", "talk", f"spared{seed}", "--json")
        spared = json.loads(t.run("chat", f"spared{seed}", *ask).stdout)
        if spared["report"]["generated_tokens"] >= 150:
            return ask, spared
    raise Failure("no seed gives an answer that is long enough to be struck")


def two_chats_decode_together(t, ask, spared):
    """Each with the answer of a twin that was alone."""
    for name in ("left", "right"):
        t.run("sessions", "fork", "talk", name, "--json")
    before = t.status()["worker"]
    chats = [subprocess.Popen(t.command("chat", name, *ask), stdout=subprocess.PIPE, text=True)
             for name in ("left", "right")]
    for chat in chats:
        answer = json.loads(chat.communicate(timeout=TIMEOUT_S)[0])["answer"]
        check(answer == spared["answer"], f"together {answer!r}, alone {spared['answer']!r}")
    after = t.status()["worker"]
    steps, rows = (after[key] - before[key] for key in ("decode_steps", "decode_rows"))
    check(rows == 2 * (spared["report"]["generated_tokens"] - 1), f"{rows} tokens decoded")
    check(steps < rows, f"{steps} steps for {rows} tokens: the two chats took turns")


def a_killed_worker_loses_nothing(t, ask, spared):
    """The stream goes on after kill -9, equal to the answer of a twin that was left alone."""
    t.run("sessions", "fork", "talk", "struck", "--json")
    worker = t.pid("worker")
    chat = subprocess.Popen(t.command("chat", "struck", *ask), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    wait_until("the worker decodes", lambda: t.status()["worker"]["turns_running"] > 0)
    time.sleep(0.2)
    check(chat.poll() is None, "the answer was complete before the worker could be killed")
    os.kill(worker, signal.SIGKILL)
    out, err = chat.communicate(timeout=TIMEOUT_S)
    check(chat.returncode == 0, f"the answer broke off: {err}")
    struck = json.loads(out)
    check(struck["answer"] == spared["answer"], "the answer differs after the worker's death:\n"
          f"{struck['answer']!r}\n{spared['answer']!r}")
    check(struck["report"]["generated_tokens"] == spared["report"]["generated_tokens"],
          f"tokens were lost or counted twice: {struck['report']}")
    check(t.pid("worker") != worker, "the worker was not killed")


def a_restarted_gateway_goes_on_with_its_sessions(t):
    before = t.sessions()
    gateway = t.pid("gateway")
    os.kill(gateway, signal.SIGKILL)
    wait_until("a new gateway", lambda: t.pid("gateway") != gateway and t.sessions() is not None)
    check(t.sessions().keys() == before.keys(), "sessions were lost")
    answer = t.chat("talk", "Are you there?", options=["--max-tokens", "8"])[0]
    check(answer["report"]["reused_tokens"] == before["talk"]["tokens"] - 1,
          f"the new gateway's turn recomputed: {answer['report']}")


def closing_frees_every_page(t):
    for session in t.sessions():
        t.run("sessions", "delete", session)
        pages_add_up(t.store())
    store = t.store()
    check(store["pages_free"] == store["pages_total"], f"pages are left after all was closed: {store}")


def killing_the_client_frees_its_pages(t, document):
    chat = subprocess.Popen(
        t.command("chat", "victim", "--document", str(document), "--ask", "What is this?", "--json"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until("its prefill holds pages", lambda: t.store()["pages_free"] < t.store()["pages_total"])
    chat.kill()
    chat.wait()
    wait_until("its pages are free",
               lambda: t.store()["pages_free"] == t.store()["pages_total"])
    pages_add_up(t.store())
    t.run("sessions", "delete", "victim")


def hybrid_and_full_find_the_same_fact(t, document, question, fact):
    found = {}
    for attention in ("hybrid", "full"):
        answer = t.chat(attention, question, documents=[document],
                        options=["--attention", attention, "--max-tokens", "48"])[0]
        found[attention] = answer["answer"]
        check(fact.lower() in answer["answer"].lower(), f"{attention}: {answer['answer']!r}")
    print(f"  hybrid: {found['hybrid']!r}\n  full:   {found['full']!r}")


def stops_cleanly(t):
    pids = [p["pid"] for p in t.status()["processes"]]
    t.down()
    wait_until("all processes have ended",
               lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 20)
    check(not json.loads(t.run("status", "--json", ok=False).stdout)["running"], "still running")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", required=True)
    parser.add_argument("--model", default=os.environ.get("TAILOR_TEST_MODEL", ""))
    parser.add_argument("--document", required=True)
    parser.add_argument("--ask", default="What is this text about?")
    parser.add_argument("--answer-has", default="")
    parser.add_argument("--document-bytes", type=int, default=0,
                        help="of the document's beginning, for builds that are slow; 0: all")
    args = parser.parse_args()
    if not os.path.exists(args.model):
        print("skipped: no model (TAILOR_TEST_MODEL names the default model's GGUF)")
        return 77
    with tempfile.TemporaryDirectory(prefix="tailor_it_") as root:
        t = Tailor(args.bin_dir, args.model, root)
        if args.document_bytes:
            global MIN_TOKENS
            MIN_TOKENS = args.document_bytes // 6
            text = pathlib.Path(args.document).read_bytes()[:args.document_bytes]
            args.document = str(t.root / "document.txt")
            pathlib.Path(args.document).write_text(text.decode(errors="ignore"))
        long_answer = []
        steps = [
            ("three processes", lambda: three_processes(t)),
            ("follow-ups prefill only new tokens",
             lambda: follow_ups_prefill_only_new_tokens(t, args.document, args.ask)),
            ("a fork diverges without touching its parent",
             lambda: a_fork_diverges_without_touching_its_parent(t)),
            ("there is a long answer", lambda: long_answer.extend(a_long_answer(t))),
            ("two chats decode together", lambda: two_chats_decode_together(t, *long_answer)),
            ("a killed worker loses nothing",
             lambda: a_killed_worker_loses_nothing(t, *long_answer)),
            ("a restarted gateway goes on with its sessions",
             lambda: a_restarted_gateway_goes_on_with_its_sessions(t)),
            ("closing frees every page", lambda: closing_frees_every_page(t)),
            ("killing the client frees its pages",
             lambda: killing_the_client_frees_its_pages(t, args.document)),
        ]
        if args.answer_has:
            steps.append(("hybrid and full find the same fact",
                          lambda: hybrid_and_full_find_the_same_fact(t, args.document, args.ask,
                                                                     args.answer_has)))
        steps.append(("stops cleanly", lambda: stops_cleanly(t)))
        t.up()
        try:
            for name, step in steps:
                start = time.monotonic()
                step()
                print(f"ok   {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except (Failure, subprocess.TimeoutExpired) as failure:
            print(f"FAIL {name}: {failure}")
            for log in sorted((t.root / "log").glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
            return 1
        finally:
            t.run("down", ok=False)  # also what an interrupt leaves behind
    return 0


if __name__ == "__main__":
    sys.exit(main())
