import numpy as np
import pytest

import clearopt as co
from clearopt.formulations import tenant_shares

TENANTS = ["acme", "globex", "acme", "initech"]
FAMILY = co.CumulativeSurge(scale=0.9, threshold=[5.0, 10.0, 20.0, 1.0], rate=0.2)


def test_it_is_the_program_it_says():
    shares = {"initech": np.inf, "acme": 0.5, "globex": 0.4}
    program = tenant_shares(FAMILY, TENANTS, 100, shares, upper=60).program
    assert program.rows.toarray().tolist() == [[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]]
    assert program.right_hand_side.tolist() == [100.0, 50.0, 40.0]
    assert [group.name for group in program.constraints] == ["budget", "tenant share"]
    assert program.constraints[1].labels == ("acme", "globex")


def test_the_shares_are_kept():
    shares = {"initech": 0.2, "acme": 0.5, "globex": 0.4}
    solution = tenant_shares(FAMILY, TENANTS, 100, shares, upper=60).solve()
    b = solution.allocation
    assert b[0] + b[2] <= 50
    assert b[1] <= 40
    assert b[3] <= 20
    assert b.sum() <= 100
    assert solution.bound >= solution.objective
    assert set(solution.prices["tenant share"]) == set(TENANTS)


def test_a_tenant_without_a_share_is_said():
    with pytest.raises(co.DeclarationError, match="no value for 'globex'"):
        tenant_shares(FAMILY, TENANTS, 100, {"initech": 1, "acme": 1}, upper=60)
