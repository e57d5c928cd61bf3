import numpy as np
import pytest

import clearopt as co
from clearopt.formulations import token_budget

FAMILY = co.CumulativeSurge(scale=[0.9, 0.8, 0.7], threshold=[5.0, 10.0, 20.0], rate=0.2)


def test_it_is_the_program_it_says():
    program = token_budget(FAMILY, 3, 60, upper=[40, 50, 60]).program
    np.testing.assert_array_equal(program.rows.toarray(), np.ones((1, 3)))
    assert program.senses == ("<=",)
    assert program.right_hand_side.tolist() == [60.0]
    assert program.lower.tolist() == [0.0] * 3
    assert program.upper.tolist() == [40.0, 50.0, 60.0]
    assert program.integer.all()
    assert program.weight.tolist() == [1.0] * 3
    assert program.cost.tolist() == [0.0] * 3
    assert not token_budget(FAMILY, 3, 60, upper=40, integer=False).program.integer.any()


def test_the_optimum_is_what_enumeration_finds():
    problem = token_budget(FAMILY, 3, 60, upper=60)
    menu = np.arange(61.0)
    values = [_member(i).value(menu) for i in range(3)]
    best = max(
        values[0][a] + values[1][b] + values[2][60 - a - b]
        for a in range(61)
        for b in range(61 - a)
    )
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1e-12)
    assert solution.allocation.sum() <= 60


def _member(i):
    return FAMILY.broadcast(3).take(slice(i, i + 1))


def test_a_wrong_number_of_parameters_is_said():
    with pytest.raises(co.DeclarationError, match="has length 3, but it applies to 5 queries"):
        token_budget(FAMILY, 5, 60, upper=60)
