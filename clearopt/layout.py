"""Where each allocation's queries stand in a program, and which utility and curve each has."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.errors import DeclarationError
from clearopt.expressions import Atom, Expression
from clearopt.program import CurveBlock, UtilityBlock
from clearopt.program import positions as positions_of
from clearopt.utilities import Utility
from clearopt.utilities.family import Family
from clearopt.utilities.total import Total


class _Claim(NamedTuple):
    """One distinct family on the queries `positions` (m,) of the program."""

    family: Any
    where: slice | NDArray[np.intp]  # as a slice where they have no gaps
    layer: int  # 0, or how many other utilities stand below it on its queries

    @property
    def positions(self) -> NDArray[np.intp]:
        return positions_of(self.where)


class Layout:
    """The queries of all allocations, laid end to end, and what applies to them."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self.allocations = _distinct(
            owner
            for expression in expressions
            for owner in (
                *expression.linear,
                *(atom.allocation for atom in expression.utilities),
                *(atom.allocation for atom in expression.curves),
            )
        )
        if not self.allocations:
            raise DeclarationError(
                "Problem: no Allocation occurs in it; there is nothing to decide"
            )
        names = [a.name for a in self.allocations]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DeclarationError(
                f"Problem: two allocations are named {twice!r}: give each a name of its own, "
                "Allocation(..., name=...)"
            )
        starts = np.cumsum([0, *(a.length for a in self.allocations)])
        self.n = int(starts[-1])
        self._start = {id(a): int(s) for a, s in zip(self.allocations, starts, strict=False)}
        self.utilities = _Stack(self, _distinct(a for e in expressions for a in e.utilities))
        self.curves = _Stack(self, _distinct(a for e in expressions for a in e.curves))
        if self.curves.depth > 1:
            query = int(np.argmax(self.curves.count > 1))
            raise DeclarationError(
                f"{self.name_of(query)} has two different cost curves; a query's answers have one "
                "law of length. Build the vector once, cost = co.ExpectedTokens(...)(tokens), and "
                "use it throughout"
            )
        self.shares = np.zeros((self.utilities.depth, self.n))  # see `settle_sums`

    def where(self, atom: Atom[Any]) -> slice | NDArray[np.intp]:
        """Where the atom's queries stand in the program; a slice where they have no gaps."""
        start, where = self._start[id(atom.allocation)], atom.where
        if isinstance(where, slice):
            return slice(where.start + start, where.stop + start)
        return where + start if start else where

    def columns(self, atom: Atom[Any], members: NDArray[Any]) -> NDArray[Any]:
        """Where some of the atom's members stand in the program."""
        where = self.where(atom)
        return _shifted(members, where.start) if isinstance(where, slice) else where[members]

    def name_of(self, query: int) -> str:
        """How a user knows a query: by number, or by allocation where there are several."""
        if len(self.allocations) == 1:
            return f"query {query}"
        for allocation in reversed(self.allocations):
            start = self._start[id(allocation)]
            if query >= start:
                return f"{allocation.name}[{query - start}]"
        raise IndexError(query)

    def entries(self, option: Expression) -> NDArray[np.intp]:
        """Where the entries of an allocation, or of a part of one, stand."""
        allocation, matrix = next(iter(option.linear.items()))
        return matrix.indices.astype(np.intp) + self._start[id(allocation)]

    # ------------------------------------------------------------------ matrices
    def linear_matrix(self, expression: Expression) -> sparse.csr_array:
        """What the expression charges for each query's tokens, (length, n)."""
        parts = [
            _placed(matrix, _shifted(matrix.indices, self._start[id(allocation)]), self.n)
            for allocation, matrix in expression.linear.items()
        ]
        return _total(parts, (expression.length, self.n))

    def curve_matrix(self, expression: Expression) -> sparse.csr_array:
        """What it charges for each query's cost curve, (length, n)."""
        parts = [
            _placed(matrix, self.columns(atom, matrix.indices), self.n)
            for atom, matrix in expression.curves.items()
        ]
        return _total(parts, (expression.length, self.n))

    def utility_matrix(self, expression: Expression, name: str) -> sparse.csr_array:
        """Weights on each query's own utility, (length, n).

        Where a query's utility is a sum of several, they must be asked for in the sum's shares.
        """
        layers = self._layers(expression)
        if len(layers) == 1:
            return layers[0]
        stacked = np.flatnonzero(self.utilities.count > 1)
        # The query's weight on the sum, read off the layer with the greatest share.
        leading = np.argmax(self.shares, axis=0)
        merged = sparse.csr_array((expression.length, self.n))
        for layer, matrix in enumerate(layers):
            share = np.where(leading == layer, self.shares[layer], 0.0)
            inverse = np.where(share > 0, 1.0 / np.where(share > 0, share, 1.0), 0.0)
            merged = sparse.csr_array(merged + matrix.multiply(inverse[None, :]))
        for layer, matrix in enumerate(layers):
            wanted = merged.multiply(self.shares[layer][None, :]).tocsr()[:, stacked]
            difference = abs(wanted - matrix[:, stacked])
            if difference.nnz and difference.max() > 1e-9 * max(abs(matrix).max(), 1e-300):
                query = int(stacked[difference.tocoo().col[np.argmax(difference.tocoo().data)]])
                raise DeclarationError(
                    f"{name}: `{expression.text}`: {self.name_of(query)} has a sum of two "
                    "utilities, and here they are not weighted as in the objective; a query has "
                    "one utility, so its parts must keep their proportion everywhere"
                )
        merged.eliminate_zeros()
        return merged

    def settle_sums(self, expressions: Sequence[Expression]) -> None:
        """Fix the shares in which several utilities of one query add up: as first asked for."""
        if self.utilities.depth == 1:
            self.shares = np.broadcast_to(1.0, (1, self.n))
            return
        for expression in expressions:
            weights = np.stack(
                [np.asarray(abs(m).max(axis=0).toarray()).ravel() for m in self._layers(expression)]
            )
            unsettled = self.shares.sum(axis=0) == 0
            self.shares = np.where(unsettled, weights, self.shares)
        alone = (self.utilities.count <= 1) | (self.shares.sum(axis=0) == 0)
        self.shares[:, alone] = 0.0
        self.shares[0, alone] = 1.0

    def _layers(self, expression: Expression) -> list[sparse.csr_array]:
        depth = max(self.utilities.depth, 1)
        parts: list[list[sparse.csr_array]] = [[] for _ in range(depth)]
        for atom, matrix in expression.utilities.items():
            if depth == 1:
                parts[0].append(_placed(matrix, self.columns(atom, matrix.indices), self.n))
                continue
            layer = self.utilities.layer_of(atom)
            for k in np.unique(layer).tolist():
                there = matrix if (layer == k).all() else _columns(matrix, layer == k)
                parts[k].append(_placed(there, self.columns(atom, there.indices), self.n))
        return [_total(part, (expression.length, self.n)) for part in parts]

    # ------------------------------------------------------------------ blocks
    def utility_blocks(self) -> tuple[UtilityBlock, ...]:
        """The families of the program; sums of utilities are one family."""
        stack = self.utilities
        if stack.depth <= 1:
            return tuple(UtilityBlock(c.family, c.where) for c in stack.claims)
        blocks = []
        alone = stack.count <= 1
        for claim in stack.claims:
            here = np.flatnonzero(alone[claim.positions])
            if here.size:
                blocks.append(UtilityBlock(claim.family.take(here), claim.positions[here]))
        stacked = np.flatnonzero(~alone)
        most = np.concatenate([allocation.upper for allocation in self.allocations])
        member = np.full((len(stack.claims), self.n), -1, dtype=np.intp)
        for k, claim in enumerate(stack.claims):
            member[k, claim.positions] = np.arange(claim.positions.size)
        _, group = np.unique(member[:, stacked] >= 0, axis=1, return_inverse=True)
        for number in range(int(group.max()) + 1):
            queries = stacked[np.ravel(group) == number]
            present = [k for k in range(len(stack.claims)) if member[k, queries[0]] >= 0]
            parts: list[Utility] = [
                stack.claims[k].family.take(member[k, queries]) for k in present
            ]
            weights = [self.shares[stack.claims[k].layer, queries] for k in present]
            try:
                blocks.append(UtilityBlock(Total.of(parts, weights, most[queries]), queries))
            except DeclarationError as error:
                shown = ", ".join(self.name_of(int(query)) for query in queries[:3])
                more = f" and {queries.size - 3} more" if queries.size > 3 else ""
                raise DeclarationError(
                    f"{shown}{more} have several utilities, which add up: {error}"
                ) from error
        return tuple(blocks)

    def curve_blocks(self) -> tuple[CurveBlock, ...]:
        """The cost curves of the program."""
        return tuple(CurveBlock(c.family, c.positions) for c in self.curves.claims)


class _Stack:
    """The distinct families on each query: naming the same one twice is the same one."""

    def __init__(self, layout: Layout, atoms: Sequence[Atom[Any]]) -> None:
        self.claims: list[_Claim] = []
        self.count = np.zeros(layout.n, dtype=np.int16)
        self._layer: dict[int, NDArray[np.intp]] = {}
        for atom in atoms:
            where = layout.where(atom)
            if not self.count[where].any():  # the usual case: nobody was there before
                self._claim(atom, None, where, 0)
                self._layer[id(atom)] = np.broadcast_to(np.intp(0), (atom.size,))
                continue
            positions = positions_of(where)
            layer = np.full(positions.size, -1, dtype=np.intp)
            for claim in self.claims:
                mine, theirs = _shared(positions, claim.positions, layout.n)
                same = mine[_equal(atom.family, mine, claim.family, theirs)]
                layer[same] = claim.layer
            depth = np.where(layer < 0, self.count[positions], -1)
            for k in np.unique(depth[depth >= 0]).tolist():
                members = np.flatnonzero(depth == k)
                self._claim(atom, members, positions[members], k)
                layer[members] = k
            self._layer[id(atom)] = layer

    def _claim(
        self,
        atom: Atom[Any],
        members: NDArray[np.intp] | None,  # None for all
        where: slice | NDArray[np.intp],
        layer: int,
    ) -> None:
        whole = members is None or members.size == atom.size
        family = atom.family if whole or members is None else atom.family.take(members)
        self.claims.append(_Claim(family, where, layer))
        self.count[where] += 1

    @property
    def depth(self) -> int:
        """The most families that any one query has; at least 1."""
        return max(int(self.count.max(initial=0)), 1)

    def layer_of(self, atom: Atom[Any]) -> NDArray[np.intp]:
        """For each member of the atom, which of its query's families it is."""
        return self._layer[id(atom)]


def _distinct(things: Any) -> list[Any]:
    """Without repetition, in order; by identity, as equality of expressions is a constraint."""
    found: dict[Hashable, Any] = {}
    for thing in things:
        found.setdefault(id(thing), thing)
    return list(found.values())


def _shared(
    first: NDArray[np.intp], second: NDArray[np.intp], n: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The members of both that stand at the same queries."""
    place = np.full(n, -1, dtype=np.intp)
    place[second] = np.arange(second.size)
    mine = np.flatnonzero(place[first] >= 0)
    return mine, place[first[mine]]


def _equal(
    first: Family, mine: NDArray[np.intp], second: Family, theirs: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Which members have the same family and the same parameters."""
    if first.kind != second.kind or not mine.size:
        return np.zeros(mine.size, dtype=bool)
    same = np.ones(mine.size, dtype=bool)
    for left, right in zip(first.parameters, second.parameters, strict=True):
        equal = np.asarray(left)[mine] == np.asarray(right)[theirs]
        same &= equal.reshape(mine.size, -1).all(axis=1)
    return same


def _columns(matrix: sparse.csr_array, wanted: NDArray[np.bool_]) -> sparse.csr_array:
    """The matrix with the other columns emptied."""
    emptied = sparse.csr_array(matrix.multiply(wanted[None, :].astype(np.float64)))
    emptied.eliminate_zeros()
    return emptied


def _shifted(indices: NDArray[Any], start: int) -> NDArray[Any]:
    return indices + start if start else indices


def _placed(matrix: sparse.csr_array, columns: NDArray[Any], n: int) -> sparse.csr_array:
    """The matrix with each entry's column replaced by `columns`, one an entry."""
    return sparse.csr_array((matrix.data, columns, matrix.indptr), shape=(matrix.shape[0], n))


def _total(parts: list[sparse.csr_array], shape: tuple[int, int]) -> sparse.csr_array:
    """The sum, in a matrix of its own without duplicates or stored zeros."""
    if len(parts) == 1 and parts[0].has_canonical_format and bool(parts[0].data.all()):
        return parts[0]
    matrix = parts[0].copy() if parts else sparse.csr_array(shape)
    for part in parts[1:]:
        matrix = sparse.csr_array(matrix + part)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
