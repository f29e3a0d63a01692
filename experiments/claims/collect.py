#!/usr/bin/env python3
"""results.csv, depth.csv, growth.csv, the plots and README.md's tables from the run folders; needs matplotlib.

    experiments/claims/collect.py [runs/claims]

A part of the study (run.sh STAGE) gives its part of the tables and plots; of the csv files its rows are renewed, the others stay.
Folders: STAGE/CELL/SEED/NOISE/results.json, records/; a cell is METHOD-RATIO or, for windows, SIDE-TOKENS. Intervals are
95 %: of accuracies and gaps a bootstrap over seeds and rows of pairs (both resampled), of savings the t interval over
seeds, or over resampled passages where there is one seed.
"""
import collections
import csv
import glob
import json
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from plots import Group, save_panels, save_plot  # noqa: E402  (says what to install)

import numpy as np  # noqa: E402  (comes with matplotlib)
from measure import (  # noqa: E402
    T_BOUND, Curve, Run, Window, depth, number, quality_of, record_age, saving, saving_text)

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/claims"
CHUNK_PAIRS, CHUNK_VECTORS = 6, 6  # of stage age: 12 tokens at ratio 2


def read_runs():
    runs = [Run(os.path.dirname(path)) for path in sorted(glob.glob(os.path.join(OUT, "*", "*", "*", "*", "results.json")))]
    if not runs:
        sys.exit(f"error: {OUT}: no evaluation (expected STAGE/CELL/SEED/NOISE/results.json; experiments/claims/run.sh makes them)")
    found = collections.defaultdict(dict)
    for run in runs:
        found[run.stage, run.cell, run.noise][run.seed] = run
    return found


def middle_gap(curve):
    """mean(first, last decile) - mean(0.4 .. 0.6) of cells at relative depth 0 .. 1 (progressive.md section 7)."""
    cells = curve.shape[-1]
    place = np.arange(cells) / (cells - 1)
    ends = (curve[..., place <= 0.1].mean(-1) + curve[..., place >= 0.9].mean(-1)) / 2
    return ends - curve[..., (place >= 0.4 - 1e-9) & (place <= 0.6 + 1e-9)].mean(-1)


def depth_line(label, runs, curve, kept):
    cells = len(curve.mean)
    whole = statistics.mean(run.entry["exact_match"]["value"] for run in runs)
    gap = number(*curve.interval(middle_gap), sign="+") if len(kept) == cells else "-"
    print(f"| {label} | {len({run.seed for run in runs})} | {whole:.1f} | {gap} | " +
          " | ".join(f"{curve.mean[i]:.0f}" if i in kept else "-" for i in range(cells)) + " |")


def depth_study(found):
    """Accuracy by depth in the row, and the middle gap."""
    runs = list(found.get(("recall", "full", "zero"), {}).values())
    if not runs:
        return
    pairs = depth(runs[0].records[0])[1]
    cell = lambda record: depth(record)[0]  # noqa: E731
    full = Curve(runs, pairs, cell)
    kept = [i for i in range(pairs) if full.mean[i] >= 50]
    print(f"\n### Recall by depth: rows of {pairs} pairs; the full context reaches 50 % in {len(kept)} of {pairs} cells\n")
    print("| read | seeds | all | middle gap [95 %] | " + " | ".join(f"{i}" for i in range(pairs)) + " |")
    print("|---|---:|---:|---:|" + "---:|" * pairs)
    groups = []
    for name, label in (("full", "full context"), ("head-4", "first 4 tokens"), ("tail-4", "last 4 tokens"),
                        ("diffusion-4", "diffusion, 4x"), ("progressive-4", "progressive, 4x"),
                        ("pairwise-4", "progressive, fixed pairs, 4x")):
        seeds = list(found.get(("recall", name, "zero"), {}).values())
        if not seeds:
            continue
        curve = Curve(seeds, pairs, cell)
        depth_line(label, seeds, curve, kept)
        noisy = seeded(found, "recall", name)
        if noisy:
            depth_line(label + ", seeded noise", noisy, Curve(noisy, pairs, cell), kept)
        mean, low, high = curve.interval()
        groups.append(Group(label, kept, mean[kept], low[kept], high[kept]))
    save_plot(os.path.join(HERE, "depth.svg"), groups, xlabel="pairs before the one asked for", ylabel="exact match, %",
              ylim=(-3, 103), xticks=range(pairs))


def age_study(found):
    """Accuracy by the number of pairs written after the one asked for."""
    runs = found.get(("age", "full", "zero"))
    if not runs:
        return
    pairs = depth(next(iter(runs.values())).records[0])[1]
    blocks = block_ages(pairs)
    print(f"\n### Recall by age: {pairs} pairs in {-(-pairs // CHUNK_PAIRS)} chunks\n\n| read | seeds | vectors | all | "
          + " | ".join(f"age {a} to {b}" for a, b in blocks) + " |\n|---|---:|---:|---:|" + "---:|" * len(blocks))
    groups = []
    for name, label in (("full", "full context"), ("latents", "latents"), ("log", "slots: log"), ("state_only", "state_only")):
        for noise, suffix in (("zero", ""), ("seeded", ", seeded noise")):
            seeds = seeded(found, "age", name) if noise == "seeded" else list(found.get(("age", name, "zero"), {}).values())
            if not seeds:
                continue
            coarse = Curve(seeds, len(blocks), lambda record: block_of(record_age(record), blocks))
            whole = statistics.mean(run.entry["exact_match"]["value"] for run in seeds)
            trained = len({run.seed for run in seeds})
            print(f"| {label}{suffix} | {trained} | {seeds[0].entry['vectors_read']:.0f} | {whole:.1f} | " +
                  " | ".join(number(*(part[i] for part in coarse.interval())) for i in range(len(blocks))) + " |")
            # Which of two pairs a merged vector keeps is another one from seed to seed: their mean would be no run's curve.
            for part in [[run] for run in seeds] if (name, noise) == ("log", "zero") else [seeds] if noise == "zero" else []:
                seed = f", seed {part[0].seed}" if name == "log" else ""
                groups.append(Group(label + seed, list(range(pairs)), *Curve(part, pairs, record_age).interval()))
    save_plot(os.path.join(HERE, "age.svg"), groups, xlabel="pairs written after the one asked for",
              ylabel="exact match, %", ylim=(-3, 103), xticks=range(pairs))


def sharing_study(found):
    """Two pairs that share a vector of four tokens, both asked for in their row: which of them are answered?"""
    if not any(stage in ("recall", "age") for stage, _, _ in found):
        return
    print("\n### Two pairs in one vector\n\n| read | seed | first pair right | second pair right | both | the first alone | "
          "the second alone | neither | cases |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for stage, name, label, merged in (("recall", "diffusion-4", "diffusion, 4x", 8), ("recall", "pairwise-4", "progressive, fixed pairs, 4x", 8),
                                       ("age", "log", "slots: log, its older block", 12)):
        for seed, run in sorted(found.get((stage, name, "zero"), {}).items()):
            pairs = collections.defaultdict(dict)
            for record in run.records:
                before = depth(record)[0]
                if before < merged:
                    pairs[record["context"], before // 2][before % 2] = record["exact_match"]
            alone = [statistics.mean(100 * pair[i] for pair in pairs.values() if i in pair) for i in (0, 1)]
            both = [(pair[0], pair[1]) for pair in pairs.values() if len(pair) == 2]
            share = [f"{100 * both.count(case) / len(both):.0f}" for case in ((1, 1), (1, 0), (0, 1), (0, 0))]
            print(f"| {label} | {seed} | {alone[0]:.1f} | {alone[1]:.1f} | {' | '.join(share)} | {len(both)} |")


def block_ages(pairs):
    """First and last age of the blocks that `slots: log` ends with, newest first: a binary counter of chunks."""
    blocks, begin, chunks = [], 0, -(-pairs // CHUNK_PAIRS)
    for level in reversed(range(chunks.bit_length())):  # the oldest block is the largest
        if chunks >> level & 1:
            end = min(pairs, begin + CHUNK_PAIRS * 2**level)
            blocks.insert(0, (pairs - end, pairs - 1 - begin))
            begin = end
    return blocks


def block_of(age, blocks):
    return next(i for i, (_, last) in enumerate(blocks) if age <= last)


def seeded(found, stage, cell):
    """Evaluations with seeded channel noise, of all trained seeds."""
    return [run for (s, c, noise), seeds in found.items() if (s, c) == (stage, cell) and noise.startswith("seeded-")
            for run in seeds.values()]


def windows_of(found, stage, metric, drawn=None):
    points = [(0.0, quality_of(found[stage, "none", "zero"]["base"], metric, drawn))]
    for (s, cell, noise), seeds in found.items():
        if s == stage and noise == "zero" and (cell == "full" or cell.startswith("tail-")):
            points.append((seeds["base"].bytes, quality_of(seeds["base"], metric, drawn)))
    return Window(points)


def perfect_window(found):
    """A window whose reader never errs: the share of asked pairs that lie in it, counted; key-values alone."""
    full = found["recall", "full", "zero"]["base"]
    pairs = depth(full.records[0])[1]
    ages = [record_age(record) for record in full.records]
    return Window([(full.bytes * width / pairs, 100 * sum(age < width for age in ages) / len(ages)) for width in range(pairs + 1)])


def one_seed_interval(found, stage, metric, run):
    """Of one trained seed: passages resampled, for the compressor and the windows alike."""
    draw = np.random.default_rng(1)
    contexts = len({record["context"] for record in run.records})
    values = []
    for _ in range(200):
        drawn = draw.multinomial(contexts, np.full(contexts, 1 / contexts))
        values.append(saving(windows_of(found, stage, metric, drawn), quality_of(run, metric, drawn), run.bytes))
    known = [value for value in values if value is not None]
    if len(known) < 0.95 * len(values):
        return f" (no iso-quality point in {100 - 100 * len(known) / len(values):.0f} % of resamples)"
    return " [{:.0f}, {:.0f}], one seed".format(*np.percentile(known, [2.5, 97.5]))


def memory_study(found, stage, title):
    """Bytes of keys and values against quality, beside sliding windows; returns the panel of the plot."""
    if (stage, "none", "zero") not in found:
        return None
    full = found[stage, "full", "zero"]["base"]
    metrics = ["exact match"] + (["NLL"] if "nll" in full.records[0] else [])
    panel = None
    for metric in metrics:
        window = windows_of(found, stage, metric)
        perfect = perfect_window(found) if stage == "recall" and metric == "exact match" else None
        print(f"\n### Memory at equal {metric}: {title}; full context {abs(window.quality[-1]):.2f}, {full.bytes:.0f} bytes in bf16\n")
        print(f"| compressor | seeds | bytes | {metric} | with seeded noise | a window of as many bytes | saved against the window at equal {metric} |"
              + (" against a window read without error |" if perfect else ""))
        print("|---|---:|---:|---:|---:|---:|---:|" + ("---:|" if perfect else ""))
        groups = [Group("sliding window", window.bytes, window.quality)]
        if perfect:
            groups.append(Group("window read without error", perfect.bytes, perfect.quality, line="--"))
        for method, label in (("diffusion", "diffusion"), ("progressive", "progressive"), ("pairwise", "progressive, fixed pairs")):
            x, y, low, high = [], [], [], []
            for ratio in (2, 4, 8, 16):
                runs = list(found.get((stage, f"{method}-{ratio}", "zero"), {}).values())
                if not runs:
                    continue
                values, size = [quality_of(run, metric) for run in runs], runs[0].bytes
                mean = statistics.mean(values)
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                text = saving_text([saving(window, value, size) for value in values])
                if len(runs) == 1:
                    text += one_seed_interval(found, stage, metric, runs[0])
                more = f" {saving_text([saving(perfect, value, size) for value in values])} |" if perfect else ""
                noisy = noisy_quality(found, stage, f"{method}-{ratio}", metric)
                print(f"| {label}, {ratio}x | {len(runs)} | {size:.0f} | {abs(mean):.2f}{spread} | {noisy} | "
                      f"{abs(window.at_bytes(size)):.2f} | {text} |{more}")
                reach = T_BOUND[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
                for row, value in ((x, size), (y, mean), (low, mean - reach), (high, mean + reach)):
                    row.append(value)
            if x:
                groups.append(Group(label, x, y, low, high))
        if metric == "exact match":
            quantized = quantized_points(found, stage)
            if quantized:
                groups.append(Group("quantised KV", *quantized))
            panel = (groups, {"title": title, "xlabel": "bytes of keys and values a context (bf16)", "ylabel": "exact match, %",
                              "xlog": 2, "ylim": (-3, 103)})
            groups[0].x, groups[0].y = groups[0].x[1:], groups[0].y[1:]  # no zero on a logarithmic axis
            if perfect:
                groups[1].x, groups[1].y = groups[1].x[1:], groups[1].y[1:]
    return panel


def noisy_quality(found, stage, cell, metric):
    """Mean over seeds and noise seeds, ± between seeds; of exact match, where there is a channel with noise."""
    by_seed = collections.defaultdict(list)
    for run in seeded(found, stage, cell) if metric == "exact match" else []:
        by_seed[run.seed].append(quality_of(run, metric))
    means = [statistics.mean(values) for values in by_seed.values()]
    if not means:
        return "-"
    return f"{statistics.mean(means):.2f}" + (f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else "")


def quantized_points(found, stage):
    """Bytes (from the log of a step over the same kind of rows) and exact match of the full context in few bits."""
    points = []
    for bits in (8, 4, 2, 1):
        runs = found.get((stage, f"bits-{bits}", "zero"))
        log = os.path.join(OUT, stage, f"bits-{bits}", "bytes", "log.jsonl")
        if not runs or not os.path.exists(log):
            continue
        entry = runs["base"].entry
        terms = [json.loads(line)["terms"] for line in open(log) if '"loss"' in line][-1]
        size = terms["stored_bytes_per_token"] * entry["context_tokens"]
        points.append((size, entry["exact_match"]["value"], entry["exact_match"]["low"], entry["exact_match"]["high"]))
        if len(points) == 1:
            print(f"\n### The full context in few bits: {stage}\n\n| bits | bytes, scales included | bf16 bytes / bytes | error of keys, "
                  "values | exact match [95 %] |\n|---|---:|---:|---:|---:|")
        full = found[stage, "full", "zero"]["base"].bytes
        print(f"| {bits} | {size:.0f} | {full / size:.1f} | {terms['key_error']:.3f}, {terms['value_error']:.3f} | {number(*points[-1][1:])} |")
    return tuple(map(list, zip(*points)))


def growth_study():
    """Stored vectors against tokens, as the memories say; writes growth.csv."""
    rows = []
    for path in glob.glob(os.path.join(OUT, "growth", "*.json")):
        slots, tokens = os.path.basename(path)[:-len(".json")].rsplit("-", 1)
        made = json.load(open(path))
        if made["tokens"] != int(tokens):
            sys.exit(f"error: {path}: read {made['tokens']} tokens (expected {tokens})")
        rows.append({"slots": slots, "tokens": made["tokens"], "vectors": made["slots"], "file_bytes": made["bytes"]})
    if not rows:
        return
    rows.sort(key=lambda row: (row["slots"], row["tokens"]))
    write_csv("growth.csv", rows)
    by = {name: [row for row in rows if row["slots"] == name] for name in ("latents", "log", "state_only")}
    columns = sorted({row["tokens"] for row in rows})
    print("\n### Stored vectors\n\n| tokens | " + " | ".join(map(str, columns)) + " |\n|---|" + "---:|" * len(columns))
    groups = []
    for name, found in by.items():
        if found:
            vectors = {row["tokens"]: row["vectors"] for row in found}
            print(f"| `{name}` | " + " | ".join(str(vectors.get(column, "-")) for column in columns) + " |")
            groups.append(Group(f"slots: {name}", list(vectors), list(vectors.values())))
    tokens = [row["tokens"] for row in by["log"]]
    bound = [CHUNK_VECTORS * (1 + np.log2(max(1, n / (2 * CHUNK_PAIRS)))) for n in tokens]
    groups.append(Group("the bound 6 (1 + log2 of the chunks)", tokens, bound, line=":"))
    save_plot(os.path.join(HERE, "growth.svg"), groups, xlabel="tokens read", ylabel="vectors stored", xlog=2, ylog=2)


def write_csv(name, rows):
    with open(os.path.join(HERE, name), "w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def renew_csv(name, rows, key):
    """The file with these rows in the place of those of the same key; sorted by it."""
    place = lambda row: tuple(str(row[column]).rjust(3) for column in key)  # noqa: E731
    path, renewed = os.path.join(HERE, name), {}
    if os.path.exists(path):
        with open(path, newline="") as file:
            renewed = {place(row): row for row in csv.DictReader(file)}
    renewed.update({place(row): row for row in rows})
    if renewed:
        write_csv(name, [renewed[each] for each in sorted(renewed)])


def write_measurements(found):
    results, depths = [], []
    for (stage, cell, noise), seeds in sorted(found.items()):
        for seed, run in sorted(seeds.items()):
            entry, match = run.entry, run.entry["exact_match"]
            nll = f"{statistics.mean(record['nll'] for record in run.records):.4f}" if "nll" in run.records[0] else ""
            results.append({"stage": stage, "cell": cell, "seed": seed, "noise": noise, "exact_match": f"{match['value']:.2f}",
                            "low": f"{match['low']:.2f}", "high": f"{match['high']:.2f}", "questions": len(run.records),
                            "context_tokens": f"{entry['context_tokens']:.1f}", "vectors": f"{entry['vectors_read']:.2f}",
                            "kv_bytes_float32": f"{entry['kv_bytes_per_context']:.0f}", "nll": nll})
            cells = collections.defaultdict(list)
            for record in run.records if stage != "tiny" else []:
                cells[depth(record)].append(record["exact_match"])
            depths += [{"stage": stage, "cell": cell, "seed": seed, "noise": noise, "pairs": pairs, "pairs_before": before,
                        "questions": len(values), "right": int(sum(values))} for (before, pairs), values in sorted(cells.items())]
    renew_csv("results.csv", results, ("stage", "cell", "noise", "seed"))
    renew_csv("depth.csv", depths, ("stage", "cell", "noise", "seed", "pairs_before"))


def main():
    found = read_runs()
    write_measurements(found)
    age_study(found)
    depth_study(found)
    sharing_study(found)
    panels = [memory_study(found, "recall", "key-value recall, 16 tokens"), memory_study(found, "tiny", "tiny-facts, 36 tokens")]
    if all(panels):
        save_panels(os.path.join(HERE, "memory.svg"), panels, width=4.8)
    growth_study()


main()
