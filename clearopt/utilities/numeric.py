"""Utilities whose inflection, stationary points and break-even are found numerically.

A family supplies its value and its slope; `curve_search` finds the rest, once per instance, for
all members at once. What was found travels with the members that are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import UnsupportedProblemError
from clearopt.utilities.base import BestResponse, Utility
from clearopt.utilities.curve_search import COARSE, FINE, Curve, Shape, find_shape, last_where
from clearopt.utilities.family import Family
from clearopt.validation import FloatArray

_FINE_UP_TO = 2048  # members looked at closely; of more than these, each on a coarser grid
_POINTS = 500_000  # at most so many doubles in one array of the search
_ADVICE = (
    "a utility must be convex up to one inflection (a kink counts) and concave from there to its "
    "peak"
)


class NumericUtility(Utility):
    """A family that says its value and slope, and where to stop looking.

    Subclasses implement `origin`, `value_at`, `marginal_at` and `reach_excess`. Both functions
    take excesses of shape (m,), or (G, m) for G amounts of each member.
    """

    traceable: ClassVar[bool] = False
    advice: ClassVar[str] = _ADVICE

    _shape: Shape | None = None

    @property
    def reach_excess(self) -> Any:
        """The excess beyond which nothing is gained any more; finite."""
        raise NotImplementedError

    @property
    def marks(self) -> FloatArray:
        """(m, k) excesses where the slope may jump, or that deserve a closer look."""
        return np.zeros((int(np.size(self.reach_excess)), 0))

    @property
    def _name(self) -> str:
        """What errors call the family."""
        return type(self).__name__

    @property
    def _width(self) -> int:
        """Doubles that one amount of one member takes while it is evaluated."""
        return 1

    def _curve(self, members: NDArray[np.intp] | None) -> Curve:
        """What is searched, for an instance whose parameters are arrays; numbered `members`."""
        origin = np.asarray(self.origin, dtype=np.float64)
        return Curve(
            value=self.value_at,
            slope=self.marginal_at,
            amount=lambda x: origin + x,
            tokens=lambda x: origin + x,
            end=np.asarray(self.reach_excess, dtype=np.float64),
            marks=self.marks,
            name=self._name,
            member=members,
            advice=self.advice,
        )

    def _excess(self, x: Any) -> Any:
        """The excess at a coordinate of the search."""
        return x

    @property
    def shape(self) -> Shape:
        """Where every member bends, peaks and breaks even; found once.

        Raises:
            DeclarationError: a member is not S-shaped.
        """
        if self._shape is None:
            self._shape = self._find_shape()
        return self._shape

    def _find_shape(self) -> Shape:
        lengths = {int(np.shape(value)[0]) for value in self.parameters if np.ndim(value)}
        if not lengths:
            return self.broadcast(1)._search(None).take(0)
        if not all(np.ndim(value) for value in self.parameters):
            return self.broadcast(max(lengths))._find_shape()
        distinct, which = _distinct(self.parameters)
        family = self if distinct.size == which.size else self.take(distinct)
        return family._search(distinct).take(which)

    def _search(self, members: NDArray[np.intp] | None) -> Shape:
        count = int(np.shape(self.parameters[0])[0])
        detail = FINE if count <= _FINE_UP_TO else COARSE
        chunk = max(_POINTS // (detail.points * self._width), 1)
        found = []
        for start in range(0, max(count, 1), chunk):
            part = slice(start, start + chunk)
            family = self if count <= chunk else self.take(part)
            found.append(
                find_shape(family._curve(None if members is None else members[part]), detail)
            )
        return Shape(*(np.concatenate(column) for column in zip(*found, strict=True)))

    # ---------------------------------------------------------------- what was found travels
    def _with_shape(self, shape: Shape | None) -> Self:
        self._shape = shape
        return self

    def broadcast(self, length: int) -> Self:
        return super().broadcast(length)._with_shape(self._broadcast_shape(length))

    def _broadcast_shape(self, length: int) -> Shape | None:
        if self._shape is None:
            return None
        return Shape(*(np.broadcast_to(field, (length,)) for field in self._shape))

    def take(self, index: NDArray[np.intp] | slice) -> Self:
        return super().take(index)._with_shape(self._taken(index))

    def _taken(self, index: NDArray[np.intp] | slice) -> Shape | None:
        return None if self._shape is None else self._shape.take(index)

    def _in_units(self, tokens: Any, accuracy: float) -> Shape | None:
        """The shape where 1 stands for `tokens` tokens and `accuracy`."""
        if self._shape is None:
            return None
        inflection, greatest, peak, trough, contact, break_even = self._shape
        slope = tokens / accuracy
        return Shape(
            inflection / tokens,
            greatest * slope,
            peak / tokens,
            trough / tokens,
            contact / tokens,
            break_even * slope,
        )

    # ---------------------------------------------------------------- what a family answers
    @property
    def inflection_excess(self) -> Any:
        return self._excess(self.shape.inflection)

    @property
    def greatest_marginal(self) -> Any:
        return self.shape.greatest

    @property
    def saturation_excess(self) -> Any:
        return self._excess(self.shape.peak)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        return self._excess(self.shape.contact), self.shape.break_even

    def stationary_excess(self, price: Any) -> Any:
        return self._excess(self._stationary(np.asarray(price, dtype=np.float64)))

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
        unknown = np.isnan(self.shape.trough)
        if np.any(unknown):
            peak = self.origin + self.saturation_excess
            asked = unknown & (price < 0) & (weight > 0) & (upper > peak)
            if np.any(asked):
                i = int(np.argmax(asked))
                raise UnsupportedProblemError(
                    f"{self._name}: one member bends more than once past its peak, at "
                    f"{np.ravel(peak)[i]:.6g} tokens, and here tokens are paid for or asked for "
                    "beyond it: no best amount can be proven. Cap its tokens at the peak, "
                    "Allocation(..., upper=...)"
                )
        return super().best_response(weight, price, lower, upper, integer, least)

    def _stationary(self, price: FloatArray) -> FloatArray:
        """The last coordinate on the concave part with a slope of at least `price`."""
        shape = self.shape
        # A negative price is met past the peak, while the slope still falls.
        paid = price < 0
        near = np.where(paid, shape.peak, shape.inflection)
        far = np.where(paid & ~np.isnan(shape.trough), shape.trough, shape.peak)
        return self._last_worth(price, near, far)

    def _last_worth(self, price: FloatArray, near: FloatArray, far: FloatArray) -> FloatArray:
        slope = self._slope
        inside, outside = last_where(lambda x: slope(x) >= price, near, far)
        return np.where(outside == far, far, inside)

    def _slope(self, x: FloatArray) -> Any:
        """The slope at a coordinate of the search."""
        return self.marginal_at(x)


def _distinct(parameters: Sequence[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(k,) the first member of each set of equal ones, ascending; (m,) which set each is in."""
    columns = [np.reshape(value, (np.shape(value)[0], -1)) for value in parameters]
    count = columns[0].shape[0]
    everyone = np.arange(count)
    if count < 2 or sum(column.shape[1] for column in columns) > 64:
        return everyone, everyone
    table = np.column_stack([column.astype(np.float64) for column in columns])
    if (table == table[0]).all():
        return everyone[:1], np.zeros(count, dtype=np.intp)
    _, first, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return first[order], rank[np.ravel(which)]


# -------------------------------------------------------------------------------- compounds
@dataclass(frozen=True)
class CompoundKind:
    """The kind of compounds: the same class around parts of the same kinds."""

    family: type[CompoundUtility]
    parts: tuple[Any, ...]
    counts: tuple[int, ...]  # parameters of each part

    def from_parameters(self, *parameters: Any) -> CompoundUtility:
        """The compound around parts made from these arrays, followed by its own."""
        parts, start = [], 0
        for kind, count in zip(self.parts, self.counts, strict=True):
            parts.append(kind.from_parameters(*parameters[start : start + count]))
            start += count
        return self.family._around(tuple(parts), parameters[start:])


class CompoundUtility(NumericUtility):
    """A utility made of other families, `parts`, and (m,) arrays of its own, `own`."""

    parameter_names = ()

    parts: tuple[Any, ...]
    own: tuple[Any, ...]

    @classmethod
    def _around(cls, parts: Sequence[Family], own: Sequence[Any]) -> Self:
        instance = object.__new__(cls)
        instance.parts = tuple(parts)
        instance.own = tuple(own)
        return instance

    @property
    def kind(self) -> Any:
        return CompoundKind(
            type(self),
            tuple(part.kind for part in self.parts),
            tuple(len(part.parameters) for part in self.parts),
        )

    @property
    def parameters(self) -> tuple[Any, ...]:
        return (*(value for part in self.parts for value in part.parameters), *self.own)

    def broadcast(self, length: int) -> Self:
        parts = [part.broadcast(length) for part in self.parts]
        own = [np.broadcast_to(np.asarray(value), (length,)) for value in self.own]
        return self._around(parts, own)._with_shape(self._broadcast_shape(length))

    def take(self, index: NDArray[np.intp] | slice) -> Self:
        # Part by part, so that what each has found travels too.
        parts = [part.take(index) for part in self.parts]
        return self._around(parts, [value[index] for value in self.own])._with_shape(
            self._taken(index)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(part) for part in self.parts)})"
