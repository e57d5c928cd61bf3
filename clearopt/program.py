"""`Program`: what every problem compiles to, and all that a back-end ever sees.

    maximise    offset + sum_i  w_i U_i(b_i) - c_i b_i
    subject to  sum_i  A_ki b_i  {<=, >=, ==}  r_k     linear rows
                sum_i  V_ji U_i(b_i)  >=  f_j          accuracy floors, V >= 0
                b_i in [l_i, u_i], whole where integer

Plain arrays, float64, and no knowledge of the language before it or the solvers behind it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.utilities import Utility
from clearopt.validation import FloatArray

Sense = Literal["<=", ">=", "=="]


@dataclass(frozen=True, eq=False)
class UtilityBlock:
    """One family applied to the queries at `index`: parameters and `index` have shape (m,)."""

    family: Utility
    index: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ConstraintGroup:
    """The rows one declared constraint became; `labels` has one entry a row if it was grouped."""

    name: str
    kind: Literal["row", "floor"]
    first: int
    count: int
    labels: tuple[Hashable, ...] | None = None
    scalar: bool = True
    # Labels (positions, if not grouped) declared with an infinite limit: they have no row, price 0.
    unlimited: tuple[Hashable, ...] = ()

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True, eq=False)
class Program:
    """A separable budget problem over n queries (module docstring has the mathematics).

    Attributes:
        weight, cost: (n,) objective weight of each utility, and cost per token.
        lower, upper: (n,) bounds in tokens, whole where `integer`; `upper` may be infinite.
        integer: (n,) bool, tokens counted whole.
        utilities: the families; a query in no block has utility 0, none is in two.
        rows, senses, right_hand_side: (K, n) sparse, K senses, (K,) finite.
        floors, floor_levels: (J, n) sparse and non-negative, (J,).
        constraints: how rows and floors group into what the user declared, in that order.
        offset: a constant of the objective.
    """

    weight: FloatArray
    cost: FloatArray
    lower: FloatArray
    upper: FloatArray
    integer: NDArray[np.bool_]
    utilities: tuple[UtilityBlock, ...]
    rows: sparse.csr_array
    senses: tuple[Sense, ...]
    right_hand_side: FloatArray
    floors: sparse.csr_array
    floor_levels: FloatArray
    constraints: tuple[ConstraintGroup, ...] = ()
    offset: float = 0.0
    names: tuple[str, ...] = field(default=())  # one name a query, or none

    @property
    def n(self) -> int:
        """How many queries there are."""
        return int(self.weight.shape[0])

    @cached_property
    def sense_array(self) -> NDArray[np.str_]:
        return np.asarray(self.senses, dtype="<U2")

    def utility(self, tokens: FloatArray) -> FloatArray:
        """U_i(b_i) for every query, (n,)."""
        values = np.zeros(self.n)
        for block in self.utilities:
            values[block.index] = block.family.value(tokens[block.index])
        return values

    def marginal(self, tokens: FloatArray) -> FloatArray:
        """U_i'(b_i) for every query, accuracy per token, (n,)."""
        slopes = np.zeros(self.n)
        for block in self.utilities:
            slopes[block.index] = block.family.marginal(tokens[block.index])
        return slopes

    def objective(self, tokens: FloatArray) -> float:
        """The objective at an allocation."""
        gains = self.weight * self.utility(tokens) - self.cost * tokens
        return float(self.offset + np.sum(gains))
