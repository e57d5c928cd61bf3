"""Queries in blocks: the shape in which batches of any size pass through one compiled kernel.

A *source* hands out the same blocks again and again: slices of arrays in memory, arrays placed on
several devices, or chunks of a file. Every block of one source has the same number of places, so
that a kernel is compiled once whatever the number of queries; the last one is padded with queries
that are not `valid`. What is the same for every query stays one number and takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.utilities import CumulativeSurge, Utility
from clearopt.validation import FloatArray

SMALL_BLOCK, BLOCK = 2**14, 2**16  # places of a block: its temporaries stay in the cache
_MANY = 2**19  # queries from which blocks are the larger ones


class Columns(NamedTuple):
    """What a kernel is told of the queries of one kind: arrays (m,), or () where all agree."""

    parameters: tuple[Any, ...]  # of the utility
    weight: Any  # objective per accuracy
    cost: Any  # objective per token
    coefficient: Any  # what the row charges for a token
    lower: Any  # tokens
    upper: Any  # tokens, may be infinite
    integer: Any  # bool: tokens counted whole; None where nobody's are

    def map(self, change: Any) -> Columns:
        """The columns with every array changed alike."""
        others = (None if c is None else change(c) for c in self[1:])
        return Columns(tuple(change(p) for p in self.parameters), *others)

    def take(self, index: Any) -> Columns:
        """The queries at `index`; what all share stays one number."""
        return self.map(lambda array: array if np.ndim(array) == 0 else array[index])

    def full(self, count: int) -> Columns:
        """The columns as arrays (count,)."""
        return self.map(lambda array: np.broadcast_to(array, (count,)))


@dataclass(frozen=True, eq=False)
class Block:
    """Queries of one kind.

    Attributes:
        kind: of the utility, with `from_parameters`.
        columns: for the kernel, padded.
        valid: (places,) bool, False where padded.
        host: the unpadded columns in this process's memory.
        count: how many queries this process has in it.
        index: where they stand in this process's order of queries.
    """

    kind: Any
    columns: Columns
    valid: Any
    host: Columns
    count: int
    index: slice | NDArray[np.intp]


class Group(NamedTuple):
    """A few queries of one kind, in memory: a sample, or those that a price leaves undecided."""

    kind: Any
    columns: Columns  # each of shape (k,)

    @property
    def size(self) -> int:
        return int(self.columns.weight.shape[0])


class Source(Protocol):
    """Where blocks come from."""

    @property
    def size(self) -> int:
        """How many queries there are, those of other processes included."""

    @property
    def sharding(self) -> Any:
        """A `jax.sharding.NamedSharding` of the blocks' arrays, or None on one device."""

    def blocks(self) -> Iterator[Block]:
        """All blocks, in the same order each time."""

    def sample(self, size: int) -> list[tuple[Group, float]]:
        """About `size` queries, and how many each stands for."""

    def gathered(self, thing: Any) -> list[Any]:
        """`thing` of every process, in the order of the processes."""

    @property
    def rank(self) -> int:
        """This process's place in that order."""

    def placed(self, taken: FloatArray) -> Any:
        """Decided tokens of a block's queries, (count,), as a kernel takes them: padded by NaN."""

    def nothing_taken(self, block: Block) -> Any:
        """The same where none is decided."""


class OneProcess:
    """What sources of one process and device have in common: nothing to gather, padding by NumPy.

    Args:
        places: of a block.
    """

    sharding: Any = None
    rank: int = 0

    def __init__(self, places: int) -> None:
        self.places = places
        self._all_valid = np.ones(places, dtype=np.bool_)
        self._none = np.full(places, np.nan)

    def gathered(self, thing: Any) -> list[Any]:
        return [thing]

    def placed(self, taken: FloatArray) -> Any:
        if taken.size == self.places:
            return taken
        return np.concatenate([taken, self._none[taken.size :]])

    def nothing_taken(self, block: Block) -> Any:
        return self._none


class ArraySource(OneProcess):
    """The blocks of a program whose arrays are in memory: views of them, nothing is copied.

    Args:
        program: without rows, or with one.
        coefficient: (n,) or () what the row charges.
        places: of a block; by default as suits the number of queries.
    """

    def __init__(self, program: Program, coefficient: FloatArray, places: int | None = None):
        super().__init__(places or (BLOCK if program.n >= _MANY else SMALL_BLOCK))
        self.program = program
        shared = (
            *(compact(c) for c in (program.weight, program.cost)),
            compact(coefficient),
            *(compact(c) for c in (program.lower, program.upper)),
            compact(program.integer) if program.integer.any() else None,
        )
        self._parts = [
            _Part(
                block.family.kind,
                tuple(compact(np.asarray(p)) for p in block.family.parameters),
                shared,
                block.where,
            )
            for block in program.utilities
            if block.size
        ]
        rest = _without_utility(program)
        if rest.size:
            nothing = CumulativeSurge(scale=0.0, threshold=0.0, rate=1.0)
            worthless = (np.zeros(()), *shared[1:])
            self._parts.append(_Part(CumulativeSurge, nothing.parameters, worthless, rest))

    @property
    def size(self) -> int:
        return self.program.n

    @property
    def parts(self) -> Sequence[_Part]:
        return self._parts

    def blocks(self) -> Iterator[Block]:
        for part in self._parts:
            for start in range(0, part.size, self.places):
                stop = min(start + self.places, part.size)
                host, index = part.columns(slice(start, stop)), part.index_of(start, stop)
                columns, valid = host, self._all_valid
                if stop - start < self.places:
                    columns, valid = padded(host, stop - start, self.places)
                yield Block(part.kind, columns, valid, host, stop - start, index)

    def sample(self, size: int) -> list[tuple[Group, float]]:
        drawn = []
        for part in self._parts:
            wanted = min(part.size, max(1, -(-size * part.size // self.size)))
            members = stratified(part.size, wanted)
            columns = part.columns(members).full(members.size)
            drawn.append((Group(part.kind, columns), part.size / members.size))
        return drawn


@dataclass(frozen=True, eq=False)
class _Part:
    """The queries of one family."""

    kind: Any
    parameters: tuple[Any, ...]  # (size,) or ()
    shared: tuple[Any, ...]  # the other columns, (n,) of the program or ()
    index: slice | NDArray[np.intp]

    @property
    def size(self) -> int:
        if isinstance(self.index, slice):
            return int(self.index.stop - self.index.start)
        return int(self.index.size)

    def index_of(self, start: int, stop: int) -> slice | NDArray[np.intp]:
        if isinstance(self.index, slice):
            return slice(self.index.start + start, self.index.start + stop)
        return self.index[start:stop]

    def columns(self, members: slice | NDArray[np.intp]) -> Columns:
        if not isinstance(self.index, slice):
            at: Any = self.index[members]
        elif isinstance(members, slice):
            at = self.index_of(members.start, members.stop)
        else:
            at = members + self.index.start
        shared = [c if c is None or np.ndim(c) == 0 else c[at] for c in self.shared]
        return Columns(
            tuple(p if np.ndim(p) == 0 else p[members] for p in self.parameters), *shared
        )


def padded(host: Columns, count: int, places: int) -> tuple[Columns, NDArray[np.bool_]]:
    """The columns filled up to `places` with repetitions of the last query, and who is real."""

    def fill(array: Any) -> Any:
        if np.ndim(array) == 0:
            return array
        return np.concatenate([array, np.broadcast_to(array[-1:], (places - count,))])

    return host.map(fill), np.arange(places) < count


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or one number of shape () where all entries agree."""
    if array.ndim == 0 or array.size == 0:
        return array
    if array.strides[0] == 0 or (array[0] == array[-1] and bool((array == array[0]).all())):
        return np.array(array[0])
    return array


def stratified(size: int, wanted: int) -> NDArray[np.intp]:
    """`wanted` of `size` positions, one at random (always the same) from every stretch."""
    if wanted >= size:
        return np.arange(size)
    ends = np.linspace(0, size, wanted + 1)
    drawn = ends[:-1] + np.random.default_rng(0).random(wanted) * np.diff(ends)
    return np.minimum(drawn.astype(np.intp), size - 1)


def _without_utility(program: Program) -> NDArray[np.intp]:
    if sum(block.size for block in program.utilities) == program.n:
        return np.zeros(0, dtype=np.intp)
    covered = np.zeros(program.n, dtype=bool)
    for block in program.utilities:
        covered[block.where] = True
    return np.flatnonzero(~covered)


def traceable(families: Sequence[Utility]) -> bool:
    """Whether JAX can trace all of them, and all are S-shaped."""
    return all(f.traceable and f.s_shaped and f.counts_tokens for f in families) and all(
        np.ndim(p) <= 1 for f in families for p in f.parameters
    )
