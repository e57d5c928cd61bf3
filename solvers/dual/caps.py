"""Caps on groups that share no query, and at most one budget over everybody: a program's structure.

The members of a cap are its row's own column indices: nothing is sorted, or copied, to go through
the queries cap by cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.program import PIECE, Program
from clearopt.solvers.dual.blocks import (
    SMALL_BLOCK,
    ArraySource,
    Block,
    Group,
    OneProcess,
    compact,
    padded,
    stratified,
)
from clearopt.solvers.dual.cap_kernels import compiled
from clearopt.solvers.dual.large_program import at_least, charged
from clearopt.sums import times
from clearopt.validation import FloatArray

_SAME = 1e-11  # relative; what is that close differs by rounding


@dataclass(frozen=True, eq=False)
class Caps:
    """The structure.

    Attributes:
        program: a plain one.
        rows: (G,) the program's rows that are caps, rising.
        levels: (G,) their right-hand sides, whole where everything they count is.
        budget_row: the row over everybody, or None.
        budget: its right-hand side; infinite where there is none.
        charge: (n,) or () what that row charges for a token.
        ratio: (G,) what it charges for what a cap counts as one.
        rest: the queries under no cap.
    """

    program: Program
    rows: NDArray[np.intp]
    levels: FloatArray
    budget_row: int | None
    budget: float
    charge: FloatArray
    ratio: FloatArray
    rest: NDArray[np.int32]

    @property
    def count(self) -> int:
        return int(self.rows.size)

    @cached_property
    def sizes(self) -> NDArray[np.intp]:
        """(G,) queries under each cap."""
        return np.diff(self.program.rows.indptr)[self.rows].astype(np.intp)

    def members(self, g: int) -> NDArray[Any]:
        """The queries under one cap; a view."""
        ends = self.program.rows.indptr
        return np.asarray(self.program.rows.indices[ends[self.rows[g]] : ends[self.rows[g] + 1]])

    def coefficients(self, g: int) -> FloatArray:
        """What it charges each of them for a token; a view."""
        ends = self.program.rows.indptr
        return np.asarray(self.program.rows.data[ends[self.rows[g]] : ends[self.rows[g] + 1]])

    def chunks(self, numbers: NDArray[np.intp], places: int) -> Iterator[NDArray[np.intp]]:
        """These caps, as many at a time as have `places` queries together, or one larger one."""
        ends = np.cumsum(np.r_[0, self.sizes[numbers]])
        start = 0
        while start < numbers.size:
            stop = int(np.searchsorted(ends, ends[start] + places, side="right")) - 1
            stop = max(stop, start + 1)
            yield numbers[start:stop]
            start = stop

    def used(self, tokens: FloatArray) -> FloatArray:
        """(G,) what an allocation comes to under every cap."""
        return times(self.program.rows, tokens)[self.rows]


def find_caps(program: Program) -> Caps | None:
    """The structure of a plain program with several rows; None where it has another one."""
    rows, n = program.rows, program.n
    lengths = np.diff(rows.indptr)
    if lengths.size < 2 or not lengths.all() or not float(rows.data.min()) > 0:
        return None
    budget_row: int | None = None
    covered = _covered_once(rows, None)
    if covered is None:
        budget_row = int(np.argmax(lengths))
        covered = _covered_once(rows, budget_row)
    if covered is None:
        return None
    caps = np.flatnonzero(np.arange(lengths.size) != (-1 if budget_row is None else budget_row))
    charge, budget = np.zeros(()), np.inf
    if budget_row is not None:
        charge = _coefficient(rows, budget_row, n)
        budget = float(program.right_hand_side[budget_row])
        if program.integer.all() and bool((charge == np.round(charge)).all()):
            budget = float(np.floor(budget + 1e-9))
        budget = at_least(budget, charged(charge, program.lower))
    ratio = _ratios(rows, caps, charge)
    if ratio is None:
        return None
    levels = program.right_hand_side[caps].astype(np.float64)
    if program.integer.all():
        whole = _whole_rows(rows)[caps]
        levels = np.where(whole, np.floor(levels + 1e-9), levels)
    # What is meant to be the sum of the lower bounds, added up in another order, is that.
    least = times(rows, program.lower)[caps]
    meant = (levels < least) & (least <= levels + _SAME * np.abs(levels))
    return Caps(
        program,
        caps,
        np.where(meant, least, levels),
        budget_row,
        budget,
        charge,
        ratio,
        np.flatnonzero(~covered).astype(np.int32),
    )


def _covered_once(rows: sparse.csr_array, without: int | None) -> NDArray[np.bool_] | None:
    """(n,) whether a row charges each query, one row left out; None where several do."""
    covered = np.zeros(rows.shape[1], dtype=bool)
    ends = [(0, rows.nnz)]
    if without is not None:
        ends = [(0, int(rows.indptr[without])), (int(rows.indptr[without + 1]), rows.nnz)]
    for first, last in ends:
        for start in range(first, last, PIECE):
            covered[rows.indices[start : min(start + PIECE, last)]] = True
    entries = sum(last - first for first, last in ends)
    return covered if int(np.count_nonzero(covered)) == entries else None


def _coefficient(rows: sparse.csr_array, row: int, n: int) -> FloatArray:
    """(n,) what a row charges for a token; () where it charges everybody the same."""
    part = slice(int(rows.indptr[row]), int(rows.indptr[row + 1]))
    data, index = rows.data[part], rows.indices[part]
    if data.size == n:
        same = compact(data)
        if same.ndim == 0:
            return same
    charge = np.zeros(n)
    charge[index] = data
    return charge


def _ratios(
    rows: sparse.csr_array, caps: NDArray[np.intp], charge: FloatArray
) -> FloatArray | None:
    """(G,) charge : coefficient of each cap's queries; None where it is not one number, exactly."""
    first = rows.indptr[caps]
    at_first = charge if charge.ndim == 0 else charge[rows.indices[first]]
    ratio = np.asarray(at_first / rows.data[first])
    if charge.ndim == 0 and rows.data.strides == (0,):
        return ratio if bool((ratio * rows.data[0] == charge).all()) else None
    for cap, start, share in zip(caps.tolist(), first.tolist(), ratio.tolist(), strict=True):
        part = slice(start, int(rows.indptr[cap + 1]))
        there = charge if charge.ndim == 0 else charge[rows.indices[part]]
        if not (share * rows.data[part] == there).all():
            return None
    return ratio


def _whole_rows(rows: sparse.csr_array) -> NDArray[np.bool_]:
    """(K,) whether all coefficients of a row are whole numbers."""
    if rows.data.strides == (0,):
        return np.full(rows.shape[0], float(rows.data[0]).is_integer())
    broken = np.flatnonzero(rows.data != np.round(rows.data))
    whole = np.ones(rows.shape[0], dtype=bool)
    whole[np.searchsorted(rows.indptr, broken, side="right") - 1] = False
    return whole


# -------------------------------------------------------------------------------- queries
class Queries(ArraySource):
    """The queries of a program, by number."""

    @cached_property
    def _place(self) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """(n,) the part each query belongs to, and which of its members it is; None for one part
        in which members are queries."""
        only = self._parts[0].index if len(self._parts) == 1 else None
        if isinstance(only, slice) and only.start == 0:
            return None
        part, member = np.zeros((2, self.program.n), dtype=np.int32)
        for number, one in enumerate(self._parts):
            part[one.index] = number
            member[one.index] = np.arange(one.size, dtype=np.int32)
        return part, member

    def groups(self, index: NDArray[Any]) -> list[tuple[slice | NDArray[np.intp], Group]]:
        """The queries at `index`, kind by kind: their positions in it, and what they are."""
        if self._place is None:
            return [(slice(0, index.size), Group(self._parts[0].kind, self._columns(0, index)))]
        part, member = self._place[0][index], self._place[1][index]
        found: list[tuple[slice | NDArray[np.intp], Group]] = []
        for number in np.unique(part).tolist():
            here = np.flatnonzero(part == number)
            group = Group(self._parts[number].kind, self._columns(number, member[here]))
            found.append((here, group))
        return found

    def _columns(self, number: int, members: NDArray[Any]) -> Any:
        return self._parts[number].columns(members)


class Chosen(OneProcess):
    """Some queries of a program as a source of blocks, read afresh for every pass.

    Args:
        queries: all of them.
        index: the numbers of those chosen, in several arrays, none of them empty.
        places: of a block.
    """

    def __init__(self, queries: Queries, index: list[NDArray[Any]], places: int) -> None:
        super().__init__(places)
        self.queries, self.index = queries, index
        self._ends = np.cumsum([part.size for part in index])

    @property
    def size(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def blocks(self) -> Iterator[Block]:
        for index in self._pieces():
            for positions, group in self.queries.groups(index):
                here, count = index[positions], index[positions].size
                columns, valid = group.columns, self._all_valid
                if count < self.places:
                    columns, valid = padded(columns, count, self.places)
                yield Block(group.kind, columns, valid, group.columns, count, here)

    def _pieces(self) -> Iterator[NDArray[Any]]:
        """The numbers, as many at a time as a block has places."""
        held: list[NDArray[Any]] = []
        size = 0
        for part in self.index:
            start = 0
            while start < part.size:
                taken = part[start : start + self.places - size]
                held.append(taken)
                size, start = size + taken.size, start + taken.size
                if size == self.places:
                    yield np.concatenate(held)
                    held, size = [], 0
        if size:
            yield np.concatenate(held)

    def sample(self, size: int) -> list[tuple[Group, float]]:
        return [(group, stands_for) for group, stands_for, _ in self.sample_of_parts(size)]

    def sample_of_parts(self, size: int) -> list[tuple[Group, float, NDArray[np.intp]]]:
        """A sample, how many each in it stands for, and which array of `index` each is from."""
        drawn = stratified(self.size, size)
        part = np.searchsorted(self._ends, drawn, side="right")
        starts, index = np.r_[0, self._ends], np.empty(drawn.size, dtype=np.intp)
        for number in np.unique(part).tolist():
            mine = part == number
            index[mine] = self.index[number][drawn[mine] - starts[number]]
        return [
            (Group(g.kind, g.columns.full(part[at].size)), self.size / drawn.size, part[at])
            for at, g in self.queries.groups(index)
        ]


# -------------------------------------------------------------------------------- a chunk
class Chunk:
    """The queries under a few caps, ready to be asked at their caps' prices.

    Args:
        caps: the structure.
        queries: all queries.
        which: (g,) the caps, by number.
        places: the arrays that JAX is handed are padded to a multiple of so many.

    Attributes:
        index: (m,) the queries.
        label: (m,) which of the g caps each is under.
    """

    def __init__(
        self, caps: Caps, queries: Queries, which: NDArray[np.intp], places: int = SMALL_BLOCK
    ) -> None:
        numbers = which.tolist()
        self.count = len(numbers)
        self.index = np.concatenate([caps.members(g) for g in numbers])
        self.label = np.repeat(np.arange(self.count), caps.sizes[which])
        self.size = self.index.size
        coefficient = compact(np.concatenate([caps.coefficients(g) for g in numbers]))
        self.whole = False
        self._parts, self._hosts = [], []
        for positions, group in queries.groups(self.index):
            label = self.label[positions]
            mine = coefficient if coefficient.ndim == 0 else coefficient[positions]
            host = group.columns._replace(coefficient=mine)
            self.whole |= host.integer is not None and bool(np.any(host.integer))
            columns, valid = padded(host, label.size, -(-label.size // places) * places)
            self._parts.append((positions, group.kind, columns, valid))
            self._hosts.append((label, Group(group.kind, host)))

    def ask(self, question: str, *each: FloatArray | NDArray[np.bool_]) -> list[NDArray[Any]]:
        """The answers of `cap_kernels`, (m,) each, to what is told of every query, (m,) each."""
        import jax

        answers: list[NDArray[Any]] | None = None
        for positions, kind, columns, valid in self._parts:
            told = [_padded(array[positions], valid.size) for array in each]
            with jax.enable_x64(True):
                found = compiled(question, kind)(columns, valid, *told)
            if isinstance(positions, slice):
                return [np.asarray(answer)[: self.size] for answer in found]
            if answers is None:
                answers = [np.empty(self.size, answer.dtype) for answer in found]
            for answer, mine in zip(answers, found, strict=True):
                answer[positions] = np.asarray(mine)[: positions.size]
        assert answers is not None
        return answers

    def sample(self, size: int) -> list[tuple[NDArray[np.intp], Group, int]]:
        """About so many queries: their caps, what they are, and how many each stands for."""
        stride = max(self.size // size, 1)
        return [
            (
                label[::stride],
                Group(g.kind, g.columns.full(label.size).take(slice(None, None, stride))),
                stride,
            )
            for label, g in self._hosts
        ]

    def totals(self, values: FloatArray) -> FloatArray:
        """(g,) the sum of (m,) values by cap."""
        return np.asarray(np.bincount(self.label, values, minlength=self.count), dtype=np.float64)


def _padded(array: NDArray[Any], places: int) -> NDArray[Any]:
    if array.size == places:
        return array
    return np.concatenate([array, np.broadcast_to(array[-1:], (places - array.size,))])
