"""`Program`: what every problem compiles to, and all that a back-end ever sees.

    maximise    offset + sum_i  w_i U_i(b_i) - c_i b_i - d_i C_i(b_i)
    subject to  sum_i  A_ki b_i + B_ki C_i(b_i)  {<=, >=, ==}  r_k     rows
                sum_i  V_ji U_i(b_i)  >=  f_j                          accuracy floors, V >= 0
                b_i in [l_i, u_i], or {0} + [l_i, u_i] where semicontinuous; whole where integer
                at most one b_i of each choice is positive

Plain arrays, float64, and no knowledge of the language before it or the solvers behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.sums import accurate_sum_of, times
from clearopt.utilities import CostCurve, Utility
from clearopt.validation import FloatArray

PIECE = 2**15  # queries

Sense = Literal["<=", ">=", "=="]


def gapless(index: slice | NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """The same entries as a slice where they follow each other without gaps."""
    if isinstance(index, slice):
        return index
    first, size = int(index[0]) if index.size else 0, index.size
    ends = size > 1 and int(index[-1]) - first == size - 1
    if ends and bool((index[1:] > index[:-1]).all()):
        return slice(first, first + size)
    return index


def positions(where: slice | NDArray[np.intp]) -> NDArray[np.intp]:
    """The entries one by one."""
    return np.arange(where.start, where.stop) if isinstance(where, slice) else where


def count(where: slice | NDArray[np.intp]) -> int:
    """How many entries there are."""
    return int(where.stop - where.start) if isinstance(where, slice) else int(where.size)


def _none() -> FloatArray:
    """A stand-in for an array that was not given; `Program` puts one of the right shape there."""
    return np.zeros(0)


@dataclass(frozen=True, eq=False, init=False)
class UtilityBlock:
    """One family applied to the queries at `index`: parameters and `index` have shape (m,).

    Queries without gaps are kept as a slice, `where`: that takes no memory, and taking them copies
    nothing.

    Args:
        family: of m members.
        index: (m,) the queries, or a slice of them with both ends given and no step.
    """

    family: Utility
    where: slice | NDArray[np.intp]

    def __init__(self, family: Utility, index: slice | NDArray[np.intp]) -> None:
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "where", gapless(index))

    @property
    def index(self) -> NDArray[np.intp]:
        """(m,) the queries; made anew each time where they have no gaps."""
        return positions(self.where)

    @property
    def size(self) -> int:
        """m, how many queries it has."""
        return count(self.where)

    def part(self, members: slice) -> slice | NDArray[np.intp]:
        """The queries of some members, a slice where it can be one."""
        if isinstance(self.where, slice):
            return slice(self.where.start + members.start, self.where.start + members.stop)
        return self.where[members]

    @cached_property
    def at_zero(self) -> FloatArray:
        """U(0) of every member, (m,), made in pieces; one number in memory where all agree."""
        values: FloatArray | None = None
        first = 0.0
        for start in range(0, self.size, PIECE):
            part = slice(start, min(start + PIECE, self.size))
            found = self.family.take(part).value(np.zeros(part.stop - start))
            first = float(found[0]) if start == 0 else first
            if values is None and bool((found == first).all()):
                continue
            if values is None:
                values = np.full(self.size, first)
            values[part] = found
        return np.broadcast_to(first, (self.size,)) if values is None else values

    def values(self, tokens: FloatArray, out: FloatArray) -> None:
        """Write U of `tokens`, (n,), to `out`, (n,); where most have none, ask for the others."""
        if self.size <= PIECE or not self.family.traceable:
            self.evaluate(lambda family, at: family.value(at), tokens, out)
            return
        for start in range(0, self.size, PIECE):
            part = slice(start, min(start + PIECE, self.size))
            at = self.part(part)
            held, family = tokens[at], self.family.take(part)
            served = np.flatnonzero(held != 0)
            if 2 * served.size > held.size:
                out[at] = family.value(held)
                continue
            values = self.at_zero[part].copy()
            values[served] = family.take(served).value(held[served])
            out[at] = values

    def evaluate(self, question: Callable[[Utility, FloatArray], FloatArray],
                 tokens: FloatArray, out: FloatArray) -> None:  # fmt: skip
        """Ask the family of `tokens`, (n,), and write the answers to `out`, (n,).

        Closed forms are asked in pieces that stay in the cache, whatever they need in between.
        """
        where, size = self.where, self.size
        if size <= PIECE or not self.family.traceable:
            out[where] = question(self.family, tokens[where])
            return
        for start in range(0, size, PIECE):
            part = slice(start, min(start + PIECE, size))
            at = self.part(part)
            out[at] = question(self.family.take(part), tokens[at])


@dataclass(frozen=True, eq=False)
class CurveBlock:
    """One family of cost curves on the queries at `index`: parameters and `index` are (m,)."""

    family: CostCurve
    index: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class BoundEntries:
    """What a constraint that became bounds says: factor_e * b[query_e] {sense} level_e, (m,)."""

    query: NDArray[np.intp]
    factor: FloatArray
    level: FloatArray
    sense: Sense


@dataclass(frozen=True, eq=False)
class ConstraintGroup:
    """What one declared constraint became; `labels` has one entry a row if it was grouped.

    A `row` or `floor` constraint is `count` rows or floors from `first` on; a `bound` constraint
    has tightened bounds, and `bounds` says which.
    """

    name: str
    kind: Literal["row", "floor", "bound"]
    first: int
    count: int
    labels: tuple[Hashable, ...] | None = None
    scalar: bool = True
    # Labels (positions, if not grouped) with an infinite limit, or that charge no query: they have
    # no row and no bound, and the price 0.
    unlimited: tuple[Hashable, ...] = ()
    bounds: BoundEntries | None = None
    text: str = ""  # as the user wrote it

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
        constraints: what the user declared, in that order.
        offset: a constant of the objective.
        semicontinuous: (n,) bool, nothing or at least `lower`.
        choice: (n,) the choice each query belongs to, -1 for none. Of the queries of one choice
            at most one has more than nothing; their lower bounds are 0 or semicontinuous.
        curves: the cost curves; a query in no block has the curve 0, none is in two.
        curve_rows, curve_cost: (K, n) sparse, (n,): what rows and objective charge of a curve.
        minimize: whether the user asked for the least of the negative of this objective.
        allocations: name and length of the allocations that the queries are laid out from.
        objective_text: the objective as the user wrote it.
        declared_lower, declared_upper: (n,) the allocations' own bounds, before constraints
            tightened them; empty where unknown.
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
    semicontinuous: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    choice: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    curves: tuple[CurveBlock, ...] = ()
    curve_rows: sparse.csr_array = field(default_factory=lambda: sparse.csr_array((0, 0)))
    curve_cost: FloatArray = field(default_factory=_none)
    minimize: bool = False
    allocations: tuple[tuple[str, int], ...] = ()
    objective_text: str = ""
    declared_lower: FloatArray = field(default_factory=_none)
    declared_upper: FloatArray = field(default_factory=_none)

    def __post_init__(self) -> None:
        n, rows = self.n, self.rows.shape[0]
        defaults = {
            "semicontinuous": np.broadcast_to(np.bool_(False), (n,)),
            "choice": np.broadcast_to(np.intp(-1), (n,)),
            "curve_cost": np.broadcast_to(0.0, (n,)),
            "curve_rows": sparse.csr_array((rows, n)),
        }
        for name, default in defaults.items():
            if getattr(self, name).shape[0] != default.shape[0] or not default.shape[0]:
                object.__setattr__(self, name, default)

    @property
    def n(self) -> int:
        """How many queries there are."""
        return int(self.weight.shape[0])

    def differs_in_levels_alone(self, other: Program) -> bool:
        """Whether the two share every array but their right-hand sides (identity, not equality)."""
        free = ("right_hand_side", "floor_levels", "constraints", "senses")
        same = all(
            getattr(self, f.name) is getattr(other, f.name)
            for f in fields(self)
            if f.name not in (*free, "offset", "minimize", "allocations", "objective_text")
        )
        rest = ("senses", "offset", "minimize")
        return same and all(getattr(self, name) == getattr(other, name) for name in rest)

    @property
    def least(self) -> FloatArray:
        """(n,) the fewest tokens each query can have: 0 where semicontinuous."""
        if not self.semicontinuous.any():
            return self.lower
        return np.where(self.semicontinuous, 0.0, self.lower)

    @property
    def sign(self) -> float:
        """+1 where the user maximises, -1 where the user minimises."""
        return -1.0 if self.minimize else 1.0

    @cached_property
    def has_curves(self) -> bool:
        """Whether any row, or the objective, charges a cost curve."""
        return bool(self.curve_rows.nnz or self.curve_cost.any())

    @cached_property
    def sense_array(self) -> NDArray[np.str_]:
        return np.asarray(self.senses, dtype="<U2")

    def utility(self, tokens: FloatArray) -> FloatArray:
        """U_i(b_i) for every query, (n,)."""
        values = np.zeros(self.n)
        for block in self.utilities:
            block.values(tokens, values)
        return values

    def marginal(self, tokens: FloatArray) -> FloatArray:
        """U_i'(b_i) for every query, accuracy per token, (n,)."""
        slopes = np.zeros(self.n)
        for block in self.utilities:
            block.evaluate(lambda family, at: family.marginal(at), tokens, slopes)
        return slopes

    def curve_value(self, tokens: FloatArray) -> FloatArray:
        """C_i(b_i) for every query, expected tokens, (n,)."""
        values = np.zeros(self.n)
        for block in self.curves:
            values[block.index] = block.family.value(tokens[block.index])
        return values

    def curve_marginal(self, tokens: FloatArray) -> FloatArray:
        """C_i'(b_i) for every query, (n,)."""
        slopes = np.zeros(self.n)
        for block in self.curves:
            slopes[block.index] = block.family.marginal(tokens[block.index])
        return slopes

    def activity(self, tokens: FloatArray) -> FloatArray:
        """The left-hand side of every row, (K,)."""
        activity = times(self.rows, tokens)
        if self.curve_rows.nnz:
            activity = activity + self.curve_rows @ self.curve_value(tokens)
        return activity

    def activity_size(self, tokens: FloatArray) -> FloatArray:
        """What the terms of every row add up to in size, (K,): the scale of its rounding."""
        if self.rows.nnz == 0 or float(self.rows.data.min()) >= 0:
            held = tokens if float(tokens.min()) >= 0 else np.abs(tokens)
            size = times(self.rows, held)
        else:
            size = abs(self.rows) @ np.abs(tokens)
        if self.curve_rows.nnz:
            size = size + abs(self.curve_rows) @ self.curve_value(tokens)
        return size

    def objective(self, tokens: FloatArray, utilities: FloatArray | None = None) -> float:
        """The objective at an allocation; `utilities` where they are known already."""
        gains = self._gains(tokens, utilities)
        return float(self.offset + accurate_sum_of(self.n, gains))

    def gains(self, tokens: FloatArray, utilities: FloatArray | None = None) -> FloatArray:
        """Each query's part of the objective, (n,); `utilities` where they are known already."""
        return self._gains(tokens, utilities)(slice(0, self.n))

    def _gains(
        self, tokens: FloatArray, utilities: FloatArray | None
    ) -> Callable[[slice], FloatArray]:
        """The gains of a stretch of queries, asked for a stretch at a time."""
        known = self.utility(tokens) if utilities is None else utilities
        curves = self.curve_value(tokens) if self.curve_cost.any() else None
        paid = bool(self.cost.any())

        def of(part: slice) -> FloatArray:
            found = self.weight[part] * known[part]
            if paid:
                found -= self.cost[part] * tokens[part]
            if curves is not None:
                found -= self.curve_cost[part] * curves[part]
            return found

        return of
