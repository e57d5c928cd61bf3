"""A token budget, and no tenant above its share of it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def tenant_shares(
    utility: co.Utility,
    tenants: Sequence[Hashable],
    budget: float,
    shares: Mapping[Hashable, float],
    *,
    upper: ArrayLike,
    integer: bool = True,
) -> co.Problem:
    """Share `budget` tokens among the queries of several tenants, each tenant within its share.

        maximise    sum_i U_i(b_i)
        subject to  sum_i b_i <= budget                                     "budget"
                    sum_{i of tenant t} b_i <= shares[t] * budget, all t    "tenant share"
                    0 <= b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or one a query.
        tenants: one label a query, n in all.
        budget: tokens for all queries together, at least 0.
        shares: by tenant, the part of the budget it may use at most, 0 to 1; infinite where it
            has no limit of its own. The shares may add up to more than 1.
        upper: the largest number of tokens for one query, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("tenant_shares: utility", utility)
    if not hasattr(shares, "items"):
        raise co.DeclarationError(
            f"tenant_shares: shares is {shares!r}; give a mapping from each tenant to its share, "
            'e.g. {"acme": 0.6, "globex": 0.6}'
        )
    for tenant, share in shares.items():
        if not isinstance(share, Real) or not (0 <= share <= 1 or share == math.inf):
            raise co.DeclarationError(
                f"tenant_shares: shares[{tenant!r}] = {share!r}: must be a part of the budget, "
                "from 0 to 1 (0.6 for 60 %), or float('inf') where the tenant has no limit"
            )
    tokens = co.Allocation(len(tenants), upper=upper, integer=integer, name="tokens")
    limits = {tenant: share * budget for tenant, share in shares.items()}
    return co.Problem(
        co.Maximize(co.sum(utility(tokens))),
        [
            (co.sum(tokens) <= budget).named("budget"),
            (co.sum(tokens, by=tenants) <= limits).named("tenant share"),
        ],
    )
