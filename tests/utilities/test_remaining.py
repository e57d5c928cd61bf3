"""The rest of a utility against a simulation of answers, and as a utility of its own."""

import numpy as np
import pytest

import clearopt as co
from clearopt.utilities.remaining import Remaining

FAMILIES = {
    "cumulative": lambda n: co.CumulativeSurge(np.full(n, 0.7), np.full(n, 30.0), np.full(n, 0.1)),
    "shifted": lambda n: co.ShiftedSurge(np.full(n, 0.7), np.full(n, 30.0), np.full(n, 0.05)),
    "logistic": lambda n: co.Logistic(np.full(n, 0.8), np.full(n, 60.0), np.full(n, 0.1)),
    "lognormal": lambda n: co.Lognormal(np.full(n, 0.9), np.full(n, 60.0), np.full(n, 0.4)),
}
SPENT = np.array([0.0, 10.0, 30.0, 35.0, 45.0, 60.0])


def test_it_is_what_a_simulation_of_answers_finds():
    rng = np.random.default_rng(0)
    scale, threshold, rate = 0.7, 30.0, 0.1
    length = threshold + rng.gamma(2.0, 1 / rate, size=400_000)
    right = rng.random(length.size) < scale  # wrong answers are as long as right ones
    more = np.array([3.0, 10.0, 20.0, 40.0])
    for spent in (0.0, 20.0, 40.0, 55.0):
        under_way = length > spent
        found = [np.mean(right[under_way] & (length[under_way] <= spent + x)) for x in more]
        rest = Remaining.of(co.CumulativeSurge([scale], [threshold], [rate]), spent)
        promised = [float(rest.value(np.array([x]))[0]) for x in more]
        np.testing.assert_allclose(promised, found, atol=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_a_utility(family):
    n = SPENT.size
    rest = Remaining.of(FAMILIES[family](n), SPENT)
    tokens = np.linspace(0, 300, 3001)
    values = np.array([rest.value(np.full(n, x)) for x in tokens])
    np.testing.assert_allclose(values[0], 0, atol=1e-12)
    for price in (1e-4, 1e-3, 5e-3, 2e-2):
        bought = np.asarray(rest.demand(price, upper=300.0))
        surplus = np.array([rest.value(np.full(n, x)) - price * x for x in tokens]).max(axis=0)
        own = np.asarray(rest.value(bought)) - price * bought
        assert (own >= surplus - 1e-9).all()


def test_nothing_spent_is_the_whole_and_everything_spent_is_nothing():
    whole = FAMILIES["cumulative"](3)
    rest = Remaining.of(whole, [0.0, 1e6, 20.0], [np.inf, np.inf, 0.0])
    tokens = np.full(3, 70.0)
    found = np.asarray(rest.value(tokens))
    np.testing.assert_allclose(found, [whole.value(tokens)[0], 0, 0], atol=1e-15)
    assert np.asarray(rest.demand(1e-6))[1:].tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", ["dual", "highs"])
def test_it_is_solved_as_any_other(family, solver):
    n = SPENT.size
    tokens = co.Allocation(n, upper=120, integer=True)
    rest = Remaining.of(FAMILIES[family](n), SPENT, 120.0)
    problem = co.Problem(co.Maximize(co.sum(rest(tokens))), [co.sum(tokens) <= 130])
    solution = problem.solve(solver, time_limit=20)
    table = np.array([rest.value(np.full(n, float(x))) for x in range(121)])
    best = np.zeros(131)  # dynamic programming
    for i in range(n):
        best = np.array([max(best[b - x] + table[x, i] for x in range(min(b, 120) + 1))
                         for b in range(131)])  # fmt: skip
    assert solution.objective <= best[-1] + 1e-9
    assert solution.objective == pytest.approx(best[-1], abs=1e-5 if solver == "dual" else 5e-3)


def test_bad_arguments_are_named():
    with pytest.raises(co.DeclarationError, match="has no shape to rely on"):
        Remaining.of(co.Tabulated([0, 10, 20], [0, 0.5, 0.6]), 3.0)
    with pytest.raises(co.DeclarationError, match=r"spent\[1\] = -1"):
        Remaining.of(FAMILIES["cumulative"](2), [0, -1])
