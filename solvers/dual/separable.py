"""The program as the dual sees it: n one-dimensional problems coupled by prices alone.

Queries are reordered so that each utility family is one contiguous slice, and every bound is made
finite. "What does everyone buy at these prices?" is then a few array lines (see `engine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.solvers.choices import Choices
from clearopt.solvers.dual.engine import Compiled, Family, respond_all, slopes_all
from clearopt.solvers.dual.grid import Grid
from clearopt.solvers.in_cost import InCost, in_cost
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.utilities import BestResponse, CumulativeSurge, Utility
from clearopt.utilities.family import concatenated
from clearopt.validation import FloatArray

# Below this many queries NumPy's overhead costs less than compiling the same lines with JAX.
JAX_FROM = 4096
# Rounding of one term's exp, log and products, with room to spare, in units of one rounding error.
ROUNDING = 32 * float(np.finfo(np.float64).eps)


class Unbounded(Exception):
    """The objective has no finite maximum; the message says along which query."""


@dataclass(frozen=True, eq=False)
class Effective:
    """Each query's effective weight, price per token and price per unit of its cost, (n,)."""

    weight: FloatArray
    price: FloatArray
    curve_price: FloatArray


@dataclass(frozen=True, eq=False)
class Separable:
    """Arrays of shape (n,) in the reordered queries; `order[k]` is the query at position k."""

    order: NDArray[np.intp]
    families: tuple[Family, ...]
    weight: FloatArray
    cost: FloatArray
    lower: FloatArray
    upper: FloatArray
    integer: NDArray[np.bool_] | None
    least: FloatArray | None  # semicontinuous: nothing, or at least this; 0 elsewhere
    choice: Choices | None
    grid: Grid | None
    curve_cost: FloatArray  # of the queries on the grid; 0 elsewhere
    engine: str  # "numpy" or "jax"

    @property
    def n(self) -> int:
        return int(self.weight.shape[0])

    @cached_property
    def origin(self) -> FloatArray:
        return self._collect(lambda u: u.origin)

    @cached_property
    def inflection(self) -> FloatArray:
        """Tokens from which each utility is concave; a semicontinuous query has none before."""
        bend = self.origin + self._collect(lambda u: u.inflection_excess)
        return bend if self.least is None else np.maximum(bend, self.least)

    @cached_property
    def convex_before(self) -> NDArray[np.bool_]:
        """(n,) whether the utility is convex before its inflection."""
        return np.concatenate(
            [np.full(f.part.stop - f.part.start, f.utility.s_shaped) for f in self.families]
        )

    @cached_property
    def idle(self) -> FloatArray:
        """(n,) the utility of nothing."""
        return self.utility(np.zeros(self.n))

    def _collect(self, question: Any) -> FloatArray:
        return np.concatenate([np.asarray(question(f.utility)) for f in self.families])

    def part(self, positions: NDArray[np.intp]) -> Separable:
        """The queries at these positions, (m,) rising, as a program of their own; in NumPy."""
        families, start = [], 0
        for family in self.families:
            mine = positions[(positions >= family.part.start) & (positions < family.part.stop)]
            if mine.size:
                utility = family.utility.take(mine - family.part.start)
                families.append(Family(utility, slice(start, start + mine.size)))
                start += mine.size
        choice = None
        if self.choice is not None:
            number = np.full(self.n, -1, dtype=np.intp)
            number[self.choice.members] = self.choice.number
            choice = Choices.of(number[positions])
        integer = None if self.integer is None else self.integer[positions]
        least = None if self.least is None else self.least[positions]
        return Separable(
            order=np.arange(positions.size),
            families=tuple(families),
            weight=self.weight[positions],
            cost=self.cost[positions],
            lower=self.lower[positions],
            upper=self.upper[positions],
            integer=integer if integer is not None and integer.any() else None,
            least=least if least is not None and least.any() else None,
            choice=choice,
            grid=None if self.grid is None else self.grid.part(positions),
            curve_cost=self.curve_cost[positions],
            engine="numpy",
        )

    def utility(self, tokens: FloatArray) -> FloatArray:
        """U_i(b_i), (n,)."""
        with np.errstate(all="ignore"):
            return np.concatenate(
                [f.utility.value_at(f.utility.excess_of(tokens[f.part])) for f in self.families]
            )

    def at(self, query: NDArray[np.intp], amount: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(U, C) of the queries named at an amount of each, (m,); C is 0 off the grid."""
        utility, cost = np.zeros(query.size), np.zeros(query.size)
        for family in self.families:
            here = np.flatnonzero((query >= family.part.start) & (query < family.part.stop))
            if here.size:
                members = family.utility.take(query[here] - family.part.start)
                with np.errstate(all="ignore"):
                    utility[here] = members.value_at(members.excess_of(amount[here]))
        if self.grid is not None:
            cost = self.grid.costs_of(query, amount)
        return utility, cost

    def curve(self, tokens: FloatArray) -> FloatArray:
        """C_i(b_i) of the queries on the grid, (n,); 0 elsewhere."""
        return np.zeros(self.n) if self.grid is None else self.grid.costs(tokens)

    @cached_property
    def saturation(self) -> FloatArray:
        """Tokens past which nothing more is gained, whole where tokens are."""
        tokens = self.origin + self._collect(lambda u: u.saturation_excess)
        tokens = self.whole_above(np.nextafter(tokens, np.inf))
        return tokens if self.least is None else np.maximum(tokens, self.least)

    # ------------------------------------------------------------------ whole amounts
    def whole_below(self, tokens: FloatArray, slack: float = 0.0) -> FloatArray:
        """(n,) rounded down where tokens are whole; what is `slack` short of whole counts."""
        return self._rounded("whole_below", tokens, slack)

    def whole_above(self, tokens: FloatArray, slack: float = 0.0) -> FloatArray:
        """(n,) rounded up where tokens are whole."""
        return self._rounded("whole_above", tokens, -slack)

    def whole_after(self, tokens: FloatArray) -> FloatArray:
        """(n,) the next whole amount where tokens are whole."""
        return self._rounded("whole_after", tokens, 0.0)

    def _rounded(self, how: str, tokens: FloatArray, shift: float) -> FloatArray:
        if self.integer is None:
            return tokens
        parts = [np.asarray(getattr(f.utility, how)(tokens[f.part] + shift)) for f in self.families]
        return np.where(self.integer, np.concatenate(parts), tokens)

    def rounded(self, how: str, query: int, tokens: float) -> float:
        """One query's amount, by the name of one of the three above."""
        if self.integer is None or not self.integer[query]:
            return tokens
        family = next(f for f in self.families if query < f.part.stop)
        member = family.utility.take(
            slice(query - family.part.start, query - family.part.start + 1)
        )
        return float(getattr(member, how)(np.array([tokens]))[0])

    def opened(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A box without what lies between nothing and the least amount."""
        if self.least is None:
            return lower, upper
        upper = np.where(upper < self.least, np.minimum(upper, 0.0), upper)
        return np.where(lower > 0, np.maximum(lower, self.least), lower), upper

    def gain(self, tokens: FloatArray, at: Effective) -> FloatArray:
        """W_i U_i(b_i) - P_i b_i - Q_i C_i(b_i), (n,)."""
        gain = at.weight * self.utility(tokens) - at.price * tokens
        return gain if self.grid is None else gain - at.curve_price * self.curve(tokens)

    def respond(
        self,
        price: FloatArray,
        lower: FloatArray,
        upper: FloatArray,
        weight: FloatArray | None = None,
        curve_price: FloatArray | None = None,
        *,
        alone: bool = False,
        fractions: bool = False,
    ) -> BestResponse:
        """Every query's best response to its price, as NumPy arrays (n,).

        `curve_price` is what a unit of its cost curve costs each query on the grid. `alone` asks
        what each would buy if it stood in no choice, `fractions` if tokens came in fractions.
        """
        weight = self.weight if weight is None else weight
        integer = None if fractions else self.integer
        if self.engine == "jax":
            response = self._jax.respond(weight, price, lower, upper, fractions=fractions)
        else:
            with np.errstate(all="ignore"):
                response = respond_all(
                    self.families, weight, price, lower, upper, integer, self.least
                )
        if self.grid is not None:
            assert curve_price is not None
            response = self.grid.answer(
                response, weight, price, curve_price, lower, upper, self.least
            )
        return response if self.choice is None or alone else self._chosen(response, weight, lower)

    def slopes(self, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(U_i'(b_i), U_i''(b_i)), (n,) each, the second to a few digits."""
        if self.engine == "jax":
            return self._jax.slopes(tokens)
        with np.errstate(all="ignore"):
            marginal, curvature = slopes_all(self.families, tokens)
        return np.asarray(marginal), np.asarray(curvature)

    def _chosen(
        self, response: BestResponse, weight: FloatArray, lower: FloatArray
    ) -> BestResponse:
        """Of each choice only the option with the greatest surplus, the others nothing."""
        assert self.choice is not None
        idle = weight * self.idle
        # An option that must have tokens is the one.
        kept = self.choice.best(np.where(lower > 0, np.inf, response.gain - idle))
        return BestResponse(
            np.where(kept, response.tokens, 0.0),
            np.where(kept, response.gain, idle),
            np.where(kept, response.utility, self.idle),
        )

    def totals(
        self, price: float, coefficient: FloatArray, lower: FloatArray, upper: FloatArray
    ) -> tuple[float, float]:
        """(sum of gains, sum of coefficient * tokens) where one row is priced at `price`."""
        if self.engine == "jax":
            return self._jax.totals(price, self.weight, self.cost, coefficient, lower, upper)
        response = self.respond(self.cost + price * coefficient, lower, upper)
        return float(response.gain.sum()), float(coefficient @ response.tokens)

    @cached_property
    def _jax(self) -> Compiled:
        return Compiled(self.families, self.integer, self.least)


def rigorous_sum(
    gain: FloatArray, utility: FloatArray, weight: FloatArray, price: FloatArray, tokens: FloatArray
) -> float:
    """An upper bound on the sum of gains: summed exactly, plus what the terms may be off by."""
    with np.errstate(over="ignore"):
        sizes = np.abs(weight * utility) + np.abs(price * tokens)
    if not np.isfinite(sizes).all():  # a price near the largest number, where nothing is proven
        return math.inf
    try:
        return math.fsum(gain) + ROUNDING * math.fsum(sizes)
    except OverflowError:
        return math.inf


def view(program: Program) -> InCost:
    """The program with finite bounds, in costs where only those are charged.

    Raises:
        Unbounded: some query would take endless tokens for an endless gain.
    """
    return in_cost(program, *finite_bounds(program))


def separate(seen: InCost, engine: str = "auto") -> Separable:
    """Reorder a view by family."""
    program = seen.program
    n = program.n
    kinds: dict[Any, list[tuple[Utility, NDArray[np.intp]]]] = {}
    covered = np.zeros(n, dtype=bool)
    for block in program.utilities:
        kinds.setdefault(block.family.kind, []).append((block.family, block.index))
        covered[block.index] = True
    weight = np.where(covered, program.weight, 0.0)
    if not covered.all():
        rest = np.flatnonzero(~covered)
        nothing = CumulativeSurge(scale=0.0, threshold=0.0, rate=1.0).broadcast(rest.shape[0])
        kinds.setdefault(CumulativeSurge, []).append((nothing, rest))
    families, order, start = [], [], 0
    for members in kinds.values():
        index = np.concatenate([i for _, i in members])
        family = concatenated([m for m, _ in members])
        families.append(Family(family, slice(start, start + index.shape[0])))
        order.append(index)
        start += index.shape[0]
    positions = np.concatenate(order)
    lower, upper = seen.lower, seen.upper
    chosen = ("jax" if n >= JAX_FROM else "numpy") if engine == "auto" else engine
    if not all(family.utility.traceable for family in families):
        chosen = "numpy"
    least = np.where(program.semicontinuous, program.lower, 0.0)
    return Separable(
        order=positions,
        families=tuple(families),
        weight=weight[positions],
        cost=program.cost[positions],
        lower=lower[positions],
        upper=upper[positions],
        integer=program.integer[positions] if program.integer.any() else None,
        least=least[positions] if least.any() else None,
        choice=Choices.of(program.choice[positions]),
        grid=Grid.of(program, positions, lower, upper),
        curve_cost=program.curve_cost[positions],
        engine=chosen,
    )


def finite_bounds(program: Program) -> tuple[FloatArray, FloatArray]:
    """Bounds no optimal allocation needs to leave, all finite, whole where tokens are."""
    if is_unbounded_direction(program):
        raise Unbounded("tokens can be added without end, and each one adds to the objective")
    lower, upper = implied_bounds(program)
    endless = np.isinf(upper)
    if endless.any():
        raise Unbounded(
            f"query {int(np.argmax(endless))} has no upper bound, and a row or the objective"
            " rewards its tokens; give the Allocation an upper bound"
        )
    return lower + 0.0, upper
