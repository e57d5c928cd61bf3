"""Numbers of a test-set file: one for all members, or a list with one entry each.

JSON has no infinity: null stands for it. Numbers that are whole are written without a point, the
others with as many digits as give back the same double.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.files.archive import Fields
from clearopt.validation import FloatArray


def written_floats(values: NDArray[Any]) -> Any:
    """(m,) numbers as one number where all are equal, else as a list; (m, k) as a list of lists."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2:
        return [[_written(value) for value in row] for row in array.tolist()]
    if array.size and (array == array[0]).all():
        return _written(float(array[0]))
    return [_written(value) for value in array.tolist()]


def _written(value: float) -> float | int | None:
    if math.isinf(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def written_flags(mask: NDArray[np.bool_]) -> Any:
    """(m,) booleans as one where all are equal, else as a list."""
    return bool(mask[0]) if mask.size and (mask == mask[0]).all() else mask.tolist()


def floats(entries: Fields, key: str, members: int, default: float | None = None) -> FloatArray:
    """(members,) float64, or (members, k) where each entry is a list.

    Args:
        entries: the object that holds them.
        key: under which name.
        members: how many there must be.
        default: what is taken where there is no such entry; None if there must be one.
    """
    if default is not None and not entries.has(key):
        return np.full(members, default)
    given = entries.value(key)
    if not isinstance(given, list):
        return np.full(members, _number(entries, key, given))
    if len(given) != members:
        entries.fail(f"{key}: has {len(given)} entries; expected one number, or {members} of them")
    if given and isinstance(given[0], list):
        width = len(given[0])
        for position, row in enumerate(given):
            if not isinstance(row, list) or len(row) != width:
                entries.fail(f"{key}: entry {position} is not a list of {width} numbers")
        return np.array(
            [[_number(entries, f"{key}[{i}]", each) for each in row] for i, row in enumerate(given)]
        ).reshape(members, width)
    return np.array(
        [_number(entries, f"{key}: entry {i}", each) for i, each in enumerate(given)],
        dtype=np.float64,
    )


def _number(entries: Fields, what: str, value: Any) -> float:
    if value is None:
        return math.inf
    if type(value) not in (int, float) or abs(value) > 1e308:
        entries.fail(f"{what}: {str(value)[:40]!r} is not a number")
    return float(value)


def flags(entries: Fields, key: str, members: int) -> NDArray[np.bool_]:
    """(members,) booleans; False where there is no such entry."""
    given = entries.value(key) if entries.has(key) else False
    if isinstance(given, bool):
        return np.full(members, given)
    if (
        not isinstance(given, list)
        or len(given) != members
        or not all(isinstance(each, bool) for each in given)
    ):
        entries.fail(f"{key}: must be true or false, or a list of {members} of them")
    return np.array(given, dtype=np.bool_)
