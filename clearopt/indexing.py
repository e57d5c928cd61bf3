"""Which entries an index names: a mask, a slice, indices or one index, as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.validation import require


def resolve_index(key: Any, length: int, text: str) -> tuple[NDArray[np.intp], bool]:
    """Positions named by a mask, slice, indices or one index; and whether it is one index.

    They may be none at all: what limits nobody holds.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if not -length <= key < length:
            raise DeclarationError(f"{text}[{key}]: there are only {length} entries")
        return np.array([key % length], dtype=np.intp), True
    if isinstance(key, slice):
        index = np.arange(length, dtype=np.intp)[key]
    else:
        array = np.asarray(key)
        if array.size == 0 and isinstance(key, list):
            array = array.astype(np.intp)  # NumPy takes an empty list for numbers with fractions
        if isinstance(key, tuple) or array.ndim != 1 or array.dtype.kind not in "biu":
            raise DeclarationError(
                f"{text}[...]: index by a mask, a slice, whole numbers or one whole number, "
                f"not by {type(key).__name__} of shape {array.shape}"
            )
        if array.dtype.kind == "b":
            if array.shape[0] != length:
                raise DeclarationError(
                    f"{text}[mask]: the mask has length {array.shape[0]}, not {length}"
                )
            index = np.flatnonzero(array)
        else:
            require(
                array,
                (array >= -length) & (array < length),
                f"{text}[indices]: indices",
                f"is out of range: there are only {length} entries",
            )
            if array.shape[0] == length > 2 and array.min() >= 0 and array.max() <= 1:
                raise DeclarationError(
                    f"{text}[...]: {length} numbers, all 0 or 1, look like a mask but would be "
                    "read as positions; write mask.astype(bool)"
                )
            index = array.astype(np.intp) % length
    return index.astype(np.intp), False
