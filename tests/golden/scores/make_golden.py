#!/usr/bin/env python3
"""Makes tasks.jsonl and outputs.jsonl, and scores them with a scorer of long-context tasks:

    make_golden.py PATH/TO/score.py
"""

import json
import os
import random
import subprocess
import sys

WORDS = ["amber", "Brass", "cedar", "Écluse", "FJORD", "grove", "наука", "ΛΟΓΟΣ", "İzmir", "straße"]
HERE = os.path.dirname(os.path.abspath(__file__))


def item(rng, task, number):
    answers = rng.sample(WORDS, rng.randint(1, 4)) if task != "digits" else \
        [str(rng.randint(10**6, 10**7)) for _ in range(rng.randint(1, 3))]
    return {"id": f"{task}-{number}", "task": task, "prompt": "...", "answers": answers,
            "scoring": "any_in" if task == "any" else "all_in", "max_tokens": 32}


def output(rng, answers):
    said = [a for a in answers if rng.random() < 0.6]
    said = [rng.choice([str.upper, str.lower, str.title, str])(a) for a in said]
    if rng.random() < 0.3:
        said.append(rng.choice(answers)[:-1])  # a near miss
    return rng.choice(["", "The answer: ", "ÇA: "]) + rng.choice([", ", "", "\n"]).join(said)


def write(name, records):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        for record in records:
            f.write(json.dumps(record) + "\n")


def main():
    rng = random.Random(1)
    # Groups of different sizes: the mean of tasks is not the mean of items.
    items = [item(rng, task, n) for task, count in [("words", 14), ("digits", 9), ("any", 5)]
             for n in range(count)]
    write("tasks.jsonl", items)
    write("outputs.jsonl", [{"id": i["id"], "output": output(rng, i["answers"])} for i in items])
    paths = {n: os.path.join(HERE, n) for n in ("tasks.jsonl", "outputs.jsonl", "scores.jsonl")}
    summary = subprocess.run(
        [sys.executable, sys.argv[1], "--tasks", paths["tasks.jsonl"], "--outputs",
         paths["outputs.jsonl"], "--details", paths["scores.jsonl"], "--json"],
        check=True, capture_output=True, text=True).stdout
    with open(os.path.join(HERE, "summary.json"), "w", encoding="utf-8") as f:
        f.write(summary)


if __name__ == "__main__":
    main()
