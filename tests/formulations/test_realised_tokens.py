import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import realised_tokens

N, BUDGET, UPPER = 8, 200, 100
rng = np.random.default_rng(0)
THRESHOLD, RATE = rng.uniform(2, 30, N), rng.uniform(0.05, 0.2, N)
FAMILY = co.CumulativeSurge(scale=rng.uniform(0.5, 1, N), threshold=THRESHOLD, rate=RATE)
MENU = np.arange(UPPER + 1.0)


def test_the_expected_cost_keeps_to_the_budget_at_the_best_total():
    cost = co.ExpectedTokens(THRESHOLD, RATE)
    problem = realised_tokens(FAMILY, cost, N, BUDGET, upper=UPPER)
    solution = problem.solve()
    limits = [(values_of(cost, N, MENU), BUDGET)]
    assert_agree(solution, *best_of_menus(values_of(FAMILY, N, MENU), limits))
    assert cost.value(solution.allocation).sum() <= BUDGET * (1 + 1e-9)
    assert solution.allocation.sum() > BUDGET  # the caps add up to more
    assert_agrees_with_scip(problem, solution, time_limit=3)  # its bound holds before it is closed


def test_measured_lengths():
    lengths = THRESHOLD[:, None] + rng.gamma(2, 1 / RATE[:, None], (N, 12)).round()
    cost = co.ExpectedTokens.from_lengths(lengths)
    solution = realised_tokens(FAMILY, cost, N, BUDGET, upper=UPPER).solve()
    charges = [np.minimum(row[:, None], MENU).mean(axis=0) for row in lengths]
    assert_agree(solution, *best_of_menus(values_of(FAMILY, N, MENU), [(charges, BUDGET)]))
    used = np.minimum(lengths, solution.allocation[:, None]).mean(axis=1).sum()
    assert used <= BUDGET * (1 + 1e-9)


def test_a_utility_in_place_of_the_cost_is_said():
    with pytest.raises(co.DeclarationError, match="not a cost curve"):
        realised_tokens(FAMILY, FAMILY, N, BUDGET, upper=UPPER)
