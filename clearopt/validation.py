"""Checks shared by everything that takes arrays from a user.

One offending entry is enough to stop: the message names the argument, the first offending index,
its value, and what is accepted instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError

FloatArray = NDArray[np.float64]


def as_float_array(
    value: ArrayLike, argument: str, *, allow_infinite: bool = False, share: bool = False
) -> FloatArray:
    """A float64 copy of `value`, of zero or one dimension, without NaN (nor infinity).

    With `share`, an array that nobody can write to any more is taken as it is.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biufO" or value is None:  # text and complex would be converted
            raise TypeError("not real numbers")
        if share and given.dtype == np.float64 and is_frozen(given):
            array = given
        else:
            array = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DeclarationError(
            f"{argument}: expected a number or a one-dimensional array of numbers, "
            f"got {type(value).__name__} ({error})"
        ) from error
    if array.ndim > 1:
        raise DeclarationError(
            f"{argument}: expected a number or a one-dimensional array, got shape {array.shape}"
        )
    require(array, ~np.isnan(array), argument, "must be a number, not NaN")
    if not allow_infinite:
        require(array, np.isfinite(array), argument, "must be finite")
    return array


def is_frozen(array: NDArray[Any]) -> bool:
    """Whether an array, and whatever it is a view of, is marked as read-only (or is bytes)."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        if memory.flags.writeable:
            return False
        memory = memory.base
    return memory is None or isinstance(memory, bytes)


def require(
    array: NDArray[Any],
    holds: NDArray[np.bool_] | np.bool_ | bool,
    argument: str,
    rule: str,
    error: Callable[[str], Exception] = DeclarationError,
) -> None:
    """Raise unless `holds` everywhere, naming the first entry of `array` where it does not."""
    holds = np.broadcast_to(np.asarray(holds), array.shape)
    if holds.all():
        return
    if array.ndim == 0:
        raise error(f"{argument} = {array.item()!r}: {rule}")
    index = int(np.flatnonzero(~holds)[0])
    others = int((~holds).sum()) - 1
    more = f" (and {others} more)" if others else ""
    raise error(f"{argument}[{index}] = {array[index].item()!r}{more}: {rule}")


def broadcast_to_length(array: FloatArray, length: int, argument: str) -> FloatArray:
    """`array` as `(length,)`: a scalar is repeated, another length is an error."""
    if array.ndim == 1 and array.shape[0] != length:
        raise DeclarationError(
            f"{argument} has length {array.shape[0]}, but it applies to {length} queries: "
            f"give one number, or an array of length {length}"
        )
    return np.broadcast_to(array, (length,))
