"""What collect.py measures with: evaluations read back, accuracy per cell with its bootstrap, memory at equal quality."""
import glob
import json
import os
import re
import statistics

import numpy as np

RESAMPLES = 2000
T_BOUND = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # two-sided 5 % of Student's t by degrees of freedom
BF16 = 0.5  # ctxc-eval counts the float32 numbers it ran with; two bytes are what a cache holds them in


class Run:
    """One evaluation: its entry of results.json and its questions, grouped by row of pairs."""

    def __init__(self, folder):
        self.stage, self.cell, self.seed, self.noise = folder.split(os.sep)[-4:]
        self.entry = json.load(open(os.path.join(folder, "results.json")))["entries"][0]
        self.records = [json.loads(line) for path in glob.glob(os.path.join(folder, "records", "*.jsonl")) for line in open(path)]
        self.bytes = self.entry["kv_bytes_per_context"] * BF16

    def grouped(self, value, cells=1, cell=lambda record: 0):
        """Sums of `value` and counts, [contexts, cells]; contexts in the order of their number."""
        order = {context: i for i, context in enumerate(sorted({record["context"] for record in self.records}))}
        sums, counts = np.zeros((len(order), cells)), np.zeros((len(order), cells))
        for record in self.records:
            at = order[record["context"]], cell(record)
            sums[at] += value(record)
            counts[at] += 1
        return sums, counts


def right(record):
    return 100 * record["exact_match"]


def depth(record):
    """(pairs before the one that answers, pairs of the row): the generator wrote it into the id."""
    return tuple(map(int, re.search(r"@depth=(\d+)/(\d+)$", record["qid"]).groups()))


def record_age(record):
    before, pairs = depth(record)
    return pairs - 1 - before


class Curve:
    """Means per cell over seeds, and the same of every resample (seeds and contexts drawn again)."""

    def __init__(self, runs, cells, cell):
        of_seed = {}
        for run in runs:  # those of one trained seed (noise seeds) are no seeds of their own
            of_seed.setdefault(run.seed, []).append(run.grouped(right, cells, cell))
        sums, counts = (np.stack([sum(found[part] for found in runs_of) for runs_of in of_seed.values()])
                        for part in (0, 1))  # [seeds, contexts, cells]
        self.counts = counts[0].sum(0)
        self.mean = sums.sum((0, 1)) / np.maximum(1, counts.sum((0, 1)))
        draw = np.random.default_rng(1)
        seeds, contexts = len(of_seed), sums.shape[1]
        drawn = draw.multinomial(contexts, np.full(contexts, 1 / contexts), RESAMPLES)  # [resamples, contexts]
        chosen = draw.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
        self.resampled = (np.einsum("bs,bc,scd->bd", chosen, drawn, sums, optimize=True) /
                          np.maximum(1, np.einsum("bs,bc,scd->bd", chosen, drawn, counts, optimize=True)))

    def interval(self, of=lambda curve: curve):
        """`of` a curve, [..., cells] -> [...], with the ends of its interval."""
        return of(self.mean), *np.percentile(of(self.resampled), [2.5, 97.5], axis=0)


def number(value, low, high, sign=""):
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


class Window:
    """Bytes a sliding window needs for a quality: piecewise linear through its widths, made monotone by a running best."""

    def __init__(self, points):
        self.bytes, self.quality = map(np.array, zip(*sorted(points)))
        self.quality = np.maximum.accumulate(self.quality)

    def bytes_for(self, quality):
        """None where the curve does not come to this quality: no iso-quality point."""
        if not self.quality[0] <= quality <= self.quality[-1]:
            return None
        after = int(np.argmax(self.quality >= quality))
        if after == 0:
            return float(self.bytes[0])
        low, high = self.quality[after - 1], self.quality[after]
        share = (quality - low) / (high - low)
        return float(self.bytes[after - 1] + share * (self.bytes[after] - self.bytes[after - 1]))

    def at_bytes(self, size):
        return float(np.interp(size, self.bytes, self.quality))


def saving(window, quality, size):
    needed = window.bytes_for(quality)
    return 100 * (1 - size / needed) if needed else None


def saving_text(savings):
    """Mean and t interval over seeds; what is missing has no point of equal quality."""
    values = [value for value in savings if value is not None]
    if len(values) < len(savings) or not values:
        return f"no iso-quality point in {len(savings) - len(values)} of {len(savings)} seeds"
    if len(values) == 1:
        return f"{values[0]:.0f} %"
    reach = T_BOUND[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.0f} % [{statistics.mean(values) - reach:.0f}, {statistics.mean(values) + reach:.0f}]"


def quality_of(run, metric, drawn=None):
    """Mean over questions, contexts weighted by `drawn`; higher is better."""
    value = right if metric == "exact match" else lambda record: -record["nll"]
    sums, counts = run.grouped(value)
    drawn = np.ones(len(sums)) if drawn is None else drawn
    return float((drawn @ sums).item() / (drawn @ counts).item())
