"""A token budget, and some queries that are never abandoned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def guaranteed_service(
    utility: co.Utility,
    n: int,
    budget: float,
    vip: ArrayLike,
    least: ArrayLike,
    *,
    upper: ArrayLike,
    minimum: ArrayLike = 0.0,
    integer: bool = True,
) -> co.Problem:
    """Share `budget` tokens among n queries; the guaranteed are served, the others may be not.

        maximise    sum_i U_i(b_i)
        subject to  sum_i b_i <= budget                                  "budget"
                    b_i >= least_i, i in vip                             "guaranteed"
                    b_i = 0 or b_i >= minimum_i, all i
                    b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or of shape (n,).
        n: how many queries.
        budget: tokens for all of them together, at least what the guaranteed need.
        vip: (n,) mask, True where service is guaranteed.
        least: the fewest tokens of a guaranteed query, above 0: a number, or one for each of the
            guaranteed in their order.
        upper: the largest number of tokens for one query, number or (n,).
        minimum: the fewest tokens of any query that is served at all, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("guaranteed_service: utility", utility)
    mask = np.asarray(vip)
    if mask.dtype != np.bool_ or mask.shape != (n,):
        raise co.DeclarationError(
            f"guaranteed_service: vip must be a mask of {n} booleans, got {mask.dtype} of shape "
            f"{mask.shape}; for positions write np.isin(np.arange(n), positions)"
        )
    tokens = co.Allocation(
        n, lower=minimum, upper=upper, integer=integer, semicontinuous=True, name="tokens"
    )
    constraints = [(co.sum(tokens) <= budget).named("budget")]
    if mask.any():
        constraints.append((tokens[mask] >= least).named("guaranteed"))
    return co.Problem(co.Maximize(co.sum(utility(tokens))), constraints)
