import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import fairness_floors

N, BUDGET, UPPER = 8, 240, 150
tenants = np.array(["acme", "globex", "initech"])[np.arange(N) % 3]
FLOOR = {"acme": 0.3, "globex": 0.2, "initech": 0.0}
rng = np.random.default_rng(0)
FAMILY = co.CumulativeSurge(
    scale=rng.uniform(0.5, 1, N), threshold=rng.uniform(5, 60, N), rate=rng.uniform(0.03, 0.15, N)
)


def test_the_floors_are_kept_at_the_best_total():
    problem = fairness_floors(FAMILY, tenants, BUDGET, FLOOR, upper=UPPER)
    solution = problem.solve()
    menu = np.arange(UPPER + 1.0)
    accuracy = values_of(FAMILY, N, menu)
    floors = [
        ([-u * (tenants[i] == t) for i, u in enumerate(accuracy)], -f * (tenants == t).sum())
        for t, f in FLOOR.items()
    ]
    assert_agree(solution, *best_of_menus(accuracy, [([menu] * N, BUDGET), *floors]))
    expected = FAMILY.value(solution.allocation)
    for tenant, floor in FLOOR.items():
        assert expected[tenants == tenant].mean() >= floor - 1e-9
    assert solution.allocation.sum() <= BUDGET
    assert set(solution.prices["floor"]) == set(FLOOR)
    assert_agrees_with_scip(problem, solution)


def test_one_floor_holds_for_all():
    problem = fairness_floors(FAMILY, tenants, 400, 0.25, upper=UPPER, integer=False)
    expected = FAMILY.value(problem.solve().allocation)
    for tenant in FLOOR:
        assert expected[tenants == tenant].mean() >= 0.25 - 1e-9


def test_a_floor_for_nobody_is_said():
    with pytest.raises(co.DeclarationError, match="'umbrella' is not among the groups"):
        fairness_floors(FAMILY, tenants, BUDGET, FLOOR | {"umbrella": 0.1}, upper=UPPER)
