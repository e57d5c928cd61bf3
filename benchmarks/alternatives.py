"""Every solver on the same few instances: what its allocation lacks, what its bound adds, seconds.

    python benchmarks/alternatives.py [--queries 10 100 1000] [--time-limit 10] [--solvers ...]

One budget row over whole tokens, half of what everybody would need, with cumulative and with
shifted surges. The table says for each solver and size the worse of the two: how far the value
found lies below the best known, how far the solver's own bound lies above it (both relative), and
the seconds, after a small solve that imports and compiles. `--envelopes` compares CVXPY's cone
forms with tangents instead, over the families that have them.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np

import clearopt as co

SOLVERS = (
    "dual", "scip", "highs", "ortools", "dp", "cvxpy", "price", "scipy", "pyomo:scip_direct",
    "pyomo:gurobi_direct_minlp", "pyomo:pounce", "greedy", "proportional", "uniform", "time-share",
)  # fmt: skip
FAMILIES = {"cumulative": co.CumulativeSurge, "shifted": co.ShiftedSurge}
UPPER = 200


def declare(family: type[co.Utility], n: int, seed: int = 0) -> co.Problem:
    rng = np.random.default_rng([n, seed])
    scale, threshold = rng.uniform(0.3, 1, n), rng.uniform(5, 60, n)
    rate = 10 ** rng.uniform(-1.3, -0.3, n)
    budget = float(np.floor(0.3 * (threshold + 3 / rate).sum()))
    tokens = co.Allocation(n, upper=UPPER, integer=True)
    accuracy = family(scale, threshold, rate)(tokens)  # type: ignore[call-arg]
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


@dataclass
class Result:
    value: float
    bound: float
    seconds: float
    note: str = ""


def solved(problem: co.Problem, solver: str, limit: float, **options: object) -> Result:
    started = time.perf_counter()
    try:
        solution = problem.solve(solver, time_limit=limit, **options)
    except co.ClearoptError as error:
        return Result(math.nan, math.nan, math.nan, str(error).split(";")[0][:60])
    seconds = time.perf_counter() - started
    value = solution.objective if solution.allocation is not None else math.nan
    return Result(value, solution.bound, seconds, solution.message[:60])


def compare(sizes: list[int], solvers: list[str], limit: float) -> None:
    for solver in solvers:
        solved(declare(co.CumulativeSurge, 3), solver, limit)
    print("solver | n | value lacks | bound adds | seconds | note")
    for n in sizes:
        results: dict[str, list[Result]] = {solver: [] for solver in solvers}
        best: list[float] = []
        for family in FAMILIES.values():
            problem = declare(family, n)
            for solver in solvers:
                results[solver].append(solved(problem, solver, limit))
            best.append(max(r[-1].value for r in results.values() if not math.isnan(r[-1].value)))
        for solver, runs in results.items():
            lacks = max(1 - r.value / b for r, b in zip(runs, best, strict=True))
            adds = max(r.bound / b - 1 for r, b in zip(runs, best, strict=True))
            seconds = max(r.seconds for r in runs)
            note = next((r.note for r in runs if r.note), "")
            print(f"{solver} | {n} | {lacks:.1e} | {adds:.1e} | {seconds:.2g} | {note}", flush=True)


def envelopes(sizes: list[int], limit: float) -> None:
    declare(co.CumulativeSurge, 3).solve("cvxpy")  # imports
    print("family | n | exact: models, seconds, gap | tangents: the same | bounds apart")
    for n in sizes:
        rng = np.random.default_rng(n)
        scale, threshold = rng.uniform(0.3, 1, n), rng.uniform(5, 60, n)
        width, rate = rng.uniform(20, 200, n), 10 ** rng.uniform(-1.5, -0.5, n)
        families: dict[str, co.Utility] = {
            "SaturatingExponential": co.SaturatingExponential(scale, threshold, rate),
            "BestOfN": co.BestOfN(rng.uniform(0.02, 0.6, n), rng.uniform(2, 20, n)),
            "Quadratic": co.Quadratic(scale, threshold, width),
            "Hill, power 1": co.Hill(scale, threshold, 1.0),
            "Hill, powers 0.4 to 1": co.Hill(scale, threshold, rng.uniform(0.4, 1, n)),
            "Triangular": co.Triangular(scale, threshold, width),
            "Tabulated": co.Tabulated(
                np.cumsum(rng.uniform(1, 20, (n, 8)), axis=1),
                np.sort(rng.uniform(0, 1, (n, 8)), axis=1),
            ),
            "CumulativeSurge": co.CumulativeSurge(scale, threshold, rate),
        }
        dear = rng.uniform(0.5, 2, n)
        for name, family in families.items():
            tokens = co.Allocation(n, upper=400)
            rows = [co.sum(tokens) <= 15.0 * n, dear @ tokens <= 18.0 * n]
            problem = co.Problem(co.Maximize(co.sum(family(tokens))), rows)
            texts, bounds = [], []
            for way in ("exact", "tangents"):
                found = relaxed(problem, limit, cones=way == "exact")
                bounds.append(found[1])
                texts.append(f"{found[0]}, {found[3]:.2g} s, {found[1] / found[2] - 1:.0e}")
            apart = bounds[0] / bounds[1] - 1
            print(f"{name} | {n} | {texts[0]} | {texts[1]} | {apart:.0e}", flush=True)


def relaxed(problem: co.Problem, limit: float, *, cones: bool) -> tuple[int, float, float, float]:
    """Models, bound, the value that the model reached, seconds: the relaxation, not rounded."""
    from clearopt.solvers import SolveOptions
    from clearopt.solvers.cvxpy_model import Run
    from clearopt.solvers.cvxpy_relaxation import relax
    from clearopt.solvers.relaxation import concave_envelope, implied_bounds

    started = time.perf_counter()
    program = problem.program
    run = Run("CLARABEL", SolveOptions(tolerance=1e-8), started + limit, cones=cones)
    envelope = concave_envelope(program, *implied_bounds(program))
    found = relax(program, envelope, run)
    return run.models, found.bound, found.value, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--queries", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS))
    parser.add_argument("--envelopes", action="store_true")
    given = parser.parse_args()
    if given.envelopes:
        envelopes(given.queries, given.time_limit)
    else:
        compare(given.queries, given.solvers, given.time_limit)


if __name__ == "__main__":
    main()
