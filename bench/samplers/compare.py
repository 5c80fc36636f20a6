#!/usr/bin/env python3
"""The samplers against Optuna's, by the best value so far: `make bench-samplers`.

    python3 bench/samplers/compare.py OURS.csv OUT_FOLDER

OURS.csv is what `samplers curves` printed. Runs Optuna's TPE (multivariate, grouped, constant liar) and CMA-ES on the same
problems, as often and as long, and writes `curves.csv` (mean best value and standard error by trial) and `curves.md`: the best
value after 25, 50 and 100 trials, and whether ours is worse by more than chance (Mann-Whitney U, one-sided, over seeds).
Needs `pip install optuna cmaes scipy`. The problems are those of bench/samplers.rs: minimise.
"""

import csv
import math
import multiprocessing
import os
import statistics
import sys
import warnings
from collections import defaultdict

import optuna
from scipy.stats import mannwhitneyu

SEEDS = 20
TRIALS = 100
AT = (25, 50, 100)
SIX = ("lr", "wd", "wd_head", "prompt_dropout", "pruning_ratio", "segment_ratio")


def branin(trial):
    x, y = trial.suggest_float("lr", 0, 15) - 5, trial.suggest_float("wd", 0, 15)
    return (
        (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
        + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x)
        + 10
    )


ALPHA = (1.0, 1.2, 3.0, 3.2)
A = ((10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14))
P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann6(trial):
    x = [trial.suggest_float(key, 0, 0.999999) for key in SIX]
    rows = zip(ALPHA, A, P)
    return -sum(a * math.exp(-sum(w * (v - p) ** 2 for w, v, p in zip(ws, x, ps))) for a, ws, ps in rows)


def mixed(trial):
    block = trial.suggest_categorical("block", ["shallow", "gated"])
    lr = math.log10(trial.suggest_float("lr", 1e-4, 10, log=True))
    wd = math.log10(trial.suggest_float("wd", 1e-6, 0.1, log=True))
    length = trial.suggest_int("prompt_length", 1, 100)
    head = {"vpt": 0.0, "spt": 0.3, "zero": 0.6}[trial.suggest_categorical("head_init", ["vpt", "spt", "zero"])]
    if block == "shallow":
        depth = trial.suggest_int("insertion_depth", 0, 11)
        return (lr - 0.5) ** 2 + 0.2 * (wd + 3) ** 2 + head + ((length - 60) / 30) ** 2 + 0.05 * depth + 0.5
    gate = trial.suggest_float("gate_init", 0, 20)
    tilt = 0.5 * (lr + 1.5) * (gate - 12) / 6
    value = (lr + 1.5) ** 2 + 0.2 * (wd + 2) ** 2 + head + ((length - 20) / 30) ** 2
    return value + ((gate - 12) / 6) ** 2 + tilt


PROBLEMS = {
    "branin": (branin, ("tpe", "cma_es")),
    "hartmann6": (hartmann6, ("tpe", "cma_es")),
    "mixed": (mixed, ("tpe",)),
}


def sampler(name, seed):
    if name == "tpe":
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=10, seed=seed
        )
    return optuna.samplers.CmaEsSampler(seed=seed)


def curve(job):
    """Best so far, by trial."""
    problem, name, batch, seed = job
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler(name, seed))
    best, curve = math.inf, []
    while len(curve) < TRIALS:
        trials = [study.ask() for _ in range(batch)]
        values = [PROBLEMS[problem][0](trial) for trial in trials]
        for trial, value in zip(trials, values):
            study.tell(trial, value)
            best = min(best, value)
            curve.append(best)
    return job, curve[:TRIALS]


def main():
    ours_path, out = sys.argv[1:]
    curves = defaultdict(list)
    ours = defaultdict(dict)
    with open(ours_path, newline="") as file:
        for row in csv.DictReader(file):
            key = (row["problem"], row["sampler"], int(row["batch"]), int(row["seed"]))
            ours[key][int(row["trial"])] = float(row["best"])
    for (problem, name, batch, _), values in ours.items():
        last = [values[trial] for trial in sorted(values)]
        curves[problem, name, batch, "promptsweep"].append(last + [last[-1]] * (TRIALS - len(last)))
    jobs = [
        (problem, name, batch, seed)
        for problem, (_, names) in PROBLEMS.items()
        for name in names
        for batch in (1, 4)
        for seed in range(SEEDS)
    ]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for (problem, name, batch, _), values in pool.imap_unordered(curve, jobs):
            curves[problem, name, batch, "optuna"].append(values)
    write(curves, out)


def write(curves, out):
    groups = sorted({key[:3] for key in curves}, key=lambda key: (list(PROBLEMS).index(key[0]), key[1:]))
    with open(os.path.join(out, "curves.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["problem", "sampler", "batch", "by", "trial", "mean_best", "standard_error"])
        for key in groups:
            for by in ("promptsweep", "optuna"):
                for trial, values in enumerate(zip(*curves[(*key, by)]), start=1):
                    error = statistics.stdev(values) / math.sqrt(len(values))
                    writer.writerow([*key, by, trial, f"{statistics.fmean(values):.6g}", f"{error:.3g}"])
    lines = [
        "<!-- written by `make bench-samplers` -->",
        "",
        f"Best value so far (less is better), mean ± standard error over {SEEDS} seeds, Optuna {optuna.__version__}. p: how likely",
        "it is by chance alone that ours is worse by so much (Mann-Whitney U, one-sided).",
        "",
        "| problem | sampler | at once | after | promptsweep | Optuna | p |",
        "|---|---|---|---|---|---|---|",
    ]
    worse = []
    for key in groups:
        for at in AT:
            ours, theirs = ([values[at - 1] for values in curves[(*key, by)]] for by in ("promptsweep", "optuna"))
            p = mannwhitneyu(ours, theirs, alternative="greater").pvalue
            shown = " | ".join(
                f"{statistics.fmean(v):.4g} ± {statistics.stdev(v) / math.sqrt(len(v)):.2g}" for v in (ours, theirs)
            )
            lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {at} | {shown} | {p:.2f} |")
            # Of so many comparisons some are below 0.05 by chance.
            if p < 0.05 / (len(groups) * len(AT)):
                worse.append((*key, at, p))
    text = "\n".join(lines) + "\n"
    with open(os.path.join(out, "curves.md"), "w") as file:
        file.write(text)
    print(text)
    if worse:
        sys.exit(f"worse than Optuna beyond chance: {worse}")


if __name__ == "__main__":
    main()
