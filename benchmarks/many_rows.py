"""Several rows: what the best prices and a certified allocation cost, in passes, with their gaps.

    python benchmarks/many_rows.py [--largest 100000] [--scip]

A *pass* is one evaluation of every query's best response at one price over the same arrays, after
compilation. "prices" is the interior-point method alone, with its dual gap: the distance between
the bound and the value of the mixture that meets every row. "solve" is the whole solve, with the
gap of its certificate and how many groups were searched. `--nested` keeps a budget over tenant caps
alone, in fractions and in whole tokens. `--scip` adds SCIP on the smallest. One process, one after
the other.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import clearopt as co
from clearopt.solvers.dual.interior import Box, descend
from clearopt.solvers.dual.separable import separate, view
from clearopt.solvers.dual.several_rows import SeveralRows, first_prices

CASES = (
    # queries, overlapping rows, tenant caps, accuracy floors, whole tokens
    (60, 5, 0, 4, False),
    (1_000, 10, 0, 4, False),
    (10_000, 10, 0, 0, False),
    (100_000, 10, 0, 0, False),
    (10_000, 0, 100, 0, False),
    (10_000, 0, 100, 0, True),
    (100_000, 0, 1_000, 0, False),
    (100_000, 0, 1_000, 0, True),
    (1_000_000, 0, 1_000, 0, False),
)


def declare(
    n: int, overlapping: int, tenants: int, floors: int, whole: bool = False, seed: int = 0
) -> co.Problem:
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    need = threshold + 3 / rate
    tokens = co.Allocation(n, upper=4096, integer=whole, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    constraints = [(co.sum(tokens) <= 0.3 * need.sum()).named("budget")]
    for k in range(overlapping):
        use = rng.uniform(0, 2, n) * (rng.random(n) < 0.3)
        constraints.append((use @ tokens <= rng.uniform(0.2, 0.4) * (use @ need)).named(f"use {k}"))
    if tenants:
        tenant = rng.integers(0, tenants, n)
        total = np.bincount(tenant, need, minlength=tenants)
        caps = dict(enumerate((rng.uniform(0.2, 0.5, tenants) * total).tolist()))
        constraints.append((co.sum(tokens, by=tenant) <= caps).named("cap"))
    if floors:
        group = rng.integers(0, floors, n)
        constraints.append((co.mean(accuracy, by=group) >= 0.12).named("floor"))
    return co.Problem(co.Maximize(co.sum(accuracy)), constraints)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--scip", action="store_true")
    parser.add_argument("--nested", action="store_true")
    arguments = parser.parse_args()
    print(
        f"{'queries':>9} {'prices':>6} {'pass':>9} | {'prices':>8} {'passes':>7} {'gap':>8} | "
        f"{'solve':>8} {'nodes':>6} {'groups':>6} {'gap':>8} status"
    )
    for n, *shape in CASES:
        if n > arguments.largest or (arguments.nested and not shape[1]):
            continue
        problem = declare(n, *shape)
        queries = separate(view(problem.program))
        rows, _ = SeveralRows.of(problem.program, queries)
        box = Box.of(rows, queries.lower, queries.upper)
        first = first_prices(rows, 1e-2)
        price = np.full(n, 1e-2)
        queries.respond(price, queries.lower, queries.upper)  # compiles
        started = time.perf_counter()
        for _ in range(5):
            queries.respond(price, queries.lower, queries.upper)
        one_pass = (time.perf_counter() - started) / 5
        descend(rows, box, first, limit=3)  # compiles
        started = time.perf_counter()
        inside = descend(rows, box, first)
        prices = time.perf_counter() - started
        dual_gap = abs(inside.best.value - inside.value) / abs(inside.value)
        solution = problem.solve(time_limit=arguments.time_limit)
        searched = solution.statistics.get("searched", 0)
        print(
            f"{n:>9,} {first.size:>6} {1e3 * one_pass:>6.2f} ms | {prices:>6.2f} s "
            f"{prices / one_pass:>7.0f} {dual_gap:>8.1e} | {solution.seconds:>6.2f} s "
            f"{solution.statistics['nodes']:>6} {searched:>6} "
            f"{solution.gap:>8.1e} {solution.status}",
            "whole" if shape[-1] else "",
            flush=True,
        )
        if arguments.scip and n <= 60:
            scip = problem.solve("scip", time_limit=arguments.time_limit)
            print(f"{'':>9} scip {scip.seconds:.2f} s, gap {scip.gap:.1e}, {scip.status}")


if __name__ == "__main__":
    main()
