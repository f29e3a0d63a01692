#!/usr/bin/env python3
"""results.csv, levels.svg and README.md's tables from the run folders: prints Markdown, writes the others beside this file.

    experiments/binding/collect.py [runs/binding]

Cells that results.csv has and the run folders have not stay as they are; a cell that was run again takes their place.

A cell's number is the mean over its seeds of the exact match in percent; +- is the standard deviation over seeds. Paired
differences are over equal seeds, with the t interval and the two-sided p of the t test.
"""
import csv
import glob
import itertools
import json
import math
import os
import re
import sys

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/binding"
HERE = os.path.dirname(os.path.abspath(__file__))
SEEDED = "seeded-"
REFERENCE = ("denoising", "vp-0.1-lsnr")
COLUMNS = ("stage cell seed level noise exact_match low high questions valid_ce_half valid_ce steps rate_nats_per_token rate_nats "
           "rate_tight seconds beside beside_right beside_swapped").split()
CLAIM = ("vp-0.1-lsnr", "none-0-lsnr")
J0 = [(cell, f"{cell}-J0") for cell in CLAIM]
PAIRS = [  # the claim first
    *((("denoising", a), ("denoising", b)) for a, b in [CLAIM, *J0]),
    *((("longer", a), ("longer", b)) for a, b in [CLAIM, *J0]),
    tuple(("longest", cell) for cell in CLAIM),
    (("denoising", "vp-0.1-lsnr"), ("denoising", "none-0.1-lsnr")),
    (("denoising", "vp-0.1-lsnr"), ("denoising", "vp-0-lsnr")),
    (("denoising", "vp-0.1-lsnr"), ("denoising", "vp-0.1-constant")),
    (("denoising", "none-0.1-lsnr"), ("denoising", "none-0-lsnr")),
    (("rest", "chunks-state-4"), ("rest", "chunks-state-0")),
    (("strings", "values-32"), ("strings", "values-32768")),
]


sys.path.insert(0, os.path.dirname(HERE))
from plots import Group, save_plot  # noqa: E402


def swapped(path):
    """Of questions whose window of two pairs has another asked pair with another value: how many there are, how many are answered
    right, and how many with the value of that other pair."""
    asked = {}  # row -> place of the pair -> record
    for line in open(path):
        record = json.loads(line)
        asked.setdefault(record["context"], {})[int(re.search(r"@depth=(\d+)/", record["qid"])[1])] = record
    count = right = swaps = 0
    for row in asked.values():
        for place, record in row.items():
            other = row.get(place ^ 1)
            if other and other["answers"] != record["answers"]:
                count, right = count + 1, right + int(record["exact_match"] == 1)
                swaps += record["prediction"].strip() == other["answers"][0].strip()
    return {"beside": count, "beside_right": right, "beside_swapped": swaps}


def read_runs():
    rows = []
    for done in sorted(glob.glob(os.path.join(OUT, "*", "*", "*", "done"))):
        run = os.path.dirname(done)
        stage, cell, seed = run.split(os.sep)[-3:]
        log = [json.loads(line) for line in open(os.path.join(run, "log.jsonl"))]
        steps = [row for row in log if "loss" in row]
        last = steps[-1]["terms"]
        valid = [row["valid_terms"]["ce"] for row in log if "valid_terms" in row]
        half = f"{valid[len(valid) // 2 - 1]:.4f}" if len(valid) > 1 else ""
        for path in sorted(glob.glob(os.path.join(run, "*", "results.json"))):
            level, noise = os.path.basename(os.path.dirname(path)).split("-", 1)
            entry = json.load(open(path))["entries"][0]
            match = entry["exact_match"]
            rows.append({
                "stage": stage, "cell": cell, "seed": seed, "level": level, "noise": noise,
                "exact_match": f"{match['value']:.2f}", "low": f"{match['low']:.2f}", "high": f"{match['high']:.2f}",
                "questions": entry["n"], "valid_ce": f"{valid[-1]:.4f}", "valid_ce_half": half, "steps": len(steps),
                "rate_nats_per_token": f"{last['rate_nats_per_token']:.2f}", "rate_nats": f"{last['rate_nats']:.1f}",
                "rate_tight": f"{last['rate_tight']:.1f}", "seconds": f"{sum(row['seconds'] for row in steps):.0f}"})
            if stage == "four":
                rows[-1].update(swapped(os.path.join(os.path.dirname(path), "records", "recall.jsonl")))
    return rows


def kept_rows(found):
    """The rows of results.csv of cells that were not found in the run folders."""
    path, cells = os.path.join(HERE, "results.csv"), {(row["stage"], row["cell"], row["seed"]) for row in found}
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if (row["stage"], row["cell"], row["seed"]) not in cells]


def settle(rows):
    """`rows` with the stage settled made whole: what had bound in the stage converged, as it was there, beside what was trained again."""
    again = {(row["cell"], row["seed"]) for row in rows if row["stage"] == "settled"}
    if not again:
        return rows
    return rows + [{**row, "stage": "settled"} for row in rows if row["stage"] == "converged" and (row["cell"], row["seed"]) not in again]


def longer_trainings(rows):
    """What the trainings of the stage settled are after 3,000 steps, beside after 1,000."""
    shorter, longer = ({(row["cell"], row["seed"], row["noise"]): row for row in rows if row["stage"] == stage}
                       for stage in ("converged", "settled"))
    if not longer:
        return
    print("\n### Trained again over 3,000 steps: exact match, zero noise\n\n| cell | seed | 1,000 steps | 3,000 steps | seeded noise | "
          "valid CE half way | at the end |\n|---|---:|---:|---:|---:|---:|---:|")
    for (cell, seed, noise), row in longer.items():
        if noise == "zero":
            seeded = mean([float(other["exact_match"]) for key, other in longer.items() if key[:2] == (cell, seed) and key[2] != "zero"])
            before = float(shorter[cell, seed, noise]["exact_match"])
            print(f"| {cell} | {seed} | {before:.1f} | {float(row['exact_match']):.1f} | {seeded:.1f} | "
                  f"{float(row['valid_ce_half']):.3f} | {float(row['valid_ce']):.3f} |")


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else float("nan")


def t_tail(t, freedom, pieces=20000):
    """Two-sided p of Student's t: the integral of its density beyond |t|, after x = tan(angle)."""
    t, scale = abs(t), math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    begin, end = math.atan(t / math.sqrt(freedom)), math.pi / 2
    width = (end - begin) / pieces
    middle = (begin + (i + 0.5) * width for i in range(pieces))
    return 2 * scale * math.sqrt(freedom) * width * sum(math.cos(a) ** (freedom - 1) for a in middle)


def t_bound(freedom, p=0.05):
    low, high = 0.0, 100.0
    while high - low > 1e-6:
        half = (low + high) / 2
        low, high = (half, high) if t_tail(half, freedom, 400) > p else (low, half)
    return low


class Table:
    def __init__(self, rows):
        self.match = {}  # (stage, cell) -> level -> noise -> seed -> exact matches
        self.other = {}  # (stage, cell) -> column -> values
        for row in rows:
            cell = (row["stage"], row["cell"])
            noise = "seeded" if row["noise"].startswith(SEEDED) else row["noise"]
            seeds = self.match.setdefault(cell, {}).setdefault(row["level"], {}).setdefault(noise, {})
            seeds.setdefault(row["seed"], []).append(float(row["exact_match"]))
            if row["level"] == "own" and noise == "zero":
                for key in ("valid_ce_half", "valid_ce", "rate_nats_per_token", "rate_nats", "rate_tight", "seconds"):
                    self.other.setdefault(cell, {}).setdefault(key, []).append(float(row[key] or "nan"))

    def seeds(self, cell, noise="zero", level="own"):
        found = self.match.get(cell, {}).get(level, {}).get(noise, {})
        return {seed: mean(values) for seed, values in found.items()}

    def noise_spread(self, cell, level="own"):
        found = self.match.get(cell, {}).get(level, {}).get("seeded", {})
        return f"{mean([deviation(values) for values in found.values()]):.1f}" if found else "-"

    def number(self, cell, noise="zero", level="own"):
        values = list(self.seeds(cell, noise, level).values())
        if not values:
            return "-"
        return f"{mean(values):.1f}" + (f" ± {deviation(values):.1f}" if len(values) > 1 else "")

    def line(self, cell):
        other = self.other[cell]
        ce = f"{mean(other['valid_ce']):.3f}"
        if not math.isnan(mean(other["valid_ce_half"])):
            ce = f"{mean(other['valid_ce_half']):.3f}, {ce}"
        tight = f"{mean(other['rate_nats_per_token']):.1f} | {mean(other['rate_tight']):.0f} of {mean(other['rate_nats']):.0f}"
        print(f"| {cell[1]} | {len(self.seeds(cell))} | {self.number(cell)} | {self.number(cell, 'seeded')} | "
              f"{self.noise_spread(cell)} | {ce} | {tight} |")

    def stage(self, stage):
        cells = [cell for cell in self.match if cell[0] == stage]
        if stage in ("levels", "passes", "rest", "strings") and cells and REFERENCE in self.match:
            cells.append(REFERENCE)
        if not cells:
            return
        print(f"\n### {stage}\n\n| cell | seeds | zero noise | seeded noise | spread over noise seeds | valid CE (two: half way, at the end) | "
              "nats a token | rate_tight |\n|---|---:|---:|---:|---:|---:|---:|---:|")
        for cell in cells:
            self.line(cell)

    def pairs(self):
        print("\n### Paired differences, points of exact match, zero noise\n\n| A - B | seeds | difference [95 %] | p |")
        print("|---|---:|---:|---:|")
        for a, b in PAIRS:
            left, right = self.seeds(a), self.seeds(b)
            both = sorted(set(left) & set(right))
            if len(both) < 3:
                continue
            self.paired(f"{a[0]}: {a[1]} - {b[1]}", [left[seed] - right[seed] for seed in both])

    def paired(self, name, difference):
        error, freedom = deviation(difference) / math.sqrt(len(difference)), len(difference) - 1
        reach = t_bound(freedom) * error
        p = t_tail(mean(difference) / error, freedom) if error > 0 else float("nan")
        print(f"| {name} | {len(difference)} | {mean(difference):+.1f} [{mean(difference) - reach:+.1f}, "
              f"{mean(difference) + reach:+.1f}] | {p:.3f} |")

    def main_effects(self, stage, factors, pairs):
        """Of a factorial: two levels of a factor, each averaged over the other factors within a seed."""
        cells = {levels: self.seeds((stage, "-".join(levels))) for levels in itertools.product(*factors)}
        seeds = sorted(set.intersection(*(set(found) for found in cells.values())))
        if len(seeds) < 3:
            return
        print(f"\n### Main effects of {stage}, averaged over the other factors\n\n| A - B | seeds | difference [95 %] | p |")
        print("|---|---:|---:|---:|")
        for high, low in pairs:
            half = {level: {seed: mean([found[seed] for cell, found in cells.items() if level in cell]) for seed in seeds}
                    for level in (high, low)}
            self.paired(f"{high} - {low}", [half[high][seed] - half[low][seed] for seed in seeds])

    def swaps(self, rows, stage):
        print(f"\n### Answers of {stage} whose window's other pair was asked too, zero noise, all seeds\n\n| | questions | right | "
              "the other pair's value | of the wrong answers |\n|---|---:|---:|---:|---:|")
        for cell in (cell for cell in self.match if cell[0] == stage):
            of_cell = [row for row in rows if (row["stage"], row["cell"], row["noise"]) == (*cell, "zero")]
            count, right, swaps = (sum(int(row[key]) for row in of_cell) for key in ("beside", "beside_right", "beside_swapped"))
            print(f"| {cell[1]} | {count} | {100 * right / count:.1f} | {100 * swaps / count:.1f} | {100 * swaps / (count - right):.1f} |")

    def reached(self, stage, factor):
        """How many trainings of each level of a factor have solved the task, and how many are about where knowing the set is."""
        print(f"\n### Trainings of {stage}: at least 95 %, between, at most 35 % exact match\n\n| | trainings | 95 and more | between | "
              "35 and less |\n|---|---:|---:|---:|---:|")
        for level in factor:
            values = [v for cell in self.match if cell[0] == stage and level in cell[1].split("-") for v in self.seeds(cell).values()]
            if values:
                solved, stuck = sum(v >= 95 for v in values), sum(v <= 35 for v in values)
                print(f"| {level} | {len(values)} | {solved} | {len(values) - solved - stuck} | {stuck} |")

    def levels(self):
        for cell, found in self.match.items():
            steps = sorted((level for level in found if level != "own"), key=int)
            if steps:
                print(f"\n### {cell[1]}: read at step t of the schedule\n\n| t | zero noise | seeded noise |")
                print("|---:|---:|---:|")
                for t in steps:
                    print(f"| {t} | {self.number(cell, 'zero', t)} | {self.number(cell, 'seeded', t)} |")
                save_plot(os.path.join(HERE, "levels.svg"), [self.curve(cell, steps, noise) for noise in ("zero", "seeded")],
                          xlabel="step t of the schedule at which every latent is read", ylabel="exact match, %", ylim=(0, 60))

    def curve(self, cell, steps, noise):
        values = [list(self.seeds(cell, noise, t).values()) for t in steps]
        centre, spread = [mean(v) for v in values], [deviation(v) for v in values]
        return Group(f"{noise} noise", [int(t) for t in steps], centre, [c - s for c, s in zip(centre, spread)],
                     [c + s for c, s in zip(centre, spread)])


found = read_runs()
rows = kept_rows(found) + found
if not rows:
    sys.exit(f"error: {OUT}: no finished run (expected STAGE/CELL/SEED/done), and no results.csv")
rows.sort(key=lambda row: os.path.join(row["stage"], row["cell"], row["seed"], f"{row['level']}-{row['noise']}", ""))
with open(os.path.join(HERE, "results.csv"), "w", newline="") as file:
    out = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
longer_trainings(rows)
rows = settle(rows)
table, stages = Table(rows), dict.fromkeys(row["stage"] for row in rows)
for stage in stages:
    table.stage(stage)
table.pairs()
table.main_effects("denoising", (("vp", "none"), ("0.1", "0"), ("lsnr", "constant")),
                   (("vp", "none"), ("0.1", "0"), ("lsnr", "constant")))
SOURCES, POOLS, POSITIONS = ("embedding", "all"), ("concat", "attn", "mean_linear"), ("none", "rope", "offset")
for stage, positions in (("binding", POSITIONS), ("converged", POSITIONS), ("settled", POSITIONS), ("four", ("rope",))):
    if stage in stages:
        table.main_effects(stage, (SOURCES, POOLS, positions),
                           (("concat", "mean_linear"), ("attn", "mean_linear"), ("concat", "attn"), ("all", "embedding"),
                            *((position, "none") for position in positions[1:])))
        table.reached(stage, POOLS)
if "four" in stages:
    table.swaps(rows, "four")
table.levels()
