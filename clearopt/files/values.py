"""Labels and other small values as JSON that gives back the very same value.

JSON has no tuples, dates or infinities, and one kind of number. What it lacks is written as an
object with a tag; an object is never anything else:

    {"tuple": [...]}                            {"float": "inf" | "-inf" | "nan"}
    {"date": "2025-01-31"}                      {"datetime": "2025-01-31T12:00:00+00:00"}
                                                ("fold": 1 beside it, where it is set)
    {"numpy": "int64", "value": 7}              {"mapping": [[key, value], ...]}
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np

_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
            "float16", "float32", "float64")  # fmt: skip
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns")


def _moment(value: int, unit: Any) -> np.datetime64:
    return np.datetime64(value, unit)


# NumPy's scalars, by the name they are written under.
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "bool": np.bool_,
    "str": np.str_,
    **{name: getattr(np, name) for name in _NUMBERS},
    **{f"datetime64[{unit}]": partial(_moment, unit=unit) for unit in _UNITS},
}
_ODD_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_DEPTH = 50  # of tuples in tuples; far more than a label has, far less than Python's stack


class NotWritableError(ValueError):
    """A value that has no place in a file; the message says which, and why."""


def encode(value: Any, depth: int = 0) -> Any:
    """JSON for str, int, float, bool, None, dates, NumPy scalars, and tuples, lists and mappings
    of those.

    Raises:
        NotWritableError: anything else, or a value that would not come back the same.
    """
    if depth > _DEPTH:
        raise NotWritableError("it is nested too deeply")
    kind = type(value)  # exactly: an enumeration is an int too, and would come back as one
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        if value.bit_length() > 13_000:  # Python itself refuses to read 4300 digits and more
            raise NotWritableError("it is a whole number of thousands of digits")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is tuple:
        return {"tuple": [encode(item, depth + 1) for item in value]}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        return {"mapping": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if kind in (datetime.date, datetime.datetime):
        written: dict[str, Any] = {kind.__name__: value.isoformat()}
        if getattr(value, "fold", 0):
            written["fold"] = 1
        if repr(decode(written)) != repr(value):
            raise NotWritableError(
                "its time zone has a name, which is not kept; give it in UTC or without a zone"
            )
        return written
    if isinstance(value, np.generic):
        return _encode_scalar(value)
    raise NotWritableError(
        f"a {kind.__qualname__} is none of str, int, float, bool, None, date, datetime, a NumPy "
        "scalar, or a tuple of those"
    )


def _encode_scalar(value: np.generic) -> Any:
    name = value.dtype.name if value.dtype.kind != "U" else "str"
    if name not in _SCALARS:
        raise NotWritableError(f"a NumPy {name} is not kept; write a number, a text or a date")
    plain = int(value.astype(np.int64)) if value.dtype.kind == "M" else value.item()
    return {"numpy": name, "value": encode(plain)}


def decode(written: Any) -> Any:
    """The value that `encode` was given.

    Raises:
        ValueError: this is not what `encode` writes.
    """
    if written is None or isinstance(written, bool | str | int | float):
        return written
    if isinstance(written, list):
        return [decode(item) for item in written]
    if isinstance(written, dict):
        if set(written) == {"numpy", "value"}:
            name, value = written["numpy"], decode(written["value"])
            if isinstance(name, str) and name in _SCALARS and _fits(name, value):
                return _SCALARS[name](value)
        elif set(written) == {"datetime", "fold"} and written["fold"] == 1:
            return _TAGS["datetime"](written["datetime"]).replace(fold=1)
        elif len(written) == 1:
            tag, inner = next(iter(written.items()))
            if tag in _TAGS:
                return _TAGS[tag](inner)
    raise ValueError(f"{str(written)[:80]} is not a value that a clearopt file holds")


def decode_label(written: Any) -> Hashable:
    """As `decode`, for what must be hashable.

    Raises:
        ValueError: this is no label.
    """
    label = decode(written)
    try:
        hash(label)
    except TypeError as error:
        raise ValueError(f"{str(written)[:80]} is not a label") from error
    return label


def _fits(name: str, value: Any) -> bool:
    """Whether the plain value belongs to the NumPy scalar of that name."""
    if name in ("bool", "str"):
        return type(value).__name__ == name
    if name.startswith("float"):
        return type(value) is float
    if type(value) is not int:
        return False
    limits = np.iinfo(np.int64 if name.startswith("datetime64") else np.dtype(name))
    return bool(limits.min <= value <= limits.max)


def _odd_float(inner: Any) -> float:
    if not isinstance(inner, str) or inner not in _ODD_FLOATS:
        raise ValueError(f"{str(inner)[:80]} is not one of {', '.join(_ODD_FLOATS)}")
    return _ODD_FLOATS[inner]


def _tuple(inner: Any) -> tuple[Any, ...]:
    if not isinstance(inner, list):
        raise ValueError("a tuple is written as a list of its items")
    return tuple(decode(item) for item in inner)


def _mapping(inner: Any) -> dict[Hashable, Any]:
    if not isinstance(inner, list) or any(
        not isinstance(pair, list) or len(pair) != 2 for pair in inner
    ):
        raise ValueError("a mapping is written as a list of pairs")
    return {decode_label(key): decode(value) for key, value in inner}


def _date(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parse(inner: Any) -> Any:
        if not isinstance(inner, str):
            raise ValueError("a date is written as a text")
        return read(inner)

    return parse


_TAGS: dict[str, Callable[[Any], Any]] = {
    "float": _odd_float,
    "tuple": _tuple,
    "mapping": _mapping,
    "date": _date(datetime.date.fromisoformat),
    "datetime": _date(datetime.datetime.fromisoformat),
}
