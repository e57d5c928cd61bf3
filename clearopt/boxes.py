"""The bounds of every query, tightened as constraints on single entries come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.constraints import Constraint
from clearopt.errors import InfeasibleError
from clearopt.layout import Layout
from clearopt.program import BoundEntries


class Boxes:
    """Lower and upper bounds, (n,) each, and which constraint each of them is from."""

    def __init__(self, layout: Layout) -> None:
        self.name_of = layout.name_of
        allocations = layout.allocations
        self.lower = _end_to_end([a.lower for a in allocations])
        self.upper = _end_to_end([a.upper for a in allocations])
        self.integer = _end_to_end([a.integer for a in allocations])
        self.semicontinuous = _end_to_end([a.semicontinuous for a in allocations])
        if self.semicontinuous.any():
            self.semicontinuous = self.semicontinuous & (self.lower > 0)
        self.declared_lower, self.declared_upper = self.lower, self.upper
        if self.semicontinuous.any():
            self.declared_lower = np.where(self.semicontinuous, 0.0, self.lower)
        # The number of the constraint that a bound is from; -1 where the allocation's own holds.
        self._sources: list[str] = []
        self._lower_from = np.broadcast_to(np.intp(-1), self.lower.shape)
        self._upper_from = self._needed_by = self._lower_from
        self._own = False

    def own(self) -> None:
        """Make the bounds arrays of our own before any of them changes."""
        if self._own:
            return
        for name in ("lower", "upper", "semicontinuous", "_lower_from", "_upper_from"):
            setattr(self, name, np.array(getattr(self, name)))
        self._needed_by = np.array(self._needed_by)
        self._own = True

    def tighten(self, name: str, constraint: Constraint, bounds: BoundEntries) -> None:
        """Take the limits of one constraint in.

        Raises:
            InfeasibleError: a limit lies beyond the query's other bound.
        """
        self.own()
        query, level = bounds.query, bounds.level / bounds.factor
        sense, rising = bounds.sense, bounds.factor > 0
        at_most = (sense == "==") | ((sense == "<=") == rising)
        at_least = (sense == "==") | ((sense == ">=") == rising)
        # Only what is named is looked at: there may be as many constraints as queries.
        least = np.where(self.semicontinuous[query], 0.0, self.lower[query])
        for row in np.flatnonzero(at_most & (level < least))[:1]:
            raise InfeasibleError(
                f"{name}: `{constraint.text}`: {self.name_of(query[row])} is held at most "
                f"{level[row]:g}, below its lower bound of {least[row]:g} tokens"
                + self._origin(self._lower_from, query[row])
            )
        for row in np.flatnonzero(at_least & (level > self.upper[query]))[:1]:
            raise InfeasibleError(
                f"{name}: `{constraint.text}`: {self.name_of(query[row])} is held at least "
                f"{level[row]:g}, above its upper bound of {self.upper[query[row]]:g} tokens"
                + self._origin(self._upper_from, query[row])
            )
        source = len(self._sources)
        self._sources.append(f"{name}: `{constraint.text}`")
        before = self.upper[query]
        np.minimum.at(self.upper, query[at_most], level[at_most])
        self._upper_from[query[self.upper[query] < before]] = source
        # What must have tokens can no longer have nothing ...
        needed = query[at_least & (level > 0)]
        self._needed_by[needed[self.semicontinuous[needed]]] = source
        self.semicontinuous[needed] = False
        before = self.lower[query]
        np.maximum.at(self.lower, query[at_least], level[at_least])
        self._lower_from[query[self.lower[query] > before]] = source
        # ... and what cannot have its least has nothing.
        self._give_up(query)

    def _give_up(self, query: NDArray[np.intp]) -> None:
        nothing = query[self.semicontinuous[query] & (self.upper[query] < self.lower[query])]
        self.lower[nothing], self.upper[nothing] = 0.0, 0.0
        self.semicontinuous[nothing] = False

    def make_whole(self) -> None:
        """Round the bounds of whole tokens, and refuse a query that is left with nothing.

        Raises:
            InfeasibleError: no amount is left between a query's bounds; says where they are from.
        """
        # A whole limit that was divided by a factor may miss itself by a rounding error.
        if self.integer.any():
            self.lower = _elementwise(
                lambda whole, low: np.where(whole, np.ceil(low * (1 - 1e-12)), low),
                self.integer, self.lower,
            )  # fmt: skip
            self.upper = _elementwise(
                lambda whole, high: np.where(whole, np.floor(high * (1 + 1e-12)), high),
                self.integer, self.upper,
            )  # fmt: skip
        if self.semicontinuous.any():
            self.own()
            self._give_up(np.flatnonzero(self.semicontinuous))
        crossed = self.lower > self.upper
        if crossed.any():
            i = int(np.argmax(crossed))
            lower_from = self._origin(self._lower_from, i)
            if not lower_from and self._needed_by[i] >= 0:
                needed_by = self._sources[self._needed_by[i]]
                lower_from = f" (its least amount where it gets any, as {needed_by} demands)"
            raise InfeasibleError(
                f"{self.name_of(i)}: the constraints on it leave nothing: at least "
                f"{self.lower[i]:.10g}{lower_from}, and at most "
                f"{self.upper[i]:.10g}{self._origin(self._upper_from, i)}"
                + (" whole tokens" if self.integer[i] else " tokens")
            )

    def _origin(self, sources: NDArray[np.intp], query: int) -> str:
        """The constraint that a bound of the query is from, in brackets."""
        source = int(sources[query])
        return "" if source < 0 else f" (from {self._sources[source]})"


def _elementwise(change: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[Any]:
    """What `change` makes of the arrays, (n,); where each is one number, so is the answer."""
    if all(array.strides == (0,) for array in arrays):
        return np.broadcast_to(change(*(array[:1] for array in arrays)), arrays[0].shape)
    return change(*arrays)


def _end_to_end(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
