"""Marginal values: the value function's own slopes at an allocation, the funded set as it is.

A local notion: nothing here looks at what another allocation would be worth. The slopes of single
queries, and who presses against its bounds, serve `bound_prices` too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls

from clearopt.deadline import NEVER, Deadline
from clearopt.least_squares import bounded_least_squares
from clearopt.prices import Multipliers
from clearopt.program import PIECE, Program, UtilityBlock
from clearopt.validation import FloatArray

_BINDING = 1e-7  # relative slack up to which a row counts as binding
_AT_BOUND = 1e-9  # relative distance up to which tokens are at a bound
_BESIDE = 1e-9  # relative distance at which one side of a kink is looked at
_ENOUGH = 4096  # queries whose common price is known well enough
_DENSE = 2e9  # multiplications up to which a least-squares fit is made exactly
_SPEED = 1e9  # multiplications a second, at least


# -------------------------------------------------------------------------------- slopes
class Slopes(NamedTuple):
    """What one more token (`side` 1) or the last one (-1) of each query is worth, (n,) each.

    Derivatives, one-sided at kinks and jumps; differences of one token where tokens are whole.
    """

    utility: FloatArray  # U'
    curve: FloatArray  # C'
    smooth: NDArray[np.bool_]  # the same on both sides

    @classmethod
    def at(cls, program: Program, tokens: FloatArray, side: int) -> Slopes:
        found, smooth = [], ~program.integer
        # Past the last token there may be one more, before the first none.
        whole = np.maximum(tokens + side, 0.0)
        step = np.where(whole != tokens, whole - tokens, 1.0)
        for value, marginal in (
            (program.utility, program.marginal),
            (program.curve_value, program.curve_marginal),
        ):
            here, level = marginal(tokens), value(tokens)
            before = tokens * (1.0 - _BESIDE)
            ends = marginal(before), marginal(tokens * (1.0 + _BESIDE))
            with np.errstate(invalid="ignore"):  # infinite on both sides: not alike
                alike = np.abs(ends[1] - ends[0]) <= 1e-4 * np.maximum(*np.abs(ends))
            # A step shows in no derivative, but in a rise that none of them explains.
            rise, steepest = level - value(before), np.where(tokens > 0, np.abs(here), 0.0)
            jump = rise > 1e-3 * np.abs(level) + 10.0 * _BESIDE * tokens * steepest
            smooth = smooth & alike & ~jump
            one_sided = ends[1] if side > 0 else np.where(jump, np.inf, ends[0])
            slope = np.where(alike & ~jump, here, one_sided)
            if program.integer.any():
                slope = np.where(program.integer, (value(whole) - level) / step, slope)
            found.append(slope)
        return cls(found[0], found[1], smooth)

    def gain(self, program: Program) -> FloatArray:
        """(n,) of the objective."""
        paid = program.cost + _times(program.curve_cost, self.curve)
        return _times(program.weight, self.utility) - paid

    def charged(self, program: Program, rows: NDArray[np.intp]) -> sparse.csr_array:
        """What a token of each query is charged in these rows, (rows, n)."""
        matrix = program.rows[rows]
        if program.curve_rows.nnz:
            matrix = matrix + program.curve_rows[rows].multiply(self.curve[None, :])
        return sparse.csr_array(matrix)


def _times(factor: FloatArray, slope: FloatArray) -> FloatArray:
    """The product, 0 where the factor is, however steep the slope."""
    product: FloatArray = np.multiply(factor, slope, out=np.zeros_like(slope), where=factor != 0)
    return product


def bounds_met(program: Program, tokens: FloatArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) who has as few tokens as the bounds allow, and who has as many."""
    near = np.where(program.integer, 0.5, _AT_BOUND * tokens)
    return tokens <= program.lower + near, tokens >= program.upper - near


def pressing(
    program: Program, tokens: FloatArray, slope: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A slope upwards presses against an upper bound, one downwards against a lower, (n,) each."""
    fewest, most = bounds_met(program, tokens)
    return (
        np.where(most & (slope > 0), slope, 0.0),
        np.where(fewest & (slope < 0) & (tokens >= program.lower), slope, 0.0),
    )


# -------------------------------------------------------------------------------- multipliers
def marginal_multipliers(
    program: Program, tokens: FloatArray, deadline: Deadline = NEVER
) -> Multipliers:
    """Multipliers of the binding rows, floors and bounds at the allocation.

    At a local optimum every query strictly between its bounds satisfies

        w U' - c - d C' = sum_k lambda_k (A_k + B_k C') - sum_j mu_j V_j U'

    Least squares where there are more such queries than multipliers. Whole tokens: U' and C' are
    what one more token adds. NaN where the deadline comes first.
    """
    rows, floors = np.zeros(program.rows.shape[0]), np.zeros(program.floors.shape[0])
    binding, floor_binding = (np.flatnonzero(held) for held in binding_limits(program, tokens))
    if _may_be_asked_in_pieces(program):
        if binding.size:
            rows[binding] = _one_price_in_pieces(program, tokens, binding)
        unasked = np.broadcast_to(0.0, (program.n,))
        return Multipliers(rows + 0.0, floors, unasked, unasked)
    more = Slopes.at(program, tokens, 1)
    if binding.size == 1 and not floor_binding.size:
        rows[binding] = _one_price(program, tokens, more, binding)
    elif binding.size + floor_binding.size:
        rows[binding], floors[floor_binding] = _several_prices(
            program, tokens, more, binding, floor_binding, deadline
        )
    paid = more.charged(program, np.arange(rows.size)).T @ rows
    promised = program.floors.T @ floors
    slope = more.gain(program) - paid + _times(promised, more.utility)
    above, below = pressing(program, tokens, slope)
    unknown = np.isnan(paid) | np.isnan(promised)
    above, below = (np.where(unknown, np.nan, part) for part in (above, below))
    return Multipliers(rows + 0.0, 0.0 - floors, above, below)


def binding_limits(
    program: Program, tokens: FloatArray
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows (K,) and floors (J,) hold with next to no slack."""
    level = program.right_hand_side
    size = np.maximum(np.abs(level), program.activity_size(tokens))
    slack = np.abs(program.activity(tokens) - level)
    allowed = _BINDING * size
    if program.integer.any() and level.size:
        # Whole tokens rarely fill a row to the last unit.
        largest = np.maximum(_largest(program.rows), _largest(program.curve_rows))
        allowed = np.maximum(allowed, largest)
    if not program.floors.shape[0]:
        return slack <= allowed, np.zeros(0, dtype=np.bool_)
    over = program.floors @ program.utility(tokens) - program.floor_levels
    spare = _BINDING * np.maximum(np.abs(program.floor_levels), 1e-300)
    if program.integer.any() and over.size:
        # What one token fewer would take away.
        loss = program.utility(tokens) - program.utility(np.maximum(tokens - 1.0, program.least))
        entries = program.floors.multiply(np.where(program.integer, loss, 0.0)[None, :])
        spare = np.maximum(spare, np.asarray(entries.max(axis=1).toarray()).ravel())
    return slack <= allowed, over <= spare


def _largest(matrix: sparse.csr_array) -> FloatArray:
    """(k,) the largest size of an entry of each row."""
    if matrix.shape[0] == 1:
        ends = (matrix.data.min(), matrix.data.max()) if matrix.nnz else (0.0,)
        return np.array([max(abs(float(end)) for end in ends)])
    return np.asarray(abs(matrix).max(axis=1).toarray()).ravel()


def _wanted(program: Program, tokens: FloatArray, binding: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(n,) whose tokens serve something: an accuracy, or a binding row that asks for them."""
    wanted = program.utility(tokens) > 0
    sign = np.select([program.sense_array == "<=", program.sense_array == ">="], [1.0, -1.0], 0.0)
    for matrix in (program.rows, program.curve_rows):
        entries = matrix[binding].tocoo()
        asked = entries.data * sign[binding][entries.row] <= 0
        wanted[entries.col[asked & (entries.data != 0)]] = True
    return wanted & (tokens > 0)


def _one_price(
    program: Program, tokens: FloatArray, more: Slopes, binding: NDArray[np.intp]
) -> float:
    """The multiplier of the only binding row: what its next unit buys."""
    settled, uses = _offers(program, tokens, more, binding)
    return _offered(settled, uses, program.senses[int(binding[0])])


def _offers(
    program: Program, tokens: FloatArray, more: Slopes, binding: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """What the row's next unit buys of those who settle it between them, and of all others."""
    fewest, most = bounds_met(program, tokens)
    wanted = _wanted(program, tokens, binding)
    gain = more.gain(program)
    coefficient = more.charged(program, binding).toarray()[0]
    settled = wanted & more.smooth & ~fewest & ~most & (coefficient != 0)
    if settled.any():
        return gain[settled] / coefficient[settled], np.zeros(0)
    less = Slopes.at(program, tokens, -1)
    returned = less.charged(program, binding).toarray()[0]
    up, down = wanted & ~most & (coefficient > 0), wanted & ~fewest & (returned < 0)
    uses = np.r_[gain[up] / coefficient[up], less.gain(program)[down] / returned[down]]
    return np.zeros(0), uses


def _offered(settled: FloatArray, uses: FloatArray, sense: str) -> float:
    # At kinks, at bounds, or whole: the best use of the next unit; else all are equal, to the
    # accuracy of the allocation.
    best = float(uses.max()) if uses.size else 0.0
    value = float(np.median(settled)) if settled.size else best
    return max(value, 0.0) if sense == "<=" else min(value, 0.0) if sense == ">=" else value


def _may_be_asked_in_pieces(program: Program) -> bool:
    """Many queries under one plain budget row, and nobody asks what bounds are worth."""
    return bool(
        program.n > 2 * PIECE
        and program.rows.shape[0] == 1
        and program.senses[0] == "<="
        and not program.floors.shape[0]
        and not program.has_curves
        and not program.semicontinuous.any()
        and (program.rows.nnz == 0 or program.rows.data.min() > 0)
        and all(group.bounds is None for group in program.constraints)
    )


def _one_price_in_pieces(program: Program, tokens: FloatArray, binding: NDArray[np.intp]) -> float:
    """As `_one_price`, family by family and piece by piece: what it needs in between stays small.

    Those who settle the price agree, so that a few thousand of them are as good as all: first a
    piece of those strictly between their bounds, then everybody.
    """
    settled, uses, found = [np.zeros(0)], [np.zeros(0)], 0
    full = program.rows.nnz == program.n and program.rows.has_sorted_indices
    coefficient = program.rows.data if full else program.rows.toarray()[0]

    def ask(block: UtilityBlock, members: NDArray[np.intp] | slice) -> None:
        nonlocal found
        at = block.part(members) if isinstance(members, slice) else block.index[members]
        count = program.weight[at].size
        piece = Program(
            weight=program.weight[at],
            cost=program.cost[at],
            lower=program.lower[at],
            upper=program.upper[at],
            integer=program.integer[at],
            utilities=(UtilityBlock(block.family.take(members), np.arange(count)),),
            rows=sparse.csr_array(coefficient[at][None, :]),
            senses=program.senses,
            right_hand_side=program.right_hand_side,
            floors=sparse.csr_array((0, count)),
            floor_levels=np.zeros(0),
        )
        offers = _offers(piece, tokens[at], Slopes.at(piece, tokens[at], 1), binding)
        settled.append(offers[0])
        uses.append(offers[1][np.argmax(offers[1])][None] if offers[1].size else offers[1])
        found += offers[0].size

    if not program.integer.all():
        fewest, most = bounds_met(program, tokens)
        inside = ~fewest & ~most
        for block in program.utilities:
            likely = np.flatnonzero(inside[block.where])[: _ENOUGH + 1 - found]
            if likely.size:
                ask(block, likely)
            if found > 0.9 * _ENOUGH:
                return _offered(np.concatenate(settled), np.zeros(0), program.senses[0])
        settled, uses, found = [np.zeros(0)], [np.zeros(0)], 0
    for block in program.utilities:
        for start in range(0, block.size, PIECE):
            ask(block, slice(start, min(start + PIECE, block.size)))
            if found > _ENOUGH:
                return _offered(np.concatenate(settled), np.zeros(0), program.senses[0])
    return _offered(np.concatenate(settled), np.concatenate(uses), program.senses[0])


def _several_prices(
    program: Program,
    tokens: FloatArray,
    more: Slopes,
    binding: NDArray[np.intp],
    floor_binding: NDArray[np.intp],
    deadline: Deadline,
) -> tuple[FloatArray, FloatArray]:
    """The multipliers (K',), (J',) of the binding rows and floors, by least squares."""
    fewest, most = bounds_met(program, tokens)
    free = _wanted(program, tokens, binding) & ~fewest & ~most & np.isfinite(more.utility)
    slope = np.where(np.isfinite(more.utility), more.utility, 0.0)
    floors = program.floors[floor_binding].multiply(-slope[None, :])
    matrix = sparse.csc_array(sparse.vstack([more.charged(program, binding), floors]))
    # At a kink or a whole amount the equation is an inequality: only where there is no other.
    settled = free & more.smooth
    alone = np.flatnonzero(abs(matrix[:, np.flatnonzero(settled)]).sum(axis=1) == 0)
    settled |= free & (abs(matrix[alone]).sum(axis=0) > 0)
    inside = np.flatnonzero(settled)
    senses = np.r_[program.sense_array[binding], np.full(floor_binding.size, "<=")]
    equations = sparse.csr_array(matrix[:, inside].T)
    found = _fit(equations, more.gain(program)[inside], senses, deadline)
    return found[: binding.size], found[binding.size :]


def _fit(
    matrix: sparse.csr_array, goal: FloatArray, senses: NDArray[np.str_], deadline: Deadline
) -> FloatArray:
    """Least squares for matrix @ x = goal; x at least 0 for `<=`, at most 0 for `>=`.

    NaN where the deadline comes first.
    """
    size = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    used, height = np.flatnonzero(size > 0), float(np.abs(goal).max(initial=0.0))
    found = np.zeros(matrix.shape[1])
    if not used.size or height == 0:
        return found
    # Columns of one size: rows count in tokens, floors in accuracy.
    sign = np.where(senses == ">=", -1.0, 1.0)[used]
    scaled = sparse.csr_array(matrix[:, used].multiply((sign / size[used])[None, :]))
    goal, either = goal / height, senses[used] == "=="
    if scaled.shape[0] * used.size**2 <= min(_DENSE, _SPEED * deadline.left):
        # Exactly, on the triangular factor; what may have either sign is a difference of two.
        factor = np.asarray(np.linalg.qr(np.column_stack([scaled.toarray(), goal]), mode="r"))
        both = np.column_stack([factor[:, :-1], -factor[:, :-1][:, either]])
        positive, _ = nnls(both, factor[:, -1])
        x = positive[: used.size]
        x[either] -= positive[used.size :]
    else:
        low = np.where(either, -np.inf, 0.0)
        found_in_time = bounded_least_squares(
            scaled, goal, (low, np.inf), deadline, tol=1e-13, lsmr_tol=1e-13
        )
        x = np.full(used.size, np.nan) if found_in_time is None else found_in_time
    found[used] = x * sign * height / size[used]
    return found
