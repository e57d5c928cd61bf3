"""500 random problems, every kind of row and every family, against the exhaustive oracle.

Whatever the time limit: no bound below the optimum, no objective above it, no allocation that
misses a row, nothing feasible called infeasible, nothing short of the optimum called optimal. And
all are closed: `optimal`, with the oracle's objective.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from exhaustive import misses, optimum
from random_programs import Case, draw

import clearopt as co

COUNT = 500
CLOSES_ALL = True  # whether a problem that is left open is a failure; if not, they are counted
EXACT = 1e-9


def check(
    problem: co.Problem, best: float, *, strict: bool = CLOSES_ALL, time_limit: float = 20
) -> co.Solution:
    """Solve to tolerance 0 and hold every claim of the solution against the optimum.

    Args:
        best: the greatest objective of `problem.program`, -inf where nothing is feasible.
        strict: require that it is closed.
    """
    program = problem.program
    solution = problem.solve(tolerance=0, time_limit=time_limit)
    said = solution.summary()
    if best == -np.inf:
        assert solution.allocation is None, f"an allocation of an infeasible problem\n{said}"
        assert solution.status in (("infeasible",) if strict else ("infeasible", "unknown")), said
        return solution
    room = EXACT * max(abs(best), 1e-3)
    bound, objective = program.sign * solution.bound, program.sign * solution.objective
    assert solution.status not in ("infeasible", "unbounded"), f"feasible: {best}\n{said}"
    assert bound >= best - room, f"bound {bound - best:.3g} below the optimum {best}\n{said}"
    if solution.allocation is not None:
        missed = misses(program, solution.allocation)
        assert not missed, f"{missed}\n{said}"
        value = program.objective(np.asarray(solution.allocation, dtype=float))
        assert objective == pytest.approx(value, rel=1e-12, abs=1e-300)
        assert objective <= best + room, f"{objective - best:.3g} above the optimum {best}\n{said}"
        # What is feasible to 1e-9 may be worth a little more than the rows allow.
        assert bound >= objective - (0.0 if strict else room), said
    if strict or solution.status == "optimal":
        assert solution.status == "optimal", f"left open, the optimum is {best}\n{said}"
        assert objective >= best - room, f"{best - objective:.3g} short of {best}\n{said}"
    return solution


def closed(solution: co.Solution) -> bool:
    return solution.status in ("optimal", "infeasible")


@pytest.fixture(scope="module")
def tally(request):
    """(case, solution) of every problem; told as a table in the end."""
    seen: list[tuple[Case, co.Solution]] = []
    yield seen
    if len(seen) > 10:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("", *table(seen), sep="\n")


def table(seen: list[tuple[Case, co.Solution]]) -> list[str]:
    """How many are closed, and the worst gap of the others, by rows and by family."""
    lines = [f"closed {sum(closed(s) for _, s in seen)} of {len(seen)}"]
    for label in ("rows", "family"):
        groups = defaultdict(list)
        for case, solution in seen:
            groups[getattr(case, label)].append((case.whole, solution))
        lines.append(f"{label:<20} {'whole':>9} {'continuous':>10} {'worst gap':>10}")
        for name, members in groups.items():
            counts = [
                f"{sum(closed(s) for w, s in members if w == whole)}"
                f"/{sum(w == whole for w, _ in members)}"
                for whole in (True, False)
            ]
            worst = max((s.gap for _, s in members if not closed(s)), default=0.0)
            lines.append(f"{name:<20} {counts[0]:>9} {counts[1]:>10} {worst:>10.2g}")
    return lines


@pytest.mark.parametrize("seed", range(COUNT))
def test_equals_the_exhaustive_oracle(seed: int, tally) -> None:
    case = draw(seed)
    tally.append((case, check(case.problem, optimum(case.problem.program))))
