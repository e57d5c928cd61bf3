"""Measured accuracy at given budgets, without a parametric form: a step or piecewise-linear curve.

Measurements are noisy: such a curve may fall and rise again, and is S-shaped only by chance. Every
question is answered by looking at all grid points, which is exact for any table.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError, ScaleWarning, UnsupportedProblemError
from clearopt.utilities.base import BestResponse, Utility
from clearopt.utilities.family import short
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import FloatArray, as_float_array, require

Interpolation = Literal["linear", "step"]

_TIE = 1.0 - 1e-14  # chord slopes this close, relatively, differ by rounding alone
_LARGEST = 1e300  # stands for an infinite price, which times 0 tokens would be no number


class Tabulated(Utility):
    """Accuracy measured at given budgets; constant after the last of them.

    "linear" goes straight from one measurement to the next; "step" stays at the last one reached,
    U(b) = the value at the largest grid point <= b. Values may fall, and need not be S-shaped:
    every back-end that certifies an optimum certifies it for these curves too.

    Args:
        grid: budgets in tokens, at least 0 and strictly increasing; (G,) for all queries, or
            (m, G), one row a query. A row that does not start at 0 reaches nothing at 0 tokens.
        values: accuracy at each of them, at least 0, usually at most 1; (G,) or (m, G).
        interpolation: "linear" or "step".

    Raises:
        DeclarationError: numbers are missing, infinite or out of order, or the shapes differ.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ("grid", "values")
    s_shaped: ClassVar[bool] = False

    grid: Any  # (m, G), or (G,) for one curve; starts at 0
    values: Any
    interpolation: Interpolation

    def __init__(
        self, grid: ArrayLike, values: ArrayLike, interpolation: Interpolation = "linear"
    ) -> None:
        budgets, reached = _checked(grid, values, interpolation)
        object.__setattr__(self, "grid", budgets)
        object.__setattr__(self, "values", reached)
        object.__setattr__(self, "interpolation", interpolation)

    # ---------------------------------------------------------------- as a family
    @property
    def kind(self) -> Any:
        return _Table(type(self), int(np.shape(self.grid)[-1]), self.interpolation)

    def broadcast(self, length: int) -> Self:
        rows = np.shape(self.grid)
        if len(rows) == 2 and rows[0] != length:
            raise DeclarationError(
                f"Tabulated has {rows[0]} rows of measurements, but it applies to {length} "
                "queries: give one row, or one a query"
            )
        return self.kind.from_parameters(
            *(np.broadcast_to(table, (length, rows[-1])) for table in self.parameters)
        )

    def __repr__(self) -> str:
        shown = f"grid={short(self.grid)}, values={short(self.values)}"
        return f"Tabulated({shown}, interpolation={self.interpolation!r})"

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        unit = np.asarray(tokens, dtype=np.float64)[..., None]
        return self.kind.from_parameters(self.grid / unit, self.values / accuracy)

    @property
    def origin(self) -> Any:
        return 0.0 * self.grid[..., 0]

    # ---------------------------------------------------------------- the curve
    def value_at(self, excess: Any) -> Any:
        return self._values(_column(excess))[..., 0]

    def marginal_at(self, excess: Any) -> Any:
        points = _column(excess)
        return _pick(self._slopes, self._segment(points))[..., 0]

    def _values(self, amounts: Any) -> Any:
        """U at several amounts of each query, (..., C)."""
        xp = namespace_of(amounts)
        segment = self._segment(amounts)
        start = _pick(self.values, segment)
        if self.interpolation == "step":
            return start
        inside = xp.minimum(amounts, self.grid[..., -1:]) - _pick(self.grid, segment)
        return start + _pick(self._slopes, segment) * inside

    def _segment(self, amounts: Any) -> Any:
        """The position of the largest grid point that is at most the amount, (..., C)."""
        # Point by point: no array of amounts times grid points is made.
        reached = (self.grid[..., :1] <= amounts) * 1
        for k in range(1, np.shape(self.grid)[-1]):
            reached = reached + (self.grid[..., k : k + 1] <= amounts)
        return namespace_of(reached).maximum(reached - 1, 0)

    @property
    def _slopes(self) -> Any:
        """Slope after each grid point, 0 after the last and for steps."""
        xp = namespace_of(self.grid)
        flat = 0.0 * self.grid[..., -1:]
        if self.interpolation == "step":
            return 0.0 * self.grid
        width, rise = _differences(self.grid), _differences(self.values)
        slopes = xp.where(width > 0, rise / xp.where(width > 0, width, 1.0), 0.0)
        return xp.concatenate([slopes, flat], axis=-1)

    # ---------------------------------------------------------------- what is bought
    def best_response(
        self,
        weight: Any,
        price: Any,
        lower: Any,
        upper: Any,
        integer: Any = None,
        least: Any = None,
        *,
        saturated: bool = False,
    ) -> BestResponse:
        """The global maximiser over [lower, upper], as in `Utility.best_response`.

        A straight piece is best at one of its ends, so the grid points inside and the ends of the
        box are all there is; where `integer`, the whole amounts next to them. A step is best at
        its first amount, or, where tokens are asked for (price < 0), at its last.
        """
        xp = namespace_of(lower)
        bottom = lower if least is None else xp.minimum(xp.maximum(lower, least), upper)
        given = (xp.asarray(weight, dtype=float), price, lower, bottom, upper, self.grid[..., 0])
        shape = np.broadcast_shapes(*(np.shape(array) for array in given))
        columns = [xp.broadcast_to(array, shape)[..., None] for array in given[:5]]
        weight, price, lower, bottom, upper = columns
        points, utility = self._turning_points()
        if integer is None:
            amounts = xp.clip(points, bottom, upper)
            at_bottom, at_upper = self._values(bottom), self._values(upper)
            utility = xp.where(points <= bottom, at_bottom, utility)
            utility = xp.where(points >= upper, at_upper, utility)
            at_lower = at_bottom if least is None else self._values(lower)
        else:
            whole = xp.asarray(integer)[..., None]
            if self.interpolation == "linear":
                points = xp.concatenate([points, points], axis=-1)
            points = xp.sort(xp.where(whole, self._whole_points(), points), axis=-1)
            amounts = xp.clip(points, bottom, upper)
            utility = self._values(amounts)
            at_lower, at_bottom, at_upper = (self._values(end) for end in (lower, bottom, upper))
        amounts = xp.concatenate([lower, bottom, amounts, upper], axis=-1)
        utility = xp.concatenate([at_lower, at_bottom, utility, at_upper], axis=-1)
        gain = weight * utility - price * amounts
        best = _last_best(gain)
        return BestResponse(*(_pick(array, best)[..., 0] for array in (amounts, gain, utility)))

    def _turning_points(self) -> tuple[Any, Any]:
        """Ascending amounts at which an interior optimum may lie, and U there, (..., C) each."""
        if self.interpolation == "linear":
            return self.grid, self.values
        xp = namespace_of(self.grid)
        last = xp.nextafter(self.grid, -xp.inf)  # of the step before
        before = xp.concatenate([self.values[..., :1], self.values[..., :-1]], axis=-1)
        size = (*np.shape(self.grid)[:-1], 2 * np.shape(self.grid)[-1])
        both = xp.stack([last, self.grid], axis=-1), xp.stack([before, self.values], axis=-1)
        return xp.reshape(both[0], size), xp.reshape(both[1], size)

    def _whole_points(self) -> Any:
        """The same for whole amounts, two a grid point, in no order."""
        xp = namespace_of(self.grid)
        above = xp.ceil(self.grid)
        below = above - 1.0 if self.interpolation == "step" else xp.floor(self.grid)
        return xp.concatenate([below, above], axis=-1)

    def demand(
        self, price: ArrayLike, lower: ArrayLike = 0.0, upper: ArrayLike = math.inf
    ) -> FloatArray:
        price = as_float_array(price, "price", allow_infinite=True)
        lower = as_float_array(lower, "lower")
        upper = as_float_array(upper, "upper", allow_infinite=True)
        # After the last grid point nothing changes: free tokens are taken, others are not.
        enough = np.maximum(self.grid[..., -1], lower)
        price, lower, upper, enough = np.broadcast_arrays(price, lower, upper, enough)
        require(upper, lower <= upper, "upper", "lies below the lower bound of the same query")
        endless = np.isinf(upper)
        charged = np.clip(price, -_LARGEST, _LARGEST)
        with np.errstate(over="ignore"):
            answer = self.best_response(1.0, charged, lower, np.where(endless, enough, upper))
        free = (price == 0) & (answer.utility == self.values[..., -1])
        return np.where(endless & ((price < 0) | free), upper, answer.tokens)

    def break_even_price(self, upper: ArrayLike = math.inf) -> FloatArray:
        """The highest price at which anything is bought from [0, upper].

        The steepest of the chords from (0, U(0)) to a grid point up to `upper`, or to `upper`.
        """
        most = np.asarray(upper, dtype=np.float64)[..., None]
        ends = np.minimum(self.grid, most)
        ends = np.where(ends > 0, ends, np.inf)
        rise = self._values(np.where(np.isinf(ends), 0.0, ends)) - self.values[..., :1]
        return np.maximum((rise / ends).max(axis=-1), 0.0)

    # ---------------------------------------------------------------- its shape
    @property
    def inflection_excess(self) -> Any:
        """The excess from which it is concave as long as it rises: then it only falls."""
        last = self._last_rise
        if self.interpolation == "linear":
            xp = namespace_of(self.grid)
            before = xp.arange(1, np.shape(self.grid)[-1]) < last
            last = _last_position(_rises(self._slopes) & before)
        return _pick(self.grid, last)[..., 0]

    @property
    def saturation_excess(self) -> Any:
        """The excess from which it no longer rises: its peak, unless it recovers after that."""
        return _pick(self.grid, self._last_rise)[..., 0]

    @property
    def _last_rise(self) -> Any:
        """The position of the last grid point whose value is above the one before it, (..., 1)."""
        return _last_position(_rises(self.values))

    @property
    def greatest_marginal(self) -> Any:
        """The steepest slope; infinite for steps, unless they never go up."""
        xp = namespace_of(self.grid)
        if self.interpolation == "step":
            return xp.where(self._last_rise[..., 0] > 0, xp.inf, 0.0)
        return xp.maximum(self._slopes.max(axis=-1), 0.0)

    def stationary_excess(self, price: Any) -> Any:
        """The grid point of the concave part that is best at `price`, the larger if two are."""
        xp = namespace_of(price)
        charged = _column(xp.clip(price, -_LARGEST, _LARGEST))
        gain = self.values - charged * self.grid
        concave = self.grid >= self.inflection_excess[..., None]
        concave = concave & (self.grid <= self.saturation_excess[..., None])
        best = _last_best(xp.where(concave, gain, -xp.inf))
        return _pick(self.grid, best)[..., 0]

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # The best chord from (0, U(0)); where two are as steep, the longer.
        some = np.where(self.grid > 0, self.grid, 1.0)
        chords = np.where(self.grid > 0, (self.values - self.values[..., :1]) / some, 0.0)
        slope = chords.max(axis=-1, keepdims=True)
        tied = (chords >= _TIE * slope) & (slope > 0)
        excess = np.where(tied, self.grid, 0.0).max(axis=-1)
        return excess, slope[..., 0]

    def concave_hull(self, lower: FloatArray, upper: FloatArray) -> Utility:
        return self.hull(lower, upper)

    def envelope(self, tokens: ArrayLike, upper: ArrayLike = np.inf) -> FloatArray:
        amount = as_float_array(tokens, "tokens", allow_infinite=True)
        require(amount, amount >= 0, "tokens", "must be at least 0")
        return np.asarray(self.hull(0.0, upper).value(amount))

    def hull(self, lower: ArrayLike, upper: ArrayLike) -> Tabulated:
        """The upper concave hull of the curve between two bounds, up to its peak, flat after it.

        Args:
            lower: tokens, number or (m,).
            upper: tokens, at least `lower`, may be infinite.

        Returns:
            A "linear" table over [lower, upper]; before `lower` it has no meaning.
        """
        low = as_float_array(lower, "lower")[..., None]
        top = as_float_array(upper, "upper", allow_infinite=True)[..., None]
        top = np.where(np.isinf(top), np.maximum(self.grid[..., -1:], low), top)
        inside = np.clip(self.grid, low, top)
        low, top = (np.broadcast_to(end, (*inside.shape[:-1], 1)) for end in (low, top))
        amounts = np.concatenate([low, inside, top], axis=-1)
        values = self._values(amounts)
        # From one corner to the next: the point seen under the steepest slope, the last of them.
        corner = np.zeros((*amounts.shape[:-1], 1), dtype=np.intp)
        corners = [corner]
        while True:
            run = amounts - _pick(amounts, corner)
            rise = values - _pick(values, corner)
            with np.errstate(all="ignore"):
                slopes = np.where((run > 0) & (rise > 0), rise / run, -np.inf)
            following = np.where(slopes.max(axis=-1, keepdims=True) > 0, _last_best(slopes), corner)
            if np.array_equal(following, corner):
                break
            corner = following
            corners.append(corner)
        chosen = np.concatenate(corners, axis=-1)
        return _Hull.from_parameters(_pick(amounts, chosen), _pick(values, chosen))

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        if self.interpolation == "step":
            raise UnsupportedProblemError(
                "Tabulated(..., interpolation='step') has no algebraic formula: a model of it "
                "needs a binary a step; or interpolate linearly"
            )
        grid = np.asarray(self.grid)[member]
        slopes = np.asarray(self._slopes)[member]
        # Half of every change of slope on |b - g|; the first slope and the last, 0, fix the rest.
        change = 0.5 * np.diff(slopes)
        total = 0.5 * float(slopes[0]) * excess
        total = total + float(np.asarray(self.values)[member, 0] - change @ grid[1:])
        for bend, point in zip(change.tolist(), grid[1:].tolist(), strict=True):
            if bend:
                total = total + bend * abs(excess - point)
        return total


class _Hull(Tabulated):
    """A concave table that starts at its lower bound; corners may be repeated at its end."""

    interpolation = "linear"

    @property
    def inflection_excess(self) -> Any:
        """The end of the first piece: the envelope is straight up to it, and a curve after it."""
        return self.grid[..., min(1, np.shape(self.grid)[-1] - 1)]

    @property
    def corners(self) -> Any:
        return self.grid


@dataclass(frozen=True)
class _Table:
    """The kind of tables: as many points a query, read in the same way."""

    family: type[Tabulated]
    points: int
    interpolation: Interpolation

    def from_parameters(self, *parameters: Any) -> Any:
        table = self.family.from_parameters(*parameters)
        object.__setattr__(table, "interpolation", self.interpolation)
        return table


# -------------------------------------------------------------------------------- arrays
def _column(array: Any) -> Any:
    """With one more axis at the end, for what varies within a query."""
    return array[..., None]


def _differences(array: Any) -> Any:
    return array[..., 1:] - array[..., :-1]


def _rises(array: Any) -> Any:
    return array[..., 1:] > array[..., :-1]


def _pick(table: Any, position: Any) -> Any:
    """The entries of (..., G) at positions (..., C); other axes broadcast."""
    xp = namespace_of(position)
    shape = np.broadcast_shapes(np.shape(table)[:-1], np.shape(position)[:-1])
    table = xp.broadcast_to(table, (*shape, np.shape(table)[-1]))
    position = xp.broadcast_to(position, (*shape, np.shape(position)[-1]))
    return xp.take_along_axis(table, position, axis=-1)


def _last_position(mask: Any) -> Any:
    """The last position at which `mask`, which starts at 1, holds; 0 if there is none, (..., 1)."""
    xp = namespace_of(mask)
    found = xp.where(mask, xp.arange(1, 1 + np.shape(mask)[-1]), 0)
    first = xp.zeros((*np.shape(found)[:-1], 1), dtype=found.dtype)
    return xp.concatenate([first, found], axis=-1).max(axis=-1)[..., None]


def _last_best(array: Any) -> Any:
    """The last position of the greatest entry along the last axis, (..., 1)."""
    xp = namespace_of(array)
    return np.shape(array)[-1] - 1 - xp.argmax(array[..., ::-1], axis=-1)[..., None]


# -------------------------------------------------------------------------------- input
def _checked(
    grid: ArrayLike, values: ArrayLike, interpolation: str
) -> tuple[FloatArray, FloatArray]:
    """Read-only tables of one shape, (G,) or (m, G), that start at 0 tokens."""
    if interpolation not in get_args(Interpolation):
        raise DeclarationError(
            f"Tabulated: interpolation = {interpolation!r}: must be 'linear' or 'step'"
        )
    budgets, reached = _table(grid, "grid", "tokens"), _table(values, "values", "accuracies")
    same = budgets.shape[-1] == reached.shape[-1]
    if not same or (budgets.ndim == reached.ndim == 2 and budgets.shape != reached.shape):
        raise DeclarationError(
            f"Tabulated: grid has shape {budgets.shape} and values {reached.shape}: give one "
            "value for each grid point"
        )
    rises = np.ones(budgets.shape, dtype=np.bool_)
    rises[..., 1:] = _rises(budgets)
    _require(budgets, rises, "grid", "must be larger than the entry before it")
    _warn_above_one(reached)
    shape = budgets.shape if budgets.ndim >= reached.ndim else reached.shape
    budgets, reached = np.broadcast_to(budgets, shape), np.broadcast_to(reached, shape)
    starts = budgets[..., :1] == 0
    if not starts.all():
        # Rows that do start at 0 get a point past their end instead, which changes nothing there.
        past = np.maximum(2.0 * budgets[..., -1:], 1.0)
        budgets = np.where(starts, _with_last(budgets, past), _with_zero(budgets))
        reached = np.where(starts, _with_last(reached, reached[..., -1:]), _with_zero(reached))
    tables = [np.array(table) for table in (budgets, reached)]
    for table in tables:
        table.setflags(write=False)
    return tables[0], tables[1]


def _with_zero(table: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((*table.shape[:-1], 1)), table], axis=-1)


def _with_last(table: FloatArray, last: FloatArray) -> FloatArray:
    return np.concatenate([table, last], axis=-1)


def _table(given: ArrayLike, name: str, unit: str) -> FloatArray:
    try:
        if np.asarray(given).dtype.kind not in "biufO":
            raise TypeError("not real numbers")
        table = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DeclarationError(
            f"Tabulated: {name}: expected numbers, (G,) or (m, G) ({error})"
        ) from error
    if table.ndim not in (1, 2) or table.size == 0:
        raise DeclarationError(
            f"Tabulated: {name}: expected {unit}, (G,) for all queries or (m, G), got shape "
            f"{table.shape}"
        )
    _require(table, np.isfinite(table), name, "must be a finite number")
    _require(table, table >= 0, name, "must be at least 0")
    return table


def _require(table: FloatArray, holds: NDArray[np.bool_], name: str, rule: str) -> None:
    if not holds.all():
        place = _place(np.argwhere(~holds)[0])
        raise DeclarationError(f"Tabulated: {name}{place} = {table[~holds][0].item()!r}: {rule}")


def _place(index: NDArray[np.intp]) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"


def _warn_above_one(values: FloatArray) -> None:
    above = values > 1
    if above.any():
        warnings.warn(
            f"Tabulated: values{_place(np.argwhere(above)[0])} = {values[above][0]:g} is above 1"
            + (f" (and {int(above.sum()) - 1} more)" if above.sum() > 1 else "")
            + ": allowed, but such a utility is not a probability of a right answer",
            ScaleWarning,
            stacklevel=5,
        )
