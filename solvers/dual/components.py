"""Rows that fall apart into independent groups: each group is a problem of its own.

Tenant caps without a common budget, pairs of queries, menus: what no row, floor or choice connects
is solved apart, and the results are put together. One search over all of them would have to close
every group's gap at once, and its nodes would multiply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from clearopt.program import CurveBlock, Program, UtilityBlock
from clearopt.solution import Solution
from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class Component:
    """One group: its program, and where its queries, rows and floors stand in the whole."""

    program: Program
    queries: NDArray[np.intp]
    rows: NDArray[np.intp]
    floors: NDArray[np.intp]

    def part_of(
        self, earlier: Solution | None, row_prices: FloatArray, floor_prices: FloatArray
    ) -> Solution | None:
        """An earlier solution of the whole for this group: its prices, NaN where not known."""
        if earlier is None:
            return None
        return replace(
            earlier,
            allocation=None,
            row_prices=row_prices[self.rows],
            floor_prices=floor_prices[self.floors],
        )


def component_labels(program: Program) -> tuple[int, NDArray[np.intp]]:
    """How many groups there are, and the group of every query, then row, then floor.

    Queries that nothing couples to others are one group together, and so are rows and floors over
    nobody.
    """
    n, k = program.n, program.rows.shape[0]
    chosen = np.flatnonzero(program.choice >= 0)
    choices = sparse.csr_array(
        (np.ones(chosen.size), (program.choice[chosen], chosen)),
        (int(program.choice.max(initial=-1)) + 1, n),
    )
    edges = sparse.vstack([program.rows, program.curve_rows, program.floors, choices]).tocoo()
    # A row and its cost curves are one node.
    node = np.r_[np.arange(k), np.arange(k), k + np.arange(edges.shape[0] - 2 * k)]
    size = n + edges.shape[0] - k
    kept = edges.data != 0
    graph = sparse.csr_array(
        (np.ones(int(kept.sum())), (edges.col[kept], n + node[edges.row[kept]])), (size, size)
    )
    count, labels = connected_components(graph, directed=False)
    alone = np.bincount(labels, minlength=count)[labels] == 1
    labels = np.where(alone, count, labels)
    _, labels = np.unique(labels[: n + k + program.floors.shape[0]], return_inverse=True)
    return int(labels.max(initial=-1)) + 1, np.ravel(labels).astype(np.intp)


def components(program: Program, count: int, labels: NDArray[np.intp]) -> Iterator[Component]:
    """The groups, one after the other."""
    n, k = program.n, program.rows.shape[0]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(count + 1))
    for g in range(count):
        members = order[starts[g] : starts[g + 1]]
        queries = members[members < n]
        rows = members[(members >= n) & (members < n + k)] - n
        yield Component(
            _part(program, queries, rows, members[members >= n + k] - n - k),
            queries,
            rows,
            members[members >= n + k] - n - k,
        )


def all_from(program: Program, labels: NDArray[np.intp], first: int) -> Component:
    """The groups from number `first` on, as one."""
    return next(components(program, 2, (labels < first).astype(np.intp)))


def _part(
    program: Program, queries: NDArray[np.intp], rows: NDArray[np.intp], floors: NDArray[np.intp]
) -> Program:
    place = np.full(program.n, -1, dtype=np.intp)
    place[queries] = np.arange(queries.size)
    utilities, curves = [], []
    for block in program.utilities:
        mine = np.flatnonzero(place[block.index] >= 0)
        if mine.size:
            utilities.append(UtilityBlock(block.family.take(mine), place[block.index[mine]]))
    for curve in program.curves:
        mine = np.flatnonzero(place[curve.index] >= 0)
        if mine.size:
            curves.append(CurveBlock(curve.family.take(mine), place[curve.index[mine]]))
    choice = program.choice[queries]
    if (choice >= 0).any():
        numbers, renumbered = np.unique(choice, return_inverse=True)
        choice = np.ravel(renumbered).astype(np.intp) - int(numbers[0] < 0)
    return replace(
        program,
        weight=program.weight[queries],
        cost=program.cost[queries],
        lower=program.lower[queries],
        upper=program.upper[queries],
        integer=program.integer[queries],
        utilities=tuple(utilities),
        rows=sparse.csr_array(program.rows[rows][:, queries]),
        senses=tuple(program.senses[r] for r in rows),
        right_hand_side=program.right_hand_side[rows],
        floors=sparse.csr_array(program.floors[floors][:, queries]),
        floor_levels=program.floor_levels[floors],
        constraints=(),
        offset=0.0,
        semicontinuous=program.semicontinuous[queries],
        choice=choice,
        curves=tuple(curves),
        curve_rows=sparse.csr_array(program.curve_rows[rows][:, queries]),
        curve_cost=program.curve_cost[queries],
        allocations=(),
        objective_text="",
        declared_lower=np.zeros(0),
        declared_upper=np.zeros(0),
    )
