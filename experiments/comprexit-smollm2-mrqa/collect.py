#!/usr/bin/env python3
"""Tables and curves of this experiment from its run folders: prints Markdown, writes curve.csv beside this file.

    experiments/comprexit-smollm2-mrqa/collect.py [runs/comprexit-smollm2-mrqa]
"""
import csv
import json
import os
import sys

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/comprexit-smollm2-mrqa"
ROWS = [  # label, folder of ctxc-eval, method
    ("full context, two solved examples", "eval-two-shot", "full"),
    ("no context, two solved examples", "eval-two-shot", "none"),
    ("first quarter of the tokens, two solved examples", "eval-two-shot-cut", "truncate_head"),
    ("last quarter, two solved examples", "eval-two-shot-cut", "truncate_tail"),
    ("full context, prompt-tuned", "eval-prompt-full", "checkpoint"),
    ("no context, prompt-tuned", "eval-prompt-none", "checkpoint"),
    ("first quarter, nothing trained or shown", "eval-a", "truncate_head"),
    ("last quarter, nothing trained or shown", "eval-a", "truncate_tail"),
    ("ComprExIT a", "eval-a", "checkpoint"),
    ("ComprExIT b", "eval-b", "checkpoint"),
    ("ComprExIT c", "eval-c", "checkpoint"),
]
RUNS = ["text-a", "mrqa-a", "mrqa-b", "init-paper", "init-mean", "init-last", "mrqa-c", "prompt-full", "prompt-none", "gap-full", "gap-none", "gap-a"]
BLOCK = 25


def table(metric):
    sets = None
    for label, folder, method in ROWS:
        path = os.path.join(OUT, folder, "results.json")
        if not os.path.exists(path):
            continue
        entries = [e for e in json.load(open(path))["entries"] if e["method"] == method]
        if sets is None:
            sets = [(e["set"], e["n"]) for e in entries]
            print("| |" + "|".join(f" {name} (n={n}) " for name, n in sets) + "| mean |\n|---" + "|---:" * (len(sets) + 1) + "|")
        values = [e[metric] for e in entries]
        cells = [f"{v['value']:.1f} [{v['low']:.1f}, {v['high']:.1f}]" for v in values]
        mean = sum(v["value"] for v in values) / len(values)
        print(f"| {label} | " + " | ".join(cells) + f" | {mean:.1f} |")
    print()


def curves():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "curve.csv"), "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["run", "step", "train_loss", "valid_loss"])
        for run in RUNS:
            path = os.path.join(OUT, run, "log.jsonl")
            if not os.path.exists(path):
                continue
            rows = [json.loads(line) for line in open(path)]
            losses = {r["step"] + 1: r["loss"] for r in rows if "loss" in r}
            valid = {r["step"] + 1: r["valid_loss"] for r in rows if "valid_loss" in r}
            for step in sorted(losses):
                if step % BLOCK == 0 or step in valid:
                    block = [losses[s] for s in range(max(1, step - BLOCK + 1), step + 1)]
                    out.writerow([run, step, f"{sum(block) / len(block):.4f}", f"{valid[step]:.4f}" if step in valid else ""])
            if valid:
                print(f"{run}: validation loss " + ", ".join(f"{v:.3f} at {s}" for s, v in sorted(valid.items())))


print("F1\n")
table("f1")
print("Exact match\n")
table("exact_match")
curves()
