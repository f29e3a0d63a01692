#!/usr/bin/env python3
"""Exact match of every variant over its seeds, and paired differences to `cluster`: Markdown on standard output.

    experiments/progressive-tiny/collect.py [runs/progressive-tiny-study]
"""
import json
import os
import statistics
import sys

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/progressive-tiny-study"


def scores(variant):
    found = {}
    for seed in sorted(os.listdir(os.path.join(OUT, variant))):
        path = os.path.join(OUT, variant, seed, "eval", "results.json")
        if os.path.exists(path):
            found[seed] = json.load(open(path))["entries"][0]
    return found


runs = {name: scores(name) for name in sorted(os.listdir(OUT)) if os.path.isdir(os.path.join(OUT, name))}
print("| variant | exact match, seed by seed | mean | minus `cluster`, same seeds | vectors read | ratio |\n|---|---|---:|---:|---:|---:|")
for name, by_seed in runs.items():
    if not by_seed:
        continue
    values = {seed: entry["exact_match"]["value"] for seed, entry in by_seed.items()}
    shared = [values[s] - runs["cluster"][s]["exact_match"]["value"] for s in values if s in runs.get("cluster", {})]
    spread = f" ± {statistics.stdev(shared):.1f}" if len(shared) > 1 else ""
    first = next(iter(by_seed.values()))
    print(f"| `{name}` | {', '.join(f'{v:.1f}' for v in values.values())} | {statistics.mean(values.values()):.1f} "
          f"| {statistics.mean(shared):+.1f}{spread} | {first['vectors_read']:.1f} | {first['effective_ratio']:.2f} |")
