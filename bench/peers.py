#!/usr/bin/env python3
"""The same work as `coordinator bench`, done by Optuna: N empty trials, from the storage to a durable result.

    python3 bench/peers.py --trials 400 --processes 8 --storage sqlite:////tmp/optuna.db
    python3 bench/peers.py --trials 400 --processes 8 --storage postgresql+psycopg2://user@localhost/db

Needs `pip install optuna` (and psycopg2-binary for PostgreSQL). Prints one JSON object. Each trial asks for one
parameter, trains nothing and tells a value, as the simulated workers do.
"""

import argparse
import json
import multiprocessing
import os
import time

import optuna


def work(storage: str, name: str, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler())
    for _ in range(trials):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(1e-4, 1.0)})
        study.tell(trial, trial.params["lr"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--storage", required=True)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"bench-{os.getpid()}-{time.time_ns()}"
    study = optuna.create_study(study_name=name, storage=arguments.storage)
    each = arguments.trials // arguments.processes
    job = (arguments.storage, name, each)
    # Every process imports Optuna anew: what is measured starts when all are ready.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=job) for _ in range(arguments.processes)]
    started = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.monotonic() - started
    done = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    assert done == each * arguments.processes, f"{done} trials have a result"
    report = {
        "peer": f"optuna {optuna.__version__}",
        "storage": arguments.storage.split(":")[0],
        "trials": done,
        "processes": arguments.processes,
        "run_s": round(seconds, 3),
        "trials_per_s": round(done / seconds, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
