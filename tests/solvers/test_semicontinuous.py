"""Nothing, or at least a minimum: exact in the dual, alike in every back-end."""

import numpy as np
import pytest

import clearopt as co

FAMILIES = (co.CumulativeSurge, co.ShiftedSurge, co.SaturatingExponential)


def build(seed, n, *, whole):
    rng = np.random.default_rng(seed)
    scale, threshold = rng.uniform(0.2, 1, n), rng.uniform(0, 15, n)
    family = FAMILIES[seed % 3](scale, threshold, 10 ** rng.uniform(-1, 0.3, n))
    upper = rng.integers(20, 60, n)
    least = np.minimum(rng.integers(1, 40, n), upper)
    budget = int(rng.integers(30, 150))
    tokens = co.Allocation(n, lower=least, upper=upper, integer=whole, semicontinuous=True)
    problem = co.Problem(
        co.Maximize(co.sum(family(tokens))), [(co.sum(tokens) <= budget).named("budget")]
    )
    return problem, family.broadcast(n), least, upper, budget


def dynamic_program(family, least, upper, budget):
    best = np.zeros(budget + 1)
    for i in range(least.size):
        amounts = np.r_[0, np.arange(least[i], min(upper[i], budget) + 1)].astype(int)
        values = family.take(np.array([i])).value(amounts.astype(float))
        updated = np.full(budget + 1, -np.inf)
        for amount, value in zip(amounts, values, strict=True):
            updated[amount:] = np.maximum(updated[amount:], best[: budget + 1 - amount] + value)
        best = updated
    return best.max()


@pytest.mark.parametrize("seed", range(40))
def test_whole_tokens_against_dynamic_programming(seed):
    problem, family, least, upper, budget = build(seed, 8, whole=True)
    solution = problem.solve()
    assert solution.status == "optimal", solution.summary()
    reference = dynamic_program(family, least, upper, budget)
    assert solution.objective == pytest.approx(reference, rel=1e-9, abs=1e-12)
    assert solution.bound >= reference * (1 - 1e-12)
    assert (np.r_[solution.allocation] * (solution.allocation < least) == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_continuous_tokens_against_scip(seed):
    problem, _, least, *_ = build(seed, 5, whole=False)
    dual, scip = problem.solve(), problem.solve("scip", time_limit=10)
    assert dual.status == "optimal", dual.summary()
    assert scip.objective <= dual.bound * (1 + 1e-7)
    assert dual.objective <= scip.bound * (1 + 1e-7)
    for solution in (dual, scip):
        served = solution.allocation > 0
        assert (solution.allocation[served] >= least[served] * (1 - 1e-9)).all()


@pytest.mark.parametrize("solver", ["dual", "cvxpy", "price", "uniform"])
def test_every_back_end_keeps_to_nothing_or_at_least(solver):
    for seed in range(4):
        problem, _, least, *_ = build(seed, 12, whole=bool(seed % 2))
        solution = problem.solve(solver, time_limit=20)
        assert solution.allocation is not None, solution.summary()
        assert solution.feasibility.ok
        served = solution.allocation > 0
        assert (solution.allocation[served] >= least[served] * (1 - 1e-9)).all()
        assert solution.objective <= problem.solve().bound * (1 + 1e-9)


def test_a_minimum_that_a_constraint_makes_certain():
    tokens = co.Allocation(3, lower=10, upper=40, semicontinuous=True, name="tokens")
    accuracy = co.CumulativeSurge(0.9, 5, 0.2)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [co.sum(tokens) <= 30, tokens[0] >= 12, tokens[1] <= 8, tokens[2] <= 20],
    )
    program = problem.program
    assert program.semicontinuous.tolist() == [False, False, True]
    assert program.lower.tolist() == [12, 0, 10]
    assert program.upper.tolist() == [40, 0, 20]
    assert program.least.tolist() == [12, 0, 0]
    solution = problem.solve()
    assert solution.allocation[1] == 0
    assert solution.status == "optimal"


def test_the_check_knows_the_gap():
    tokens = co.Allocation(2, lower=10, upper=40, semicontinuous=[True, False])
    program = co.Problem(co.Maximize(co.sum(co.CumulativeSurge(0.9, 5, 0.2)(tokens)))).program
    from clearopt.certificate import check_feasibility

    assert check_feasibility(program, np.array([0.0, 10.0])).ok
    assert not check_feasibility(program, np.array([5.0, 10.0])).ok
    assert check_feasibility(program, np.array([10.0, 0.0])).where == "lower bound of query 1"


def test_identical_semicontinuous_queries_are_closed():
    tokens = co.Allocation(200, lower=30, upper=100, semicontinuous=True, integer=True)
    accuracy = co.CumulativeSurge(0.9, 10, 0.1)(tokens)
    solution = co.Problem(co.Maximize(co.sum(accuracy)), co.sum(tokens) <= 2_000).solve()
    assert solution.status == "optimal", solution.summary()
