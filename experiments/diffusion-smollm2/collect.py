#!/usr/bin/env python3
"""README.md's tables from the run folders, as Markdown; writes nll.svg beside this file (needs matplotlib and numpy).

    experiments/diffusion-smollm2/collect.py [runs/diffusion-smollm2] [--save]

--save keeps the NLL of every question in nll/STAGE.csv beside this file, where answers were decoded their EM and F1 in em/ and f1/
(positions in the public sets and numbers, no text). Methods that stand there and not in the run folders come from there, so tables grow without training anything again.

Intervals: 95 %, percentiles of a bootstrap that draws contexts with replacement, in every set apart; the mean over sets leaves
NewsQA out (17 questions). Differences are over the same questions.
"""
import json
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from plots import Group, save_plot  # noqa: E402  (says what to install)
from bootstrap import interval, mean_of, minus, seeds_interval  # noqa: E402
from records import keep, kept, read_records, with_metric  # noqa: E402

SAVE = "--save" in sys.argv
OUT = next((arg for arg in sys.argv[1:] if not arg.startswith("--")), "runs/diffusion-smollm2")
STARTS = ["random", "pca", "pca_first", "pca_first-576", "residual", "mean_pool-none", "mean_pool-mean", "mean_pool-first"]
COMPRESSORS = ["diffusion", "no-channel", "progressive", "progressive-window", "comprexit", "mean_pool", "icae", "500x", "sac"]
VARIANTS = ["diffusion-576", "diffusion-residual", "progressive-residual", "diffusion-kd", "behind-diffusion", "behind-progressive", "behind-mean_pool",
            "behind-diffusion-residual"]
REFERENCES = ["prompt-none", "prompt-head", "prompt-tail", "prompt-full", "bm25-prompt-full"]
MAIN = "-42-1e-3"  # the seed and the learning rate of the main table
NOT_AVERAGED = {"newsqa"}
DRAWS = ["none", "1", "2", "3", "4", "5"]  # of the channel's noise
NOISY_STAGES = {"squad": "SQuAD", "sets": "six sets", "wider": "contexts of 256 tokens", "text": "plain text",
                "foreign": "SQuAD behind the memory of another passage"}


def log_of(run):
    path = os.path.join(OUT, run, "log.jsonl")
    return [json.loads(line) for line in open(path)] if os.path.exists(path) else []


def parameters(run):
    """Numbers in the last checkpoint, from the header of its file."""
    folder = os.path.join(OUT, run, "checkpoints")
    path = os.path.join(folder, sorted(os.listdir(folder))[-1], "trainable.safetensors")
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    count = 0
    for name, tensor in header.items():
        size = 1
        for dim in tensor.get("shape", [0]):
            size *= dim
        count += 0 if name == "__metadata__" or name.startswith("moments.") else size
    return count


def table(rows):
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "|".join(["---"] + ["---:"] * (len(rows[0]) - 1)) + "|")
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    print()


def valid_terms(run):
    return [row["valid_terms"] for row in log_of(run) if "valid_terms" in row]


def valid_ce(run):
    return [terms["ce"] for terms in valid_terms(run)]


def arithmetic(method, ratio):
    """GFLOP of a step as stage plans has them, or nothing."""
    path = os.path.join(OUT, "plans", f"{method}-{ratio}.txt")
    found = re.search(r"^arithmetic: ([0-9.]+) ([GT])FLOP", open(path).read(), re.M) if os.path.exists(path) else None
    return f"{float(found[1]) * (1000 if found[2] == 'T' else 1):.0f}" if found else ""


def starts():
    rows = [["start", "cross-entropy"]]
    rows += [[name, f"{valid_ce('start-' + name)[-1]:.3f}"] for name in STARTS if valid_ce("start-" + name)]
    table(rows)


def trained(name):
    return os.path.exists(os.path.join(OUT, name, "trained"))


def trainings():
    rows = [["run (seed, learning rate)", "parameters", "steps", "GFLOP a step", "s a step", "rate, nats a token", "cross-entropy"]]

    def add(run, shown, method, ratio="4x"):
        if not trained(run):
            return
        rate = valid_terms(run)[-1].get("rate_nats_per_token")
        steps = [row for row in log_of(run) if "seconds" in row]
        seconds = sorted(row["seconds"] for row in steps)
        rows.append([shown, f"{parameters(run):,}", str(len(steps)), arithmetic(method, ratio),
                     f"{seconds[len(seconds) // 2]:.1f}", "" if rate is None else f"{rate:.0f}", f"{valid_ce(run)[-1]:.3f}"])

    for method in COMPRESSORS + VARIANTS + [name for name in REFERENCES if not name.startswith("bm25")]:
        for seed in (42, 43, 44):
            for rate in ("3e-4", "1e-3", "3e-3"):
                add(f"{method}-{seed}-{rate}", f"{method} ({seed}, {rate})", method)
        for ratio in ("8x", "16x"):
            add(f"{method}-{ratio}", f"{method} (42, 1e-3){', then' if method in COMPRESSORS else ''} {ratio}", method, ratio)
        add(f"{method}-600", f"{method} (42, 1e-3)", method)
        add(f"{method}-256", f"{method} (42, 1e-3), then 256 tokens", method, "wider")
    table(rows)


def averaged(sets):
    return {name: clusters for name, clusters in sets.items() if name not in NOT_AVERAGED}


def cell(values, digits):
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*values, d=digits)


def label(method, results):
    """What a method is called in tables: the run's name, without seed and rate where they are those of the main table."""
    if method in ("checkpoint", "foreign"):
        run = results["checkpoint"].split("/checkpoints/")[0].rstrip("/").rsplit("/", 1)[-1]
        method = run if method == "checkpoint" else "foreign-" + run
    return method.replace(MAIN, "")


def measured(folder, of="squad"):
    """{label: {set: clusters}} of the methods that all sets have, {label: vectors read on the set `of`}, names of the sets."""
    found, vectors = kept(folder)
    path = os.path.join(OUT, folder)
    if os.path.exists(os.path.join(path, "results.json")):
        results, fresh = read_records(path)
        whole = {label(method, results): fresh[method] for method in results["methods"] if len(fresh[method]) == len(results["sets"])}
        found = joined(found, whole)
        for entry in results["entries"]:
            if entry["set"] == of:
                vectors[label(entry["method"], results)] = entry["vectors_read"]
        if SAVE:
            keep(folder, found, vectors)
    return found, vectors, list(next(iter(found.values()))) if found else []


def joined(before, fresh):
    """What was kept and what was measured now; methods that were kept of other questions are not comparable and left out."""
    asked = [shape(sets) for sets in fresh.values()][:1]
    return {**{method: sets for method, sets in before.items() if not asked or [shape(sets)] == asked}, **fresh}


def shape(sets):
    """Which questions: {set: {passage: how many}}."""
    return {name: {passage: len(questions) for passage, questions in clusters.items()} for name, clusters in sets.items()}


def questions(found, name):
    """How many of a set."""
    return sum(map(len, next(iter(found.values()))[name].values()))


def against_references(folder, title, suffix=""):
    """Methods of the stage (their names without `suffix`) beside the references, then what of it is the passage; the methods.

    References that the stage did not ask are those of the stage squad, of the same questions.
    """
    found, cost, _ = measured(folder)
    if not found:
        return {}
    found, cost = ({name.removesuffix(suffix): value for name, value in each.items()} for each in (found, cost))
    asked, asked_cost = (found, cost) if folder == "squad" else measured("squad")[:2]
    for name in REFERENCES:
        if name in asked and name not in found and shape(asked[name]) == shape(next(iter(found.values()))):
            found[name], cost[name] = asked[name], asked_cost[name]
    print(f"### {title}, {questions(found, 'squad')} questions: NLL of the first accepted answer, nats a token\n")
    compared(found, cost)
    return found


def rows_of(found):
    """(method, sets) as the tables order them: compressors, their variants, what has no place of its own, references."""
    places = {method: place for place, methods in enumerate((COMPRESSORS, VARIANTS, [], REFERENCES)) for method in methods}
    return sorted(found.items(), key=lambda row: places.get(row[0], 2))  # stable: otherwise as they were measured


def compared(found, cost, vectors="vectors"):
    """NLL beside that of every reference; then own and foreign memories."""
    references = [name for name in REFERENCES if name in found]
    rows = [["", vectors, "NLL"] + [f"minus {name}" for name in references]]
    for method, sets in rows_of(found):
        gaps = ["" if method in REFERENCES else cell(interval(minus(sets, found[name]), 2), 3) for name in references]
        rows.append([method, f"{cost[method]:.1f}", cell(interval(sets, 2), 3)] + gaps)
    table(rows)
    foreign(found)


def foreign(found):
    """A memory beside that of another passage of the set: what is the form of the set, and what the passage."""
    rows = [["", "own passage", "another passage", "content: another minus own", "form: prompt-none minus another"]]
    for method, sets in found.items():
        other = found.get("foreign-" + method)
        if other and "prompt-none" in found:
            rows.append([method] + [cell(interval(each, 2), 3) for each in (sets, other, minus(other, sets), minus(found["prompt-none"], other))])
    if len(rows) > 1:
        table(rows)


def seeds_of(found, method):
    """{seed: sets}"""
    names = {42: method, **{seed: f"{method}-{seed}-1e-3" for seed in (43, 44)}}
    return {seed: found[name] for seed, name in names.items() if name in found}


def several_seeds(found, title):
    """Methods that were trained from more than one seed; differences are paired by seed and question."""
    if not found:
        return
    print(f"### {title} over seeds (trainings and contexts drawn)\n")
    rows = [["", "seeds", "NLL of each", "NLL", "minus prompt-none", "minus prompt-head", "minus no-channel"]]
    for method in COMPRESSORS:
        runs = seeds_of(found, method)
        if len(runs) < 2:
            continue
        row = [method, ", ".join(map(str, runs)), ", ".join(f"{interval(sets, 2)[0]:.3f}" for sets in runs.values()),
               cell(seeds_interval(list(runs.values()), 2), 3)]
        for name in ("prompt-none", "prompt-head"):
            row.append("" if name not in found else cell(seeds_interval([minus(sets, found[name]) for sets in runs.values()], 2), 3))
        others = seeds_of(found, "no-channel")
        gaps = [minus(sets, others[seed]) for seed, sets in runs.items() if seed in others]
        each = ", ".join(f"{interval(gap, 2)[0]:+.3f}" for gap in gaps)
        row.append("" if method == "no-channel" or not gaps else f"{cell(seeds_interval(gaps, 2), 3)} ({each})")
        rows.append(row)
    table(rows)


def first_questions(sets, asked):
    """Those of `sets` that `asked` has: the first of each set."""
    return {name: {passage: sets[name][passage][:len(rows)] for passage, rows in clusters.items()} for name, clusters in asked.items()}


def spread():
    """Seed 42 and the references are those of the stage sets, which has these questions and more."""
    found = measured("spread")[0]
    if found:
        asked = next(iter(found.values()))
        found.update({method: first_questions(sets, asked) for method, sets in measured("sets")[0].items()})
    several_seeds({method: averaged(sets) for method, sets in found.items()}, "Five sets")


def wider():
    """Two sets, contexts of 256 tokens: METHOD-256 was trained on them, METHOD on 128; what reads no context is that of the stage sets."""
    found, cost, names = measured("wider")
    found, cost = ({name.removesuffix("-256") if name.startswith("prompt") else name: value for name, value in each.items()}
                   for each in (found, cost))
    asked, asked_cost, _ = measured("sets")
    for name in names:
        one = {method: {name: sets[name]} for method, sets in found.items()}
        blind = {name: asked["prompt-none"][name]}
        if "prompt-none" not in one and shape(blind) == shape(next(iter(one.values()))):
            one["prompt-none"], cost["prompt-none"] = blind, asked_cost["prompt-none"]
        print(f"### Contexts of 256 tokens, {name}, {questions(one, name)} questions: NLL of the first accepted answer, nats a token\n")
        compared(one, cost, "vectors (SQuAD)")


def text():
    found, _, names = measured("text", of="wikitext2")
    if not found:
        return
    print("### Plain text at 4x: NLL of the 32 tokens that follow, nats a token\n")
    counts = {name: questions(found, name) for name in names}
    rows = [[""] + [column for name in names for column in (f"{name} (n={counts[name]})", "minus truncate_tail")]]
    for method, sets in found.items():
        row = [method]
        for name in names:
            gap = minus({name: sets[name]}, {name: found["truncate_tail"][name]})
            row += [cell(interval({name: sets[name]}, 2), 3), "" if method == "truncate_tail" else cell(interval(gap, 2), 3)]
        rows.append(row)
    table(rows)


def per_set(found, cost, names, metric, title, digits):
    counts = ", ".join(f"{name} {questions(found, name)}" for name in names)
    print(f"### Six sets: {title} ({counts} questions)\n")
    rows = [["", "vectors (SQuAD)"] + names + ["mean"]]
    for method, sets in rows_of(found):
        shown = [cell(interval({name: sets[name]}, metric), digits) for name in names]
        rows.append([method, f"{cost[method]:.1f}"] + shown + [cell(interval(averaged(sets), metric), digits)])
    table(rows)


def minus_references(found, metric, title, digits):
    references = [name for name in REFERENCES if name in found]
    rows = [[title] + references]
    for method in COMPRESSORS + VARIANTS:
        if method in found:
            rows.append([method] + [cell(interval(averaged(minus(found[method], found[name])), metric), digits) for name in references])
    table(rows)


def six_sets():
    found, cost, names = measured("sets")
    if not found:
        return
    per_set(found, cost, names, 2, "NLL of the first accepted answer, nats a token", 3)
    plot(found, cost)
    print("### Six sets: a compressor minus a reference, mean over sets\n")
    minus_references(found, 2, "NLL, nats a token", 3)
    print("### Six sets: one compressor minus another, mean over sets\n")
    rows = [["NLL, nats a token", "diffusion minus it", "progressive minus it"]]
    for method in COMPRESSORS + VARIANTS:
        if method in found:
            rows.append([method] + ["" if one == method else cell(interval(averaged(minus(found[one], found[method])), 2), 3)
                                    for one in ("diffusion", "progressive")])
    table(rows)
    found = with_metric(found, 1)
    if found:
        for metric, title in ((1, "F1, percent"), (0, "Exact match, percent")):
            per_set(found, cost, names, metric, title, 1)
        minus_references(found, 1, "F1, points", 1)


def plot(found, cost):
    """Mean NLL against the vectors read: trained virtual tokens before more and more of the text, and what else reads as many."""
    def group(name, methods):
        points = [interval(averaged(found[method]), 2) for method in methods]
        return Group(name, [cost[method] for method in methods], *map(list, zip(*points)))
    lines = [("virtual tokens; none, head, all", ["prompt-none", "prompt-head", "prompt-full"]), ("virtual tokens, BM25", ["bm25-prompt-full"])]
    lines += [(method, [method]) for method in ("diffusion", "diffusion-residual", "progressive", "comprexit", "mean_pool", "500x")]
    save_plot(os.path.join(HERE, "nll.svg"), [group(name, methods) for name, methods in lines if all(m in found for m in methods)],
              xlabel="vectors read, the head excepted (SQuAD)", ylabel="NLL of the answer, nats a token")


def noise(stage):
    """Diffusion with the noise of its channel beside without."""
    found, vectors = kept("noise-" + stage)
    fresh = {}
    folder = os.path.join(OUT, "noise", stage)
    for run in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        drawn = [os.path.join(folder, run, draw) for draw in DRAWS]
        if all(os.path.exists(os.path.join(path, "results.json")) for path in drawn):
            read = [read_records(path) for path in drawn]
            if not all(results["complete"] for results, _ in read):
                continue
            for draw, (results, records) in zip(DRAWS, read):
                fresh[f"{run} {draw}"] = records[results["methods"][0]]
                vectors[f"{run} {draw}"] = results["entries"][0]["vectors_read"]
    found = joined(found, fresh)
    if not found:
        return
    if SAVE:
        keep("noise-" + stage, found, vectors)
    for metric, what, digits in ((2, "NLL in nats a token", 3), (1, "F1 in percent", 1), (0, "exact match in percent", 1)):
        drawn = with_metric(found, metric)
        if drawn:
            print(f"### Noise of the channel: {NOISY_STAGES[stage]}, {what}\n")
            noise_table(drawn, metric, digits)


def noise_table(found, metric, digits):
    """The mean of five draws beside no noise, and the lowest and the highest of them; differences with one more digit."""
    rows = [["", "set", "n", "no noise", "mean of five draws", "mean minus none", "each minus none, lowest and highest"]]

    def add(run, name, count, quiet, noisy):
        gaps = [minus(sets, quiet) for sets in noisy]
        each = [interval(gap, metric)[0] for gap in gaps]
        rows.append([run.replace(MAIN, ""), name, count, cell(interval(quiet, metric), digits), cell(interval(mean_of(noisy), metric), digits),
                     cell(interval(mean_of(gaps), metric), digits + 1), f"{min(each):+.{digits + 1}f}, {max(each):+.{digits + 1}f}"])

    for run in dict.fromkeys(method.rsplit(" ", 1)[0] for method in found):
        quiet, *noisy = [found[f"{run} {draw}"] for draw in DRAWS]
        for name in quiet:
            add(run, name, str(questions({run: quiet}, name)), {name: quiet[name]}, [{name: sets[name]} for sets in noisy])
        if len(averaged(quiet)) > 2:
            add(run, "mean", "", averaged(quiet), [averaged(sets) for sets in noisy])
    table(rows)


if __name__ == "__main__":
    print("### Where slots start\n")
    starts()
    print("### Training\n")
    trainings()
    several_seeds(against_references("squad", "SQuAD"), "SQuAD")
    against_references("starts", "SQuAD before the first step")
    against_references("eight", "SQuAD at 8x", "-8x")
    against_references("sixteen", "SQuAD at 16x", "-16x")
    against_references("longer", "SQuAD, 600 steps", "-600")
    against_references("form", "SQuAD, variants")
    wider()
    text()
    six_sets()
    spread()
    for stage in NOISY_STAGES:
        noise(stage)
