"""What sharing out left-over tokens again gains, measured on the shipped model through vLLM.

    python benchmarks/reallocation.py [--queries 500] [--budgets 0.1,0.2,0.4] [--seed 0]

The queries are those that `clearopt confirm` evaluates, with the curves that calibration on other
queries found. A budget here limits the tokens that are really generated; it is told as a share of
what is ample. "At first" is what the first round alone answers right, with the same answers; the
interval is a bootstrap over queries.
"""

from __future__ import annotations

import argparse

import numpy as np

from clearopt.arguments import fractions
from clearopt.confirmation.defaults import DEFAULT_AMPLE_CAP, default_model
from clearopt.confirmation.tasks import split_tasks
from clearopt.runs import ExactMatch, Query, Settings, Workload, run
from clearopt.serving import Engine


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--budgets", type=fractions, default=(0.1, 0.2, 0.4))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _, tasks = split_tasks(300, options.queries, options.seed)
    n = len(tasks)
    work = Workload(
        [Query(task.task_id, task.prompt, task.answer) for task in tasks],
        400,
        default_model().utilities([task.features for task in tasks]),
    )
    engine = Engine("reasoner")
    drawn = np.random.default_rng(options.seed).integers(n, size=(4000, n))
    print("| budget, % of ample | at first, % | in the end, % | gain, points | rounds |")
    print("|---|---|---|---|---|")
    for fraction in options.budgets:
        budget = int(fraction * DEFAULT_AMPLE_CAP * n)
        settings = Settings(budget=budget, seed=options.seed, score_cut=True)
        report = run(work, engine, settings, verifier=ExactMatch("####"))
        assert report.spending.spent <= budget
        gains = np.array([row.score - row.first_score for row in report.rows])
        low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
        print(f"| {100 * fraction:g} | {100 * report.right_at_first / n:.1f} "
              f"| {100 * report.right / n:.1f} "
              f"| {100 * report.gain / n:+.1f} [{100 * low:.1f}, {100 * high:.1f}] "
              f"| {len(report.rounds)} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
