"""A valid linear relaxation of a `Program` that may be missed, and by how little it can be.

Rows are linear as they stand. A floor sees, of every utility, tangents of its concave envelope:

    U(b) <= max_x [U(x) - p x]  +  p b        for any p >= 0,

which hold whatever the curve's shape. A cost curve lies between its chord and its tangents. All of
these are outer approximations: what misses them misses the program too. Wholeness is relaxed, and
so are amounts between nothing and the least, and choices (to the convex hull of their options),
unless a mixed-integer program is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from clearopt.deadline import Deadline
from clearopt.program import Program
from clearopt.solvers.tangents import Allowed, BoolArray, Box, Indices, Point
from clearopt.validation import FloatArray

TOLERANCE = 1e-7  # relative; nothing that is missed by less is called infeasible
_SOLVER_TOLERANCE = 1e-9  # of the linear programs, whose rows have size 1
_MANY = 4000  # queries from which on an interior-point method is the faster one
_ROUNDS = 25  # of tangents added at most
_NEAR = 0.01  # of a curve's peak: tangents further off than this are dropped again
_GROWTH = 2e-3  # relative; misses that grow by less a round are measured well enough
_ROOM = 1e-3  # what room to spare is worth, where a miss costs 1
_SAFETY = 1.0 + 1e-12  # a tangent is moved up, so that rounding keeps it above its chord


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows and floors that take part, by their numbers."""

    rows: Indices
    floors: Indices


@dataclass(frozen=True, eq=False)
class Nearest:
    """The point that misses the selected rows and floors least.

    `missed` is the sum of what they are missed by, each relative to its size, and infinite where
    nothing elastic can help; `infeasible` is None where time, or the tangents, did not suffice to
    tell. Arrays have one entry for each row, and for each floor, of the selection.
    """

    infeasible: bool | None
    missed: float
    row_misses: FloatArray  # in the row's own unit
    floor_misses: FloatArray
    rows_involved: BoolArray
    floors_involved: BoolArray


# ------------------------------------------------------------------------------------ the model
@dataclass(eq=False)
class _Model:
    """min cost.x, matrix x <= limit, least <= x <= most; columns by name, rows by name."""

    widths: dict[str, int]
    blocks: list[sparse.csr_array] = field(default_factory=list)
    limits: list[FloatArray] = field(default_factory=list)
    places: dict[str, slice] = field(default_factory=dict)

    def add(self, name: str, parts: Mapping[str, sparse.csr_array], limit: FloatArray) -> None:
        height = limit.shape[0]
        first = sum(block.shape[0] for block in self.blocks)
        self.places[name] = slice(first, first + height)
        if height:
            row = [parts.get(c, sparse.csr_array((height, w))) for c, w in self.widths.items()]
            self.blocks.append(sparse.csr_array(sparse.hstack(row)))
            self.limits.append(limit)

    def columns(self, name: str) -> slice:
        first = 0
        for column, width in self.widths.items():
            if column == name:
                return slice(first, first + width)
            first += width
        raise KeyError(name)

    @property
    def width(self) -> int:
        return sum(self.widths.values())

    @property
    def matrix(self) -> sparse.csr_array:
        if not self.blocks:
            return sparse.csr_array((0, self.width))
        return sparse.csr_array(sparse.vstack(self.blocks))

    @property
    def limit(self) -> FloatArray:
        return np.concatenate([*self.limits, np.zeros(0)])


def row_sizes(program: Program) -> FloatArray:
    """(K,) what a row's misses are relative to: its level, or what its least amounts come to."""
    size = np.maximum(np.abs(program.right_hand_side), program.activity_size(program.least))
    largest = np.zeros_like(size)
    for matrix in (program.rows, program.curve_rows):
        if matrix.nnz:
            largest = np.maximum(largest, abs(matrix).max(axis=1).toarray().ravel())
    return np.where(size > 0, size, np.where(largest > 0, largest, 1.0))


def floor_sizes(program: Program) -> FloatArray:
    """(J,) what a floor's misses are relative to: its level."""
    level = np.abs(program.floor_levels)
    return np.where(level > 0, level, 1.0)


class _Assembled:
    """The relaxation over a selection: a model, and how to read its columns."""

    def __init__(self, box: Box, selection: Selection, elastic: BoolArray, discrete: bool) -> None:
        program = self.program = box.program
        self.box, self.selection, self.discrete = box, selection, discrete
        rows, floors = program.rows[selection.rows], program.floors[selection.floors]
        curves = program.curve_rows[selection.rows]
        gains, charges = _columns(floors), _columns(curves)
        used = self.used = np.flatnonzero(_mask(program.n, _columns(rows), gains, charges))
        self.gaining = gains[box.peak[gains] > box.flat[gains]]
        self.charged = charges
        either = program.choice[used] >= 0
        self.switched = used[either | (discrete & program.semicontinuous[used])]
        # Sizes near 1: tokens count in the amounts that matter, whole ones as they are.
        scale = np.where(box.scale > 0, box.scale, np.minimum(box.finite - box.lower, 1e6))
        scale = np.where(np.isfinite(box.upper) & (scale <= 0), box.upper - box.lower, scale)
        scale = np.where(scale > 0, scale, 1.0)
        self.scale = np.where(discrete & program.integer, 1.0, scale)
        self.elastic = np.flatnonzero(elastic)
        self.model = _Model(
            {
                "tokens": used.size,
                "utility": self.gaining.size,
                "cost": charges.size,
                "switch": self.switched.size,
                "miss": self.elastic.size,
                "margin": 1,
            }
        )
        self._rows(rows, curves, elastic)
        self._floors(floors, elastic)
        self._tangents()
        self._switches()

    def _rows(self, rows: sparse.csr_array, curves: sparse.csr_array, elastic: BoolArray) -> None:
        box, r = self.box, self.selection.rows
        self.size = row_sizes(self.program)[r]
        sense, level = self.program.sense_array[r], self.program.right_hand_side[r]
        missed = self._miss_columns(elastic)[: r.size]
        for name, sign, part in (
            ("at most", 1.0, np.flatnonzero(sense != ">=")),
            ("at least", -1.0, np.flatnonzero(sense != "<=")),
        ):
            factor = sign / self.size[part]
            at_lower = rows[part] @ box.lower
            self.model.add(
                name,
                {
                    "tokens": _scaled(rows[part][:, self.used], factor, self.scale[self.used]),
                    "cost": _scaled(
                        curves[part][:, self.charged], factor, self.scale[self.charged]
                    ),
                    "miss": -missed[part],
                    "margin": _column(np.diff(curves[part].indptr) > 0),
                },
                factor * (level[part] - at_lower) + self._slack(part.size),
            )
        self.at_most, self.at_least = np.flatnonzero(sense != ">="), np.flatnonzero(sense != "<=")

    def _floors(self, floors: sparse.csr_array, elastic: BoolArray) -> None:
        f = self.selection.floors
        self.floor_size = floor_sizes(self.program)[f]
        # What is flat needs no variable: it adds its value.
        constant = floors @ np.where(_mask(self.program.n, self.gaining), 0.0, self.box.peak)
        one = np.ones(self.gaining.size)
        self.model.add(
            "floor",
            {
                "utility": _scaled(floors[:, self.gaining], -1.0 / self.floor_size, one),
                "miss": -self._miss_columns(elastic)[self.selection.rows.size :],
                "margin": _column(np.ones(f.size)),
            },
            (constant - self.program.floor_levels[f]) / self.floor_size + self._slack(f.size),
        )

    def _slack(self, count: int) -> FloatArray:
        """Without misses to measure, what is missed by less than the tolerance is met."""
        return np.full(count, 0.0 if self.elastic.size else TOLERANCE)

    def _miss_columns(self, elastic: BoolArray) -> sparse.csr_array:
        """One row for each row and floor selected, 1 in the column of its miss."""
        places = np.full(elastic.size, -1)
        places[self.elastic] = np.arange(self.elastic.size)
        return _picks(places, self.elastic.size)

    def _tangents(self) -> None:
        box, n = self.box, self.program.n
        wanted = _mask(n, self.gaining)[box.query]
        query, slope, height = box.query[wanted], box.slope[wanted], box.height[wanted]
        self.tangents_of, self.wanted = (query, slope), np.flatnonzero(wanted)
        at_lower = height + slope * box.lower[query]
        switched = self.program.choice[query] >= 0
        of = self._place(self.switched)[query]
        base = box.flat[query]
        # With a switch z: U <= U(lower) + (height - U(lower)) z + slope b.
        self.model.add(
            "tangents",
            {
                "utility": _picks(self._place(self.gaining)[query], self.gaining.size),
                "tokens": _picks(
                    self._place(self.used)[query], self.used.size, -slope * self.scale[query]
                ),
                "switch": _picks(
                    np.where(switched, of, -1), self.switched.size, -(at_lower - base)
                ),
            },
            np.where(switched, base, at_lower),
        )
        if not self.charged.size:
            return
        wanted = _mask(n, self.charged)[box.curve_query]
        query, slope = box.curve_query[wanted], box.curve_slope[wanted]
        self.model.add(
            "curve tangents",
            {
                "cost": _picks(self._place(self.charged)[query], self.charged.size),
                "tokens": _picks(self._place(self.used)[query], self.used.size, -slope),
            },
            (box.curve_height[wanted] + slope * box.lower[query]) / self.scale[query] * _SAFETY,
        )
        start, chord = box.chords()
        query = self.charged
        self.model.add(
            "curve chords",
            {
                "cost": -_picks(np.arange(query.size), query.size),
                "tokens": _picks(self._place(self.used)[query], self.used.size, chord[query]),
            },
            -start[query] / self.scale[query],
        )

    def _switches(self) -> None:
        """b <= upper z, b >= least z, and one z at most of each choice."""
        i, box, program = self.switched, self.box, self.program
        if not i.size:
            return
        tokens, every = self._place(self.used)[i], np.arange(i.size)
        bounded = np.flatnonzero(np.isfinite(box.upper[i]) & (box.upper[i] > 0))
        at = i[bounded]
        self.model.add(
            "switched off",
            {
                "tokens": _picks(tokens[bounded], self.used.size, self.scale[at] / box.upper[at]),
                "switch": -_picks(bounded, i.size),
            },
            -box.lower[at] / box.upper[at],
        )
        # `lower` of the program is the least amount only where it may be declined.
        held = np.flatnonzero(program.semicontinuous[i] & (box.lower[i] == 0))
        at = i[held]
        self.model.add(
            "switched on",
            {
                "tokens": _picks(tokens[held], self.used.size, -self.scale[at] / program.lower[at]),
                "switch": _picks(held, i.size),
            },
            np.zeros(held.size),
        )
        choice = program.choice[i]
        names, number = np.unique(choice[choice >= 0], return_inverse=True)
        others = np.flatnonzero((program.choice >= 0) & (box.lower > 0))
        others = others[~np.isin(others, i)]
        taken = np.array([np.sum(program.choice[others] == name) for name in names])
        self.model.add(
            "choices",
            {
                "switch": sparse.csr_array(
                    (np.ones(number.size), (number, every[choice >= 0])),
                    shape=(names.size, i.size),
                )
            },
            1.0 - np.reshape(taken, names.size),
        )

    def _place(self, queries: Indices) -> Indices:
        place: Indices = np.full(self.program.n, -1, dtype=np.intp)
        place[queries] = np.arange(queries.size)
        return place

    # -------------------------------------------------------------------------- solving
    def bounds(self, margin: float = 0.0) -> tuple[FloatArray, FloatArray]:
        model, box = self.model, self.box
        least, most = np.zeros(model.width), np.full(model.width, np.inf)
        most[model.columns("tokens")] = (box.upper - box.lower)[self.used] / self.scale[self.used]
        least[model.columns("utility")] = -np.inf
        most[model.columns("utility")] = box.peak[self.gaining]
        least[model.columns("switch")] = box.lower[self.switched] > 0
        most[model.columns("switch")] = 1.0
        most[model.columns("margin")] = margin
        return least, most

    def point(self, x: FloatArray, price: FloatArray) -> Point:
        model, box, used = self.model, self.box, self.used
        tokens, share = box.lower.copy(), np.ones(self.program.n)
        tokens[used] += self.scale[used] * x[model.columns("tokens")]
        share[self.switched] = x[model.columns("switch")]
        return Point(
            np.clip(tokens, box.lower, box.upper),
            self.gaining,
            x[model.columns("utility")],
            share[self.gaining],
            self._worth(price),
            self.charged,
            self.scale[self.charged] * x[model.columns("cost")],
        )

    def _worth(self, price: FloatArray) -> FloatArray:
        """(n,) the slope of each query's tangents, each as much as the proof leans on it."""
        dual, n = -price[self.model.places["tangents"]], self.program.n
        query, slope = self.tangents_of
        total = np.bincount(query, dual, minlength=n)
        worth = np.bincount(query, dual * slope, minlength=n)
        return np.where(total > 1e-9, worth / np.where(total > 1e-9, total, 1.0), 0.0)

    def idle(self, x: FloatArray, price: FloatArray) -> Indices:
        """Tangents of the box that neither hold the point nor come near it."""
        place = self.model.places["tangents"]
        slack = self.model.limit[place] - self.model.matrix[place] @ x
        far = slack > _NEAR * self.box.peak[self.tangents_of[0]]
        idle: Indices = self.wanted[far & (price[place] > -1e-12)]
        return idle

    def short(self, point: Point, allowed: Allowed) -> float:
        """What rows and floors are missed by, relatively and in sum, by the curves themselves."""
        rows, floors, program = self.selection.rows, self.selection.floors, self.program
        values = np.where(_mask(program.n, self.gaining), 0.0, self.box.peak)
        values[self.gaining] = allowed.utility
        costs = np.zeros(program.n)
        costs[self.charged] = allowed.cost
        missing = program.floor_levels[floors] - program.floors[floors] @ values
        excess = program.rows[rows] @ point.tokens + program.curve_rows[rows] @ costs
        excess -= program.right_hand_side[rows]
        sense = program.sense_array[rows]
        over = np.where(sense == ">=", -excess, np.where(sense == "<=", excess, np.abs(excess)))
        relative = [over / self.size, missing / self.floor_size]
        return float(np.maximum(np.concatenate(relative), 0.0).sum())

    def misses(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of every selected row and floor, in its own unit."""
        missed = np.zeros(self.selection.rows.size + self.selection.floors.size)
        missed[self.elastic] = np.maximum(x[self.model.columns("miss")], 0.0)
        return missed[: self.size.size] * self.size, missed[self.size.size :] * self.floor_size


def measure(
    box: Box,
    selection: Selection,
    deadline: Deadline,
    *,
    elastic: BoolArray | None = None,
    exactly: bool = False,
) -> Nearest:
    """By how little the selected rows and floors can be missed together within the box.

    Args:
        box: the bounds; tangents that are needed are added to it.
        selection: the rows and floors that must be met.
        deadline: when to give up.
        elastic: which of the selection may be missed, rows first; all of it by default.
        exactly: go on adding tangents until the misses no longer change, and not only until it is
            known whether there are any.
    """
    count = selection.rows.size + selection.floors.size
    elastic = np.ones(count, dtype=bool) if elastic is None else elastic
    if box.gap.any() or count == 0:
        return _answer(selection, bool(box.gap.any()), np.inf if box.gap.any() else 0.0)
    latest, margin = _answer(selection, None, 0.0), 0.0 if exactly else 1.0
    for _ in range(_ROUNDS):
        if deadline.over:
            break
        assembled = _Assembled(box, selection, elastic, discrete=False)
        solved = _solve(assembled, deadline.left, margin)
        if solved is not None and margin and not solved.proven and solved.missed > TOLERANCE:
            margin = 0.0
            solved = _solve(assembled, deadline.left, margin)
        if solved is None:
            break
        if solved.x is None:
            return _answer(selection, True, np.inf)
        rows, floors = assembled.misses(solved.x)
        point = assembled.point(solved.x, solved.price)
        # Next to amounts far above the level, a miss of the level may be rounding.
        size = np.maximum(assembled.size, box.program.activity_size(point.tokens)[selection.rows])
        relative = float((rows / size).sum() + (floors / assembled.floor_size).sum())
        infeasible = solved.proven and relative > TOLERANCE
        involved = _involved(assembled, solved.price)
        slow = 0 < solved.missed - latest.missed < _GROWTH * solved.missed
        latest = _answer(
            selection, True if infeasible else None, solved.missed, (rows, floors), involved
        )
        if infeasible and not exactly:
            return latest
        allowed = box.allowed(point)
        short = assembled.short(point, allowed)
        if not infeasible and short <= 2 * TOLERANCE:
            return _answer(selection, False, short)
        if infeasible and (short <= solved.missed * (1.0 + 1e-6) or slow):
            break
        box.refine(allowed, assembled.idle(solved.x, solved.price))
    return latest


@dataclass(frozen=True, eq=False)
class _Solved:
    """The linear program's answer; without `x` nothing elastic can make up for the rest."""

    x: FloatArray | None
    missed: float
    proven: bool
    price: FloatArray


def _solve(assembled: _Assembled, time_limit: float, margin: float) -> _Solved | None:
    """Least misses; where there are none and `margin` > 0, floors met with room to spare.

    Room, so that the point stays feasible with the curves in the place of their tangents. It costs
    little, so that a lower bound with it is one without it.
    """
    model = assembled.model
    least, most = assembled.bounds(margin)
    cost = np.zeros(model.width)
    cost[model.columns("miss")] = 1.0
    cost[model.columns("margin")] = -_ROOM
    matrix, limit = model.matrix, model.limit
    answer = optimize.linprog(
        cost,
        A_ub=matrix,
        b_ub=limit,
        bounds=np.column_stack([least, most]),
        method="highs" if assembled.program.n <= _MANY else "highs-ipm",
        options={
            "primal_feasibility_tolerance": _SOLVER_TOLERANCE,
            "dual_feasibility_tolerance": _SOLVER_TOLERANCE,
            "time_limit": max(time_limit, 1e-3),
        },
    )
    if answer.status == 2:
        return _Solved(None, np.inf, True, np.zeros(0))
    if answer.status != 0 or answer.x is None:
        return None
    price = np.minimum(answer.ineqlin.marginals, 0.0)
    # Without what has next to no price, so that the rest is proven to conflict by itself.
    rows, floors = _involved(assembled, price)
    price[assembled.model.places["at most"]] *= rows[assembled.at_most]
    price[assembled.model.places["at least"]] *= rows[assembled.at_least]
    price[assembled.model.places["floor"]] *= floors
    proven = _dual_value(matrix, limit, cost, least, most, price) > TOLERANCE
    missed = float(np.maximum(answer.x[model.columns("miss")], 0.0).sum())
    return _Solved(answer.x, missed, proven, price)


def meets_discretely(
    box: Box, selection: Selection, deadline: Deadline, *, elastic: BoolArray | None = None
) -> Nearest:
    """As `measure`, with whole tokens, least amounts and choices: a mixed-integer program.

    Its floors are still those of the relaxation, so that only `infeasible` is a proof. By default
    nothing may be missed; with `elastic` the misses are measured and nothing is proven.
    """
    count = selection.rows.size + selection.floors.size
    left = deadline.left
    if box.gap.any() or count == 0:
        return _answer(selection, bool(box.gap.any()), np.inf if box.gap.any() else 0.0)
    if left <= 0:
        return _answer(selection, None, 0.0)
    elastic = np.zeros(count, dtype=bool) if elastic is None else elastic
    assembled = _Assembled(box, selection, elastic, discrete=True)
    model, program = assembled.model, box.program
    least, most = assembled.bounds()
    whole = np.zeros(model.width, dtype=int)
    whole[model.columns("tokens")] = program.integer[assembled.used]
    whole[model.columns("switch")] = 1
    cost = np.zeros(model.width)
    cost[model.columns("miss")] = 1.0
    answer = optimize.milp(
        cost,
        integrality=whole,
        bounds=optimize.Bounds(least, most),
        constraints=optimize.LinearConstraint(model.matrix, -np.inf, model.limit)
        if model.blocks
        else None,
        options={"time_limit": left, "mip_rel_gap": 1e-6},
    )
    if answer.status == 2:
        return _answer(selection, True, np.inf)
    if answer.x is None:
        return _answer(selection, None, 0.0)
    if not elastic.any():
        return _answer(selection, False, 0.0)
    return _answer(selection, None, float(answer.fun), assembled.misses(answer.x))


def _answer(
    selection: Selection,
    infeasible: bool | None,
    missed: float,
    misses: tuple[FloatArray, FloatArray] | None = None,
    involved: tuple[BoolArray, BoolArray] | None = None,
) -> Nearest:
    k, j = selection.rows.size, selection.floors.size
    rows, floors = misses or (np.zeros(k), np.zeros(j))
    with_rows, with_floors = involved or (np.ones(k, dtype=bool), np.ones(j, dtype=bool))
    return Nearest(infeasible, missed, rows, floors, with_rows, with_floors)


def _dual_value(
    matrix: sparse.csr_array,
    limit: FloatArray,
    cost: FloatArray,
    least: FloatArray,
    most: FloatArray,
    price: FloatArray,
) -> float:
    """What the prices alone prove: a lower bound on the optimum, whatever the solver's point."""
    reduced = cost - matrix.T @ price
    # No prices are exact: next to an infinite bound a reduced cost of this size counts as 0.
    endless = np.where(reduced > 0, np.isinf(least), np.isinf(most))
    reduced = np.where(endless & (np.abs(reduced) <= 1e-8), 0.0, reduced)
    end = np.where(reduced > 0, least, most)
    return float(price @ limit + (reduced * np.where(reduced == 0, 0.0, end)).sum())


def _involved(assembled: _Assembled, price: FloatArray) -> tuple[BoolArray, BoolArray]:
    """The rows and floors with a price: alone they conflict already."""
    places = assembled.model.places
    rows = np.zeros(assembled.size.size, dtype=bool)
    rows[assembled.at_most] |= price[places["at most"]] < -1e-9
    rows[assembled.at_least] |= price[places["at least"]] < -1e-9
    return rows, price[places["floor"]] < -1e-9


# ------------------------------------------------------------------------------------ arrays
def _columns(matrix: sparse.csr_array) -> Indices:
    return np.unique(matrix.indices[matrix.data != 0]).astype(np.intp)


def _mask(n: int, *indices: Indices) -> BoolArray:
    mask = np.zeros(n, dtype=bool)
    for index in indices:
        mask[index] = True
    return mask


def _scaled(matrix: sparse.csr_array, rows: FloatArray, columns: FloatArray) -> sparse.csr_array:
    entries = matrix.tocoo()
    data = entries.data * rows[entries.row] * columns[entries.col]
    return sparse.csr_array((data, (entries.row, entries.col)), shape=matrix.shape)


def _column(values: NDArray[np.generic]) -> sparse.csr_array:
    return sparse.csr_array(values.astype(np.float64)[:, None])


def _picks(places: Indices, width: int, values: FloatArray | None = None) -> sparse.csr_array:
    """Rows with one entry each, at `places`; none where that is -1."""
    values = np.ones(places.size) if values is None else values
    there = np.flatnonzero(places >= 0)
    return sparse.csr_array(
        (values[there], (there, places[there])), shape=(places.size, max(width, 0))
    )
