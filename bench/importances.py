#!/usr/bin/env python3
"""Compares how artifacts of pruned trials rank their tokens: Spearman's rank correlation of each pair, by method and seed.

    python3 bench/importances.py ARTIFACT...        # files that `worker train --artifact` or a worker wrote

Trials of one recipe and seed differ in `importance` alone, so that their prompts were the same when they were scored.
Needs Python alone.
"""
import itertools
import json
import struct
import sys


def read(path):
    """The recipe's method and the seed, its importance, and the scores of an artifact's tokens."""
    data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    notes, scores = header["__metadata__"], header["importance.token"]
    assert scores["dtype"] == "F64", scores
    start, end = scores["data_offsets"]
    values = struct.unpack(f"<{(end - start) // 8}d", data[8 + length + start:8 + length + end])
    recipe = json.loads(notes["recipe"])
    return (recipe["method"], int(notes["seed"])), recipe["importance"], values


def ranks(values):
    """Ranks from 0; scores are floats that do not tie."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(i) for i in range(len(values))]


def spearman(a, b):
    n, pairs = len(a), zip(ranks(a), ranks(b))
    return 1 - 6 * sum((x - y) ** 2 for x, y in pairs) / (n * (n * n - 1))


if __name__ == "__main__":
    trials = [read(path) for path in sys.argv[1:]]
    for run in sorted({run for run, _, _ in trials}):
        name, own = "{} seed {}".format(*run), {importance: scores for r, importance, scores in trials if r == run}
        for importance, scores in sorted(own.items()):
            order = sorted(range(len(scores)), key=scores.__getitem__)
            print(f"{name}  {importance:<14} largest score {max(map(abs, scores)):.2e}  least important first {order}")
        for a, b in itertools.combinations(sorted(own), 2):
            print(f"{name}  {a} against {b}: {spearman(own[a], own[b]):+.2f}")
