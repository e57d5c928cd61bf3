"""The optimum over whole tokens by HiGHS: one option of each query's menu, a 0-1 program.

Nothing here knows clearopt: a test writes its problem a second time, as menus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

TOLERANCE = 1e-6  # of HiGHS and SCIP; the dual works to rounding errors

Menus = Sequence[NDArray[np.float64]]  # for each query, one number an option


def best_of_menus(gain: Menus, limits: Sequence[tuple[Menus, float]]) -> tuple[float, float]:
    """The greatest total gain with every total charge within its limit, and HiGHS's bound on it.

    Args:
        gain: what each option of each query is worth.
        limits: charges of the same shape, and what they may add up to at most.
    """
    sizes = [len(options) for options in gain]
    one_each = sparse.csr_array(
        (np.ones(sum(sizes)), np.arange(sum(sizes)), np.cumsum([0, *sizes])),
        shape=(len(sizes), sum(sizes)),
    )
    constraints = [LinearConstraint(one_each, 1, 1)]
    for charges, limit in limits:
        scale = max(abs(limit), 1e-9)
        constraints.append(
            LinearConstraint(np.concatenate(charges)[None] / scale, ub=limit / scale)
        )
    found = milp(
        -np.concatenate(gain),
        integrality=1,
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 1e-9, "time_limit": 20},
    )
    assert found.x is not None, found.message
    return -found.fun, -found.mip_dual_bound


def assert_agree(solution, value: float, bound: float) -> None:
    """Each allocation lies within the other's bound; `value` and `bound` from another solver."""
    sign = -1.0 if solution.program.minimize else 1.0
    assert solution.feasibility.ok
    assert solution.status in ("optimal", "feasible")
    slack = TOLERANCE * max(abs(value), 1.0)
    assert sign * solution.objective <= sign * bound + slack
    assert sign * value <= sign * solution.bound + slack


def assert_agrees_with_scip(problem, solution, time_limit: float = 20) -> None:
    """As `assert_agree`, against SCIP on the very same problem; its bound holds unproven too."""
    scip = problem.solve("scip", time_limit=time_limit)
    assert scip.feasibility.ok
    assert_agree(solution, scip.objective, scip.bound)


def values_of(family, n: int, menu: NDArray[np.float64]) -> Menus:
    """A family's values on one menu of tokens, for each of its n queries."""
    members = family.broadcast(n)
    return [members.take(slice(i, i + 1)).value(menu) for i in range(n)]
