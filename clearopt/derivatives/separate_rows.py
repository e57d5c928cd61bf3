"""Programs whose prices are found inside JAX: rows that share no query, closed-form utilities.

Rows that share no query have prices that do not know of each other: each is the minimiser of a
convex function of one variable (one budget, or one cap a tenant). Everything else goes to a solver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.utilities.base import Utility
from clearopt.validation import FloatArray


class SeparateRows(NamedTuple):
    """K rows sum_i a_i b_i <= r_k over disjoint sets of queries; `>=` is turned around."""

    row: NDArray[np.intp]  # (n,) the row that each query is in, K for none
    coefficient: FloatArray  # (n,) a_i as turned around, 0 for none
    sign: FloatArray  # (K,) -1 where the row was turned around
    equality: NDArray[np.bool_]  # (K,) prices of either sign

    @property
    def rows(self) -> int:
        """K."""
        return int(self.sign.size)

    @classmethod
    def of(cls, program: Program) -> SeparateRows:
        """The rows of a program for which `obstacle` is None."""
        count = program.rows.shape[0]
        entries = program.rows.tocoo()
        row = np.full(program.n, count, dtype=np.intp)
        sign = np.where(program.sense_array == ">=", -1.0, 1.0)
        coefficient = np.zeros(program.n)
        rows, queries = entries.coords
        row[queries] = rows
        coefficient[queries] = entries.data * sign[rows]
        return cls(row, coefficient, sign, program.sense_array == "==")


def obstacle(program: Program) -> str | None:
    """Why a program's prices cannot be searched for inside JAX, or None where they can."""
    if program.integer.any():
        return "tokens are counted whole"
    if program.floors.shape[0]:
        return "it has accuracy floors"
    if program.has_curves:
        return "it charges cost curves"
    if (program.choice >= 0).any():
        return "it has choices between allocations"
    if (np.diff(program.rows.tocsc().indptr) > 1).any():
        return "a query is in several rows"
    for block in program.utilities:
        family: Any = block.family
        if not isinstance(family, Utility) or not family.traceable or not family.s_shaped:
            return f"{type(family).__name__} is searched numerically, in NumPy alone"
    endless = np.isinf(program.upper)
    allowed = may_be_endless(SeparateRows.of(program)) & (program.cost >= 0)
    if (endless & ~allowed).any():
        return "an allocation without an upper bound is in a row or objective that favours tokens"
    return None


def may_be_endless(rows: SeparateRows) -> NDArray[np.bool_]:
    """(n,) whether no price makes a token cheaper than the objective does."""
    return np.asarray(np.r_[~rows.equality, True][rows.row] & (rows.coefficient >= 0))
