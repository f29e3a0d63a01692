"""What ctxc-eval answered, question by question: from its folders, and as numbers kept beside this file (nll/, em/, f1/)."""
import collections
import csv
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
METRICS = {"em": 1, "f1": 1, "nll": 4}  # decimals that are kept; their order is that of a record


def read_records(folder):
    """{method: {set: {context: [(em, f1, nll)]}}}, percent and nats; no em and f1 (None) without answers."""
    results = json.load(open(os.path.join(folder, "results.json")))
    answers = results.get("answers", True)
    found = collections.defaultdict(dict)
    for entry in results["entries"]:
        clusters = collections.defaultdict(list)
        for line in open(os.path.join(folder, entry["records"])):
            row = json.loads(line)
            scores = (100 * row[key] if answers else None for key in ("exact_match", "f1"))
            clusters[row["context"]].append((*scores, row["nll"]))
        found[entry["method"]][entry["set"]] = clusters
    return results, found


def kept(folder):
    """{label: {set: {context: [(em, f1, nll)]}}} and {label: vectors read} of nll/FOLDER.csv, em/ and f1/; None is what was not kept."""
    columns, vectors = {}, {}
    for metric in METRICS:
        path = os.path.join(HERE, metric, folder + ".csv")
        if os.path.exists(path):
            with open(path, newline="") as file:
                header, first, *rows = csv.reader(file)
            for column, method in list(enumerate(header))[3:]:
                columns.setdefault(method, {})[metric] = [float(row[column]) for row in rows]
                vectors[method] = float(first[column])
    found = {}
    for method, of in columns.items():
        sets = found[method] = {}
        values = zip(*(of.get(metric, [None] * len(rows)) for metric in METRICS))
        for (name, passage, _, *_), value in zip(rows, values):
            sets.setdefault(name, {}).setdefault(int(passage), []).append(value)
    return found, vectors


def keep(folder, found, vectors):
    """Writes nll/FOLDER.csv: a column for each method, a row for each question (set, passage, number in the passage); em/ and f1/ likewise."""
    for index, (metric, digits) in enumerate(METRICS.items()):
        having = with_metric(found, index)
        if not having:
            continue
        os.makedirs(os.path.join(HERE, metric), exist_ok=True)
        sets = next(iter(having.values()))
        with open(os.path.join(HERE, metric, folder + ".csv"), "w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(["set", "passage", "question"] + list(having))
            out.writerow(["", "", "vectors"] + [f"{vectors[method]:.2f}" for method in having])
            for name, clusters in sets.items():
                for passage, questions in clusters.items():  # the order of the evaluation: intervals depend on it
                    for i in range(len(questions)):
                        values = [of[name][passage][i][index] for of in having.values()]
                        out.writerow([name, passage, i] + [f"{value:.{digits}f}".removesuffix(".0") for value in values])


def with_metric(found, metric):
    """Methods that have it."""
    return {method: sets for method, sets in found.items() if next(iter(next(iter(sets.values())).values()))[0][metric] is not None}
