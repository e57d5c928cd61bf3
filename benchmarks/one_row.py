"""One budget row: what a certified solve costs, in passes, and beside other solvers.

    python benchmarks/one_row.py [--largest 1000000] [--general]

A *pass* is one evaluation of every query's best response at one price over the same arrays (after
compilation): the least any price-based method must pay several times. Times are medians over
repeats in one process; a gap stands beside every time. `--general` adds SCIP and CVXPY at small n.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import clearopt as co
from clearopt.solvers.dual import one_row_program
from clearopt.solvers.dual.separable import separate, view


def declare(n: int, seed: int = 0) -> co.Problem:
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    tokens = co.Allocation(n, upper=4096)
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    budget = 0.3 * float((threshold + 3 / rate).sum())
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


def timed(action: Callable[[], object], repeats: int) -> tuple[float, object]:
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def one_pass(problem: co.Problem, price: float, repeats: int) -> float:
    queries = separate(view(problem.program))
    row, _ = one_row_program(problem.program, queries)

    def evaluate() -> object:
        return queries.totals(price, row.coefficient, queries.lower, queries.upper)

    evaluate()  # compiles
    return timed(evaluate, repeats)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--general", action="store_true")
    arguments = parser.parse_args()
    columns = f"{'declare s':>10} {'solve s':>10} {'passes':>7} {'gap':>9}  status"
    print(f"{'n':>9} {'solver':<9} {columns}")
    for n in (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000):
        if n > arguments.largest:
            break
        repeats = 5 if n <= 10_000 else 3
        declared, problem = timed(lambda n=n: declare(n), 1)
        assert isinstance(problem, co.Problem)
        price = problem.solve(solver="price").prices["budget"]  # also compiles
        a_pass = one_pass(problem, float(price), repeats)
        for solver in ("dual", "price"):
            problem.solve(solver=solver)
            seconds, solution = timed(lambda s=solver, p=problem: p.solve(solver=s), repeats)
            assert isinstance(solution, co.Solution)
            passes = seconds / a_pass
            print(
                f"{n:>9} {solver:<9} {declared:>10.3g} {seconds:>10.3g} {passes:>7.0f} "
                f"{solution.gap:>9.1e}  {solution.status}"
            )
        if arguments.general and n <= 100:
            for solver in ("scip", "cvxpy"):
                solution = problem.solve(solver=solver, time_limit=60)
                print(
                    f"{n:>9} {solver:<9} {declared:>10.3g} {solution.seconds:>10.3g} {'':>7} "
                    f"{solution.gap:>9.1e}  {solution.status}"
                )


if __name__ == "__main__":
    main()
