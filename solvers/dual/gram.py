"""left diag(d) right' for many d: which pairs of rows meet in a column is worked out once.

Where a query stands in few rows, as under a tenant's cap and a budget, the product is a sum over
the pairs of rows that meet in its column: one weighted count a time, without a product of matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.validation import FloatArray

_MOST_PAIRS = 4  # an entry, up to which counting them beats a product of matrices
_TABLE = 8_000_000  # products of so many entries are numbered by a table, larger ones by sorting


class Pairs:
    """The structure of left diag(d) right', (L, R), for matrices of shapes (L, n) and (R, n)."""

    def __init__(self, left: sparse.csc_array, right: sparse.csc_array) -> None:
        n, width = left.shape[1], right.shape[0]
        self.shape = (left.shape[0], width)
        # Every entry of `left` meets all entries of `right` in its column.
        column = np.repeat(np.arange(n, dtype=np.int32), np.diff(left.indptr))
        meets = np.diff(right.indptr)[column]
        entry = np.repeat(np.arange(column.size, dtype=np.int32), meets)
        first = np.cumsum(meets) - meets
        other = np.arange(entry.size, dtype=np.int64) - first[entry] + right.indptr[column[entry]]
        self.column = column[entry]
        self.product = left.data[entry] * right.data[other]
        key = left.indices[entry].astype(np.int64) * width + right.indices[other]
        if self.shape[0] * width <= _TABLE:
            met = np.zeros(self.shape[0] * width, dtype=bool)
            met[key] = True
            kept = np.flatnonzero(met)
            number = np.cumsum(met) - 1
            self.number: NDArray[np.intp] = number[key].astype(np.intp)
        else:
            kept, inverse = np.unique(key, return_inverse=True)
            self.number = np.ravel(inverse).astype(np.intp)
        self.indices = (kept % width).astype(np.int32)
        self.indptr = np.searchsorted(kept // width, np.arange(self.shape[0] + 1)).astype(np.int32)

    @classmethod
    def of(cls, left: sparse.csr_array, right: sparse.csr_array) -> Pairs | None:
        """None where too many rows meet in a column."""
        pairs = int(np.bincount(left.indices, minlength=left.shape[1]) @ (
            np.bincount(right.indices, minlength=right.shape[1])
        ))  # fmt: skip
        if pairs > _MOST_PAIRS * max(left.nnz, right.nnz):
            return None
        return cls(sparse.csc_array(left), sparse.csc_array(right))

    def __call__(self, diagonal: FloatArray) -> sparse.csr_array:
        """left diag(d) right' for d of shape (n,)."""
        terms = self.product * diagonal[self.column]
        data = np.bincount(self.number, terms, minlength=self.indices.size)
        return sparse.csr_array((data, self.indices, self.indptr), self.shape)
