import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import promised_accuracy

N, UPPER = 8, 150
tenants = np.array(["acme", "globex"])[np.arange(N) % 2]
promise = {"globex": 0.5, "acme": 0.3}
rng = np.random.default_rng(0)
FAMILY = co.CumulativeSurge(
    scale=rng.uniform(0.5, 1, N), threshold=rng.uniform(5, 60, N), rate=rng.uniform(0.03, 0.15, N)
)
MENU = np.arange(UPPER + 1.0)
VALUES = values_of(FAMILY, N, MENU)


def fewest(floors):
    value, bound = best_of_menus([-MENU] * N, floors)
    return -value, -bound


def test_the_promise_is_kept_with_the_fewest_tokens():
    problem = promised_accuracy(FAMILY, N, 0.4, upper=UPPER)
    solution = problem.solve()
    assert_agree(solution, *fewest([([-u for u in VALUES], -0.4 * N)]))
    assert FAMILY.value(solution.allocation).mean() >= 0.4 - 1e-9
    assert solution.objective == solution.allocation.sum()
    assert_agrees_with_scip(problem, solution)


def test_a_promise_to_each_group():
    problem = promised_accuracy(FAMILY, N, promise, upper=UPPER, by=tenants)
    solution = problem.solve()
    floors = [
        ([-u * (tenants[i] == t) for i, u in enumerate(VALUES)], -level * (tenants == t).sum())
        for t, level in promise.items()
    ]
    assert_agree(solution, *fewest(floors))
    for tenant, level in promise.items():
        assert FAMILY.value(solution.allocation)[tenants == tenant].mean() >= level - 1e-9
    assert_agrees_with_scip(problem, solution)


def test_more_than_the_utilities_can_give_is_said():
    with pytest.raises(co.DeclarationError, match="promise"):
        promised_accuracy(FAMILY, N, 0.99, upper=UPPER)


def test_several_numbers_for_one_mean_are_said():
    with pytest.raises(co.DeclarationError, match="several numbers for one mean"):
        promised_accuracy(FAMILY, N, [0.4] * N, upper=UPPER)


def test_a_mapping_without_groups_is_said():
    with pytest.raises(co.DeclarationError, match="a mapping needs groups"):
        promised_accuracy(FAMILY, N, promise, upper=UPPER)
