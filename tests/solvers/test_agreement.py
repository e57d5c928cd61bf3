"""`dual` and SCIP on the same programs: neither may contradict the other."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import random_instance
from test_dual import declare

import clearopt as co

SCIP_ROUNDING = 1e-6  # SCIP's own feasibility tolerance lets its objective err by this much


@pytest.mark.parametrize("seed", range(8))
def test_where_scip_finishes_both_agree_to_its_gap(seed: int) -> None:
    rng = np.random.default_rng([3, seed])
    instance = random_instance(rng, int(rng.integers(2, 7)), ties=seed % 4 == 0)
    problem = declare(instance, whole=seed % 2 == 1)
    dual, scip = problem.solve(), problem.solve(solver="scip", time_limit=20, tolerance=1e-4)
    assert dual.status == "optimal"
    assert scip.allocation is not None, scip.summary()
    assert scip.objective <= dual.bound * (1 + 1e-12)
    assert dual.objective <= scip.bound * (1 + SCIP_ROUNDING) + 1e-12
    if scip.status == "optimal":
        gap = max(scip.gap, SCIP_ROUNDING)
        assert dual.objective == pytest.approx(scip.objective, rel=2 * gap, abs=1e-9)


def test_where_scip_stops_at_its_limit_its_incumbent_stays_below_our_bound() -> None:
    instance = random_instance(np.random.default_rng(31), 60)
    problem = declare(instance, whole=False)
    dual, scip = problem.solve(), problem.solve(solver="scip", time_limit=4, tolerance=1e-9)
    assert dual.status == "optimal"
    assert scip.bound >= dual.objective * (1 - SCIP_ROUNDING)
    if scip.allocation is not None:
        assert scip.objective <= dual.bound * (1 + 1e-12)


@pytest.mark.parametrize(
    ("unit", "scale", "weight"),
    [(1e7, 1.0, 1.0), (1e-4, 1.0, 1.0), (100.0, 1e-5, 1.0), (100.0, 1.0, 1e-5), (100.0, 1.0, 1e8)],
)
def test_units_do_not_fool_scip(unit: float, scale: float, weight: float) -> None:
    rng = np.random.default_rng(5)
    tokens = co.Allocation(4, upper=10 * unit)
    utility = co.CumulativeSurge(
        scale * rng.uniform(0.5, 1, 4), unit * rng.uniform(0.5, 1, 4), 1 / unit
    )
    objective = co.Maximize(weight * co.sum(utility(tokens)))
    problem = co.Problem(objective, [co.sum(tokens) <= 5 * unit])
    dual, scip = problem.solve(), problem.solve(solver="scip", time_limit=20)
    assert scip.status == "optimal", scip.summary()
    assert scip.objective == pytest.approx(dual.objective, rel=2e-6)
    assert scip.bound >= dual.objective * (1 - 1e-9)
