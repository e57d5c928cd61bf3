"""Two resources at once: tokens, and the memory of the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_not_negative, check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def tokens_and_memory(
    utility: co.Utility,
    n: int,
    budget: float,
    kv_bytes: ArrayLike,
    memory: float,
    *,
    upper: ArrayLike,
    integer: bool = True,
) -> co.Problem:
    """Share `budget` tokens among n queries that are all in the KV cache at the same time.

        maximise    sum_i U_i(b_i)
        subject to  sum_i b_i <= budget                   "budget"
                    sum_i kv_bytes_i b_i <= memory        "memory"
                    0 <= b_i <= upper_i, whole where `integer`

    Args:
        utility: expected accuracy by tokens, its parameters numbers or of shape (n,).
        n: how many queries.
        budget: tokens for all of them together, at least 0.
        kv_bytes: bytes that one token of a query takes in the cache, number or (n,): it differs
            where the queries go to different models.
        memory: bytes of cache for all of them together, what their prompts take not counted.
        upper: the largest number of tokens for one query, number or (n,).
        integer: count tokens whole, as a server does.
    """
    check_utility("tokens_and_memory: utility", utility)
    check_not_negative("tokens_and_memory: kv_bytes", kv_bytes, "bytes that a token takes")
    tokens = co.Allocation(n, upper=upper, integer=integer, name="tokens")
    return co.Problem(
        co.Maximize(co.sum(utility(tokens))),
        [
            (co.sum(tokens) <= budget).named("budget"),
            (co.sum(kv_bytes * tokens) <= memory).named("memory"),
        ],
    )
