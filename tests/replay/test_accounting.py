"""What a budget is counted in: identities that hold whatever the rollouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_files import run_of

import clearopt as co
from clearopt.calibration import Rollouts
from clearopt.replay.accounting import (
    ACCOUNTINGS,
    accounting_of,
    largest_within,
    per_query,
    right_under,
)
from clearopt.replay.curves import Steps

PLANNED, REALISED = ACCOUNTINGS["planned"], ACCOUNTINGS["realised"]


@st.composite
def rollouts(draw):
    n = draw(st.integers(1, 6))
    query = [*range(n), *draw(st.lists(st.integers(0, n - 1), max_size=12))]
    size = len(query)
    tokens = draw(st.lists(st.integers(0, 60), min_size=size, max_size=size))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    return n, Rollouts(query, tokens, draw(flags), draw(flags))


@settings(max_examples=80, deadline=None)
@given(rollouts(), st.integers(0, 70))
def test_costs_and_right_answers_by_their_definition(drawn, cap):
    n, seen = drawn
    caps = np.full(n, float(cap))
    by_hand_cost = by_hand_right = 0.0
    for i in range(n):
        mine = seen.query == i
        by_hand_cost += np.minimum(seen.tokens[mine], cap).mean()
        right = seen.correct[mine] & seen.finished[mine] & (seen.tokens[mine] <= cap)
        by_hand_right += right.mean()
    assert REALISED.total(seen, caps) == pytest.approx(by_hand_cost)
    assert right_under(seen, caps, n).sum() == pytest.approx(by_hand_right)
    assert PLANNED.total(seen, caps) == n * cap
    assert REALISED.total(seen, caps) <= PLANNED.total(seen, caps) + 1e-9
    assert REALISED.common(seen, n, cap) == pytest.approx(by_hand_cost)


@settings(max_examples=80, deadline=None)
@given(rollouts())
def test_the_steps_of_a_query_are_what_its_caps_buy_and_cost(drawn):
    n, seen = drawn
    for accounting in (PLANNED, REALISED):
        steps = Steps.of(seen, n, accounting)
        assert (np.diff(steps.costs, axis=1) > 0).all()
        for k in range(steps.caps.shape[1]):
            caps = steps.caps[:, k]
            np.testing.assert_allclose(right_under(seen, caps, n), steps.values[:, k])
            real = caps > np.concatenate([np.zeros((n, 1)), steps.caps], axis=1)[:, k]
            charged = per_query(seen, accounting.cost(seen, caps[seen.query]), n)
            np.testing.assert_allclose(steps.costs[real, k], charged[real])
        # What a cost buys is the last step it reaches, and nothing below the first.
        np.testing.assert_array_equal(steps.caps_for(steps.costs[:, -1]), steps.caps[:, -1])
        assert (steps.caps_for(np.zeros(n))[steps.costs[:, 0] > 0] == 0).all()


def test_ample_is_what_the_smallest_sufficient_cap_costs():
    run = run_of([0, 0, 1, 1], [10, 30, 20, 100], [1, 1, 1, 0])
    assert run.rollouts.ample_cap() == 30
    assert PLANNED.ample(run.rollouts, 2) == 60
    assert REALISED.ample(run.rollouts, 2) == (10 + 30) / 2 + (20 + 30) / 2


def test_the_largest_number_within_a_budget():
    assert largest_within(lambda k: 3 * k, 10, 100) == 3
    assert largest_within(lambda k: 3 * k, 1e9, 100) == 100
    assert largest_within(lambda k: 5.0, 1, 100) == 0


def test_an_unknown_accounting():
    with pytest.raises(co.DeclarationError, match="known are planned, realised"):
        accounting_of("paid")
