"""The sum of several utilities of the same queries, r_1 U_1(b) + ... + r_k U_k(b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.utilities.base import Utility
from clearopt.utilities.curve_search import Curve
from clearopt.utilities.family import short
from clearopt.utilities.numeric import CompoundUtility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

_RELATIVE = 1e-9  # by which a slope may be off
_CANCELLED = 1e-13  # of the greatest slope: what may be left where a slope is 0
_SETTLED = 1e-12  # of the peak: none
_DOUBLINGS = 60


class Total(CompoundUtility):
    """A weighted sum of families; made by `Total.of`.

    Its own arrays are the weights, and the most tokens up to which it is asked for: what shape it
    has beyond them does not matter, and its peak lies within.
    """

    advice: ClassVar[str] = (
        "a sum is solved where, up to its query's upper bound, it is convex up to one inflection "
        "(a kink counts) and concave from there to its peak; utilities that surge one after "
        "the other are not. Give the query one of them, a family of its own, or a lower upper "
        "bound, Allocation(..., upper=...)"
    )

    parts: tuple[Utility, ...]

    @classmethod
    def of(cls, parts: Sequence[Utility], weights: Sequence[Any], most: Any = np.inf) -> Self:
        """The sum of `weights[k] * parts[k]`, checked to be S-shaped.

        Args:
            parts: families of one length (m,), broadcast.
            weights: one for each, number or (m,), at least 0.
            most: tokens, number or (m,), at least 0: no query is ever given more.

        Raises:
            DeclarationError: a part is not S-shaped, a weight is negative, the lengths differ, or
                the sum is not S-shaped.
        """
        name = " + ".join(type(part).__name__ for part in parts)
        for part in parts:
            if not part.s_shaped:
                raise DeclarationError(
                    f"{name}: {type(part).__name__} has no shape to rely on, so it cannot be added "
                    "to another utility of the same query; tabulate the sum instead"
                )
        length = max((int(np.size(part.origin)) for part in parts), default=0)
        checked = []
        for k, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            if np.shape(part.origin) != (length,):
                raise DeclarationError(
                    f"{name}: part {k} has parameters of shape {np.shape(part.origin)}, not "
                    f"({length},): broadcast all parts to one length first"
                )
            array = as_float_array(weight, f"{name}: weight {k}")
            require(array, array >= 0, f"{name}: weight {k}", "must be at least 0")
            checked.append(broadcast_to_length(array, length, f"{name}: weight {k}"))
        limit = as_float_array(most, f"{name}: most", allow_infinite=True)
        require(limit, limit >= 0, f"{name}: most", "must be at least 0 tokens")
        checked.append(broadcast_to_length(limit, length, f"{name}: most"))
        total = cls._around(parts, checked)
        _ = total.shape  # refuses what is not S-shaped
        return total

    @property
    def weights(self) -> tuple[Any, ...]:
        """What each part is multiplied by, (m,) each."""
        return self.own[:-1]

    @property
    def most(self) -> Any:
        """(m,) tokens up to which the sum is looked at."""
        return self.own[-1]

    @property
    def _name(self) -> str:
        return " + ".join(type(part).__name__ for part in self.parts)

    @property
    def origin(self) -> Any:
        """The first origin of a part that counts, of any part where none does."""
        origins = np.stack([np.asarray(part.origin, dtype=np.float64) for part in self.parts])
        counts = np.stack(self.weights) > 0
        counting = np.where(counts | ~counts.any(axis=0), origins, np.inf)
        return counting.min(axis=0)

    def _shifts(self) -> list[Any]:
        """How many tokens after the sum each part starts; negative where it does not count."""
        origin = self.origin
        return [part.origin - origin for part in self.parts]

    def value_at(self, excess: Any) -> Any:
        terms = zip(self.parts, self.weights, self._shifts(), strict=True)
        return sum(
            weight * part.value_at(np.maximum(excess - shift, 0.0)) for part, weight, shift in terms
        )

    def marginal_at(self, excess: Any) -> Any:
        total: Any = 0.0
        for part, weight, shift in zip(self.parts, self.weights, self._shifts(), strict=True):
            beyond = excess - shift
            slope = part.marginal_at(np.maximum(beyond, 0.0))
            total = total + np.where((beyond >= 0) & (weight > 0), weight * slope, 0.0)
        return total

    @property
    def reach_excess(self) -> Any:
        ends = [
            np.where(weight > 0, shift + _settled_excess(part), 0.0)
            for part, weight, shift in zip(self.parts, self.weights, self._shifts(), strict=True)
        ]
        return np.maximum(np.minimum(np.max(ends, axis=0), self.most - self.origin), 0.0)

    @property
    def marks(self) -> FloatArray:
        columns = []
        for part, shift in zip(self.parts, self._shifts(), strict=True):
            ends = part.saturation_excess, _settled_excess(part)
            for excess in (0.0, part.inflection_excess, *ends):
                columns.append(np.maximum(shift + excess, 0.0))
        return np.column_stack(columns)

    def _curve(self, members: NDArray[np.intp] | None) -> Curve:
        return replace(super()._curve(members), noise=self._noise)

    def _noise(self, excess: FloatArray) -> Any:
        """How far off the slope may be: the rounding of its terms, which may cancel."""
        total: Any = 0.0
        for part, weight, shift in zip(self.parts, self.weights, self._shifts(), strict=True):
            slope = np.abs(part.marginal_at(np.maximum(excess - shift, 0.0)))
            greatest = np.asarray(part.greatest_marginal)
            greatest = np.where(np.isfinite(greatest), greatest, 0.0)
            allowed = _RELATIVE * np.where(excess >= shift, slope, 0.0) + _CANCELLED * greatest
            total = total + np.where(weight > 0, weight * allowed, 0.0)
        return np.where(np.isfinite(total), total, 0.0)

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        parts = [part.in_units(tokens, accuracy) for part in self.parts]
        own = (*self.weights, self.most / tokens)
        return self._around(parts, own)._with_shape(self._in_units(tokens, accuracy))

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        total = 0.0 * excess
        for part, weight, shift in zip(self.parts, self.weights, self._shifts(), strict=True):
            share, later = float(weight[member]), float(shift[member])
            if share == 0:
                continue
            over = excess - later
            own = 0.5 * (over + abs(over)) if later > 0 else excess
            total = total + share * part.expression(own, exp, member)
        return total

    def __repr__(self) -> str:
        terms = zip(self.parts, self.weights, strict=True)
        counting = [(part, weight) for part, weight in terms if np.any(weight)]
        return " + ".join(
            repr(part) if np.all(weight == 1) else f"{short(weight)} * {part!r}"
            for part, weight in counting or zip(self.parts, self.weights, strict=True)
        )


def _settled_excess(part: Utility) -> FloatArray:
    """(m,) an excess from which the part stays as it is: its peak, or well past it if it decays."""
    excess = np.asarray(part.saturation_excess, dtype=np.float64)
    peak, last = np.asarray(part.value_at(excess)), part.value_at(excess * 2.0**_DOUBLINGS)
    for _ in range(_DOUBLINGS):
        decays = np.abs(part.value_at(excess) - last) > _SETTLED * peak
        if not decays.any():
            break
        excess = np.where(decays, 2.0 * excess, excess)
    return excess
