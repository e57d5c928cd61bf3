"""The baselines that look at no query: `uniform` and `time-share`."""

from __future__ import annotations

import numpy as np
import pytest

import clearopt as co


def problem(
    n: int, seed: int, *, fraction: float = 0.2, whole: bool = False, lower: float = 0.0
) -> co.Problem:
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(10, 100, n), 10 ** rng.uniform(-1.5, -0.5, n)
    tokens = co.Allocation(n, lower=lower, upper=1000, integer=whole)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), threshold, rate)(tokens)
    budget = np.floor(fraction * (threshold + 4 / rate).sum() + n * lower)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


def budget_of(declared: co.Problem) -> float:
    return float(declared.program.right_hand_side[0])


BASELINES = ("uniform", "time-share")


@pytest.mark.parametrize("solver", BASELINES)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("lower", [0.0, 7.0])
@pytest.mark.parametrize("seed", range(5))
def test_always_feasible_never_above_the_bound(
    solver: str, whole: bool, lower: float, seed: int
) -> None:
    declared = problem(9, seed, whole=whole, lower=lower, fraction=[0.02, 0.1, 0.3, 0.8, 3.0][seed])
    solution, dual = declared.solve(solver, seed=seed), declared.solve()
    assert solution.status == "feasible"
    assert solution.bound == np.inf
    assert solution.allocation is not None
    assert solution.allocation.sum() <= budget_of(declared) * (1 + 1e-12)
    assert solution.allocation.min() >= lower
    assert solution.objective <= dual.bound * (1 + 1e-12)


@pytest.mark.parametrize("solver", BASELINES)
def test_they_certify_nothing_even_where_they_are_optimal(solver: str) -> None:
    declared = problem(4, 0, fraction=30.0)
    solution = declared.solve(solver)
    assert solution.objective == pytest.approx(declared.solve().objective, rel=1e-9)
    assert solution.status == "feasible"
    assert co.solvers()[solver].certifies == "nothing"


@pytest.mark.parametrize("solver", BASELINES)
@pytest.mark.parametrize("whole", [False, True])
def test_a_budget_of_nothing(solver: str, whole: bool) -> None:
    tokens = co.Allocation(4, upper=50, integer=whole)
    accuracy = co.ShiftedSurge(0.9, 5, 0.1)(tokens)
    declared = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 0])
    solution = declared.solve(solver)
    assert solution.allocation is not None
    assert not solution.allocation.any()


def test_uniform_is_the_largest_common_cap() -> None:
    declared = problem(7, 1)
    solution = declared.solve("uniform")
    assert solution.allocation is not None
    assert np.ptp(solution.allocation) == 0
    assert solution.allocation.sum() == pytest.approx(budget_of(declared), rel=1e-12)
    whole = problem(7, 1, whole=True).solve("uniform")
    assert whole.allocation is not None
    assert whole.allocation[0] == np.floor(budget_of(declared) / 7)


def test_uniform_respects_bounds_and_several_rows() -> None:
    tokens = co.Allocation(4, lower=[0, 0, 30, 0], upper=[5, 100, 100, 100])
    accuracy = co.CumulativeSurge(0.9, 5, 0.1)(tokens)
    rows = [co.sum(tokens) <= 105, tokens[1] + tokens[3] <= 40, tokens[0] >= 1]
    solution = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve("uniform")
    assert solution.allocation is not None
    np.testing.assert_allclose(solution.allocation, [5, 20, 30, 20], atol=1e-9)


def test_time_share_is_drawn_by_the_seed_alone() -> None:
    declared = problem(40, 2)
    first, again = (declared.solve("time-share", seed=3) for _ in range(2))
    other = declared.solve("time-share", seed=4)
    assert first.allocation is not None
    np.testing.assert_array_equal(first.allocation, again.allocation)
    assert not np.array_equal(first.allocation, other.allocation)


def test_time_share_serves_its_share_at_one_cap() -> None:
    declared = problem(40, 2)
    solution = declared.solve("time-share", seed=3)
    assert solution.allocation is not None
    served = solution.allocation[solution.allocation > 0]
    assert np.ptp(served) == 0
    assert served[0] == solution.statistics["cap"]
    assert solution.statistics["share"] == served.size / 40
    left = budget_of(declared) - served.sum()
    assert 0 <= left < served[0]  # nobody else fits


def test_time_share_cap_is_the_best_on_average() -> None:
    """Against a fine scan of caps, each worth its share of what it earns everybody."""
    declared = problem(30, 5)
    program, budget = declared.program, budget_of(declared)
    caps = np.linspace(1, 1000, 20_000)
    expected = [
        min(1.0, budget / (30 * cap)) * program.utility(np.full(30, cap)).sum() for cap in caps
    ]
    cap = declared.solve("time-share").statistics["cap"]
    reached = min(1.0, budget / (30 * cap)) * program.utility(np.full(30, cap)).sum()
    assert reached >= max(expected) * (1 - 1e-6)
    draws = [declared.solve("time-share", seed=seed).objective for seed in range(60)]
    # What no longer fits is left: the mean of the draws is a little below the expectation.
    assert 0.8 * reached < np.mean(draws) < 1.05 * reached


def test_when_tokens_are_scarce_time_share_is_stronger_than_uniform() -> None:
    declared = problem(60, 7, fraction=0.15)
    draws = [declared.solve("time-share", seed=seed).objective for seed in range(10)]
    assert np.mean(draws) > 2 * declared.solve("uniform").objective


def test_time_share_gives_what_is_left_to_the_next_one_that_fits() -> None:
    tokens = co.Allocation(3, upper=[90, 90, 10])
    accuracy = co.CumulativeSurge([0.9, 0.9, 0.5], [10, 10, 1], [0.1, 0.1, 1.0])(tokens)
    declared = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 100])
    for seed in range(8):
        solution = declared.solve("time-share", seed=seed)
        assert solution.allocation is not None
        assert solution.allocation[2] > 0


def test_time_share_charges_what_the_row_charges() -> None:
    tokens = co.Allocation(20, upper=100)
    accuracy = co.CumulativeSurge(0.9, 10, 0.2)(tokens)
    charge = np.linspace(0.0, 3.0, 20)
    declared = co.Problem(co.Maximize(co.sum(accuracy)), [charge @ tokens <= 150])
    solution = declared.solve("time-share", seed=1)
    assert solution.allocation is not None
    assert charge @ solution.allocation <= 150 * (1 + 1e-12)
    assert solution.allocation[0] > 0


def test_what_they_cannot_take_is_refused_with_who_can() -> None:
    tokens = co.Allocation(3, upper=50)
    accuracy = co.CumulativeSurge(0.9, 5, 0.1)(tokens)
    floor = co.Problem(co.Maximize(co.sum(accuracy)), [co.mean(accuracy) >= 0.1])
    for solver in BASELINES:
        with pytest.raises(co.UnsupportedProblemError, match=r"accuracy floors.*'scip'"):
            floor.solve(solver)
    two = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 60, co.sum(tokens[:2]) <= 9])
    with pytest.raises(co.UnsupportedProblemError, match=r"several rows.*'uniform'"):
        two.solve("time-share")
    least = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) >= 60])
    with pytest.raises(co.UnsupportedProblemError, match=r"at-least rows.*'uniform'"):
        least.solve("time-share")


def test_without_any_bound_time_share_says_so() -> None:
    tokens = co.Allocation(3)
    accuracy = co.CumulativeSurge(0.9, 5, 0.1)(tokens)
    paid = co.Problem(co.Maximize(co.sum(accuracy) + co.sum(tokens)), [])
    solution = paid.solve("time-share")
    assert solution.status == "unknown"
    assert "no upper bound" in solution.message


def test_a_uniform_cap_stops_where_tokens_stop_helping() -> None:
    tokens = co.Allocation(3)
    utility = co.CumulativeSurge(0.9, 50.0, 0.1)(tokens)
    endless = co.Problem(co.Maximize(co.sum(utility) - 0.001 * co.sum(tokens)))
    solution = endless.solve(solver="uniform")
    assert solution.allocation is not None
    assert solution.allocation.max() < 1000
    paid = co.Problem(co.Maximize(co.sum(utility) + 0.001 * co.sum(tokens)))
    assert paid.solve(solver="uniform").status == "unknown"
