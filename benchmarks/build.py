"""What building a problem costs, phase by phase, beside evaluating its utilities.

    python benchmarks/build.py [--queries 1000000] [--tenants 1000]

Declaring and compiling must cost less than 20 evaluations of all utilities. All phases are timed
side by side in one process, after a warm-up that imports what is imported on first use; the medians
of several repeats are shown. The solve is by price search alone and by the exact dual under the one
budget, each with its gap.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import clearopt as co


class Batch:
    """Queries of many tenants, and what is declared of them."""

    def __init__(self, n: int, tenants: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n = n
        self.family = co.CumulativeSurge(
            rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
        )
        names = np.array([f"tenant {i}" for i in range(tenants)])
        self.tenant = names[rng.integers(0, tenants, n)]
        self.budget = 30.0 * n
        self.caps = dict.fromkeys(np.unique(self.tenant).tolist(), 60.0 * n / tenants)
        self.amounts = rng.uniform(0, 200, n)

    def declare(self) -> tuple[co.Maximize, list[co.Constraint]]:
        tokens = co.Allocation(self.n, upper=4096, name="tokens")
        accuracy = self.family(tokens)
        return co.Maximize(co.sum(accuracy)), [
            (co.sum(tokens) <= self.budget).named("budget"),
            (co.sum(tokens, by=self.tenant) <= self.caps).named("tenant cap"),
        ]


def median(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    small = Batch(1_000, 10)
    co.Problem(*small.declare()).solve(time_limit=5)  # imports

    batch = Batch(arguments.queries, arguments.tenants)
    evaluate, _ = median(lambda: batch.family.value(batch.amounts), arguments.repeats)
    declare, declared = median(batch.declare, arguments.repeats)
    compile_, problem = median(lambda: co.Problem(*declared), arguments.repeats)
    print(f"{arguments.queries:,} queries, {arguments.tenants:,} tenant caps")
    print(f"evaluate all utilities once  {evaluate:8.3f} s")
    for name, seconds in (("declare", declare), ("compile", compile_)):
        print(f"{name:<28} {seconds:8.3f} s  {seconds / evaluate:6.1f} evaluations")
    ratio = (declare + compile_) / evaluate
    print(f"{'declare and compile':<28} {declare + compile_:8.3f} s  {ratio:6.1f} evaluations")
    print(f"at most 20 evaluations: {'yes' if ratio <= 20 else 'NO'}")

    objective, (budget, _) = declared
    one_row = co.Problem(objective, budget)
    for solver in ("price", "dual"):
        one_row.solve(solver)  # compiles
        seconds, solution = median(lambda s=solver: one_row.solve(s), 1)
        print(
            f"{'solve, budget alone, ' + solver:<28} {seconds:8.3f} s  "
            f"{seconds / evaluate:6.1f} evaluations, gap {solution.gap:.1e}"
        )
    seconds, solution = median(lambda: problem.solve(time_limit=60), 1)
    print(
        f"{'solve, all rows, dual':<28} {seconds:8.3f} s  "
        f"{seconds / evaluate:6.1f} evaluations, gap {solution.gap:.1e}"
    )


if __name__ == "__main__":
    main()
