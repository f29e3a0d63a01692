"""Means over sets of questions with their intervals: 95 %, percentiles of a bootstrap that draws contexts with replacement, in every set
apart. What is averaged is {set: {context: [(value of each metric)]}} of records.py; a run is one of these."""
import functools
import random

import numpy

RESAMPLES = 1000


@functools.cache
def drawn(sizes, runs=0):
    """Numbers of trainings and of contexts (of each set, `sizes` has how many), drawn with replacement RESAMPLES times."""
    rng = random.Random(0)
    columns = [[] for _ in (runs, *sizes)]
    for _ in range(RESAMPLES):
        for column, size in zip(columns, (runs, *sizes)):
            column.append([rng.choice(range(size)) for _ in range(size)])
    return [numpy.array(column, dtype=int) for column in columns]


def resampled(runs, metric, draw):
    """Mean over trainings and sets with its interval; `draw` picks the trainings too where there are several."""
    sums, counts = [], []
    for name in runs[0]:
        contexts = [[[question[metric] for question in rows] for rows in sets[name].values()] for sets in runs]
        sums.append(numpy.array([[sum(rows) for rows in of] for of in contexts]))
        counts.append(numpy.array([len(rows) for rows in contexts[0]]))
    value = numpy.mean([total.sum() / count.sum() / len(runs) for total, count in zip(sums, counts)])
    picked = numpy.zeros(RESAMPLES)
    for total, count, contexts in zip(sums, counts, draw[1:]):
        if draw[0].size:
            per_run = numpy.stack([of[contexts].sum(1) for of in total], 1)
            taken = numpy.take_along_axis(per_run, draw[0], 1).mean(1)
        else:
            taken = total[0][contexts].sum(1)
        picked += taken / count[contexts].sum(1) / len(sums)
    picked.sort()
    return value, picked[int(0.025 * RESAMPLES)], picked[int(0.975 * RESAMPLES) - 1]


def interval(sets, metric):
    """Mean over sets with its interval; `sets` {set: clusters}."""
    return resampled([sets], metric, drawn(tuple(map(len, sets.values()))))


def seeds_interval(runs, metric):
    """Mean over trainings and contexts; both are drawn with replacement."""
    return resampled(runs, metric, drawn(tuple(map(len, runs[0].values())), len(runs)))


def minus(a, b):
    def gap(p, q):
        return tuple(None if x is None or y is None else x - y for x, y in zip(p, q))
    return {name: {key: [gap(p, q) for p, q in zip(rows, b[name][key])] for key, rows in sets.items()} for name, sets in a.items()}


def mean_of(runs):
    """Of several records of the same questions."""
    return {name: {key: [tuple(None if None in values else sum(values) / len(values) for values in zip(*question))
                         for question in zip(*(sets[name][key] for sets in runs))] for key in clusters}
            for name, clusters in runs[0].items()}
