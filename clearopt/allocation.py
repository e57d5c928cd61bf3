"""The decision of a problem: how many tokens each query may use."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError
from clearopt.expressions import Expression, identity
from clearopt.validation import as_float_array, broadcast_to_length, require

_counter = itertools.count()


class Allocation(Expression):
    """The decision: how many tokens each of n queries may use.

    Args:
        n: how many queries, at least 1.
        lower, upper: bounds in tokens, number or (n,). `upper` may be infinite (the default).
        integer: True, or an (n,) bool mask, where tokens are counted whole.
        semicontinuous: True, or an (n,) bool mask, where a query gets nothing, or at least
            `lower`.
        name: shown in messages and summaries.

    Raises:
        DeclarationError: n < 1, a bound that is NaN or negative, lower above upper, or no whole
            number between the bounds of an integer query.
    """

    def __init__(
        self,
        n: int,
        *,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        integer: bool | ArrayLike = False,
        semicontinuous: bool | ArrayLike = False,
        name: str | None = None,
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise DeclarationError(
                f"Allocation: n = {n!r}: must be a whole number of queries, at least 1 "
                "(an empty problem has nothing to allocate)"
            )
        n = int(n)
        if name is not None and (not isinstance(name, str) or not name):
            raise DeclarationError(f"Allocation: name = {name!r}: must be a text, or None")
        self.name = name or f"tokens{next(_counter) or ''}"
        low = as_float_array(lower, "Allocation: lower", share=True)
        high = as_float_array(upper, "Allocation: upper", allow_infinite=True, share=True)
        require(low, low >= 0, "Allocation: lower", "must be at least 0 tokens")
        require(high, high >= 0, "Allocation: upper", "must be at least 0 tokens")
        # Views: a number for all takes no memory.
        self.lower = broadcast_to_length(low, n, "Allocation: lower")
        self.upper = broadcast_to_length(high, n, "Allocation: upper")
        self.integer = _mask(integer, n, "integer")
        self.semicontinuous = _mask(semicontinuous, n, "semicontinuous")
        require(
            self.upper,
            self.lower <= self.upper,
            "Allocation: upper",
            "lies below the lower bound of the same query",
        )
        require(
            self.upper,
            ~self.integer | (np.ceil(self.lower) <= np.floor(self.upper)),
            "Allocation: upper",
            "leaves no whole number of tokens above the lower bound of the same query",
        )
        super().__init__(
            {self: identity(n)},
            {},
            np.broadcast_to(0.0, (n,)),
            scalar=False,
            text=self.name,
            entrywise=True,
        )


def _mask(given: Any, n: int, argument: str) -> NDArray[np.bool_]:
    flags = np.asarray(given)
    if flags.ndim > 1 or flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
        raise DeclarationError(
            f"Allocation: {argument} must be True, False or a mask of length {n}, got {given!r}"
        )
    if flags.ndim == 0:
        return np.broadcast_to(flags.astype(bool), (n,))
    return broadcast_to_length(flags.astype(np.float64), n, f"Allocation: {argument}").astype(bool)
