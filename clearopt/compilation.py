"""From declared expressions to the arrays of a `Program`; refuses what is not separable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.constraints import Constraint
from clearopt.errors import DeclarationError
from clearopt.expressions import Allocation, Expression, UtilityAtom
from clearopt.program import ConstraintGroup, Program, Sense, UtilityBlock
from clearopt.validation import FloatArray


def compile_program(
    objective: Expression, constraints: Sequence[Constraint]
) -> tuple[tuple[Allocation, ...], Program]:
    """The allocations in order of appearance, and the program over their concatenation."""
    layout = _Layout([objective, *(c.expression for c in constraints)])
    n = layout.n
    weight = layout.utility_matrix(objective).toarray().ravel()
    if (weight < 0).any():
        i = int(np.argmax(weight < 0))
        raise DeclarationError(
            f"Maximize({objective.text}): query {i} has the negative weight {weight[i]:g} on its "
            "utility; less accuracy cannot be the aim. Charge tokens "
            "instead, e.g. co.sum(accuracy) - price * co.sum(tokens)"
        )
    gain_per_token = layout.linear_matrix(objective).toarray().ravel()
    lower = np.concatenate([a.lower for a in layout.allocations])
    upper = np.concatenate([a.upper for a in layout.allocations])
    integer = np.concatenate([a.integer for a in layout.allocations])

    rows: list[sparse.csr_array] = []
    floors: list[sparse.csr_array] = []
    senses: list[Sense] = []
    levels: list[FloatArray] = []
    floor_levels: list[FloatArray] = []
    groups: list[ConstraintGroup] = []
    used: set[str] = set()
    for position, constraint in enumerate(constraints):
        name = constraint.name or f"constraint {position}"
        if name in used:
            raise DeclarationError(f"two constraints are named {name!r}: names must differ")
        used.add(name)
        expression = constraint.expression
        linear = layout.linear_matrix(expression)
        limited = np.isfinite(constraint.level)
        if expression.utilities:
            _check_floor(constraint, name, linear)
            matrix = layout.utility_matrix(expression)
            if matrix.nnz and matrix.data.min() < 0:
                raise DeclarationError(
                    f"{name}: `{constraint.text}` gives a utility a negative weight; a floor is a "
                    "weighted sum of accuracies with weights of at least 0"
                )
            first, kind = sum(m.shape[0] for m in floors), "floor"
            floors.append(_select(matrix, limited))
            floor_levels.append(constraint.level[limited])
        elif _is_bound(expression, linear):
            _tighten(name, constraint, linear, lower, upper)
            continue
        else:
            first, kind = sum(m.shape[0] for m in rows), "row"
            rows.append(_select(linear, limited))
            levels.append(constraint.level[limited])
            senses.extend([constraint.sense] * int(limited.sum()))
        labels = expression.labels
        entries = range(expression.length) if labels is None else labels
        groups.append(
            ConstraintGroup(
                name=name,
                kind="row" if kind == "row" else "floor",
                first=first,
                count=int(limited.sum()),
                labels=None if labels is None else tuple(itertools.compress(labels, limited)),
                scalar=expression.scalar,
                unlimited=tuple(itertools.compress(entries, ~limited)),
            )
        )
    # A whole limit that was divided by a factor may miss itself by a rounding error.
    lower = np.where(integer, np.ceil(lower * (1 - 1e-12)), lower)
    upper = np.where(integer, np.floor(upper * (1 + 1e-12)), upper)
    crossed = lower > upper
    if crossed.any():
        i = int(np.argmax(crossed))
        raise DeclarationError(
            f"query {i}: the constraints on it leave nothing: at least {lower[i]:.10g} and at most "
            f"{upper[i]:.10g}" + (" whole tokens" if integer[i] else " tokens")
        )
    program = Program(
        weight=weight,
        cost=0.0 - gain_per_token,
        lower=lower,
        upper=upper,
        integer=integer,
        utilities=layout.blocks(),
        rows=_stack(rows, n),
        senses=tuple(senses),
        right_hand_side=np.concatenate([*levels, np.zeros(0)]),
        floors=_stack(floors, n),
        floor_levels=np.concatenate([*floor_levels, np.zeros(0)]),
        constraints=tuple(groups),
        offset=float(objective.constant[0]),
    )
    _check_reach(program)
    return tuple(layout.allocations), program


class _Layout:
    """Where each allocation's queries stand in the program, and which utility each query has."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self.allocations: list[Allocation] = []
        self.atoms: list[UtilityAtom] = []
        for expression in expressions:
            for allocation in [*expression.linear, *(a.allocation for a in expression.utilities)]:
                if not any(allocation is known for known in self.allocations):
                    self.allocations.append(allocation)
            for atom in expression.utilities:
                if not any(atom is known for known in self.atoms):
                    self.atoms.append(atom)
        if not self.allocations:
            raise DeclarationError(
                "Problem: no Allocation occurs in it; there is nothing to decide"
            )
        starts = np.cumsum([0, *(a.length for a in self.allocations)])
        self.n = int(starts[-1])
        self._start = {id(a): int(s) for a, s in zip(self.allocations, starts, strict=False)}
        self._owner = np.full(self.n, -1)
        self._distinct: list[UtilityAtom] = []
        for atom in self.atoms:
            self._claim(atom)

    def _positions(self, atom: UtilityAtom) -> np.ndarray:
        return atom.index + self._start[id(atom.allocation)]

    def _claim(self, atom: UtilityAtom) -> None:
        """A query has one utility; naming the same family twice is the same utility."""
        positions = self._positions(atom)
        taken = self._owner[positions]
        for owner in np.unique(taken[taken >= 0]):
            known = self._distinct[owner]
            same = known.source is atom.source and np.array_equal(self._positions(known), positions)
            if not same:
                query = int(positions[np.argmax(taken == owner)])
                raise DeclarationError(
                    f"query {query} has two utilities, {known.source!r} and {atom.source!r}; a "
                    "query has one. Build the vector once, accuracy = family(tokens), and use it "
                    "throughout"
                )
            return
        self._owner[positions] = len(self._distinct)
        self._distinct.append(atom)

    def blocks(self) -> tuple[UtilityBlock, ...]:
        return tuple(UtilityBlock(a.family, self._positions(a)) for a in self._distinct)

    def linear_matrix(self, expression: Expression) -> sparse.csr_array:
        parts = [
            _shifted(matrix, self._start[id(allocation)], self.n)
            for allocation, matrix in expression.linear.items()
        ]
        return _total(parts, (expression.length, self.n))

    def utility_matrix(self, expression: Expression) -> sparse.csr_array:
        """Weights on each query's own utility, (length, n)."""
        parts = [
            sparse.csr_array(
                (matrix.data, self._positions(atom)[matrix.indices], matrix.indptr),
                shape=(expression.length, self.n),
            )
            for atom, matrix in expression.utilities.items()
        ]
        return _total(parts, (expression.length, self.n))


def _shifted(matrix: sparse.csr_array, start: int, n: int) -> sparse.csr_array:
    return sparse.csr_array(
        (matrix.data, matrix.indices + start, matrix.indptr), shape=(matrix.shape[0], n)
    )


def _total(parts: list[sparse.csr_array], shape: tuple[int, int]) -> sparse.csr_array:
    """The sum, in a matrix of its own without duplicates or stored zeros."""
    matrix = parts[0].copy() if parts else sparse.csr_array(shape)
    for part in parts[1:]:
        matrix = sparse.csr_array(matrix + part)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _select(matrix: sparse.csr_array, wanted: NDArray[np.bool_]) -> sparse.csr_array:
    return matrix if wanted.all() else sparse.csr_array(matrix[np.flatnonzero(wanted)])


def _stack(blocks: list[sparse.csr_array], n: int) -> sparse.csr_array:
    if not blocks:
        return sparse.csr_array((0, n))
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _check_floor(constraint: Constraint, name: str, linear: sparse.csr_array) -> None:
    if linear.nnz:
        raise DeclarationError(
            f"{name}: `{constraint.text}` mixes tokens and utilities in one row; a row limits "
            "tokens, a floor limits accuracies. Write two constraints"
        )
    if constraint.sense == "<=":
        raise DeclarationError(
            f"{name}: `{constraint.text}`: an accuracy may not be capped; cap the tokens instead, "
            "e.g. co.sum(tokens, by=...) <= ..."
        )
    if constraint.sense == "==":
        raise DeclarationError(
            f"{name}: `{constraint.text}`: an accuracy may not be fixed; write a floor, >="
        )


def _is_bound(expression: Expression, linear: sparse.csr_array) -> bool:
    """Entries of an allocation, one query each: bounds, not rows that each need a price."""
    return expression.entrywise and bool((np.diff(linear.indptr) == 1).all())


def _tighten(
    name: str,
    constraint: Constraint,
    linear: sparse.csr_array,
    lower: FloatArray,
    upper: FloatArray,
) -> None:
    query, factor = linear.indices, linear.data
    level = constraint.level / factor
    at_most = (constraint.sense == "==") | ((constraint.sense == "<=") == (factor > 0))
    at_least = (constraint.sense == "==") | ((constraint.sense == ">=") == (factor > 0))
    for row in np.flatnonzero(at_most & (level < lower[query]))[:1]:
        raise DeclarationError(
            f"{name}: `{constraint.text}`: query {query[row]} is held at most {level[row]:g}, "
            f"below its lower bound of {lower[query[row]]:g} tokens"
        )
    for row in np.flatnonzero(at_least & (level > upper[query]))[:1]:
        raise DeclarationError(
            f"{name}: `{constraint.text}`: query {query[row]} is held at least {level[row]:g}, "
            f"above its upper bound of {upper[query[row]]:g} tokens"
        )
    np.minimum.at(upper, query[at_most], level[at_most])
    np.maximum.at(lower, query[at_least], level[at_least])


def _check_reach(program: Program) -> None:
    """A limit that the bounds alone already break is a mistake in the numbers: say so at once."""
    level = program.right_hand_side
    if level.shape[0]:
        # Stored entries only are multiplied, so an infinite bound never meets a zero.
        least, most = program.rows @ program.lower, program.rows @ program.upper
        if program.rows.nnz and program.rows.data.min() < 0:
            positive, negative = program.rows.maximum(0), program.rows.minimum(0)
            least = positive @ program.lower + negative @ program.upper
            most = positive @ program.upper + negative @ program.lower
        sense = program.sense_array
        broken = (sense != ">=") & (least > level + 1e-12 * np.abs(level))
        if broken.any():
            row = int(np.argmax(broken))
            raise DeclarationError(
                f"{_describe(program, 'row', row)} = {level[row]:.10g}: below what the bounds of "
                f"its queries add up to at least, {least[row]:.10g}; raise the budget or lower the "
                "bounds"
            )
        broken = (sense != "<=") & (most < level - 1e-12 * np.abs(level))
        if broken.any():
            row = int(np.argmax(broken))
            raise DeclarationError(
                f"{_describe(program, 'row', row)} = {level[row]:.10g}: above what the bounds of "
                f"its queries add up to at most, {most[row]:.10g}; lower the demand or raise the "
                "bounds"
            )
    if program.floor_levels.shape[0]:
        best = np.zeros(program.n)
        for block in program.utilities:
            low, high = program.lower[block.index], program.upper[block.index]
            best[block.index] = block.family.value(block.family.demand(0.0, low, high))
        reach, floor = program.floors @ best, program.floor_levels
        broken = reach < floor - 1e-12 * np.abs(floor)
        if broken.any():
            row = int(np.argmax(broken))
            raise DeclarationError(
                f"{_describe(program, 'floor', row)} = {floor[row]:.10g}: out of reach, its "
                f"queries come to {reach[row]:.10g} with as many tokens as their bounds allow; "
                "lower the floor"
            )


def _describe(program: Program, kind: str, row: int) -> str:
    """The name, with its label or position, under which the user knows a row or a floor."""
    for group in program.constraints:
        if group.kind == kind and group.first <= row < group.first + group.count:
            entry = row - group.first
            if group.labels is not None:
                return f"{group.name}[{group.labels[entry]!r}]"
            return group.name if group.scalar else f"{group.name}[{entry}]"
    return f"{kind} {row}"
