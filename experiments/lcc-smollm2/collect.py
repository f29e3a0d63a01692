"""Tables of what run.sh measured in OUT (STAGE/measured.jsonl of ctxc-run measure, RUN/contexts.jsonl of the compiles), with
95 % intervals of a bootstrap over contexts, paired where two things are compared; gates first. Exit code 1 where a gate
fails.

usage: collect.py OUT [--plot] [--save]
  --plot   also writes course.svg beside this file (needs matplotlib)
  --save   also keeps the numbers of every context in measured/ beside this file, which can stand in for OUT (all but the
           course of a compile); ids and numbers, no text
"""
import json
import pathlib
import random
import sys

NAMES = {"lora": "lcc", "lora-4x": "lcc 4x", "lora-16x": "lcc 16x", "truncate-4x": "truncate 4x", "truncate-16x": "truncate 16x",
         "lora-long": "lcc, 600 steps", "lora-continued": "lcc, 8 continuations", "warm-4x": "lcc 4x from ComprExIT's slots", "comprexit-4x": "ComprExIT 4x",
         "comprexit-8x": "ComprExIT 8x"}
STAGES = {"main": "Methods at 8x", "ablations": "Ablations of lcc at 8x", "ratios": "Ratios (without a number: 8x)",
          "books": "Books at 8x: the 64 tokens that follow the context", "long": "The steps of the preset at 8x",
          "nq": "NaturalQuestions at 8x", "wide": "Contexts of 300 to 700 words at 8x",
          "deep": "Pages of TriviaQA of 700 to 750 words at 8x", "deep-books": "Passages of books of 720 words at 8x"}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values, draws=2000):
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def cell(values, scale=1.0, digits=3):
    values = [scale * value for value in values]
    low, high = interval(values)
    return f"{sum(values) / len(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def name_of(method):
    return NAMES.get(method, method)


def gates(out, stage, rows, methods):
    """[(gate, holds, what was found)]"""
    exact = out / stage / "exact.jsonl"
    if exact.exists():
        kls = [row["methods"]["exact"]["kl"] for row in lines(exact)]
        yield f"the exact keys and values of the context as a memory ({len(kls)} contexts): KL < 1e-5", max(kls) < 1e-5, f"{max(kls):.1e}"
    for method in methods:
        # Not above no context: an interval of (foreign - none) below 0 would say that it answers.
        for number in ("nll", "kl"):
            gain = [row["none"][number] - row["foreign"][method][number] for row in rows]
            yield (f"another context's memory is not above no context: {name_of(method)}, {number.upper()} none - foreign",
                   interval(gain)[0] <= 0, cell(gain))


def compiles(out, stage, method, rows):
    """Metrics of the compiles behind these rows; a context that was compiled again counts once."""
    for folder in (stage, "main"):
        path = out / folder / method / "contexts.jsonl"
        if path.exists():
            found = {line["context"]: line["metrics"] for line in lines(path)}
            return [found[row["context"]] for row in rows if row["context"] in found]
    return []


def mean(metrics, *keys):
    values = []
    for value in metrics:
        for key in keys:
            value = value.get(key, {})
        values.append(value)
    return sum(values) / len(values)


def table(out, stage, rows, methods):
    answered = "em" in rows[0]["full"]
    header = ["memory", "slots", "KL to the full context", "NLL", "NLL none - memory", "NLL foreign - memory"]
    header += ["EM %", "F1 %"] if answered else []
    general = "general_kl" in rows[0]["full"]
    header += ["general KL", "from no context", "agreement %"] if general else []
    header += ["steps", "seconds", "recon %"]
    print(f"\n| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}")
    for name in ("full", "none", *methods):
        numbers = [row["methods"][name] if name in methods else row[name] for row in rows]
        slots = f"{sum(n['slots'] for n in numbers) / len(numbers):.1f}" if name in methods else ""
        foreign = ""
        if name in methods and all("foreign" in row for row in rows):
            foreign = cell([row["foreign"][name]["nll"] - n["nll"] for row, n in zip(rows, numbers)])
        cells = [name_of(name), slots, cell([n["kl"] for n in numbers]), cell([n["nll"] for n in numbers]),
                 cell([row["none"]["nll"] - n["nll"] for row, n in zip(rows, numbers)]), foreign]
        if answered:
            cells += [cell([n[score] for n in numbers], 100, 1) for score in ("em", "f1")]
        if general:
            cells += [cell([n[key] for n in numbers]) for key in ("general_kl", "general_kl_none")]
            cells.append(cell([n["general_agreement"] for n in numbers], 100, 1))
        metrics = compiles(out, stage, name, rows) if name in methods else []
        cells += [f"{mean(metrics, 'steps'):.0f}", f"{mean(metrics, 'seconds'):.0f}",
                  f"{100 * mean(metrics, 'recon_token_acc'):.0f}"] if metrics else [""] * 3
        print(f"| {' | '.join(cells)} |")
    if answered:
        gain = [100 * (row["full"]["f1"] - row["none"]["f1"]) for row in rows]
        low = interval(gain)[0]
        print(f"\nF1 full - none: {cell(gain, digits=1)} points" + ("; retention is not printed." if low <= 5 else "."))
        if low > 5:
            whole = sum(gain)
            shares = [f"{name_of(m)} {100 * sum(100 * (r['methods'][m]['f1'] - r['none']['f1']) for r in rows) / whole:.0f} %"
                      for m in methods]
            print(f"Retention in F1, (memory - none) / (full - none): {', '.join(shares)}.")


def pairs_of(methods):
    """lcc against everything, lcc with continuations against everything, each ratio against truncation there, the warm start."""
    wanted = [(name, other) for name in ("lora", "lora-continued") for other in methods]
    wanted += [("lora-4x", "truncate-4x"), ("lora-16x", "truncate-16x"), ("warm-4x", "lora-4x")]
    found = []
    for one, other in wanted:
        if one in methods and other in methods and one != other and (other, one) not in found:
            found.append((one, other))
    return found


def paired(rows, methods):
    """Two memories of the same contexts; in KL and NLL less is better."""
    pairs = pairs_of(methods)
    if not pairs:
        return
    answered = "f1" in rows[0]["full"]
    print(f"\n| paired | KL | NLL |{' F1, points |' if answered else ''}\n|---|---:|---:|{'---:|' if answered else ''}")
    for one, other in pairs:
        gaps = [cell([row["methods"][one][key] - row["methods"][other][key] for row in rows]) for key in ("kl", "nll")]
        if answered:
            gaps.append(cell([row["methods"][one]["f1"] - row["methods"][other]["f1"] for row in rows], 100, 1))
        print(f"| {name_of(one)} - {name_of(other)} | {' | '.join(gaps)} |")


def states(out, stage, rows, methods):
    """The state that the rule chose beside the last one, in the two numbers of a compile."""
    print("\n| compile | chosen step | held-out KL | NLL of the probes | last step | held-out KL | NLL of the probes |")
    print(f"|---|{'---:|' * 6}")
    for name in methods:
        metrics = compiles(out, stage, name, rows)
        if metrics and "last" in metrics[0]:
            print(f"| {name_of(name)} | {mean(metrics, 'chosen_step'):.0f} | {mean(metrics, 'heldout_kl'):.3f} | "
                  f"{mean(metrics, 'probe_nll'):.3f} | {mean(metrics, 'last', 'step'):.0f} | "
                  f"{mean(metrics, 'last', 'heldout_kl'):.3f} | {mean(metrics, 'last', 'probe_nll'):.3f} |")


def course(out, stage, methods, plot=False):
    """What a compile had reached after so many steps and seconds of optimisation (teacher and checks not counted)."""
    found = {}
    for method in methods:
        path = out / stage / method / "log.jsonl"
        points, spent = {}, {}
        for row in lines(path) if path.exists() else []:
            if "seconds" in row:
                spent[row["context"]] = spent.get(row["context"], 0) + row["seconds"]
            elif "probe_nll" in row:
                points.setdefault(row["step"], []).append((spent.get(row["context"], 0), row["heldout_kl"], row["probe_nll"]))
        if points:
            # Compiles that stopped by themselves are not behind the later points: those of all contexts only.
            most = max(map(len, points.values()))
            found[method] = {step: [sum(column) / most for column in zip(*rows)]
                             for step, rows in sorted(points.items()) if len(rows) == most}
    if not found:
        return
    print(f"## In the course of a compile (contexts of {stage})\n")
    print("| method | step | seconds of steps | KL on unseen random queries | NLL of the probes |\n|---|---:|---:|---:|---:|")
    for method, points in found.items():
        for step, (seconds, kl, nll) in points.items():
            print(f"| {name_of(method)} | {step} | {seconds:.0f} | {kl:.3f} | {nll:.3f} |")
    print()
    if plot and "--plot" in sys.argv:
        here = pathlib.Path(__file__).resolve().parent
        sys.path.insert(0, str(here.parent))
        from plots import Group, save_plot  # says what to install
        groups = [Group(name_of(method), *([row[i] for row in points.values()] for i in (0, 2))) for method, points in found.items()]
        save_plot(str(here / "course.svg"), groups, xlabel="seconds of steps a context", ylabel="NLL of the probes, nats a token")


def warm(out):
    """Direct keys and values from two starts, on the contexts that both have."""
    found = {}
    for name in ("kv", "kv-warm"):
        path = out / "main" / name / "contexts.jsonl"
        if not path.exists():
            return
        found[name] = {line["context"]: line["metrics"] for line in lines(path)}
    contexts = [context for context in found["kv"] if context in found["kv-warm"]]
    if "--save" in sys.argv:
        keep_metrics(found["kv-warm"], pathlib.Path("main") / "kv-warm", contexts, out)
    print(f"## Direct keys and values from 500x's: {len(contexts)} contexts\n")
    print("| start | untrained: KL on unseen queries | NLL of the probes | chosen state: KL | NLL | last: KL | NLL |")
    print(f"|---|{'---:|' * 6}")
    for name, shown in (("kv", "buffers at tokens of the text"), ("kv-warm", "500x's keys and values")):
        metrics = [found[name][context] for context in contexts]
        values = [mean(metrics, *place, key) for place in (("untrained",), (), ("last",)) for key in ("heldout_kl", "probe_nll")]
        print(f"| {shown} | {' | '.join(f'{value:.3f}' for value in values)} |")
    print()


def sweep(out):
    """Learning rates on the contexts of stage sweep, as factors of the preset's."""
    path = out / "sweep" / "measured.jsonl"
    if not path.exists():
        return
    rows = lines(path)
    print(f"## Learning rates: {len(rows)} contexts of the training split, 60 steps\n")
    print("| method and factor | KL to the full context | NLL | KL on unseen random queries | NLL of the probes |\n|---|---:|---:|---:|---:|")
    for name in rows[0]["methods"]:
        metrics = compiles(out, "sweep", name, rows)
        numbers = [row["methods"][name] for row in rows]
        average = [sum(n[key] for n in numbers) / len(rows) for key in ("kl", "nll")]
        last = [mean(metrics, "last", key) for key in ("heldout_kl", "probe_nll")]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in average + last)} |")
    print()


KEPT = pathlib.Path(__file__).resolve().parent / "measured"


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def keep_metrics(found, folder, contexts, out):
    """Numbers of the compiles of these contexts, {context: metrics}, without texts and paths."""
    keys = ("steps", "seconds", "recon_token_acc", "chosen_step", "heldout_kl", "probe_nll", "untrained", "last")
    if KEPT.resolve() != out.resolve():
        write(KEPT / folder / "contexts.jsonl",
              [{"context": context, "metrics": {key: found[context][key] for key in keys}} for context in contexts if context in found])


def save(out, stage, stem, rows, methods):
    if KEPT.resolve() == out.resolve():
        return
    write(KEPT / stage / f"{stem}.jsonl", rows)
    for method in methods:
        found = {row["context"]: compiles(out, stage, method, [row]) for row in rows}
        keep_metrics({context: metrics[0] for context, metrics in found.items() if metrics}, pathlib.Path(stage) / method, list(found), out)


def report(out, stage, path):
    rows = lines(path)
    methods = list(rows[0]["methods"])
    if "--save" in sys.argv:
        save(out, stage, path.stem, rows, methods)
    print(f"## {STAGES[stage]}{'' if path.stem == 'measured' else ': ' + path.stem}\n")
    asked = sum(row["questions"] for row in rows)
    print(f"{len(rows)} contexts, {f'{asked} questions, ' if asked else ''}"
          f"{sum(row['tokens'] for row in rows) / len(rows):.0f} tokens in the mean\n")
    failed = False
    if stage in ("main", "books"):
        print("| gate | holds | found |\n|---|---|---|")
        for gate, holds, found in gates(out, stage, rows, methods):
            failed |= not holds
            print(f"| {gate} | {'yes' if holds else 'NO'} | {found} |")
    table(out, stage, rows, methods)
    paired(rows, methods)
    if stage == "ablations":
        states(out, stage, rows, methods)
    print()
    return failed


def main(out):
    sweep(out)
    warm(out)
    course(out, "main", ("lora", "buffers", "kv"), plot=True)
    course(out, "ratios", ("lora-4x", "warm-4x", "lora-16x"))
    failed = [report(out, stage, path) for stage in STAGES for path in sorted((out / stage).glob("*.jsonl"))
              if path.stem in ("measured", "comprexit")]
    for path in sorted(out.glob("*/exact.jsonl")) if "--save" in sys.argv else []:
        save(out, path.parent.name, path.stem, lines(path), ["exact"])
    return 1 if any(failed) else 0


sys.exit(main(pathlib.Path(sys.argv[1])))
