"""Tables of OUT/measured.jsonl (ctxc-run measure) and OUT/METHOD/contexts.jsonl, with 95 % intervals of a bootstrap over
contexts, paired where two things are compared; gates first. Exit code 1 where a gate fails.

usage: collect.py OUT
"""
import json
import pathlib
import random
import sys

NAMES = {"lora": "lcc"}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values, draws=2000):
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def cell(values):
    low, high = interval(values)
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def gates(rows, methods):
    """[(gate, holds, what was found)]"""
    exact = max(row["methods"]["exact"]["kl"] for row in rows)
    yield "the exact keys and values of the context as a memory: KL < 1e-5", exact < 1e-5, f"{exact:.1e}"
    for method in methods:
        # Not above no context: an interval of (foreign - none) below 0 would say that it answers.
        name = NAMES.get(method, method)
        for number in ("nll", "kl"):
            gain = [row["none"][number] - row["foreign"][method][number] for row in rows]
            yield (f"another context's memory is not above no context: {name}, {number.upper()} none - foreign",
                   interval(gain)[0] <= 0, cell(gain))


def main(out):
    rows = lines(out / "measured.jsonl")
    methods = [name for name in rows[0]["methods"] if name != "exact"]
    slots = sum(row["methods"][methods[0]]["slots"] for row in rows) / len(rows)
    print(f"{len(rows)} contexts, {sum(row['questions'] for row in rows)} questions, "
          f"{sum(row['tokens'] for row in rows) / len(rows):.0f} tokens and {slots:.1f} slots in the mean\n")
    print("| gate | holds | found |\n|---|---|---|")
    failed = False
    for gate, holds, found in gates(rows, methods):
        failed |= not holds
        print(f"| {gate} | {'yes' if holds else 'NO'} | {found} |")
    print("\n| memory | KL to the full context | NLL of the answer | NLL none - memory | NLL foreign - memory | seconds | steps "
          "| recon |\n|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in ("full", "none", *methods):
        numbers = [row["methods"][name] if name in methods else row[name] for row in rows]
        gain = [row["none"]["nll"] - number["nll"] for row, number in zip(rows, numbers)]
        cost = [""] * 4
        if name in methods:
            metrics = [line["metrics"] for line in lines(out / name / "contexts.jsonl")]
            wall, steps, recon = (sum(m[key] for m in metrics) / len(metrics) for key in ("seconds", "steps", "recon_token_acc"))
            foreign = [row["foreign"][name]["nll"] - row["methods"][name]["nll"] for row in rows]
            cost = [cell(foreign), f"{wall:.0f}", f"{steps:.0f}", f"{100 * recon:.0f} %"]
        print(f"| {NAMES.get(name, name)} | {cell([n['kl'] for n in numbers])} | {cell([n['nll'] for n in numbers])} | "
              f"{cell(gain)} | {' | '.join(cost)} |")
    return 1 if failed else 0


sys.exit(main(pathlib.Path(sys.argv[1])))
