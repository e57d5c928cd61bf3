"""Where an S-shaped curve bends, peaks and breaks even, found numerically for many at once.

A curve is followed along a coordinate x from 0 to its end. Its slope may jump, at known places or
unknown ones. The search samples each curve densely in x (linearly, and geometrically next to
every mark) and in its value, refuses what is not S-shaped there, and then closes in on every
feature by halving until neighbouring doubles are reached.

Arrays of points are (G, m): G places on each of m curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.validation import FloatArray

_HALVINGS = 200  # from any x to any other, to the last bit
_SECTIONS = 120  # golden sections from a bracket to neighbouring doubles
_FORGIVEN = 1e-9  # of the greatest slope, or of the whole rise: what rounding may have done
_ROUNDING = 64 * float(np.finfo(np.float64).eps)
_NO_GAIN = 1e-17  # of the peak: gains that do not change its double
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True)
class Curve:
    """m curves over coordinates x in [0, end].

    Attributes:
        value, slope: of x, (..., m) to (..., m); the slope is per unit of amount, from the right.
        amount: of x, what is paid for, counted from where nothing is.
        tokens: of x, for messages.
        end: (m,) finite.
        marks: (m, k) coordinates where the slope may jump, or that deserve a closer look.
        name, member: what errors call the curve: "Total" and (m,) its numbers; `member` is None
            where there is but one, without a number.
        advice: what to do about a curve that is not S-shaped.
        noise: of x, how far off the slope may be; None where rounding is relative to the greatest
            one. Slopes given so may be infinite.
    """

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    amount: Callable[[Any], Any]
    tokens: Callable[[Any], Any]
    end: FloatArray
    marks: FloatArray
    name: str
    member: NDArray[np.intp] | None
    advice: str
    noise: Callable[[Any], Any] | None = None

    def refuse(self, i: int, what: str) -> DeclarationError:
        """The error for curve i of these."""
        number = "" if self.member is None else f"[{self.member[i]}]"
        return DeclarationError(f"{self.name}{number}: {what}")

    def place(self, x: float, i: int) -> str:
        """Coordinate x of curve i, in words."""
        at = np.zeros(self.end.shape)
        at[i] = x
        return f"{float(np.broadcast_to(self.tokens(at), at.shape)[i]):.6g} tokens"


class Shape(NamedTuple):
    """What the search finds, all (m,): coordinates, but for the two slopes."""

    inflection: Any  # from here on concave
    greatest: Any  # the greatest slope
    peak: Any  # the first x at which the value is its greatest, to a double
    # Where the slope is least: concave up to here; the peak if it never decays. NaN where the curve
    # bends more than once past its peak: nothing is known there but that it does not grow.
    trough: Any
    contact: Any  # where the line from (0, value at 0) touches
    break_even: Any  # that line's slope

    def take(self, index: Any) -> Shape:
        """The members at `index`."""
        return Shape(*(np.asarray(field)[index] for field in self))


@dataclass(frozen=True)
class Detail:
    """How closely curves are looked at: points a curve, value levels, halvings a level."""

    linear: int
    geometric: int
    levels: int
    halvings: int

    @property
    def points(self) -> int:
        return self.linear + 2 * self.geometric + 2 * self.levels


FINE = Detail(256, 96, 64, 40)
COARSE = Detail(96, 32, 24, 30)


def find_shape(curve: Curve, detail: Detail) -> Shape:
    """Locate the features of every curve.

    Raises:
        DeclarationError: a curve is not S-shaped, or not finite; with the place.
    """
    with np.errstate(all="ignore"):
        x = _grid(curve, detail)
        value = _finite(curve, x, curve.value(x), "value")
        top = _check_values(curve, x, value)
        x = _refined(curve, x, value, top, detail)
        value = _finite(curve, x, curve.value(x), "value")
        top = _check_values(curve, x, value)
        inside = np.minimum(x, np.nextafter(curve.end, -math.inf))  # the slope before the end
        inside = np.maximum(inside, 0.0)
        slope = _finite(curve, inside, curve.slope(inside), "slope")
        hill, valley, known = _check_slopes(curve, inside, slope, value, top)
        top_value = value[top, np.arange(top.size)]
        found = _closed_in(curve, hill, valley, top_value)
        return found._replace(trough=np.where(known, found.trough, math.nan))


def last_where(
    holds: Callable[[FloatArray], Any], near: FloatArray, far: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Halve [near, far], where `holds` is true up to some x and false from there, to its ends."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (near + far)
        if np.all((middle <= near) | (middle >= far)):
            break
        true = holds(middle)
        near, far = np.where(true, middle, near), np.where(true, far, middle)
    return near, far


# -------------------------------------------------------------------------------- sampling
def _grid(curve: Curve, detail: Detail) -> FloatArray:
    """(G, m) ascending places: each stretch between marks, linearly and next to both its ends."""
    m, end = curve.end.size, curve.end
    marks = np.clip(np.nan_to_num(curve.marks, posinf=math.inf), 0.0, end[:, None])
    edges = np.sort(np.column_stack([np.zeros(m), marks, end]), axis=1).T  # (k + 2, m)
    stretches = edges.shape[0] - 1
    linear = max(detail.linear // stretches, 4)
    geometric = max(detail.geometric // stretches, 3)
    low, high = edges[:-1], edges[1:]
    # Next to an edge down to a trillionth of the stretch, or to a thousandth of a token.
    first = np.minimum(1e-12, 1e-3 / np.maximum(high - low, 1e-3))
    ladder = np.geomspace(first, 0.5 / linear, geometric)
    even = np.broadcast_to((np.arange(linear) / linear)[:, None, None], (linear, *first.shape))
    steps = np.concatenate([even, ladder, 1.0 - ladder])
    places = (low + steps * (high - low)).reshape(-1, m)
    before = np.maximum(np.nextafter(high, -math.inf), low)
    return np.sort(np.concatenate([places, before, end[None, :]]), axis=0)


def _refined(
    curve: Curve, x: FloatArray, value: FloatArray, top: NDArray[np.intp], detail: Detail
) -> FloatArray:
    """The grid, the peak, and places between which the value changes by little.

    A rise or a fall steeper than the grid is wide is found by its value, which halving can locate.
    """
    crest = _highest(curve.value, x, value, top)
    base, end = value[0], value[-1]
    places = [x, crest.place[None, :], *_levelled(curve, x, value, crest, base, detail)]
    if np.any(end < crest.height - _FORGIVEN * np.abs(crest.height)):
        places += _levelled(curve, x[::-1], value[::-1], crest, end, detail)
    return np.sort(np.concatenate(places), axis=0)


def _levelled(
    curve: Curve, x: FloatArray, value: FloatArray, crest: _Hill, base: FloatArray, detail: Detail
) -> list[FloatArray]:
    """Places to either side of equal steps in value from x[0], where it is `base`, to the crest."""
    ends = np.geomspace(1e-9, 0.5 / detail.levels, max(detail.levels // 4, 3))
    inner = np.arange(1, detail.levels) / detail.levels
    levels = np.concatenate([ends, inner, 1.0 - ends])
    # Grid places before the crest, all others moved to it.
    up = x[0] <= x[-1]
    short = np.where(up, x < crest.place, x > crest.place)
    at = np.where(short, x, crest.place)
    climbed = np.maximum.accumulate(np.where(short, value, crest.height), axis=0)
    member = np.arange(x.shape[1])
    brackets = []
    for level in levels:
        target = base + level * (crest.height - base)
        first = np.argmax(climbed >= target, axis=0)
        brackets.append((target, at[np.maximum(first - 1, 0), member], at[first, member]))
    goal, near, far = (np.stack(column) for column in zip(*brackets, strict=True))
    for _ in range(detail.halvings):
        # In size first, where the bracket spans several.
        least, most = np.minimum(near, far), np.maximum(near, far)
        wide = (least > 0) & (most > 4.0 * least)
        middle = np.where(wide, np.sqrt(least) * np.sqrt(most), 0.5 * (near + far))
        below = curve.value(middle) < goal
        near, far = np.where(below, middle, near), np.where(below, far, middle)
    return [near, far]


def _finite(curve: Curve, x: FloatArray, found: Any, what: str) -> FloatArray:
    found = np.broadcast_to(np.asarray(found, dtype=np.float64), x.shape)
    wrong = np.isnan(found) if curve.noise else ~np.isfinite(found)
    if wrong.any():
        i = int(np.argmax(wrong.any(axis=0)))
        j = int(np.argmax(wrong[:, i]))
        raise curve.refuse(
            i,
            f"its {what} is {found[j, i]:g} at {curve.place(x[j, i], i)}; it must be finite "
            "from 0 tokens to the end"
            + (" (a formula that overflows, or jnp.where around one?)" if what == "slope" else ""),
        )
    return found


# -------------------------------------------------------------------------------- checking
def _check_values(curve: Curve, x: FloatArray, value: FloatArray) -> NDArray[np.intp]:
    """Non-decreasing to the peak, non-increasing after it; (m,) where the peak is."""
    top = np.argmax(value, axis=0)
    peak = value.max(axis=0)
    allowed = _FORGIVEN * (peak - value.min(axis=0)) + _ROUNDING * np.abs(value).max(axis=0)
    position = np.arange(x.shape[0])[:, None]
    before = np.where(position <= top, np.maximum.accumulate(value, axis=0) - value, 0.0)
    least = np.minimum.accumulate(np.where(position >= top, value, math.inf), axis=0)
    after = np.where(position > top, value - least, 0.0)
    never = (top == 0) & (value[-1] < peak - allowed)
    broken = never | (before > allowed).any(axis=0) | (after > allowed).any(axis=0)
    if not broken.any():
        return top
    i = int(np.argmax(broken))
    v, xs = value[:, i], x[:, i]
    if never[i]:
        raise curve.refuse(
            i,
            f"its value falls from {v[0]:.6g} at {curve.place(xs[0], i)} to {v[-1]:.6g} at "
            f"{curve.place(xs[-1], i)} and never rises: a utility must grow with tokens up to its "
            "peak",
        )
    first = bool((before[:, i] > allowed[i]).any())
    worst = int(np.argmax((before if first else after)[:, i]))
    if first:
        high, low, again = int(np.argmax(v[: worst + 1])), worst, int(top[i])
    else:
        low = int(top[i]) + int(np.argmin(v[top[i] : worst + 1]))
        high, again = int(top[i]), worst
    raise curve.refuse(
        i,
        f"its value falls from {v[high]:.6g} at {curve.place(xs[high], i)} to {v[low]:.6g} at "
        f"{curve.place(xs[low], i)}, then rises to {v[again]:.6g} at "
        f"{curve.place(xs[again], i)}: it is not S-shaped; {curve.advice}",
    )


def _check_slopes(
    curve: Curve, x: FloatArray, slope: FloatArray, value: FloatArray, top: NDArray[np.intp]
) -> tuple[_Hill, _Hill, NDArray[np.bool_]]:
    """Slopes grow to the greatest and fall to the peak.

    Returns:
        Where the slope is greatest, and where its negative is: the end if it never decays; located
        to the last bit. And (m,) whether past the peak it falls and then levels out, no more.
    """
    mode = np.argmax(slope, axis=0)
    count = x.shape[0]
    position = np.arange(count)[:, None]
    size = np.where(np.isfinite(slope), np.abs(slope), 0.0).max(axis=0)
    local = curve.noise is not None
    allowed = np.asarray(curve.noise(x)) if curve.noise else _FORGIVEN * size + 0.0 * slope
    falling = np.where(position >= mode, slope, math.inf)
    decays = (falling < -allowed).any(axis=0)
    low = np.where(decays, np.argmin(falling, axis=0), count - 1)
    peaked = np.maximum.accumulate(slope, axis=0)
    before = np.where(position <= mode, peaked - slope, 0.0)
    after = np.where((position > mode) & (position <= low), slope, -math.inf)
    after = after - np.minimum.accumulate(falling, axis=0)
    rising = np.maximum.accumulate(np.where(position >= low, slope, -math.inf), axis=0)
    last = np.where(position > low, rising - slope, 0.0)
    excess = np.nan_to_num(np.fmax(np.fmax(before, after), last), nan=0.0, posinf=math.inf)
    past = np.logical_or.accumulate(falling < -allowed, axis=0) & (position >= top)
    known = ~((excess > allowed) & past).any(axis=0)
    excess = np.where(past, 0.0, excess)
    # Where slopes are known to their own rounding, what counts is what a bump adds to the value;
    # else any large bump counts, and a small one where it is long enough to matter.
    counted = excess > (allowed if local else 1e-3 * allowed)
    areas = np.where(counted, excess, 0.0)[1:] * np.diff(curve.amount(x), axis=0)
    matters = (1e-12 if local else 1e-7) * np.ptp(value, axis=0)
    matters = matters + _ROUNDING * np.abs(value).max(axis=0)
    broken = np.nan_to_num(areas, nan=0.0).sum(axis=0) > matters
    if not local:
        broken |= (excess > allowed).any(axis=0)
    if not broken.any():
        hill = _highest(curve.slope, x, slope, mode)
        valley = _highest(lambda at: -curve.slope(at), x, -slope, low)
        wrong = _slopes_against_values(curve, x, slope, value, hill, valley, past)
        return hill, valley, known & ~wrong
    i = int(np.argmax(broken))
    s, xs, worst = slope[:, i], x[:, i], int(np.argmax(excess[:, i]))
    if worst <= mode[i]:
        high, dip, again = int(np.argmax(s[: worst + 1])), worst, int(mode[i])
    else:
        dip = int(mode[i]) + int(np.argmin(s[mode[i] : worst + 1]))
        high, again = int(mode[i]), worst
    raise curve.refuse(
        i,
        f"its slope falls from {s[high]:.6g} at {curve.place(xs[high], i)} to {s[dip]:.6g} at "
        f"{curve.place(xs[dip], i)}, then rises to {s[again]:.6g} at "
        f"{curve.place(xs[again], i)}: it is not S-shaped; {curve.advice}",
    )


def _slopes_against_values(
    curve: Curve,
    x: FloatArray,
    slope: FloatArray,
    value: FloatArray,
    hill: _Hill,
    valley: _Hill,
    past: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Between two places the value grows at a rate between their slopes, or up to the greatest.

    Where it does not, there is a bump between them, a jump, or a slope that is not the value's.
    That is an error before the peak; past it, the (m,) curves where it is so are returned.
    """
    amount = np.asarray(curve.amount(x))
    width, rise = np.diff(amount, axis=0), np.diff(value, axis=0)
    least, most = np.minimum(slope[1:], slope[:-1]), np.maximum(slope[1:], slope[:-1])
    most = np.where(hill.around(x), np.maximum(most, hill.height), most)
    least = np.where(valley.around(x), np.minimum(least, -valley.height), least)
    steepest = np.maximum(np.abs(least), np.abs(most))
    allowed = (
        _FORGIVEN * np.ptp(value, axis=0)
        + _ROUNDING * np.abs(value).max(axis=0)
        + _ROUNDING * steepest * np.abs(amount[1:])
    )
    off = np.maximum(least * width - rise, rise - most * width) - allowed
    wrong = (off > 0) & np.isfinite(steepest)
    later = (wrong & past[:-1]).any(axis=0)
    wrong &= ~past[:-1]
    if not wrong.any():
        return later
    i = int(np.argmax(wrong.any(axis=0)))
    j = int(np.argmax(np.where(wrong[:, i], off[:, i], -math.inf)))
    raise curve.refuse(
        i,
        f"its value goes from {value[j, i]:.6g} at {curve.place(x[j, i], i)} to "
        f"{value[j + 1, i]:.6g} at {curve.place(x[j + 1, i], i)}, but its slopes at the two, "
        f"{slope[j, i]:.6g} and {slope[j + 1, i]:.6g}, do not lead there: it jumps, or bends more "
        f"than once between them; {curve.advice}",
    )


# -------------------------------------------------------------------------------- closing in
def _closed_in(curve: Curve, hill: _Hill, valley: _Hill, top_value: FloatArray) -> Shape:
    end, inflection = curve.end, hill.place
    edges = np.column_stack([curve.marks, end])
    near = np.abs(edges - inflection[:, None]) <= 4 * np.spacing(np.abs(inflection))[:, None]
    snapped = np.where(near, edges, math.inf).min(axis=1)
    inflection = np.where(np.isfinite(snapped), np.minimum(snapped, end), inflection)

    # What is left to gain at x is at most slope * amount, on the concave part.
    all_of_it = curve.amount(end)
    unit = _NO_GAIN * np.abs(top_value)

    def gains(at: FloatArray) -> Any:
        return curve.slope(at) * all_of_it > unit

    _, peak = last_where(gains, inflection, end)
    at_once = ~np.asarray(gains(inflection)) & (inflection < end)
    peak = np.where(at_once, inflection, peak)

    trough = np.where(valley.height > 0, np.maximum(valley.place, peak), peak)

    base = np.asarray(curve.value(np.zeros(end.size)))
    _, contact = last_where(
        lambda at: curve.value(at) - base < curve.slope(at) * curve.amount(at), inflection, peak
    )
    start = curve.value(inflection) - base >= curve.slope(inflection) * curve.amount(inflection)
    contact = np.where(start & (inflection < end), inflection, contact)
    reached, paid = np.asarray(curve.value(contact)), np.asarray(curve.amount(contact))
    rise = reached - base
    chord = np.where(paid > 0, rise / np.where(paid > 0, paid, 1.0), math.inf)
    # The chord is exact at kinks too, but cancels where next to nothing has been gained yet.
    sharp = (rise > 1e-3 * np.abs(reached)) | (contact >= peak)
    tangent = np.asarray(curve.slope(contact))
    break_even = np.where(sharp & (paid > 0), chord, tangent)
    return Shape(inflection, hill.height, peak, trough, contact, np.maximum(break_even, 0.0))


class _Hill(NamedTuple):
    """The greatest value of a function with one hill: where, how high, and a bracket; all (m,)."""

    place: FloatArray
    height: FloatArray
    low: FloatArray
    high: FloatArray

    def around(self, x: FloatArray) -> NDArray[np.bool_]:
        """(G - 1, m): whether the stretch from each place to the next is in the bracket."""
        return (x[:-1] >= self.low) & (x[1:] <= self.high)


def _highest(
    function: Callable[[Any], Any], x: FloatArray, found: FloatArray, best: NDArray[np.intp]
) -> _Hill:
    """Close in on the greatest value, from the best of the values `found` on a grid.

    Golden section that keeps the best place known in the middle, so that flat stretches and jumps
    to either side cannot mislead it.
    """
    member = np.arange(best.size)
    middle, height = x[best, member], found[best, member]
    # The bracket: the nearest places that are lower by more than rounding.
    lower = np.where(
        np.isinf(height), np.isfinite(found), found < height - 1e-12 * np.abs(found).max(axis=0)
    )
    low = np.where(lower & (x < middle), x, x[0]).max(axis=0)
    high = np.where(lower & (x > middle), x, x[-1]).min(axis=0)
    first, last = low, high
    for _ in range(_SECTIONS):
        right = high - middle > middle - low
        step = np.where(right, high - middle, low - middle)
        probe = middle + _GOLDEN * step
        if np.all((probe == middle) | (probe == low) | (probe == high)):
            break
        there = np.asarray(function(probe))
        better = there > height
        low, high = (
            np.where(better, np.where(right, middle, low), np.where(right, low, probe)),
            np.where(better, np.where(right, high, middle), np.where(right, probe, high)),
        )
        middle, height = np.where(better, probe, middle), np.where(better, there, height)
    return _Hill(middle, height, first, last)
