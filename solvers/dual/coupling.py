"""What branch and bound needs to know of the rows that couple the queries.

`one_row` and `many_rows` answer it; the search itself knows neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.dual.separable import Effective, Separable
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The dual bound over a box, and what proves it.

    Attributes:
        bound: a rigorous upper bound on the objective of every allocation in the box.
        start: prices from which the search in a part of the box may begin.
        fits: False where no prices make demand fit: the box holds no feasible allocation.
        effective: weights and prices at which the bound holds.
        response: every query's best response to them.
        detail: the coupling's own.
        cutoff: allocations worth no more are not wanted.
    """

    bound: float
    start: Any
    fits: bool
    effective: Effective
    response: BestResponse
    detail: Any
    cutoff: float = -math.inf


@dataclass(frozen=True, eq=False)
class Candidates:
    """Allocations made from a relaxation, and where it is not yet decided."""

    allocations: list[FloatArray]
    split: int | None  # the query that is left between its two versions, None where none is
    part: float  # the tokens it has in the mixture


class Coupling(Protocol):
    """The rows."""

    @property
    def queries(self) -> Separable:
        """The one-dimensional problems."""

    @property
    def resolution(self) -> float:
        """The relative gap at which bound and allocation are equal but for rounding."""

    def propagate(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The box without amounts that the rows rule out."""

    def holds_nothing(self, lower: FloatArray, upper: FloatArray) -> bool:
        """Whether the box provably holds no feasible allocation."""

    def relax(self, lower: FloatArray, upper: FloatArray, start: Any, cutoff: float) -> Relaxed:
        """Minimise the dual function over the box; bounds at most `cutoff` are good enough."""

    def candidates(self, relaxed: Relaxed, lower: FloatArray, upper: FloatArray) -> Candidates:
        """Allocations near a relaxation, feasible or not."""

    def simple(self, lower: FloatArray, upper: FloatArray) -> list[FloatArray]:
        """Allocations that are likely to be feasible, for a search that found none in its time."""

    def accepts(self, tokens: FloatArray) -> bool:
        """Whether the rows are met."""

    def value(self, tokens: FloatArray) -> float:
        """The objective, without its constant."""

    @property
    def free_disposal(self) -> NDArray[np.bool_]:
        """(n,) whether fewer tokens of a query are always allowed."""

    def columns(self, index: NDArray[np.intp]) -> FloatArray:
        """(m, K + J): the queries' entries in every row and floor."""
