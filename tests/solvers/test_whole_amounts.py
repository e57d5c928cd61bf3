"""`dp` and `ortools`, which look at every whole amount: exact, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import brute_force
from random_programs import draw

import clearopt as co
from clearopt.solvers.amounts import whole_amounts


def whole(seed: int):
    case = draw(seed)
    return case.problem if case.whole else None


def surges(n: int, *, integer: bool = True, upper: float = 40) -> co.Problem:
    rng = np.random.default_rng(n)
    tokens = co.Allocation(n, upper=upper, integer=integer)
    accuracy = co.ShiftedSurge(
        rng.uniform(0.3, 1, n), rng.uniform(2, 15, n), 10 ** rng.uniform(-1, 0, n)
    )(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 7 * n).named("budget")])


def test_ortools_is_installed_and_dp_always() -> None:
    table = co.solvers()
    assert table["ortools"].installed
    assert table["ortools"].install == "pip install 'clearopt[ortools]'"
    assert table["dp"].installed


@pytest.mark.parametrize("solver", ["dp", "ortools"])
@pytest.mark.parametrize("seed", range(150))
def test_the_optimum_is_that_of_the_dual(solver: str, seed: int) -> None:
    problem = whole(seed)
    if problem is None:
        return  # fractional tokens: refused, as below
    tolerance = 1e-9 if solver == "dp" else 1e-6
    try:
        found = problem.solve(solver, tolerance=tolerance, time_limit=20)
    except co.UnsupportedProblemError:
        if solver != "dp":
            raise
        return
    dual = problem.solve(tolerance=1e-9, time_limit=10)
    said = found.summary() + "\n" + dual.summary()
    assert found.status == ("infeasible" if dual.status == "infeasible" else "optimal"), said
    if found.allocation is not None:
        size = max(abs(found.objective), 1e-6)
        assert abs(found.objective - dual.objective) <= 2 * tolerance * size, said
        sign = problem.program.sign
        assert sign * dual.objective <= sign * found.bound + 1e-10 * size, said


@pytest.mark.parametrize("seed", range(40))
def test_dp_finds_what_enumeration_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    tokens = co.Allocation(
        n, lower=rng.integers(0, 3, n), upper=rng.integers(3, 9, n), integer=True
    )
    accuracy = co.Tabulated(np.arange(10.0), rng.uniform(0, 1, (n, 10)))(tokens)
    rows = [(rng.integers(0, 4, n) / 2) @ tokens <= float(rng.integers(3, 20))]
    if seed % 3 == 0:
        rows.append(co.sum(tokens) == float(rng.integers(n * 2, n * 5)))
    problem = co.Problem(co.Maximize(co.sum(accuracy)), rows)
    best = brute_force(problem.program)
    found = problem.solve("dp", tolerance=0)
    if best == -np.inf:
        assert found.status == "infeasible"
    else:
        assert found.status == "optimal"
        assert found.objective == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("solver", ["dp", "ortools"])
def test_fractional_tokens_are_refused_with_the_query(solver: str) -> None:
    with pytest.raises(co.UnsupportedProblemError, match="query 0 has fractional tokens"):
        surges(4, integer=False).solve(solver)


def test_dp_refuses_what_is_too_large_before_any_work() -> None:
    with pytest.raises(co.UnsupportedProblemError, match="too many for 'dp'"):
        surges(4_000, upper=2_000).solve("dp")
    tokens = co.Allocation(2, upper=5, integer=True)
    accuracy = co.CumulativeSurge(0.9, 1.0, 0.5)(tokens)
    odd = co.Problem(co.Maximize(co.sum(accuracy)), [np.array([1.0, np.pi]) @ tokens <= 9])
    with pytest.raises(co.UnsupportedProblemError, match="common unit"):
        odd.solve("dp")


@pytest.mark.parametrize("solver", ["dp", "ortools"])
def test_a_time_limit_is_kept(solver: str) -> None:
    problem = surges(150, upper=300)
    found = problem.solve(solver, time_limit=0.2, tolerance=0)
    assert found.status in ("feasible", "unknown", "optimal")
    assert found.bound >= problem.solve().objective * (1 - 1e-9)


def test_a_warm_start_is_kept_by_ortools() -> None:
    problem = surges(60)
    best = problem.solve()
    found = problem.solve("ortools", time_limit=10, warm_start=best)
    assert found.objective >= best.objective * (1 - 1e-6)


def test_amounts_hold_nothing_only_where_it_is_to_be_had() -> None:
    tokens = co.Allocation(
        2, lower=[2, 3], upper=[4, 5], integer=True, semicontinuous=[True, False]
    )
    accuracy = co.CumulativeSurge(0.9, 1.0, 0.5)(tokens)
    program = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 100]).program
    query, amount = whole_amounts(program, "dp", 100)
    assert query.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert amount.tolist() == [0, 2, 3, 4, 3, 4, 5]


def test_rows_with_more_states_than_any_number_can_say_are_refused():
    tokens = co.Allocation(1400, upper=40, integer=True)
    accuracy = co.ShiftedSurge(0.5, 5.0, 0.5)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)), [co.sum(tokens, by=[i % 700 for i in range(1400)]) <= 20]
    )
    with pytest.raises(co.UnsupportedProblemError, match="remembered choices are too many"):
        problem.solve("dp")
    assert problem.solve().status == "optimal"
