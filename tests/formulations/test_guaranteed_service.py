import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import guaranteed_service

N, BUDGET, LEAST, MINIMUM, UPPER = 8, 320, 60, 24, 120
VIP = np.arange(N) % 4 == 1
rng = np.random.default_rng(0)
FAMILY = co.CumulativeSurge(
    scale=rng.uniform(0.5, 1, N), threshold=rng.uniform(0, 60, N), rate=rng.uniform(0.05, 0.3, N)
)


def test_the_guaranteed_are_served_and_nobody_gets_a_little():
    problem = guaranteed_service(FAMILY, N, BUDGET, VIP, LEAST, upper=UPPER, minimum=MINIMUM)
    solution = problem.solve()
    tokens = [
        np.arange(LEAST, UPPER + 1.0) if vip else np.r_[0.0, np.arange(MINIMUM, UPPER + 1.0)]
        for vip in VIP
    ]
    accuracy = [values_of(FAMILY, N, menu)[i] for i, menu in enumerate(tokens)]
    assert_agree(solution, *best_of_menus(accuracy, [(tokens, BUDGET)]))
    b = solution.allocation
    assert (b[VIP] >= LEAST).all()
    assert ((b == 0) | (b >= MINIMUM)).all()
    assert b.sum() <= BUDGET
    assert (b[~VIP] == 0).any()  # the rule says something here
    assert_agrees_with_scip(problem, solution)


def test_each_guaranteed_query_may_have_a_least_of_its_own():
    problem = guaranteed_service(FAMILY, N, BUDGET, VIP, [70, 10], upper=UPPER, minimum=MINIMUM)
    assert problem.program.lower[VIP].tolist() == [70, MINIMUM]
    assert problem.program.semicontinuous.tolist() == (~VIP).tolist()


def test_nobody_need_be_guaranteed():
    nobody = np.zeros(N, dtype=bool)
    program = guaranteed_service(FAMILY, N, BUDGET, nobody, LEAST, upper=UPPER, minimum=8).program
    assert program.semicontinuous.all()


def test_positions_are_not_a_mask():
    with pytest.raises(co.DeclarationError, match="mask of 8 booleans, got int64"):
        guaranteed_service(FAMILY, N, BUDGET, [1, 5], LEAST, upper=UPPER)


def test_a_budget_below_the_guarantee_is_said():
    with pytest.raises(co.DeclarationError, match="budget"):
        guaranteed_service(FAMILY, N, 100, VIP, LEAST, upper=UPPER)
