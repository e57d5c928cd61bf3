"""What a program asks of a back-end, and refusals before any work."""

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers import ALL_FEATURES, features_of
from clearopt.solvers.capabilities import MEANING, missing_features
from clearopt.testing.instances import INSTANCES, named


def declared(accuracy, *rows):
    return co.Problem(co.Maximize(co.sum(accuracy)), list(rows)).program


def surges(tokens):
    return co.CumulativeSurge(0.9, 5.0, 0.2)(tokens)


def test_every_feature_has_a_meaning_and_a_problem_of_the_suite():
    assert set(MEANING) == ALL_FEATURES
    met = set().union(*(features_of(instance.declare()) for instance in INSTANCES))
    # The one that no back-end can solve has no optimum to compare with.
    assert met == ALL_FEATURES - {"no upper bound"}


def test_a_plain_budget_asks_for_nothing():
    assert features_of(named("one budget").declare()) == frozenset()


def test_only_what_is_not_supported_is_looked_for():
    program = named("everything at once").declare()
    everything = features_of(program)
    assert missing_features(program, everything) == frozenset()
    assert missing_features(program, everything - {"choices"}) == {"choices"}


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("a row that asks for tokens", "at-least rows"),
        ("tokens and a cost curve charged", "mixed charges"),
        ("fractional tokens and a cost curve charged", "fractional mixed charges"),
        ("measured steps", "measured curves"),
        ("an own function without a formula", "functions without a formula"),
    ],
)
def test_the_finer_features(name, feature):
    assert feature in features_of(named(name).declare())


def test_a_function_with_a_formula_has_one():
    def rises(tokens, middle):
        return 1 / (1 + jnp.exp(-(tokens - middle)))

    from jax import numpy as jnp

    tokens = co.Allocation(2, upper=20.0)
    accuracy = co.Sigmoidal(rises, [4.0, 6.0], longest=20.0)(tokens)
    assert features_of(declared(accuracy, co.sum(tokens) <= 15)) == frozenset()


def test_tokens_without_an_upper_bound():
    tokens = co.Allocation(2)
    accuracy = surges(tokens)
    assert features_of(declared(accuracy)) == frozenset()  # past saturation none is wanted
    assert features_of(declared(accuracy, co.sum(tokens) <= 30)) == frozenset()
    balance = declared(accuracy, tokens[0] - tokens[1] == 0)
    assert "no upper bound" in features_of(balance)
    # Where tokens pay without end the problem is unbounded, which is a status and no refusal.
    paid = co.Problem(co.Maximize(co.sum(accuracy) + co.sum(tokens))).program
    assert "no upper bound" not in features_of(paid)


@pytest.mark.parametrize("solver", ["dual", "price", "highs", "scip"])
def test_a_bounded_problem_is_never_called_unbounded(solver):
    tokens = co.Allocation(2)
    rows = [tokens[0] - tokens[1] <= 0, tokens[1] - tokens[0] <= 0]
    balance = co.Problem(co.Maximize(co.sum(surges(tokens))), rows)
    with pytest.raises(co.UnsupportedProblemError, match=r"cannot take .*no upper bound|several"):
        balance.solve(solver)


def test_refusals_name_what_is_missing_who_has_it_and_what_to_write():
    program = named("fractional tokens and a cost curve charged").declare()
    with pytest.raises(
        co.UnsupportedProblemError,
        match=r"'dual' cannot take fractional mixed charges; 'scip'.* can; query 0 .*integer=True",
    ):
        co.Problem.from_program(program).solve()
    steps = co.Problem.from_program(named("an own function without a formula").declare())
    with pytest.raises(
        co.UnsupportedProblemError, match=r"'scip' cannot take functions without a .*'dual'"
    ):
        steps.solve("scip")


def test_the_table_shows_what_each_takes():
    text = repr(co.solvers())
    assert "takes one budget row, functions without a formula" in text
    assert "takes every problem, but not: fractional mixed charges, no upper bound" in text
    assert np.all(np.array([len(line) for line in text.splitlines()]) < 250)
