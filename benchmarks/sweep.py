"""A thousand budgets over one large program: how many single solves their sweep takes.

    python benchmarks/sweep.py [--queries 100000] [--budgets 1000] [--whole]

In one process, after a solve and a short sweep that compile: rounds of a few single solves and one
sweep, taken in turns so that whatever else the machine does meets both. The ratio is the sweep's
seconds over the median solve of its round; beside it the same of processor seconds, the largest
and the median gap, and how many entries needed no pass, or one. `frontier` reads prices and
marginal values of every entry on top.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import clearopt as co


def declare(n: int, *, whole: bool, seed: int = 1) -> tuple[co.Problem, np.ndarray]:
    """A problem, and what its queries need."""
    rng = np.random.default_rng(seed)
    scale, threshold = rng.uniform(0.2, 1, n), rng.uniform(5, 100, n)
    rate = 10 ** rng.uniform(-2, 0, n)
    tokens = co.Allocation(n, upper=4096, integer=whole)
    accuracy = co.CumulativeSurge(scale, threshold, rate)(tokens)
    need = threshold + 3 / rate
    budget = (co.sum(tokens) <= 0.3 * need.sum()).named("budget")
    return co.Problem(co.Maximize(co.sum(accuracy)), [budget]), need


def clocked(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, processor seconds, and the answer."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = action()
    return time.perf_counter() - wall, time.process_time() - processor, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--budgets", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    problem, need = declare(options.queries, whole=options.whole)
    budgets = np.linspace(0.03, 0.9, options.budgets) * need.sum()
    if options.whole:
        budgets = np.round(budgets)

    def sweep() -> list[tuple[float, int]]:
        return [
            (solution.gap, solution.statistics.get("passes", 99))
            for solution in problem.sweep_lazily("budget", budgets)
        ]

    problem.solve()
    problem.sweep("budget", budgets[:: max(len(budgets) // 16, 1)])
    print(f"{options.queries} queries, {options.budgets} budgets")
    for _ in range(options.rounds):
        solves = [clocked(problem.solve)[:2] for _ in range(5)]
        wall, processor, found = clocked(sweep)
        solves += [clocked(problem.solve)[:2] for _ in range(5)]
        frontier = clocked(lambda: co.frontier(problem, "budget", budgets))[:2]
        solves += [clocked(problem.solve)[:2] for _ in range(5)]
        one, one_processor = (statistics.median(column) for column in zip(*solves, strict=True))
        gaps = [gap for gap, _ in found]
        none, single = (np.mean([passes == k for _, passes in found]) for k in (0, 1))
        print(
            f"solve {one:.3f} s; sweep {wall:.2f} s = {wall / one:.0f} solves "
            f"({processor / one_processor:.0f} in processor time), frontier {frontier[0]:.2f} s = "
            f"{frontier[0] / one:.0f}; gap at most {max(gaps):.1e}, median "
            f"{statistics.median(gaps):.1e}; no pass for {none:.1%}, one for {single:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
