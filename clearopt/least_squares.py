"""Bounded least squares that ends when time is up: SciPy's own goes on for as long as it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import LinearOperator

from clearopt.deadline import Deadline
from clearopt.validation import FloatArray


class _OutOfTime(Exception):
    """Between two products with the matrix."""


def bounded_least_squares(
    matrix: sparse.csr_array,
    goal: FloatArray,
    bounds: tuple[Any, Any],
    deadline: Deadline,
    **options: float,
) -> FloatArray | None:
    """The x (k,) within bounds that brings matrix (m, k) @ x nearest to goal (m,).

    None if the deadline comes first. `options` are those of `scipy.optimize.lsq_linear`.
    """

    transposed = sparse.csr_array(matrix.T)

    def times(x: FloatArray) -> FloatArray:
        if deadline.over:
            raise _OutOfTime
        return np.asarray(matrix @ np.ravel(x))

    def transposed_times(x: FloatArray) -> FloatArray:
        return np.asarray(transposed @ np.ravel(x))

    operator = LinearOperator(
        matrix.shape, matvec=times, rmatvec=transposed_times, dtype=np.dtype(np.float64)
    )
    try:
        return np.asarray(lsq_linear(operator, goal, bounds, **options).x)
    except _OutOfTime:
        return None
