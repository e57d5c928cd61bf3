"""Sums of many floating-point numbers, accurate as if carried out in twice the precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy import sparse

from clearopt.validation import FloatArray

_WIDTH = 8192  # columns that are added up side by side
_PIECE = 4 * _WIDTH  # terms that are made at once
_NARROW = 512  # the same for their sums


def accurate_sum(terms: FloatArray) -> float:
    """The sum of `terms`, (n,): `math.fsum`, by far faster where they are many.

    Columns are added by Knuth's error-free transformation, their errors are added up beside them
    (Ogita, Rump and Oishi 2005, algorithm Sum2), their sums likewise, and what is left is summed
    exactly: off by at most half a rounding error of the result plus (n / 8192 + 16)^2 u^2 times
    the sum of sizes.
    """
    terms = np.ascontiguousarray(terms, dtype=np.float64)
    return accurate_sum_of(terms.size, lambda part: terms[part])


def accurate_sum_of(count: int, terms: Callable[[slice], FloatArray]) -> float:
    """`accurate_sum` of `count` terms that are made piece by piece: no array holds them all."""

    def pieces() -> Iterable[FloatArray]:
        for start in range(0, count, _PIECE):
            yield terms(slice(start, min(start + _PIECE, count)))

    if count < _PIECE:
        return math.fsum(itertools.chain.from_iterable(pieces()))
    total, error = np.zeros(_WIDTH), np.zeros(_WIDTH)
    narrow, more = np.zeros(_NARROW), np.zeros(_NARROW)
    with np.errstate(all="ignore"):
        for piece in pieces():
            total = _added(total, error, piece)
        narrow = _added(narrow, more, total)
        left = float(np.sum(error)) + float(np.sum(more))
    if not math.isfinite(left):  # infinite terms, or an overflow: as fsum tells it
        return math.fsum(itertools.chain.from_iterable(pieces()))
    return math.fsum([*narrow.tolist(), left])


def _added(total: FloatArray, error: FloatArray, terms: FloatArray) -> FloatArray:
    """The columns' sums with the terms added row by row; their rounding errors go to `error`."""
    width = total.size
    for start in range(0, terms.size, width):
        row = terms[start : start + width]
        if row.size < width:
            row = np.concatenate([row, np.zeros(width - row.size)])
        added = total + row
        part = added - total
        error += (total - (added - part)) + (row - part)
        total = added
    return total


def times(matrix: sparse.csr_array, vector: FloatArray) -> FloatArray:
    """matrix @ vector, (k,), in pieces, which copies nothing; long rows are summed accurately."""
    size, ends = matrix.nnz, matrix.indptr
    if size < _PIECE:
        return np.asarray(matrix @ vector)
    every = matrix.shape[0] == 1 and size == matrix.shape[1] and matrix.has_canonical_format

    def terms(part: slice) -> FloatArray:
        held = vector[part] if every else vector[matrix.indices[part]]
        return np.asarray(matrix.data[part] * held)

    def of_row(row: int) -> float:
        first = int(ends[row])
        return accurate_sum_of(
            int(ends[row + 1]) - first,
            lambda part: terms(slice(part.start + first, part.stop + first)),
        )

    product = np.zeros(matrix.shape[0])
    row = 0
    while row < product.size:
        # As many rows as end within a piece; one that is longer stands alone.
        following = int(np.searchsorted(ends, ends[row] + _PIECE, side="right")) - 1
        if following <= row:
            product[row], row = of_row(row), row + 1
            continue
        numbers = np.repeat(np.arange(following - row), np.diff(ends[row : following + 1]))
        found = terms(slice(int(ends[row]), int(ends[following])))
        product[row:following] = np.bincount(numbers, found, minlength=following - row)
        row = following
    return product
