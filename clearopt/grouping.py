"""`co.sum` and `co.mean`, over everything or by group."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.errors import DeclarationError
from clearopt.expressions import Expression, row_of_ones
from clearopt.program import PIECE
from clearopt.validation import FloatArray

_LONGEST_TEXT = 64  # letters, of labels that are grouped as arrays
_WIDEST = 4  # entries of a table a label, of whole numbers that are grouped by one


def sum_(expression: Expression, by: Any = None) -> Expression:
    """The total of a vector expression, or one total a group.

    Args:
        expression: a vector of m entries.
        by: m labels (any hashable; an array, list, pandas or polars column). The result then has
            one entry a group, in order of the labels' first appearance.

    Raises:
        DeclarationError: `by` has another length, or a missing label.
    """
    return _aggregate(expression, by, mean=False)


def mean(expression: Expression, by: Any = None) -> Expression:
    """The mean of a vector expression, or one mean a group; arguments as in `co.sum`."""
    return _aggregate(expression, by, mean=True)


def _aggregate(expression: Expression, by: Any, *, mean: bool) -> Expression:
    name = "mean" if mean else "sum"
    if not isinstance(expression, Expression):
        raise DeclarationError(
            f"co.{name}({type(expression).__name__}): expected one expression of tokens or "
            f"utilities; several are added with +, and for numbers there is numpy.{name}"
        )
    length = expression.length
    if by is None:
        if mean and not length:
            raise DeclarationError(
                f"co.mean({expression.text}): nothing is selected, and nothing has no mean; leave "
                "it out where the selection is empty, e.g. `if mask.any():`"
            )
        factor = 1.0 / length if mean else 1.0
        row = row_of_ones(length) if factor == 1.0 else row_of_ones(length) * factor
        return expression.mapped_by(row, scalar=True, text=f"{name}({expression.text})")
    group, labels = factorize(by, length, f"co.{name}({expression.text}, by=...)")
    matrix = _membership(group, len(labels), mean=mean)
    text = f"{name}({expression.text}, by=[{len(labels)} groups])"
    return expression.mapped_by(matrix, scalar=False, text=text, labels=labels)


def factorize(by: Any, length: int, argument: str) -> tuple[NDArray[np.intp], tuple[Hashable, ...]]:
    """Group number of each entry, and the groups' labels in order of first appearance."""
    if isinstance(by, str):
        raise DeclarationError(f"{argument}: one label an entry is needed, got the text {by!r}")
    if hasattr(by, "factorize") and getattr(by, "ndim", 0) == 1 and len(by) == length:
        return _from_pandas(by, argument)
    if isinstance(by, Mapping | Set | Iterator):
        kind, values = type(by).__name__, "list(by.values())" if isinstance(by, Mapping) else ""
        raise DeclarationError(
            f"{argument}: one label an entry is needed, in the order of the {length} entries; a "
            f"{kind} is not a list: give a list, an array or a column, such as "
            + (values or "[tenant_of[query] for query in queries]")
        )
    array = _as_labels(by)
    if array.ndim != 1 or array.shape[0] != length:
        raise DeclarationError(
            f"{argument}: one label an entry is needed, got shape {array.shape} for "
            f"{length} entries"
        )
    if not length:
        return np.zeros(0, dtype=np.intp), ()
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DeclarationError(
            f"{argument}: label {int(np.isnan(array).argmax())} is missing (NaN)"
        )
    if array.dtype.kind in "biuf":
        return _numbered(array, array)
    text = _as_text(array)
    if text is not None:
        missing = text == ""
        if missing.any():
            raise DeclarationError(f"{argument}: label {int(missing.argmax())} is missing ('')")
        keys = _keys_of(text)
        group, labels = _numbered(keys, text)
        if (np.asarray(labels)[group] == text).all():  # else two labels share a key
            return group, labels
    return _by_dictionary(array, argument)


def _membership(group: NDArray[np.intp], count: int, *, mean: bool) -> sparse.csr_array:
    """(count, m): the sum or the mean of each group's entries.

    Ordered by SciPy's counting sort over single bytes; the ones of a sum are one number in memory.
    """
    ends = np.arange(group.size + 1, dtype=np.int32 if group.size < 2**31 - 1 else np.int64)
    belongs = np.ones(group.size, dtype=np.int8)
    columns = sparse.csc_array((belongs, group.astype(ends.dtype), ends), shape=(count, group.size))
    by_group = columns.tocsr()
    factors: FloatArray = np.broadcast_to(1.0, (group.size,))
    if mean:
        sizes = np.diff(by_group.indptr)
        factors = np.repeat(1.0 / np.maximum(sizes, 1), sizes)
    return sparse.csr_array((factors, by_group.indices, by_group.indptr), shape=columns.shape)


def _from_pandas(by: Any, argument: str) -> tuple[NDArray[np.intp], tuple[Hashable, ...]]:
    codes, labels = by.factorize()
    group = np.asarray(codes, dtype=np.intp)
    empty = [i for i, label in enumerate(labels) if _is_missing(label)]
    missing = (group < 0) | np.isin(group, empty)
    if missing.any():
        i = int(missing.argmax())
        raise DeclarationError(f"{argument}: label {i} is missing ({by.iloc[i]!r})")
    return group, tuple(labels.tolist())


def _numbered(
    keys: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.intp], tuple[Hashable, ...]]:
    """Groups by equal keys, numbered by first appearance, and the label of each."""
    if keys.dtype.kind in "iu" and int(keys.max()) - int(keys.min()) <= _WIDEST * keys.size:
        return _numbered_by_table(keys, labels)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.shape[0])
    return rank[inverse].astype(np.intp), tuple(labels[first[order]].tolist())


def _numbered_by_table(
    keys: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.intp], tuple[Hashable, ...]]:
    """The same for whole numbers that lie close together: nothing is sorted, or copied whole."""
    low, size = keys.min(), keys.size
    wide = np.dtype(np.int64) if keys.dtype.itemsize < 8 else keys.dtype  # small ones overflow

    def entries_of(part: slice) -> NDArray[np.intp]:
        return (keys[part].astype(wide, copy=False) - low.astype(wide)).astype(np.intp)

    first = np.full(int(keys.max()) - int(low) + 1, size, dtype=np.intp)
    pieces = [slice(start, start + PIECE) for start in range(0, size, PIECE)]
    for part in pieces:
        entries = entries_of(part)
        np.minimum.at(first, entries, part.start + np.arange(entries.size))
    used = np.flatnonzero(first < size)
    used = used[np.argsort(first[used])]
    number = np.zeros(first.size, dtype=np.intp)
    number[used] = np.arange(used.size)
    group = np.empty(size, dtype=np.intp)
    for part in pieces:
        group[part] = number[entries_of(part)]
    return group, tuple(labels[first[used]].tolist())


def _as_text(array: NDArray[Any]) -> NDArray[np.str_] | None:
    """The labels as one array of text, or None where some are not text or very long."""
    if array.dtype.kind == "O":
        entries = array.tolist()
        if set(map(type, entries)) != {str} or max(map(len, entries)) > _LONGEST_TEXT:
            return None
        array = np.array(entries, dtype=str)
    short = array.dtype.kind == "U" and array.dtype.itemsize <= 4 * _LONGEST_TEXT
    return array if short else None


def _keys_of(text: NDArray[np.str_]) -> NDArray[np.uint64]:
    """One number a label, equal for equal labels: sorting numbers is far faster than text."""
    letters = np.ascontiguousarray(text).view(np.uint32).reshape(text.shape[0], -1)
    keys = np.zeros(text.shape[0], dtype=np.uint64)
    for column in letters.T:  # one pass a letter
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _by_dictionary(
    array: NDArray[Any], argument: str
) -> tuple[NDArray[np.intp], tuple[Hashable, ...]]:
    """Any hashable labels, one by one."""
    numbers: dict[Hashable, int] = {}
    number = numbers.setdefault
    entries = array.tolist()
    try:
        group = np.fromiter(
            (number(e, len(numbers)) for e in entries), np.intp, count=array.shape[0]
        )
    except TypeError as error:
        raise DeclarationError(f"{argument}: labels must be hashable ({error})") from error
    for label, position in zip(numbers, np.unique(group, return_index=True)[1], strict=True):
        if _is_missing(label):
            raise DeclarationError(f"{argument}: label {int(position)} is missing ({label!r})")
    return group, tuple(numbers)


def _as_labels(by: Any) -> NDArray[Any]:
    if isinstance(by, list | tuple):  # entry by entry: NumPy would turn mixed labels into text
        return np.fromiter(by, dtype=object, count=len(by))
    return np.asarray(by.to_numpy() if hasattr(by, "to_numpy") else by)


def _is_missing(label: Hashable) -> bool:
    if label is None or (isinstance(label, str) and label == ""):
        return True
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA has no truth value
        return True
