"""From declared expressions to the arrays of a `Program`; refuses what is not separable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.allocation import Allocation
from clearopt.boxes import Boxes
from clearopt.constraints import Choice, Constraint
from clearopt.errors import DeclarationError, InfeasibleError
from clearopt.expressions import Expression
from clearopt.layout import Layout
from clearopt.program import BoundEntries, ConstraintGroup, Program, Sense
from clearopt.reach import check_reach
from clearopt.validation import FloatArray


def compile_program(
    objective: Expression,
    constraints: Sequence[Constraint | Choice],
    *,
    minimize: bool = False,
) -> tuple[tuple[Allocation, ...], Program]:
    """The allocations in order of appearance, and the program over their concatenation."""
    rows = [c for c in constraints if isinstance(c, Constraint)]
    choices = [c for c in constraints if isinstance(c, Choice)]
    options = [option for choice in choices for option in choice.options]
    layout = Layout([objective, *(c.expression for c in rows), *options])
    layout.settle_sums([objective, *(c.expression for c in rows)])
    sign = -1.0 if minimize else 1.0
    weight = _dense(layout.utility_matrix(objective, "objective"), sign)
    if (weight < 0).any():
        _refuse_weight(objective, weight, minimize, layout)
    boxes = Boxes(layout)
    collected = _Rows(layout, boxes)
    used: set[str] = set()
    for position, constraint in enumerate(constraints):
        name = constraint.name or f"constraint {position}"
        if name in used:
            raise DeclarationError(f"two constraints are named {name!r}: names must differ")
        used.add(name)
        if isinstance(constraint, Constraint):
            collected.add(name, constraint)
    boxes.make_whole()
    choice = _choice_numbers(choices, layout, boxes)
    program = Program(
        weight=weight,
        cost=_dense(layout.linear_matrix(objective), -sign),
        lower=boxes.lower,
        upper=boxes.upper,
        integer=boxes.integer,
        utilities=layout.utility_blocks(),
        rows=_stack(collected.rows, layout.n),
        senses=tuple(collected.senses),
        right_hand_side=np.concatenate([*collected.levels, np.zeros(0)]),
        floors=_stack(collected.floors, layout.n),
        floor_levels=np.concatenate([*collected.floor_levels, np.zeros(0)]),
        constraints=tuple(collected.groups),
        offset=sign * float(objective.constant[0]),
        semicontinuous=boxes.semicontinuous,
        choice=choice,
        curves=layout.curve_blocks(),
        curve_rows=_stack(collected.curve_rows, layout.n),
        curve_cost=_dense(layout.curve_matrix(objective), -sign),
        minimize=minimize,
        allocations=tuple((a.name, a.length) for a in layout.allocations),
        objective_text=objective.text,
        declared_lower=boxes.declared_lower,
        declared_upper=boxes.declared_upper,
    )
    check_reach(program)
    return tuple(layout.allocations), program


def with_level(program: Program, constraint: Constraint, name: str) -> Program | None:
    """The program with the numbers on the right of one constraint taken from `constraint`.

    None where that changes more than numbers (a bound, or which entries are limited): then the
    problem has to be compiled again.
    """
    group = next(g for g in program.constraints if g.name == name)
    limited = np.isfinite(constraint.level)
    if group.kind == "bound" or int(limited.sum()) != group.count:
        return None
    labels = constraint.expression.labels
    entries = range(constraint.expression.length) if labels is None else labels
    if tuple(itertools.compress(entries, ~limited)) != group.unlimited:
        return None
    field = "right_hand_side" if group.kind == "row" else "floor_levels"
    levels = getattr(program, field).copy()
    levels[group.rows] = constraint.level[limited]
    groups = tuple(replace(g, text=constraint.text) if g is group else g
                   for g in program.constraints)  # fmt: skip
    changed = replace(program, **{field: levels, "constraints": groups})
    check_reach(changed, program)
    return changed


def _refuse_weight(
    objective: Expression, weight: FloatArray, minimize: bool, layout: Layout
) -> None:
    i = int(np.argmax(weight < 0))
    who = layout.name_of(i)
    if minimize:
        raise DeclarationError(
            f"Minimize({objective.text}): {who} has weight {-weight[i]:g} on its utility; less "
            "accuracy cannot be the aim. Minimize tokens, e.g. co.Minimize(co.sum(tokens)), and "
            "keep accuracy up with a floor"
        )
    raise DeclarationError(
        f"Maximize({objective.text}): {who} has the negative weight {weight[i]:g} on its "
        "utility; less accuracy cannot be the aim. Charge tokens "
        "instead, e.g. co.sum(accuracy) - price * co.sum(tokens)"
    )


class _Rows:
    """The rows and floors that constraints become, and how they group."""

    def __init__(self, layout: Layout, boxes: Boxes) -> None:
        self.layout, self.boxes = layout, boxes
        self.rows: list[sparse.csr_array] = []
        self.curve_rows: list[sparse.csr_array] = []
        self.levels: list[FloatArray] = []
        self.senses: list[Sense] = []
        self.floors: list[sparse.csr_array] = []
        self.floor_levels: list[FloatArray] = []
        self.groups: list[ConstraintGroup] = []

    def add(self, name: str, constraint: Constraint) -> None:
        expression = constraint.expression
        linear = self.layout.linear_matrix(expression)
        curves = self.layout.curve_matrix(expression)
        charged = np.diff(linear.indptr) + np.diff(curves.indptr)
        matrix = linear
        if expression.utilities:
            _check_floor(constraint, name, linear, curves)
            matrix = self.layout.utility_matrix(expression, name)
            if matrix.nnz and matrix.data.min() < 0:
                raise DeclarationError(
                    f"{name}: `{constraint.text}` gives a utility a negative weight; a floor is a "
                    "weighted sum of accuracies with weights of at least 0"
                )
            charged = np.diff(matrix.indptr)
        _check_idle(name, constraint, charged == 0)
        # What charges nobody has no limit to keep, and no row.
        limited = np.isfinite(constraint.level) & (charged > 0)
        bounds = None
        if expression.utilities:
            kind, first = "floor", sum(m.shape[0] for m in self.floors)
            self.floors.append(_select(matrix, limited))
            self.floor_levels.append(constraint.level[limited])
        elif not curves.nnz and _is_bound(expression, linear):
            kind, first = "bound", 0
            limited = charged > 0  # bounds may be infinite
            bounds = BoundEntries(
                linear.indices.astype(np.intp),
                linear.data,
                constraint.level[limited],
                constraint.sense,
            )
            self.boxes.tighten(name, constraint, bounds)
        else:
            kind, first = "row", len(self.senses)
            self.rows.append(_select(linear, limited))
            self.curve_rows.append(_select(curves, limited))
            self.levels.append(constraint.level[limited])
            self.senses.extend([constraint.sense] * int(limited.sum()))
        labels = expression.labels
        entries = range(expression.length) if labels is None else labels
        self.groups.append(
            ConstraintGroup(
                name=name,
                kind=kind,  # type: ignore[arg-type]  # one of the three above
                first=first,
                count=int(limited.sum()) if kind != "bound" else 0,
                labels=None if labels is None else tuple(itertools.compress(labels, limited)),
                scalar=expression.scalar,
                unlimited=tuple(itertools.compress(entries, ~limited)),
                bounds=bounds,
                text=constraint.text,
            )
        )


def _choice_numbers(choices: Iterable[Choice], layout: Layout, boxes: Boxes) -> NDArray[np.intp]:
    """(n,) which choice each query belongs to, -1 for none; what is forced leaves the others 0."""
    choices = list(choices)
    if not choices:
        return np.broadcast_to(np.intp(-1), (layout.n,))
    boxes.own()
    number = np.full(layout.n, -1, dtype=np.intp)
    named = np.zeros(layout.n, dtype=np.bool_)
    first = 0
    for choice in choices:
        options = np.stack([layout.entries(option) for option in choice.options])  # (options, m)
        taken = named[options]
        if taken.any() or np.unique(options).size != options.size:
            query = int(options[taken][0]) if taken.any() else int(options.flat[0])
            raise DeclarationError(
                f"{choice.name or choice.text}: {layout.name_of(query)} is in two choices, or "
                "twice in one; a query belongs to one choice. Put all of its options into one "
                "co.at_most_one"
            )
        named[options] = True
        least = np.where(boxes.semicontinuous, 0.0, boxes.lower)[options]
        forced = least > 0
        if (forced.sum(axis=0) > 1).any():
            entry = int(np.argmax(forced.sum(axis=0) > 1))
            names = [choice.options[k].text for k in np.flatnonzero(forced[:, entry])]
            raise InfeasibleError(
                f"{choice.name or choice.text}: entry {entry}: {' and '.join(names)} both have a "
                "lower bound above 0, but only one may have tokens; declare options with a least "
                "amount as Allocation(..., lower=..., semicontinuous=True)"
            )
        excluded = options[~forced & np.any(forced, axis=0, keepdims=True)]
        boxes.lower[excluded], boxes.upper[excluded] = 0.0, 0.0
        boxes.semicontinuous[excluded] = False
        # Where one must have tokens nothing is left to choose.
        open_ = ~np.any(forced, axis=0)
        number[options] = np.where(open_, first + np.arange(options.shape[1]), -1)[None, :]
        first += options.shape[1]
    return number


def _select(matrix: sparse.csr_array, wanted: NDArray[np.bool_]) -> sparse.csr_array:
    return matrix if wanted.all() else sparse.csr_array(matrix[np.flatnonzero(wanted)])


def _stack(blocks: list[sparse.csr_array], n: int) -> sparse.csr_array:
    if not blocks:
        return sparse.csr_array((0, n))
    if len(blocks) == 1:
        return blocks[0]
    ends = np.cumsum([0, *(block.nnz for block in blocks)])
    if all(block.nnz and block.data.strides == (0,) for block in blocks):
        value = blocks[0].data[0]
        if all(block.data[0] == value for block in blocks):  # one number in memory stays one
            kind = np.int32 if int(ends[-1]) < 2**31 - 1 else np.int64
            starts = [b.indptr[:-1] + kind(end) for b, end in zip(blocks, ends, strict=False)]
            return sparse.csr_array(
                (
                    np.broadcast_to(value, (int(ends[-1]),)),
                    np.concatenate([block.indices for block in blocks]),
                    np.concatenate([*starts, ends[-1:]]).astype(kind),
                ),
                shape=(sum(block.shape[0] for block in blocks), n),
            )
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _dense(row: sparse.csr_array, sign: float) -> FloatArray:
    """sign * row, (n,); a view of one number where all entries agree."""
    n, data = row.shape[1], row.data
    if row.nnz == 0:
        return np.broadcast_to(0.0, (n,))
    if row.nnz == n and row.has_canonical_format and bool((data == data[0]).all()):
        return np.broadcast_to(sign * float(data[0]) + 0.0, (n,))
    return np.asarray(0.0 + sign * row.toarray().ravel())


def _check_floor(
    constraint: Constraint, name: str, linear: sparse.csr_array, curves: sparse.csr_array
) -> None:
    if linear.nnz or curves.nnz:
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


def _check_idle(name: str, constraint: Constraint, idle: NDArray[np.bool_]) -> None:
    """Refuse a limit on nobody that does not hold: the left side is 0."""
    level, sense = constraint.level, constraint.sense
    holds = (level >= 0) & (sense != ">=") | (level <= 0) & (sense != "<=")
    if sense == "==":
        holds = level == 0
    broken = np.flatnonzero(idle & ~holds)
    if broken.size:
        labels, entry = constraint.expression.labels, int(broken[0])
        place = f"[{labels[entry]!r}]" if labels is not None else f"[{entry}]"
        where = name if constraint.expression.scalar else name + place
        raise InfeasibleError(
            f"{where}: `{constraint.text}`: it charges no query, so its left side is 0, which is "
            f"not {sense} {level[entry]:.10g}"
        )


def _is_bound(expression: Expression, linear: sparse.csr_array) -> bool:
    """One query in each entry: bounds, not rows that each need a price.

    A scalar that was summed up stays a row, however few queries there are: a budget is one.
    """
    charged = np.diff(linear.indptr)
    single = bool((charged <= 1).all()) and (bool((charged == 1).any()) or not charged.size)
    return single and (expression.entrywise or not expression.scalar)
