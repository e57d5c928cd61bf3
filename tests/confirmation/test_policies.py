import numpy as np
import pytest

import clearopt as co
from clearopt.confirmation.policies import DESCRIPTIONS, SOLVERS, allocate, declare

N, CAP = 80, 400


@pytest.fixture(scope="module")
def utilities():
    rng = np.random.default_rng(0)
    threshold = rng.uniform(5, 150, N)
    return co.CumulativeSurge(rng.uniform(0.1, 1.0, N), threshold, 10 / threshold)


@pytest.mark.parametrize("policy", SOLVERS)
@pytest.mark.parametrize("budget", [0, 300, 1605, 6000, 12_000])
def test_every_plan_is_whole_and_within_the_budget(policy, budget, utilities):
    plan = allocate(policy, utilities, N, budget, CAP)
    assert plan.tokens.dtype == np.int64
    assert plan.tokens.shape == (N,)
    assert plan.tokens.min() >= 0
    assert plan.tokens.max() <= CAP
    assert plan.tokens.sum() <= budget
    assert plan.expected == pytest.approx(np.mean(utilities.value(plan.tokens.astype(float))))
    assert plan.funded == np.mean(plan.tokens > 0)


@pytest.mark.parametrize("policy", SOLVERS)
def test_the_same_arguments_give_the_same_plan(policy, utilities):
    first, second = (allocate(policy, utilities, N, 1605, CAP, seed=3) for _ in range(2))
    assert np.array_equal(first.tokens, second.tokens)


def test_uniform_spends_what_rounding_leaves(utilities):
    plan = allocate("uniform", utilities, N, 1605, CAP)
    assert plan.tokens.sum() == 1605
    assert set(plan.tokens) == {20, 21}
    assert plan.gap is None
    assert plan.price is None
    other = allocate("uniform", utilities, N, 1605, CAP, seed=1)
    assert not np.array_equal(plan.tokens, other.tokens)


@pytest.mark.parametrize("budget", [300, 1605, 6000])
def test_exact_is_certified_and_beats_the_others(budget, utilities):
    plans = {policy: allocate(policy, utilities, N, budget, CAP) for policy in SOLVERS}
    best = plans["dual"]
    assert best.status == "optimal"
    assert best.gap is not None
    assert best.gap <= 1e-6
    assert best.price is not None
    assert best.price > 0
    for plan in plans.values():
        assert plan.expected <= best.expected * (1 + 2e-6)
    assert plans["price"].gap is not None  # its bound is the dual's


def test_time_share_serves_some_at_a_common_cap_and_the_others_not_at_all(utilities):
    plan = allocate("time-share", utilities, N, 1605, CAP)
    served = plan.tokens[plan.tokens > 0]
    assert 0 < served.size < N / 2
    assert served.max() > 4 * 1605 / N
    # Where a curve is flat before the cap the tokens beyond are saved; the others have the cap.
    flat = utilities.value(plan.tokens.astype(float)) >= 0.999 * utilities.scale
    assert np.all((plan.tokens == 0) | (plan.tokens == served.max()) | flat)


def test_the_declared_problem_reads_as_what_it_is(utilities):
    text = repr(declare(utilities, N, 1605, CAP))
    assert "maximize sum(CumulativeSurge(tokens))" in text
    assert "budget: sum(tokens) <= 1605" in text


def test_every_policy_is_described():
    assert set(DESCRIPTIONS) == set(SOLVERS)


def test_unknown_policy_is_named(utilities):
    with pytest.raises(co.DeclarationError, match="unknown policy 'best'; known are uniform"):
        allocate("best", utilities, N, 100, CAP)
