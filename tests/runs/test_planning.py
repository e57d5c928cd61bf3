import numpy as np
import pytest

import clearopt as co
from clearopt.runs.planning import Workload, first_plan, further_plan
from clearopt.runs.queries import Query


def work(n, upper=100, utilities=None, **options):
    return Workload([Query(f"q{i}", "p") for i in range(n)], upper, utilities, **options)


def curves(n):
    return co.CumulativeSurge(np.full(n, 0.8), np.linspace(5, 50, n), np.full(n, 0.1))


@pytest.mark.parametrize(
    ("budget", "upper", "caps"),
    [
        (25, 10, [4, 4, 4, 4, 3, 3, 3]),
        (1000, 10, [10] * 7),
        (3, 10, [1, 1, 1, 0, 0, 0, 0]),
        (30, [1, 2, 3, 100, 100, 100, 100], [1, 2, 3, 6, 6, 6, 6]),
        (0, 10, [0] * 7),
    ],
)
def test_even_shares(budget, upper, caps):
    plan = first_plan(work(7, upper), budget)
    assert plan.caps.tolist() == caps
    assert plan.expected is None


def test_even_shares_of_what_is_left():
    spent = np.array([10, 4, 0, 9])
    going_on = np.array([True, True, True, False])
    plan = further_plan(work(4, 10), 9, spent, going_on)
    assert plan.caps.tolist() == [0, 5, 4, 0]


def test_a_further_plan_prefers_who_is_nearly_there():
    n = 8
    spent = np.zeros(n)
    spent[6] = 60.0  # cut just where its curve rises, with little left to pay
    plan = further_plan(work(n, 100, curves(n)), 25, spent, np.ones(n, dtype=bool))
    assert plan.caps[6] > 0
    assert plan.caps.sum() <= 25
    closed = further_plan(work(n, 100, curves(n)), 25, spent, np.arange(n) != 6)
    assert closed.caps[6] == 0


def test_upper_bounds_hold_for_all_tokens_together():
    spent = np.full(4, 30.0)
    plan = further_plan(work(4, 40, curves(4)), 1000, spent, np.ones(4, dtype=bool))
    assert (plan.caps <= 10).all()


def test_constraints_see_all_tokens_and_what_was_reached():
    n = 6
    seen = []

    def constraints(tokens, accuracy):
        seen.append((tokens, accuracy))
        return [co.sum(tokens) <= 150, co.mean(accuracy) >= 0.2]

    given = work(n, 100, curves(n), constraints=constraints)
    first = first_plan(given, 1000)
    assert first.caps.sum() <= 150
    spent = np.array([40, 0, 0, 50, 0, 0])
    finished = np.array([True, False, False, False, False, False])
    further = further_plan(given, 1000, spent, ~finished, finished)
    assert further.caps.sum() <= 150 - 90
    assert further.caps[0] == 0
    why = further_plan(given, 5, spent, ~finished, finished)  # the floor is out of reach
    assert isinstance(why, str)


def test_measured_curves_are_planned_once():
    table = co.Tabulated([0, 10, 20], [0, 0.5, 0.6])
    given = work(3, 20, table)
    assert first_plan(given, 30).caps.sum() <= 30
    assert "measured curves" in further_plan(given, 30, np.zeros(3), np.ones(3, dtype=bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upper": 0}, "upper = 0.0: must be whole, above 0"),
        ({"upper": [1, 2]}, "upper has length 2, but it applies to 3 queries"),
        ({"weights": -1.0}, "weights = -1.0: must be at least 0"),
    ],
)
def test_bad_workloads_are_named(options, message):
    with pytest.raises(co.DeclarationError, match=message):
        work(3, **options)


def test_no_allocation_is_said():
    given = work(3, 100, curves(3), constraints=lambda tokens, accuracy: [tokens >= 50])
    with pytest.raises(co.DeclarationError, match="no allocation of 60 tokens"):
        first_plan(given, 60)
