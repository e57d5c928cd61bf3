"""Draw the instances of the public test set from their seeds, prove them, and write their files.

    python benchmarks/make_testset.py [NAME ...] [--force] [--time-limit 20]

Needs the test environment (SCIP, CVXPY, OR-Tools). An instance whose file exists is left alone but
with --force, so an interrupted run is taken up. What is written for each:

- the best allocation that any solver found, checked and recomputed in NumPy;
- the tightest bound that is trusted: those of `dual` and `dp` as they are, those of solvers with
  tolerances of their own loosened by them (`_TRUST`). A value above another solver's bound by more
  than that stops the run;
- who said what: up to 12 queries every certifying solver that takes the instance, and the
  exhaustive oracle of the tests, which shares nothing with any of them; beyond, as many as it takes
  until two have proven the same; and the bound that the dual's prices prove, recomputed by the
  independent checker.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import clearopt as co
from clearopt import testset
from clearopt.certificate import check_feasibility, relative_gap
from clearopt.comparison.rows import ComparisonRow
from clearopt.testing import inspect_solution
from clearopt.testset.instance import PROVEN

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from testset_instances import SPECS, Spec  # noqa: E402

DATA = ROOT / "clearopt" / "testset" / "data"
SLOW = 10.0  # the dual alone gets so many times the limit, where it is the only one that can
EXACT = 1e-9  # the gap asked of the dual; the others are asked for 1e-6
LARGE = 320  # queries, beyond which general solvers have no chance
LARGER = 1000  # and beyond which not even their relaxations
ORACLE = 12  # queries
GRACE = 120.0  # seconds past its limit after which the dual is ended
SETTLED = ("optimal", "infeasible", "unbounded")
PROOFS = 2  # of them, beyond the smallest instances, are enough: the other solvers are not asked
COMPRESSED = 500  # queries from which a file is compressed
# Relative: how far a bound may be off by the solver's own tolerances, or by the oracle's.
_TRUST = {"dual": 0.0, "dp": 0.0, "exhaustive": 2e-10}
_OTHERS = 1e-6
# The instances of the README's table.
README = {
    "surge-10-b10", "surge-100-b10", "shifted-20-b40", "steps-20", "tenants-20", "floors-16",
    "memory-12", "whole-10", "ties-40", "knapsack-60", "surge-1000-b10",
}  # fmt: skip


class TooSlowError(Exception):
    """The oracle has had its time."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a TooSlowError in the block after that time."""

    def stop(*_: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------- proving
def solvers_for(program: co.Program) -> list[str]:
    """Those that certify something, as far as they stand a chance."""
    if program.n > LARGER:
        return []
    if program.n > LARGE:
        return ["highs", "cvxpy"]
    return ["dp", "scip", "highs", "ortools", "cvxpy"]


def package_of(solver: str) -> str:
    modules = {"scip": "pyscipopt", "highs": "highspy", "ortools": "ortools", "cvxpy": "cvxpy"}
    name = modules.get(solver, "clearopt")
    return f"{name} {version(name)}"


def rows_of(program: co.Program, limit: float) -> list[ComparisonRow]:
    """The dual's row first; those that did not run are left out."""
    alone = not solvers_for(program)
    found = list(
        co.compare({"it": program}, ["dual"], time_limit=limit * (SLOW if alone else 1),
                   tolerance=EXACT, processes=1, grace=GRACE)
    )  # fmt: skip
    for solver in solvers_for(program):
        if program.n > ORACLE and sum(row.status in SETTLED for row in found) >= PROOFS:
            break
        found += list(co.compare({"it": program}, [solver], time_limit=limit, processes=1))
    contradictions = contradictions_of(found)
    if contradictions:
        raise SystemExit("\n".join(contradictions))
    if found[0].status is None:
        raise SystemExit(f"the dual came to no end: {found[0].message}")
    return [row for row in found if row.status is not None]


def contradictions_of(rows: list[ComparisonRow]) -> list[str]:
    """What the rows contradict one another about."""
    from clearopt.comparison import Comparison

    return Comparison(rows, 1e-6).contradictions


def evidence_of(row: ComparisonRow) -> testset.Evidence:
    return testset.Evidence(
        solver=row.solver,
        version=package_of(row.solver),
        status=str(row.status),
        value=row.objective,
        bound=row.bound if row.rigorous else math.nan,
        seconds=float(f"{row.seconds:.3g}"),
        tolerance=EXACT if row.solver == "dual" else 1e-6,
        machine=f"{os.cpu_count()} cores",
    )


def by_oracle(program: co.Program, limit: float) -> testset.Evidence | None:
    """What plain enumeration, or branch and price over a fine table, makes of a small one."""
    if program.n > ORACLE or not np.isfinite(program.upper).all():
        return None
    import exhaustive

    began = time.perf_counter()
    try:
        with limited(3 * limit):
            found = program.sign * exhaustive.optimum(program)
    except (TooSlowError, exhaustive.TooLargeError):
        return None
    infeasible = math.isinf(found)
    return testset.Evidence(
        solver="exhaustive",
        status="infeasible" if infeasible else "optimal",
        value=math.nan if infeasible else found,
        bound=math.nan if infeasible else found,
        seconds=float(f"{time.perf_counter() - began:.3g}"),
        tolerance=_TRUST["exhaustive"],
        machine=f"{os.cpu_count()} cores",
        note="the oracle in tests/exhaustive.py",
    )


def by_prices(program: co.Program, dual: ComparisonRow) -> testset.Evidence | None:
    """The dual function at the dual's prices, every best response found by sampling."""
    solution = dual.solution
    if solution is None or solution.allocation is None or solution.row_prices is None:
        return None
    found = inspect_solution(program, solution)
    if found.faults:
        raise SystemExit("\n".join(map(str, found.faults)))
    return testset.Evidence(
        solver="prices",
        version=f"clearopt {version('clearopt')}",
        value=found.objective,
        bound=found.price_bound,
        note="value and bound recomputed from allocation and prices by clearopt.testing; the "
        "bound to 1e-9, before any search",
    )


# ------------------------------------------------------------------------- what is best
def best_allocation(program: co.Program, rows: list[ComparisonRow]) -> np.ndarray | None:
    found = [
        (program.sign * row.objective, -k, row)
        for k, row in enumerate(rows)
        if row.feasible and row.solution is not None
    ]
    if not found:
        return None
    best = max(found)[0]
    near = next(row for value, _, row in found if value >= best - 1e-12 * abs(best))
    return shortened(program, np.asarray(near.solution.allocation, dtype=np.float64))


def shortened(program: co.Program, tokens: np.ndarray) -> np.ndarray:
    """With six digits after the point where there are many and nothing is lost but space."""
    if program.n < LARGE or program.integer.all():
        return tokens
    short = np.floor(tokens * 1e6) / 1e6
    lost = program.objective(tokens) - program.objective(short)
    fits = check_feasibility(program, short).ok
    return short if fits and lost <= 1e-8 * abs(program.objective(tokens)) else tokens


def best_bound(program: co.Program, evidence: list[testset.Evidence], value: float) -> float:
    """The tightest, each loosened by what it may be off by; never past the value by rounding."""
    sign, found = program.sign, []
    for each in evidence:
        if math.isfinite(each.bound) and each.solver != "prices":
            loose = _TRUST.get(each.solver, _OTHERS) * abs(each.bound)
            found.append(sign * each.bound + loose)
    tightest, least = min(found), sign * value
    if tightest < least - 1e-9 * abs(least):
        raise SystemExit(f"the value {value!r} lies past the bound {sign * tightest!r}")
    return sign * max(tightest, least)


def make(spec: Spec, limit: float) -> testset.Instance:
    problem, description, why_hard = spec.make()
    program = problem.program
    rows = rows_of(program, limit)
    evidence = [evidence_of(row) for row in rows]
    for more in (by_oracle(program, limit), by_prices(program, rows[0])):
        if more is not None:
            evidence.append(more)
    size = "small" if program.n <= 20 else "medium" if program.n <= 1000 else "large"
    tags = (size, *dict.fromkeys(spec.tags), *(["readme"] if spec.name in README else []))
    instance = testset.Instance(
        name=spec.name,
        description=description,
        why_hard=why_hard,
        program=program,
        status="infeasible",
        best_bound=-program.sign * math.inf,
        tags=tags,
        seed=spec.seed,
        evidence=tuple(evidence),
    )
    said = {each.status for each in evidence}
    if "unbounded" in said:
        return replace(instance, status="unbounded", best_bound=program.sign * math.inf)
    tokens = best_allocation(program, rows)
    if tokens is None:
        if "infeasible" not in said:
            raise SystemExit(
                f"{spec.name}: nobody found an allocation or proved that there is none"
            )
        return instance
    value = program.sign * program.objective(tokens)
    bound = best_bound(program, evidence, value)
    gap = relative_gap(program.sign * value, program.sign * bound)
    dual = rows[0].solution
    return replace(
        instance,
        status="optimal" if gap <= PROVEN else "feasible",
        best_value=value,
        best_bound=bound,
        allocation=tokens,
        row_prices=None if dual is None else dual.row_prices,
        floor_prices=None if dual is None else dual.floor_prices,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which (all)")
    parser.add_argument("--force", action="store_true", help="make those anew that exist")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds for each solver")
    options = parser.parse_args()
    for spec in sorted(SPECS, key=lambda spec: "100000" in spec.name):  # the slowest last
        there = [DATA / f"{spec.name}{suffix}" for suffix in (".json", ".json.gz")]
        if options.names and spec.name not in options.names:
            continue
        if not options.force and any(path.exists() for path in there):
            continue
        began = time.perf_counter()
        instance = make(spec, options.time_limit)
        testset.write(instance, there[instance.n >= COMPRESSED])
        said = ", ".join(f"{each.solver} {each.status}" for each in instance.evidence)
        print(f"{spec.name}: {instance.status}, gap {instance.gap:.1e}, "
              f"{time.perf_counter() - began:.0f} s: {said}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
