"""A token budget, and every tenant promised a mean accuracy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def fairness_floors(
    utility: co.Utility,
    tenants: Sequence[Hashable],
    budget: float,
    floor: float | Mapping[Hashable, float],
    *,
    upper: ArrayLike,
    integer: bool = True,
) -> co.Problem:
    """Share `budget` tokens among the queries of several tenants, none of them left behind.

        maximise    sum_i U_i(b_i)
        subject to  sum_i b_i <= budget                                   "budget"
                    mean_{i of tenant t} U_i(b_i) >= floor[t], all t      "floor"
                    0 <= b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or one a query.
        tenants: one label a query, n in all.
        budget: tokens for all queries together, at least 0.
        floor: the least mean expected accuracy of a tenant's queries: one for all, or by tenant;
            0 where there is none.
        upper: the largest number of tokens for one query, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("fairness_floors: utility", utility)
    tokens = co.Allocation(len(tenants), upper=upper, integer=integer, name="tokens")
    accuracy = utility(tokens)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= budget).named("budget"),
            (co.mean(accuracy, by=tenants) >= floor).named("floor"),
        ],
    )
