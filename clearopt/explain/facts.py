"""What there is to say about a `Program`: sizes, ranges and patterns, found by whole-array passes.

Nothing here is text. Coefficients come out as the same for all, a mean, the same within a row, or
varying in a range; sums as over all, over a part, or by row. However large the program, only a few
constraints, terms and families are described and the others counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.program import ConstraintGroup, Program
from clearopt.validation import FloatArray

MOST_CONSTRAINTS = 20  # described one by one; the others are counted
MOST_TERMS = 4  # in one sum
MOST_EXAMPLES = 4  # labels shown of one constraint

Quantity = Literal["tokens", "utility", "curve"]


@dataclass(frozen=True)
class Spread:
    """The least and the greatest of some numbers; `pair` if there is no other among them."""

    low: float
    high: float
    pair: bool = False

    @property
    def uniform(self) -> bool:
        return self.low == self.high

    def scaled(self, factor: float) -> Spread:
        low, high = sorted((factor * self.low, factor * self.high))
        return Spread(low, high, self.pair)


def spread(values: FloatArray) -> Spread:
    """The spread of at least one number."""
    low, high = float(values.min()), float(values.max())
    pair = low < high and bool(((values == low) | (values == high)).all())
    return Spread(low + 0.0, high + 0.0, pair)  # + 0.0: no negative zero


@dataclass(frozen=True)
class Layout:
    """Names and lengths of the allocations, laid end to end."""

    names: tuple[str, ...]
    starts: NDArray[np.intp]  # one more than there are names: the last is n

    def length(self, part: int) -> int:
        return int(self.starts[part + 1] - self.starts[part])

    def owner(self, query: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which allocation each query belongs to."""
        return np.searchsorted(self.starts, query, side="right") - 1

    def common(self, query: NDArray[np.intp]) -> int | None:
        """The one allocation of all these queries, None if there is not just one."""
        ends = self.owner(np.array([query.min(), query.max()]))
        return int(ends[0]) if ends[0] == ends[1] else None


@dataclass(frozen=True)
class Term:
    """One sum of a row, or of all rows of a constraint: factor x quantity over some queries."""

    quantity: Quantity
    part: int | None  # the allocation; None where it differs
    factor: Spread  # of a mean: what multiplies the mean
    form: Literal["same", "mean", "by row", "varying"]
    sizes: tuple[int, int]  # the fewest and the most queries in a row
    whole: bool  # every row runs over the whole allocation
    length: int  # of the allocation
    query: int | None = None  # where it is one row with one query: its position in the allocation


@dataclass(frozen=True)
class Relation:
    """One declared constraint."""

    name: str
    kind: Literal["row", "floor", "bound"]
    terms: tuple[Term, ...]
    omitted: int  # terms beyond `terms`
    count: int  # rows, floors or bounds
    senses: tuple[str, ...]
    level: Spread | None  # None where nothing is limited
    labelled: bool
    entrywise: bool  # one query a row
    examples: tuple[tuple[str, float], ...]  # the first labels with their limits
    unlimited: int
    unlimited_examples: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Domain:
    """Bounds of queries of one allocation that are alike in being semicontinuous or not."""

    part: int
    size: int
    length: int
    lower: Spread
    upper: Spread | None  # of the finite ones
    endless: int  # how many have no upper bound
    whole: int
    fixed: int
    semicontinuous: bool


@dataclass(frozen=True)
class Choices:
    """How many choices there are, and the fewest and the most queries of one."""

    count: int
    sizes: tuple[int, int]


def layout_of(program: Program) -> Layout:
    """The allocations; one without a name where the program does not say."""
    given = program.allocations or (("", program.n),)
    if sum(length for _, length in given) != program.n:
        given = (("", program.n),)
    starts = np.cumsum([0, *(length for _, length in given)], dtype=np.intp)
    return Layout(tuple(name for name, _ in given), starts)


def objective_terms(program: Program, layout: Layout) -> tuple[tuple[Term, ...], int]:
    """The sums of the objective in the user's sense, charges last, and how many are left out."""
    served = np.zeros(program.n, dtype=np.bool_)
    for block in program.utilities:
        served[block.index] = True
    kinds: tuple[tuple[Quantity, FloatArray], ...] = (
        ("utility", np.where(served, program.weight, 0.0)),
        ("tokens", -program.cost),
        ("curve", -program.curve_cost),
    )
    terms: list[Term] = []
    omitted = 0
    for quantity, gain in kinds:
        index = np.flatnonzero(gain)
        pointer = np.array([0, index.size])
        found, more = _terms(layout, quantity, pointer, index, program.sign * gain[index])
        terms += [term for term, _ in found]
        omitted += more
    terms.sort(key=lambda term: term.factor.high <= 0)
    return tuple(terms[: 2 * MOST_TERMS]), omitted + len(terms[2 * MOST_TERMS :])


def relations(program: Program, layout: Layout) -> tuple[list[Relation], list[ConstraintGroup]]:
    """The first constraints, and those that are only to be counted."""
    groups = [*program.constraints, *_undeclared(program)]
    shown = groups[:MOST_CONSTRAINTS]
    rows = _canonical(program.rows), _canonical(program.curve_rows)
    floors = _canonical(program.floors)
    described = []
    for group in shown:
        if group.kind == "bound":
            described.append(_bound(group, layout))
        elif group.kind == "row":
            described.append(_rows(program, group, layout, {"tokens": rows[0], "curve": rows[1]}))
        else:
            described.append(_rows(program, group, layout, {"utility": floors}))
    return described, groups[MOST_CONSTRAINTS:]


def domains(program: Program, layout: Layout) -> list[Domain]:
    """The bounds, for each of the first allocations."""
    found = []
    for part in range(min(len(layout.names), MOST_TERMS)):
        here = slice(int(layout.starts[part]), int(layout.starts[part + 1]))
        kinds = program.semicontinuous[here]
        for semicontinuous in (False, True):
            chosen = np.flatnonzero(kinds == semicontinuous) + here.start
            if not chosen.size:
                continue
            lower, upper = program.lower[chosen], program.upper[chosen]
            finite = upper[np.isfinite(upper)]
            found.append(
                Domain(
                    part=part,
                    size=chosen.size,
                    length=layout.length(part),
                    lower=spread(lower),
                    upper=spread(finite) if finite.size else None,
                    endless=chosen.size - finite.size,
                    whole=int(program.integer[chosen].sum()),
                    fixed=0 if semicontinuous else int((lower == upper).sum()),
                    semicontinuous=semicontinuous,
                )
            )
    return found


def choices(program: Program) -> Choices:
    """The choices of which at most one query is served."""
    _, sizes = np.unique(program.choice[program.choice >= 0], return_counts=True)
    if not sizes.size:
        return Choices(0, (0, 0))
    return Choices(sizes.size, (int(sizes.min()), int(sizes.max())))


def counts(program: Program, layout: Layout, among: Choices) -> dict[str, int]:
    """Sizes by name."""
    stored = (program.rows, program.curve_rows, program.floors)
    bounds = [np.isfinite(g.bounds.level) for g in program.constraints if g.bounds is not None]
    return {
        "variables": program.n,
        "whole": int(program.integer.sum()),
        "semicontinuous": int(program.semicontinuous.sum()),
        "choices": among.count,
        "allocations": len(layout.names),
        "constraints": len(program.constraints),
        "rows": int(program.rows.shape[0]),
        "floors": int(program.floors.shape[0]),
        "bounds": sum(int(limited.sum()) for limited in bounds),
        "unlimited": sum(len(group.unlimited) for group in program.constraints)
        + sum(int((~limited).sum()) for limited in bounds),
        "nonzeros": sum(int(np.count_nonzero(matrix.data)) for matrix in stored),
        "utilities": sum(block.index.size for block in program.utilities),
        "curves": sum(block.index.size for block in program.curves),
    }


def _canonical(matrix: sparse.csr_array) -> sparse.csr_array:
    """Without duplicates and stored zeros; a copy only where there are some."""
    matrix = sparse.csr_array(matrix)
    if matrix.has_canonical_format and matrix.data.all():
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _terms(
    layout: Layout,
    quantity: Quantity,
    pointer: NDArray[np.intp],
    query: NDArray[np.intp],
    factor: FloatArray,
) -> tuple[list[tuple[Term, NDArray[np.intp]]], int]:
    """The sums over each allocation, of rows that begin at `pointer`, and how many are left out.

    Beside each sum the positions in the allocation that it runs over, row after row.
    """
    if not query.size:
        return [], 0
    if len(layout.names) == 1:
        return [(_term(layout, quantity, 0, pointer, query, factor), query)], 0
    owner = layout.owner(query)
    present = np.flatnonzero(np.bincount(owner))
    terms = []
    for part in present[:MOST_TERMS].tolist():
        mine = owner == part
        inside = np.concatenate([[0], np.cumsum(mine)])[pointer]
        term = _term(layout, quantity, part, inside, query[mine], factor[mine])
        terms.append((term, query[mine] - layout.starts[part]))
    return terms, present.size - len(terms)


def _term(
    layout: Layout,
    quantity: Quantity,
    part: int,
    pointer: NDArray[np.intp],
    query: NDArray[np.intp],
    factor: FloatArray,
) -> Term:
    sizes = np.diff(pointer)
    length = layout.length(part)
    within = spread(factor)
    form: Literal["same", "mean", "by row", "varying"] = "same"
    total = factor * np.repeat(sizes, sizes)  # of a mean: the same throughout
    mean = float(total[0])
    is_mean = sizes.max() > 1 and bool((abs(total - mean) <= 1e-12 * abs(mean)).all())
    if is_mean and (not within.uniform or abs(abs(mean) - 1) <= 1e-12):
        near = round(mean)
        mean = float(near) if abs(mean - near) <= 1e-12 * abs(mean) else mean
        form, within = "mean", Spread(mean, mean)
    elif not within.uniform:
        first = factor[pointer[:-1][sizes > 0]]
        same = np.array_equal(np.repeat(first, sizes[sizes > 0]), factor)
        form = "by row" if same and sizes.size > 1 else "varying"
    return Term(
        quantity=quantity,
        part=part,
        factor=within,
        form=form,
        sizes=(int(sizes.min()), int(sizes.max())),
        whole=bool((sizes == length).all()),
        length=length,
        query=int(query[0] - layout.starts[part]) if query.size == sizes.size == 1 else None,
    )


def _rows(
    program: Program,
    group: ConstraintGroup,
    layout: Layout,
    matrices: dict[Quantity, sparse.csr_array],
) -> Relation:
    found: list[tuple[Term, NDArray[np.intp]]] = []
    omitted = 0
    for quantity, matrix in matrices.items():
        pointer = matrix.indptr[group.first : group.first + group.count + 1]
        stored = slice(int(pointer[0]), int(pointer[-1])) if group.count else slice(0, 0)
        terms, more = _terms(
            layout, quantity, pointer - stored.start, matrix.indices[stored], matrix.data[stored]
        )
        found += terms
        omitted += more
    level = (program.right_hand_side if group.kind == "row" else program.floor_levels)[group.rows]
    senses = program.sense_array[group.rows] if group.kind == "row" else np.array([">="])
    # Entry by entry: in each row one query, the same one in every sum.
    entrywise = (
        group.labels is None
        and not omitted
        and bool(found)
        and all(term.sizes == (1, 1) for term, _ in found)
        and all(np.array_equal(place, found[0][1]) for _, place in found)
    )
    return Relation(
        name=group.name,
        kind=group.kind,
        terms=tuple(term for term, _ in found),
        omitted=omitted,
        count=group.count,
        senses=tuple(sense for sense in ("<=", ">=", "==") if (senses == sense).any()),
        level=spread(level) if level.size else None,
        labelled=group.labels is not None,
        entrywise=entrywise,
        examples=_examples(group.labels or (), level),
        unlimited=len(group.unlimited),
        unlimited_examples=_some(group.unlimited if group.labels is not None else ()),
        text=group.text,
    )


def _bound(group: ConstraintGroup, layout: Layout) -> Relation:
    bounds = group.bounds
    terms: tuple[Term, ...] = ()
    level, count = None, 0
    if bounds is not None and bounds.query.size:
        limited = np.isfinite(bounds.level)
        part = layout.common(bounds.query)
        count = int(limited.sum())
        level = spread(bounds.level[limited]) if count else None
        factor = spread(bounds.factor)
        query = int(bounds.query[0] - layout.starts[part or 0]) if bounds.query.size == 1 else None
        length = layout.length(part) if part is not None else int(layout.starts[-1])
        form: Literal["same", "varying"] = "same" if factor.uniform else "varying"
        whole = np.unique(bounds.query).size == length
        terms = (Term("tokens", part, factor, form, (1, 1), whole, length, query),)
    return Relation(
        name=group.name,
        kind="bound",
        terms=terms,
        omitted=0,
        count=count,
        senses=(bounds.sense,) if bounds is not None else (),
        level=level,
        labelled=False,
        entrywise=True,
        examples=(),
        unlimited=len(group.unlimited) + (bounds.query.size - count if bounds is not None else 0),
        unlimited_examples=(),
        text=group.text,
    )


def _examples(labels: Sequence[Hashable], level: FloatArray) -> tuple[tuple[str, float], ...]:
    # One more than is shown when there are many, so that none is called "and 1 more".
    shown = len(labels) if len(labels) <= MOST_EXAMPLES else MOST_EXAMPLES - 1
    pairs = zip(labels[:shown], level[:shown].tolist(), strict=False)
    return tuple((str(label), value) for label, value in pairs)


def _some(labels: Sequence[Hashable]) -> tuple[str, ...]:
    shown = len(labels) if len(labels) <= MOST_EXAMPLES else MOST_EXAMPLES - 1
    return tuple(str(label) for label in labels[:shown])


def _undeclared(program: Program) -> list[ConstraintGroup]:
    """Rows and floors that no constraint lays claim to, as a program written by hand may have."""
    found = []
    for kind, total in (("row", program.rows.shape[0]), ("floor", program.floors.shape[0])):
        claimed = sorted(
            (g.first, g.first + g.count) for g in program.constraints if g.kind == kind
        )
        end = 0
        for first, last in itertools.chain(claimed, [(total, total)]):
            if first > end:
                name = f"{kind} {end}" if first == end + 1 else f"{kind}s {end}-{first - 1}"
                one = first == end + 1
                found.append(ConstraintGroup(name, kind, end, first - end, scalar=one))  # type: ignore[arg-type]
            end = max(end, last)
    return found
