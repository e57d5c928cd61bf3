"""`greedy` and `proportional`: what they promise, and that they promise nothing more."""

from __future__ import annotations

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers.proportional import needed_tokens


def problem(n: int, *, share: float, whole: bool = False, seed: int = 0, rows: int = 1):
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    tokens = co.Allocation(n, upper=4096, integer=whole)
    accuracy = co.CumulativeSurge(rng.uniform(0.2, 1, n), threshold, rate)(tokens)
    need = float((threshold + 3 / rate).sum())
    limits = [(co.sum(tokens) <= share * need).named("budget")]
    limits += [rng.uniform(0.5, 1.5, n) @ tokens <= share * need for _ in range(rows - 1)]
    return co.Problem(co.Maximize(co.sum(accuracy)), limits)


@pytest.mark.parametrize("solver", ["greedy", "proportional"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 3.0])
def test_feasible_and_never_called_optimal(solver, whole, rows, share) -> None:
    declared = problem(30, share=share, whole=whole, rows=rows)
    found = declared.solve(solver)
    assert found.status == "feasible", found.summary()
    assert found.objective <= declared.solve(time_limit=10).bound
    assert found.bound == np.inf


def test_greedy_leaves_nothing_that_a_served_query_would_buy_and_beats_a_common_cap() -> None:
    declared = problem(200, share=0.2)
    greedy, uniform = declared.solve("greedy"), declared.solve("uniform")
    assert greedy.allocation.sum() == pytest.approx(declared.program.right_hand_side[0])
    assert uniform.objective < greedy.objective <= declared.solve().objective
    # The served share one marginal utility, but those whose first purchase is worth more.
    served = greedy.allocation > declared.program.utilities[0].family.break_even_tokens() + 1e-9
    slopes = declared.program.marginal(greedy.allocation)[served]
    assert slopes.max() == pytest.approx(slopes.min(), rel=1e-6)


def test_proportional_gives_every_query_the_same_part_of_its_threshold() -> None:
    declared = problem(50, share=0.2)
    found = declared.solve("proportional")
    threshold = needed_tokens(declared.program, declared.program.upper)
    parts = found.allocation / threshold
    assert parts.max() == pytest.approx(parts.min())
    assert found.allocation.sum() == pytest.approx(declared.program.right_hand_side[0])


def test_a_curve_without_a_threshold_needs_what_it_is_steepest_at() -> None:
    tokens = co.Allocation(3, upper=100)
    middle = np.array([10.0, 20.0, 40.0])
    accuracy = co.Logistic(0.9, middle, 0.5)(tokens)
    program = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 35]).program
    assert needed_tokens(program, program.upper) == pytest.approx(middle)


@pytest.mark.parametrize("solver", ["greedy", "proportional"])
def test_what_they_cannot_take_is_refused_by_name(solver) -> None:
    tokens = co.Allocation(3, upper=100)
    accuracy = co.CumulativeSurge(0.9, 10.0, 0.2)(tokens)
    floor = co.Problem(co.Maximize(co.sum(accuracy)), [co.mean(accuracy) >= 0.1])
    with pytest.raises(co.UnsupportedProblemError, match=r"accuracy floors; .*'dual'"):
        floor.solve(solver)
    with pytest.raises(co.UnsupportedProblemError, match="cannot take at-least rows"):
        co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) >= 10]).solve("greedy")


@pytest.mark.parametrize("solver", ["greedy", "proportional"])
def test_lower_bounds_past_the_budget_are_said(solver) -> None:
    tokens = co.Allocation(3, lower=10, upper=100)
    accuracy = co.CumulativeSurge(0.9, 10.0, 0.2)(tokens)
    rows = [co.sum(tokens[:2]) + co.sum(tokens[2:]) <= 31, co.sum(tokens[:2]) <= 31]
    found = co.Problem(co.Maximize(co.sum(accuracy)), rows).solve(solver)
    assert found.allocation.min() >= 10
