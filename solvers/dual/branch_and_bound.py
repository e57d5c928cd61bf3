"""Closing the gap: variable fixing by reduced value, then branch and bound on what is left.

What couples the queries, one row or many, is behind `Coupling`.

A node is a box. Its bound is the dual's, its allocations come from mixing and refilling; the query
it branches on is the one that the mixture left between its two versions, and the branching point is
that query's inflection: below, it is (nearly) abandoned, above, concave and without a gap of its
own. Of a choice with several options bought in part, one is either excluded or the only one.
Reduced values shrink the boxes of all other queries (variable fixing). Identical queries are
ordered, the first gets most, which removes their symmetry.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.deadline import Deadline
from clearopt.solvers.dual.coupling import Coupling, Relaxed
from clearopt.solvers.dual.separable import ROUNDING
from clearopt.solvers.progress import Ticker
from clearopt.validation import FloatArray

EAGER_GAP = 1e-10
NODE_LIMIT = "node limit"
_LARGEST_SYMMETRY = 5_000  # queries of a core whose twins are looked for


@dataclass(frozen=True)
class Limits:
    """When to stop. The first `eager_nodes` go on to `EAGER_GAP` whatever the tolerance."""

    tolerance: float
    deadline: Deadline
    nodes: int
    eager_nodes: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """The best allocation (None where none was found), a rigorous bound, and counts."""

    tokens: FloatArray | None
    value: float
    bound: float
    root: Any  # prices of the root relaxation, as the coupling has them
    nodes: int
    core: int
    stopped: str


@dataclass(frozen=True, eq=False)
class _Node:
    bound: float
    start: Any  # prices
    lower: FloatArray  # of the core alone; every other query keeps its root box
    upper: FloatArray
    branch: int | None  # the query to branch on, None where nothing is left open
    point: float  # and where; NaN: excluded, or the only one of its choice


class BranchAndBound:
    """One run; `solve` is called once."""

    def __init__(self, coupling: Coupling, limits: Limits, start: Any, ticker: Ticker) -> None:
        self.coupling = coupling
        self.ticker = ticker
        self.limits = limits
        self.start = start
        queries = coupling.queries
        self.lower, self.upper = queries.lower.copy(), queries.upper.copy()
        self.best: FloatArray | None = None
        self.value = -math.inf
        self.core: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self.nodes = 0
        self.settled_bound = -math.inf  # largest bound among the nodes closed without branching
        # Spending less is always allowed, so flat stretches of a utility are not worth buying.
        self.free_disposal = coupling.free_disposal
        self.resolution = coupling.resolution

    # ------------------------------------------------------------------ the run
    def solve(self) -> Outcome:
        self.nodes = 1
        self.lower, self.upper = self.coupling.propagate(self.lower, self.upper)
        if self.coupling.holds_nothing(self.lower, self.upper):
            return Outcome(None, -math.inf, -math.inf, self.start, 1, 0, "infeasible")
        root = self.coupling.relax(self.lower, self.upper, self.start, self._target())
        self._improve(root, self.lower, self.upper)
        bound, stopped = root.bound, "closed"
        if not root.fits:
            return Outcome(None, -math.inf, -math.inf, root.start, 1, 0, "infeasible")
        self.ticker.tell(1, self.value, bound)
        if not self._enough(bound):
            if self.limits.nodes == 1:
                stopped = "node limit"
            else:
                bound, stopped = self._search(root)
        if self.best is None and stopped == "closed" and self.settled_bound == -math.inf:
            stopped = "infeasible"  # every box was proven empty
        if self.best is None and stopped != "infeasible":
            for tokens in self.coupling.simple(self.lower, self.upper):
                self._offer(tokens)
        bound = max(bound, self.value)
        if stopped == "closed" and not self._within_tolerance(bound):
            stopped = "resolution of tokens as floating-point numbers"
        return Outcome(
            self._lean(), self.value, bound, root.start, self.nodes, int(self.core.size), stopped
        )

    def _search(self, root: Relaxed) -> tuple[float, str]:
        self.lower, self.upper = self._shrink(root, self.lower, self.upper)
        # Closed are the queries whose utility is concave on their whole box, at prices that cannot
        # push them past the peak, where it would not be.
        concave = (self.lower >= self.coupling.queries.inflection) & self.free_disposal
        queries = self.coupling.queries
        if queries.integer is not None:
            concave &= ~queries.integer
        if queries.choice is not None:
            concave &= ~queries.choice.membership
        self.core = np.flatnonzero((self.lower < self.upper) & ~concave)
        self.symmetry = _identical(self.coupling, self.core, self.lower, self.upper)
        serial = itertools.count()
        heap: list[tuple[float, int, _Node]] = []

        def push(node: _Node | None) -> None:
            if node is not None:
                heapq.heappush(heap, (-node.bound, next(serial), node))

        stopped = self._stopped()
        if stopped:
            return root.bound, stopped
        push(self._node(self.lower[self.core], self.upper[self.core], root.start))
        underway = -math.inf  # the bound of a node that was not split to the end
        while heap and not stopped:
            top = heap[0][2].bound
            if self._enough(max(top, self.settled_bound)):
                break
            stopped = self._stopped()
            if stopped:
                break
            self.ticker.tell(self.nodes, self.value, max(top, self.settled_bound))
            node = heapq.heappop(heap)[2]
            if node.bound <= self._target() or node.branch is None:
                self.settled_bound = max(self.settled_bound, node.bound)
                continue
            for lower, upper in self._split(node):
                stopped = self._stopped()
                if stopped:
                    underway = node.bound
                    break
                push(self._node(lower, upper, node.start))
        remaining = max(heap[0][2].bound if heap else -math.inf, underway)
        bound = min(root.bound, max(remaining, self.settled_bound, self.value))
        return bound, stopped or "closed"

    def _stopped(self) -> str:
        """Why no further node may be begun; empty where one may."""
        if self.limits.deadline.over:
            return self.limits.deadline.reason
        return NODE_LIMIT if self.nodes >= self.limits.nodes else ""

    # ------------------------------------------------------------------ one node
    def _node(self, core_lower: FloatArray, core_upper: FloatArray, start: Any) -> _Node | None:
        """Bound a box, improve the incumbent from it, and pick where to branch; None if empty."""
        self.nodes += 1
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[self.core], upper[self.core] = core_lower, core_upper
        lower, upper = self.coupling.propagate(lower, upper)
        if self.coupling.holds_nothing(lower, upper):
            return None
        relaxation = self.coupling.relax(lower, upper, start, self._target())
        if not relaxation.fits:
            return None
        if relaxation.bound <= self._target():
            self.settled_bound = max(self.settled_bound, relaxation.bound)
            return None
        branch, point = self._improve(relaxation, lower, upper)
        if relaxation.bound <= self._target():
            self.settled_bound = max(self.settled_bound, relaxation.bound)
            return None
        lower, upper = self._shrink(relaxation, lower, upper)
        if (lower > upper).any():
            self.settled_bound = max(self.settled_bound, self.value)
            return None
        exclusive = branch is not None and math.isnan(point)
        if branch is None or not lower[branch] < upper[branch]:
            # Where less is always allowed and curves are S-shaped, a mixture without a jump leaves
            # no gap but that of rounding; elsewhere it may, and boxes are halved.
            # On a grid of costs a mixture of two amounts may rest between them.
            queries = self.coupling.queries
            convex = queries.grid is None and bool(queries.convex_before.all())
            exact = convex and bool(self.free_disposal.all())
            branch = None if exact else self._widest(lower, upper)
            if branch is not None:
                point = 0.5 * float(lower[branch] + upper[branch])
                point = self.coupling.queries.rounded("whole_below", branch, point)
        elif not exclusive and not lower[branch] <= point < upper[branch]:
            # Shrinking has cut the branching point off: bound the smaller box first.
            if not self._stopped():
                return self._node(lower[self.core], upper[self.core], relaxation.start)
            branch = None
        return _Node(
            relaxation.bound,
            relaxation.start,
            lower[self.core],
            upper[self.core],
            branch,
            point,
        )

    def _widest(self, lower: FloatArray, upper: FloatArray) -> int | None:
        """The query to halve where the mixture points at none: the widest, relative to its root."""
        if not self.core.size:
            return None
        root = np.maximum(self.upper[self.core] - self.lower[self.core], 1e-300)
        width = (upper[self.core] - lower[self.core]) / root
        k = int(np.argmax(width))
        return int(self.core[k]) if width[k] > 1e-13 else None

    def _improve(
        self, relaxed: Relaxed, lower: FloatArray, upper: FloatArray
    ) -> tuple[int | None, float]:
        """Allocations from a relaxation; returns the query left in part, and where to split it."""
        found = self.coupling.candidates(relaxed, lower, upper)
        for tokens in found.allocations:
            self._offer(tokens)
        if found.split is None:
            return None, 0.0
        if math.isnan(found.part):
            return found.split, math.nan
        return found.split, self._branching_point(found.split, found.part, lower, upper)

    def _branching_point(
        self, query: int, part: float, lower: FloatArray, upper: FloatArray
    ) -> float:
        queries = self.coupling.queries
        low, high = float(lower[query]), float(upper[query])
        bend = float(queries.inflection[query])
        whole = queries.integer is not None and bool(queries.integer[query])
        if low == 0 and queries.least is not None and part < queries.least[query] <= high:
            return queries.rounded("whole_below", query, 0.5 * float(queries.least[query]))
        below = queries.rounded("whole_below", query, bend)
        if low <= below < high and low < bend < high and part < bend:
            return below
        if whole:
            before_last = max(queries.rounded("whole_before", query, high), low)
            return min(max(queries.rounded("whole_below", query, part), low), before_last)
        margin = 0.05 * (high - low)
        return min(max(part, low + margin), high - margin)

    def _split(self, node: _Node) -> list[tuple[FloatArray, FloatArray]]:
        assert node.branch is not None
        member = int(np.searchsorted(self.core, node.branch))
        queries = self.coupling.queries
        whole = queries.integer is not None and bool(queries.integer[node.branch])
        if math.isnan(node.point):
            return self._excluded_or_alone(node, member)
        twins = self.symmetry[member]
        before = twins[twins <= member] if twins.size else np.array([member])
        after = twins[twins >= member] if twins.size else np.array([member])
        upper = node.upper.copy()
        upper[after] = np.minimum(upper[after], node.point)
        lower = node.lower.copy()
        above = queries.rounded("whole_after", node.branch, node.point) if whole else node.point
        lower[before] = np.maximum(lower[before], above)
        boxes = [(node.lower, upper), (lower, node.upper)]
        return [(low, high) for low, high in boxes if (low <= high).all()]

    def _excluded_or_alone(self, node: _Node, member: int) -> list[tuple[FloatArray, FloatArray]]:
        """One option of a choice without tokens, and all others of that choice without."""
        choice = self.coupling.queries.choice
        assert choice is not None
        query = self.core[member]
        number = choice.number[np.flatnonzero(choice.members == query)[0]]
        options = choice.members[choice.number == number]
        others = np.isin(self.core, options[options != query])
        excluded, alone = node.upper.copy(), node.upper.copy()
        excluded[member], alone[others] = 0.0, 0.0
        boxes = [(node.lower, excluded), (node.lower, alone)]
        return [(low, high) for low, high in boxes if (low <= high).all()]

    def _lean(self) -> FloatArray | None:
        """The best allocation without the tokens that add nothing to anyone's utility."""
        if self.best is None:
            return None
        queries = self.coupling.queries
        useful = np.where(queries.utility(self.best) > 0, queries.saturation, 0.0)
        least = np.maximum(np.minimum(self.best, useful), queries.lower)
        if queries.least is not None:
            least = np.where((least > 0) & (least < queries.least), self.best, least)
        lean = np.where(self.free_disposal, least, self.best)
        better = self.coupling.accepts(lean) and self.coupling.value(lean) >= self.value
        return lean if better else self.best

    # ------------------------------------------------------------------ incumbent and target
    def _offer(self, tokens: FloatArray | None) -> None:
        if tokens is None:
            return
        tokens = np.clip(tokens, self.coupling.queries.lower, self.coupling.queries.upper)
        least = self.coupling.queries.least
        if least is not None and ((tokens > 0) & (tokens < least)).any():
            return
        if self.coupling.queries.integer is not None:
            whole = self.coupling.queries.whole_below(tokens, 1e-9)
            if (np.abs(whole - tokens) > 1e-9 * np.maximum(1.0, tokens)).any():
                return
            tokens = whole
        if not self.coupling.accepts(tokens):
            return
        value = self.coupling.value(tokens)
        if value > self.value:
            self.value, self.best = value, tokens

    def _target(self) -> float:
        """Bounds up to here are of no further interest: equal to the incumbent but for rounding."""
        if self.best is None:
            return -math.inf
        return self.value + self.resolution * abs(self.value)

    def _within_tolerance(self, bound: float) -> bool:
        size = max(abs(bound), abs(self.value))
        return bound - self.value <= max(self.limits.tolerance, self.resolution) * size

    def _enough(self, bound: float) -> bool:
        if self.best is None:
            return False
        difference = bound - self.value
        size = max(abs(bound), abs(self.value))
        if difference <= self.resolution * size:
            return True
        # While nodes are cheap the search goes on past the tolerance.
        eager = self.nodes < self.limits.eager_nodes
        tolerance = min(self.limits.tolerance, EAGER_GAP) if eager else self.limits.tolerance
        return difference <= tolerance * size

    # ------------------------------------------------------------------ variable fixing
    def _shrink(
        self, relaxed: Relaxed, lower: FloatArray, upper: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Cut off amounts whose reduced value alone costs more than the remaining gap.

        If query i took b, the bound would fall by its best gain minus its gain at b; where that
        exceeds bound - incumbent, no better allocation has b_i = b.
        """
        queries, at = self.coupling.queries, relaxed.effective
        gap = max(relaxed.bound - self.value, 0.0) * (1 + 1e-9)
        gap += 16 * ROUNDING * abs(relaxed.bound)
        threshold = relaxed.response.gain - gap
        bend = np.clip(queries.inflection, lower, upper)
        bend = np.clip(queries.whole_below(bend), lower, upper)
        convex = queries.convex_before
        if queries.grid is not None:  # charged its cost curve too, no query is convex for certain
            convex = convex.copy()
            convex[queries.grid.members] = False
        at_lower, at_bend = queries.gain(lower, at), queries.gain(bend, at)
        past_bend = queries.respond(
            at.price, bend, upper, at.weight, at.curve_price, alone=True
        ).gain
        nothing = at_lower
        if queries.choice is not None:
            # In a choice the best option sets the mark, and who takes nothing leaves it to others.
            whole_box = queries.respond(
                at.price, lower, upper, at.weight, at.curve_price, alone=True
            ).gain
            inside, idle = queries.choice.membership & (lower == 0), at.weight * queries.idle
            surplus = np.where(inside, whole_box - idle, 0.0)
            others = queries.choice.second(surplus)
            threshold = np.where(
                inside, idle + np.maximum(np.maximum(surplus, others), 0.0) - gap, threshold
            )
            nothing = np.where(inside, at_lower + others, at_lower)
        new_lower, new_upper = lower.copy(), upper.copy()

        # Nothing past the bend is good enough; before it the gain is convex, below its chord.
        low_only = (past_bend < threshold) & (bend > lower)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (at_lower - threshold) / (at_lower - at_bend)
            cut = lower + np.where(np.isfinite(reach), np.clip(reach, 0, 1), 1.0) * (bend - lower)
        cut = np.where(convex, np.minimum(queries.whole_below(cut, 1e-9), bend), bend)
        cut = np.where(self.free_disposal & (cut <= queries.origin), lower, cut)
        new_upper = np.where(low_only, np.minimum(new_upper, cut), new_upper)

        # Nothing at the lower end is good enough: the query is on the concave part, or near it.
        high_only = (nothing < threshold) & ~low_only & (bend > lower)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (at_bend - threshold) / (at_bend - at_lower)
            rise = bend - np.where(np.isfinite(reach), np.clip(reach, 0, 1), 0.0) * (bend - lower)
        rise = np.where(convex, queries.whole_above(rise, 1e-9), lower)
        new_lower = np.where(high_only, np.maximum(new_lower, rise), new_lower)
        return queries.opened(new_lower, new_upper)


def _identical(
    coupling: Coupling, core: NDArray[np.intp], lower: FloatArray, upper: FloatArray
) -> list[NDArray[np.intp]]:
    """For each member of the core, the positions of its twins (itself included) in order."""
    none = np.zeros(0, dtype=np.intp)
    twins = [none] * core.size
    queries = coupling.queries
    if core.size > _LARGEST_SYMMETRY:
        return twins
    rows = coupling.columns(core)
    for number, family in enumerate(queries.families):
        inside = np.flatnonzero((core >= family.part.start) & (core < family.part.stop))
        if inside.size < 2:
            continue
        members = core[inside]
        columns = [
            np.asarray(p)[members - family.part.start].reshape(members.size, -1)
            for p in family.utility.parameters
        ]
        columns += [
            v[members] for v in (queries.weight, queries.cost, queries.curve_cost, lower, upper)
        ]
        if queries.integer is not None:
            columns.append(queries.integer[members].astype(float))
        if queries.least is not None:
            columns.append(queries.least[members])
        columns += [rows[inside]]
        if queries.grid is not None:
            columns.append(queries.grid.alike[members])
        if queries.choice is not None:  # options of choices are no twins
            serial = np.where(queries.choice.membership[members], members + 1.0, 0.0)
            columns.append(serial)
        table = np.column_stack([*columns, np.full(members.size, float(number))])
        _, group = np.unique(table, axis=0, return_inverse=True)
        group = np.asarray(group).ravel()
        order = np.argsort(group, kind="stable")
        boundaries = np.flatnonzero(np.diff(group[order])) + 1
        for positions in np.split(inside[order], boundaries):
            if positions.size > 1:
                for position in positions:
                    twins[position] = positions
    return twins
