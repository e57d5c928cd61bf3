"""The fewest tokens that keep a promise of accuracy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def promised_accuracy(
    utility: co.Utility,
    n: int,
    accuracy: float | Mapping[Hashable, float],
    *,
    upper: ArrayLike,
    integer: bool = True,
    by: Sequence[Hashable] | None = None,
) -> co.Problem:
    """Spend as little as possible on n queries, with the promised accuracy kept.

        minimise    sum_i b_i
        subject to  mean_i U_i(b_i) >= accuracy                                 "promise"
                    (mean_{i of group g} U_i(b_i) >= accuracy[g], all g, where `by` is given)
                    0 <= b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or of shape (n,).
        n: how many queries.
        accuracy: the least mean expected accuracy, of all queries or of each group; with `by` one
            number for every group, or one by label.
        upper: the largest number of tokens for one query, number or (n,).
        integer: count tokens whole, as a server does.
        by: one label a query, such as its tenant; None for one promise over all.
    """
    check_utility("promised_accuracy: utility", utility)
    if by is None and np.ndim(accuracy) > 0:  # type: ignore[arg-type]
        raise co.DeclarationError(
            "promised_accuracy: accuracy has several numbers for one mean; give one number, or "
            "labels `by` and the numbers of their groups"
        )
    tokens = co.Allocation(n, upper=upper, integer=integer, name="tokens")
    return co.Problem(
        co.Minimize(co.sum(tokens)),
        [(co.mean(utility(tokens), by=by) >= accuracy).named("promise")],
    )
