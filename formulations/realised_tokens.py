"""A budget on the tokens that answers really take, which end before their caps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def realised_tokens(
    utility: co.Utility,
    cost: co.CostCurve,
    n: int,
    budget: float,
    *,
    upper: ArrayLike,
    integer: bool = True,
) -> co.Problem:
    """Choose caps for n queries so that the tokens generated under them keep to `budget`.

        maximise    sum_i U_i(b_i)
        subject to  sum_i C_i(b_i) <= budget         "budget"
                    0 <= b_i <= upper_i, whole where `integer`

    The allocation is b, the caps; C_i(b) = E[min(T_i, b)] is what a cap of b is expected to cost,
    so that `budget` holds on average over the lengths T_i of the answers, and the caps add up to
    more.

    Args:
        utility: expected accuracy by cap, its parameters numbers or of shape (n,).
        cost: expected tokens by cap, such as `co.ExpectedTokens(threshold, rate)`, or
            `co.ExpectedTokens.from_lengths(lengths)` from measured answers.
        n: how many queries.
        budget: expected tokens for all of them together, at least 0.
        upper: the largest cap for one query, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("realised_tokens: utility", utility)
    if not isinstance(cost, co.CostCurve):
        raise co.DeclarationError(
            f"realised_tokens: cost is {cost!r}, not a cost curve; give the utility first, then "
            "the curve, e.g. co.ExpectedTokens(threshold, rate)"
        )
    tokens = co.Allocation(n, upper=upper, integer=integer, name="tokens")
    return co.Problem(
        co.Maximize(co.sum(utility(tokens))),
        [(co.sum(cost(tokens)) <= budget).named("budget")],
    )
