"""How often to sample each query, when one right answer is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import clearopt as co
from clearopt.formulations.checks import check_not_negative

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def best_of_n(
    success: ArrayLike,
    budget: float,
    *,
    samples_upper: ArrayLike,
    tokens_per_sample: ArrayLike = 1.0,
) -> co.Problem:
    """Share `budget` among n queries that are sampled until a verifier finds a right answer.

        maximise    sum_i 1 - (1 - success_i)^(k_i)
        subject to  sum_i tokens_per_sample_i k_i <= budget       "budget"
                    0 <= k_i <= samples_upper_i, whole

    The allocation is k, counted in samples.

    Args:
        success: the chance that one sample of a query is right, (n,), in [0, 1]; samples are
            taken to be independent.
        budget: samples for all queries together; tokens, where `tokens_per_sample` is given.
        samples_upper: the largest number of samples for one query, number or (n,).
        tokens_per_sample: what one sample of a query costs, number or (n,).
    """
    if np.ndim(success) != 1:
        raise co.DeclarationError(
            "best_of_n: success: one chance a query is needed, an array of shape (n,), got shape "
            f"{np.shape(success)}; for the same chance everywhere write np.full(n, success)"
        )
    check_not_negative("best_of_n: tokens_per_sample", tokens_per_sample, "what a sample costs")
    samples = co.Allocation(
        len(np.asarray(success)), upper=samples_upper, integer=True, name="samples"
    )
    return co.Problem(
        co.Maximize(co.sum(co.BestOfN(success)(samples))),
        [(co.sum(tokens_per_sample * samples) <= budget).named("budget")],
    )
