"""Budgets on realised tokens: one price, still certified."""

import numpy as np
import pytest

import clearopt as co


def build(seed, n, *, whole, same=False, budget=59.63):
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(2, 20, n), 10 ** rng.uniform(-1, 0, n)
    tokens = co.Allocation(n, upper=60, integer=whole, name="tokens")
    accuracy = co.CumulativeSurge(rng.uniform(0.5, 1, n), threshold, rate)(tokens)
    ends = 1.0 if same else rng.uniform(0.3, 0.9, n)
    cost = co.ExpectedTokens(threshold, rate, ends)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(cost) <= budget).named("realised")])


def on_the_grid(program, budget, steps=4000):
    """The optimum over whole tokens with costs rounded down to a fine grid: an upper bound; and
    rounded up: a lower bound."""
    unit = budget / steps
    found = []
    for up in (False, True):
        best = np.zeros(steps + 1)
        for i in range(program.n):
            amounts = np.arange(program.upper[i] + 1)
            whole = np.tile(amounts[:, None], program.n)
            cost = np.array([program.curve_value(row)[i] for row in whole])
            value = np.array([program.utility(row)[i] for row in whole])
            charge = np.ceil(cost / unit - 1e-9) if up else np.floor(cost / unit + 1e-9)
            updated = np.full(steps + 1, -np.inf)
            for c, v in zip(charge.astype(int), value, strict=True):
                if c <= steps:
                    updated[c:] = np.maximum(updated[c:], best[: steps + 1 - c] + v)
            best = updated
        found.append(best.max())
    return found


@pytest.mark.parametrize("seed", range(6))
def test_whole_tokens_against_dynamic_programming(seed):
    problem = build(seed, 5, whole=True, same=seed % 3 == 0)
    solution = problem.solve()
    assert solution.status == "optimal", solution.summary()
    above, below = on_the_grid(problem.program, 59.63)
    assert below * (1 - 1e-9) <= solution.objective <= above * (1 + 1e-9)
    assert (solution.allocation == np.round(solution.allocation)).all()


@pytest.mark.parametrize("seed", range(3))
def test_continuous_tokens_against_scip(seed):
    problem = build(seed, 4, whole=False, same=seed == 0)
    dual, scip = problem.solve(), problem.solve("scip", time_limit=5)
    assert dual.status == "optimal", dual.summary()
    assert scip.objective <= dual.bound * (1 + 1e-7)
    assert dual.objective <= scip.bound * (1 + 1e-7)
    assert dual.prices["realised"] >= 0


def test_every_back_end_keeps_to_the_realised_budget():
    problem = build(1, 8, whole=True)
    bound = problem.solve().bound
    for solver in ("dual", "price", "cvxpy", "uniform"):
        solution = problem.solve(solver, time_limit=20)
        assert solution.allocation is not None, solution.summary()
        assert problem.program.activity(solution.allocation)[0] <= 59.63 * (1 + 1e-9)
        assert solution.objective <= bound * (1 + 1e-9)


def test_a_budget_on_realised_tokens_serves_more_than_one_on_caps():
    rng = np.random.default_rng(7)
    n = 400
    threshold, rate = rng.uniform(10, 80, n), 10 ** rng.uniform(-1.6, -0.5, n)
    tokens = co.Allocation(n, upper=400, integer=True)
    accuracy = co.CumulativeSurge(0.9, threshold, rate)(tokens)
    cost = co.ExpectedTokens(threshold, rate, 0.8)(tokens)
    objective = co.Maximize(co.sum(accuracy))
    realised = co.Problem(objective, co.sum(cost) <= 8_000).solve(time_limit=20)
    caps = co.Problem(objective, co.sum(tokens) <= 8_000).solve(time_limit=20)
    assert realised.gap < 1e-4
    assert realised.objective > 1.1 * caps.objective
    assert realised.allocation.sum() > 8_000  # caps may add up to more than is ever used


def test_caps_and_realised_tokens_at_once():
    rng = np.random.default_rng(2)
    n = 8
    threshold, rate = rng.uniform(2, 20, n), 10 ** rng.uniform(-1, 0, n)
    tokens = co.Allocation(n, upper=60, integer=True)
    accuracy = co.CumulativeSurge(0.9, threshold, rate)(tokens)
    cost = co.ExpectedTokens(threshold, rate, 0.6)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [(co.sum(tokens) <= 140).named("caps"), (co.sum(cost) <= 110).named("realised")],
    )
    dual, scip = problem.solve(), problem.solve("scip", time_limit=15)
    assert dual.allocation is not None, dual.summary()
    assert dual.gap < 0.05
    assert dual.objective <= scip.bound * (1 + 1e-7)
    assert scip.allocation is None or scip.objective <= dual.bound * (1 + 1e-7)


def test_fractional_tokens_charged_both_ways_are_refused_where_no_closed_form_is():
    tokens = co.Allocation(3, upper=60)
    accuracy = co.CumulativeSurge(0.9, 5, 0.2)(tokens)
    cost = co.ExpectedTokens(5, 0.2)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 60, co.sum(cost) <= 40])
    with pytest.raises(co.UnsupportedProblemError, match=r"query 0 is charged both.*integer=True"):
        problem.solve()
    assert problem.solve("scip", time_limit=10).allocation is not None


def test_fewest_realised_tokens_for_a_promise():
    rng = np.random.default_rng(4)
    n = 10
    threshold, rate = rng.uniform(2, 20, n), 10 ** rng.uniform(-1, 0, n)
    tokens = co.Allocation(n, upper=80, integer=True)
    accuracy = co.CumulativeSurge(0.9, threshold, rate)(tokens)
    cost = co.ExpectedTokens(threshold, rate, 0.7)(tokens)
    problem = co.Problem(co.Minimize(co.sum(cost)), [(co.mean(accuracy) >= 0.5).named("promise")])
    solution = problem.solve()
    assert solution.allocation is not None, solution.summary()
    assert solution.bound <= solution.objective
    assert solution.gap < 0.05
    assert solution.utilities.mean() >= 0.5 * (1 - 1e-9)


def test_a_curve_without_a_utility_only_costs():
    tokens = co.Allocation(3, lower=[4, 0, 0], upper=60, integer=True)
    accuracy = co.CumulativeSurge(0.9, 5, 0.2)(tokens[1:])
    cost = co.ExpectedTokens(2, 0.2, 0.5)(tokens)
    solution = co.Problem(co.Maximize(co.sum(accuracy)), co.sum(cost) <= 30).solve()
    assert solution.status == "optimal"
    assert solution.allocation[0] == 4


def test_free_tokens_past_the_longest_answer_are_chosen_for_their_utility():
    # Every answer ends by 37 tokens: 38, 39, ... cost the same, but the table falls after 38.
    accuracy = co.Tabulated([0.0, 38.3, 49.9], [0.0, 0.945, 0.498])
    cost = co.ExpectedTokens.from_lengths([[1, 10, 34, 37]])
    tokens = co.Allocation(1, upper=60, integer=True)
    problem = co.Problem(co.Maximize(co.sum(accuracy(tokens))), [co.sum(cost(tokens)) <= 30.0])
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.allocation.tolist() == [38]
