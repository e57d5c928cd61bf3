"""What a solution says: prices by name, marginal values, the summary."""

import math

import numpy as np
import pytest

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.solution import STATUS_MEANING

FAMILY = co.CumulativeSurge(scale=[0.9, 0.8, 0.7], threshold=[5.0, 10.0, 20.0], rate=0.2)


def a_problem(**allocation):
    tokens = co.Allocation(3, upper=100, **allocation)
    return co.Problem(
        co.Maximize(co.sum(FAMILY(tokens))),
        [
            (co.sum(tokens) <= 60).named("budget"),
            (co.sum(tokens, by=["a", "b", "b"]) <= {"a": 50, "b": 60}).named("cap"),
            ((np.eye(2, 3) + np.eye(2, 3, 1)) @ tokens <= [70, 80]).named("pair"),
            (co.mean(FAMILY(tokens)) >= 0.1).named("floor"),
        ],
    )


def solution_of(program, **changes):
    options = {
        "solver": "test",
        "seconds": 0.25,
        "allocation": np.array([20.0, 30.0, 10.0]),
        "bound": 3.0,
        "row_prices": np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        "floor_prices": np.array([0.6]),
    }
    return make_solution(program, **(options | changes))


def test_prices_are_found_by_name():
    prices = solution_of(a_problem().program).prices
    assert prices["budget"] == 0.1
    assert prices["cap"] == {"a": 0.2, "b": 0.3}
    assert prices["pair"].tolist() == [0.4, 0.5]
    assert prices["floor"] == 0.6
    assert solution_of(a_problem().program, row_prices=None, floor_prices=None).prices == {}


def test_utilities_and_funded():
    solution = solution_of(a_problem().program)
    np.testing.assert_array_equal(solution.utilities, FAMILY.value([20.0, 30.0, 10.0]))
    # Ten tokens do not reach the third query's threshold: it is not served.
    assert solution.funded.tolist() == [True, True, False]


def test_the_summary_says_all_a_person_wants():
    text = solution_of(a_problem().program, message="ran out of patience").summary()
    for piece in [
        "feasible (test, 0.25 s)",
        "ran out of patience",
        "objective",
        "bound      3",
        "relative gap",
        "2 of 3 queries, 60 tokens",
        "budget: 0.1",
        "a: 0.2, b: 0.3",
    ]:
        assert piece in text
    for options in ({"infeasible": True}, {"unbounded": True}, {}):
        solution = solution_of(a_problem().program, allocation=None, **options)
        assert STATUS_MEANING[solution.status] in solution.summary()
        assert solution.gap == math.inf


# ------------------------------------------------------------------ marginal values
def one_row(n=4, budget=160.0, **allocation):
    family = co.CumulativeSurge(
        scale=np.linspace(0.5, 0.9, n), threshold=np.linspace(5, 20, n), rate=0.1
    )
    tokens = co.Allocation(n, upper=200, **allocation)
    accuracy = family(tokens)
    return family, co.Problem(
        co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")]
    )


def equal_marginals(family, price):
    return family.origin + family.stationary_excess(np.full(family.scale.shape, price))


def test_the_marginal_value_is_the_slope_of_the_value_function():
    family, _ = one_row()
    slope = 0.012
    tokens = equal_marginals(family, slope)
    budget = float(tokens.sum())
    _, problem = one_row(budget=budget)
    solution = make_solution(problem.program, solver="test", seconds=0.0, allocation=tokens)
    assert solution.marginal_values["budget"] == pytest.approx(slope, rel=1e-9)
    # The finite difference, with the funded set as it is and marginals kept equal.
    step = 1e-3
    more = equal_marginals(family, slope)
    for _ in range(60):  # Newton on the price for the larger budget, by secants
        rise = (budget + step) - more.sum()
        more = more + rise / more.shape[0]
        marginal = family.marginal(more)
        more = equal_marginals(family, float(np.mean(marginal)))
        if abs(rise) < 1e-12:
            break
    difference = (family.value(more).sum() - family.value(tokens).sum()) / (more.sum() - budget)
    assert solution.marginal_values["budget"] == pytest.approx(difference, rel=1e-3)


def test_slack_rows_are_worth_nothing():
    family, _ = one_row()
    _, problem = one_row(budget=790.0)
    tokens = equal_marginals(family, 0.01)
    solution = make_solution(problem.program, solver="test", seconds=0.0, allocation=tokens)
    assert solution.marginal_values["budget"] == 0.0


def test_whole_tokens_what_the_best_next_token_adds():
    family, _ = one_row()
    tokens = np.floor(equal_marginals(family, 0.01))
    _, problem = one_row(budget=float(tokens.sum()), integer=True)
    solution = make_solution(problem.program, solver="test", seconds=0.0, allocation=tokens)
    gain = family.value(tokens + 1) - family.value(tokens)
    assert solution.marginal_values["budget"] == pytest.approx(gain.max(), rel=1e-12)


def test_prices_of_a_demand_are_signed():
    # A row that must be reached costs: one more unit of it helps by a negative amount.
    tokens = co.Allocation(2, upper=100)
    family = co.CumulativeSurge(scale=[0.9, 0.8], threshold=5.0, rate=0.1)
    cost = 0.05
    problem = co.Problem(
        co.Maximize(co.sum(family(tokens)) - cost * co.sum(tokens)),
        [(co.sum(tokens) >= 120).named("least")],
    )
    marginal = 0.002
    amounts = family.broadcast(2)
    x = amounts.origin + amounts.stationary_excess(np.full(2, marginal))
    x *= 120 / x.sum()
    solution = make_solution(problem.program, solver="test", seconds=0.0, allocation=x)
    assert solution.marginal_values["least"] < 0
    assert solution.marginal_values["least"] == pytest.approx(
        float(np.median(family.marginal(x))) - cost, abs=5e-3
    )
