"""Every policy keeps to its budget; the exact ones are not beaten on the curves they were given."""

import numpy as np
import pytest
from rollout_files import run_of, simulated, traces_of

from clearopt.replay.accounting import ACCOUNTINGS, right_under
from clearopt.replay.fitting import CaseCurves
from clearopt.replay.policies import (
    ABLATIONS,
    DEFAULT_POLICIES,
    plan,
    runs_in,
    spend_left,
)
from clearopt.replay.splits import sample_split

PLANNED, REALISED = ACCOUNTINGS["planned"], ACCOUNTINGS["realised"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    run = next(traces_of(simulated(n=24, samples=8), tmp_path_factory.mktemp("r")).runs())
    return next(iter(sample_split(run, 1, 0)))


@pytest.fixture(scope="module")
def curves(case):
    return CaseCurves(case, None, "design")


@pytest.mark.parametrize("accounting", [PLANNED, REALISED], ids=lambda a: a.name)
@pytest.mark.parametrize(
    "policy", [p for p in DEFAULT_POLICIES if runs_in(p, "sample", "planned", informed=False)]
)
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_plan_keeps_to_its_budget_by_what_it_was_given(
    policy, accounting, fraction, case, curves
):
    budget = int(fraction * accounting.ample(case.fitting, case.n))
    made = plan(policy, case, accounting, budget, curves)
    caps = made.caps.astype(float)
    assert made.caps.shape == (case.n,)
    assert (made.caps >= 0).all()
    if policy in ("proportional", "price", "dual"):
        charged = accounting.expected(curves("shrunk"), caps)
    else:
        charged = accounting.total(case.scored if policy == "oracle" else case.fitting, caps)
    assert made.share * charged <= budget * (1 + 1e-9)
    if policy in ("uniform", "dual") and accounting is PLANNED:
        assert charged == budget


def test_the_exact_allocation_promises_most_by_its_curves(case, curves):
    for accounting in (PLANNED, REALISED):
        budget = int(0.2 * accounting.ample(case.fitting, case.n))
        best = plan("dual", case, accounting, budget, curves)
        for policy in ("price", "proportional"):
            assert plan(policy, case, accounting, budget, curves).expected <= best.expected + 1e-6


@pytest.mark.parametrize("accounting", [PLANNED, REALISED], ids=lambda a: a.name)
def test_the_oracle_is_the_upper_line(accounting, case, curves):
    budget = int(0.3 * accounting.ample(case.fitting, case.n))
    oracle = plan("oracle", case, accounting, budget, curves)
    reached = right_under(case.scored, oracle.caps.astype(float), case.n).mean()
    for policy in ("uniform", "time-share", "price", "dual", "dual-unpooled"):
        made = plan(policy, case, accounting, budget, curves)
        caps = made.caps.astype(float)
        if made.share * accounting.total(case.scored, caps) > budget:
            continue  # it spends more on the scored answers than the oracle may
        measured = made.share * right_under(case.scored, caps, case.n).mean()
        assert measured <= reached * (1 + oracle.gap) + 1e-9


def test_time_share_by_hand():
    # Under a cap of 10 half are right; serving everybody costs 4 x 10.
    run = run_of([0, 0, 1, 1, 2, 2, 3, 3], [10, 10, 10, 10, 99, 99, 99, 99], [1] * 8)
    (case, _) = sample_split(run, 1, 0)
    made = plan("time-share", case, PLANNED, 20, {})
    assert (made.caps.tolist(), made.share, made.expected) == ([10] * 4, 0.5, 0.25)
    uniform = plan("uniform", case, PLANNED, 20, {})
    assert uniform.caps.tolist() == [5] * 4
    # Realised: under a cap of 10 everybody uses 10, right or not.
    assert plan("time-share", case, REALISED, 20, {}).share == 0.5


def test_what_is_left_over_goes_to_the_funded():
    caps = np.array([0, 5, 10])
    spent = spend_left(caps, lambda c: float(c.sum()), 22, planned=True)
    assert spent.tolist() == [0, 9, 13]
    assert spend_left(caps, lambda c: float(c.sum()), 15, planned=True).tolist() == [0, 5, 10]
    nobody = np.zeros(2, dtype=int)
    assert spend_left(nobody, lambda c: float(c.sum()), 9, planned=True).tolist() == [0, 0]


def test_ablations_are_for_planned_caps(case, curves):
    budget = int(0.3 * PLANNED.ample(case.fitting, case.n))
    for policy in ABLATIONS:
        assert runs_in(policy, "sample", "planned", informed=False)
        assert not runs_in(policy, "sample", "realised", informed=False)
        assert plan(policy, case, PLANNED, budget, curves).caps.sum() <= budget
    assert not runs_in("dual-unpooled", "query", "planned", informed=True)
    assert not runs_in("dual-informed", "sample", "planned", informed=False)
    assert not runs_in("tale-ep", "sample", "planned", informed=True)
