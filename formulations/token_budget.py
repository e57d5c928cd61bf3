"""One token budget for all queries: the problem of arXiv 2606.03092."""

from __future__ import annotations

from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def token_budget(
    utility: co.Utility,
    n: int,
    budget: float,
    *,
    upper: ArrayLike,
    integer: bool = True,
) -> co.Problem:
    """Share `budget` tokens among n queries so that the most of them are answered correctly.

        maximise    sum_i U_i(b_i)
        subject to  sum_i b_i <= budget              "budget"
                    0 <= b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or of shape (n,).
        n: how many queries.
        budget: tokens for all of them together, at least 0.
        upper: the largest number of tokens for one query, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("token_budget: utility", utility)
    tokens = co.Allocation(n, upper=upper, integer=integer, name="tokens")
    return co.Problem(
        co.Maximize(co.sum(utility(tokens))),
        [(co.sum(tokens) <= budget).named("budget")],
    )
