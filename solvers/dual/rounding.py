"""Whole tokens from fractions: rounded down, then single tokens given back where they add most.

First of all where they are owed: rounding down may leave an accuracy floor a little short.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.several_rows import SeveralRows
from clearopt.validation import FloatArray

_SINGLY = 2_000  # queries up to which tokens are given back one by one
_PASSES = 4  # in bulk, before that


def whole_tokens(
    problem: SeveralRows, tokens: FloatArray, deadline: Deadline = NEVER
) -> FloatArray:
    """Round whole tokens down, then give single tokens back where rows allow and they add most.

    After the deadline no more are given back.
    """
    queries = problem.queries
    assert queries.integer is not None
    tokens = np.maximum(queries.whole_below(tokens, 1e-7), queries.lower)
    if problem.equality.any():
        return tokens
    columns, curve_columns = sparse.csc_array(problem.rows), sparse.csc_array(problem.curve_rows)
    if problem.levels.size and queries.n <= _SINGLY:
        tokens = _meet_floors(problem, tokens, columns, deadline)
    room = problem.budgets - problem.activity(tokens)
    able = queries.integer.copy()
    if queries.choice is not None:
        able &= tokens > 0
    more = np.minimum(queries.whole_after(tokens), queries.upper)
    added = problem.gains(more) - problem.gains(tokens)
    if queries.n > _SINGLY:
        tokens, room = _in_bulk(problem, tokens, more, added, able, room)
        more = np.minimum(queries.whole_after(tokens), queries.upper)
        added = problem.gains(more) - problem.gains(tokens)
        able &= _fits_alone(problem, tokens, more, room)
    for _ in range(4 * min(queries.n, _SINGLY)):
        if deadline.over:
            break
        can = able & (more > tokens)
        if queries.least is not None:
            can &= more >= queries.least
        best = int(np.argmax(np.where(can, added, -np.inf)))
        if not (can[best] and added[best] > 0):
            break
        use = np.zeros(room.size)
        part = slice(columns.indptr[best], columns.indptr[best + 1])
        use[columns.indices[part]] += columns.data[part] * (more[best] - tokens[best])
        one = np.array([best])
        if queries.grid is not None:
            part = slice(curve_columns.indptr[best], curve_columns.indptr[best + 1])
            before, after = (queries.at(one, b[one])[1][0] for b in (tokens, more))
            use[curve_columns.indices[part]] += curve_columns.data[part] * (after - before)
        if not (room[use > 0] >= use[use > 0]).all():
            able[best] = False
            continue
        tokens[best], room = more[best], room - use
        following = queries.rounded("whole_after", best, float(tokens[best]))
        more[best] = min(following, float(queries.upper[best]))
        added[best] = problem.gain_of(best, more[best]) - problem.gain_of(best, tokens[best])
    return tokens


def _meet_floors(
    problem: SeveralRows, tokens: FloatArray, columns: sparse.csc_array, deadline: Deadline
) -> FloatArray:
    """One token after the other to whoever brings the floors that are short most for it."""
    queries = problem.queries
    assert queries.integer is not None
    able = queries.integer.copy()
    if queries.choice is not None:
        able &= tokens > 0
    utility = queries.utility(tokens)
    for _ in range(2 * queries.n):
        if deadline.over:
            break
        short = problem.levels - problem.floors @ utility
        if not (short > 0).any():
            break
        more = np.minimum(queries.whole_after(tokens), queries.upper)
        rise = queries.utility(more) - utility
        # What is short counts by its share of the level; a level of nothing has no shares.
        level = np.where(problem.levels == 0, 1.0, np.abs(problem.levels))
        worth = (problem.floors.T @ (np.maximum(short, 0.0) / level)) * rise
        cost = np.maximum(queries.cost * (more - tokens), 0.0) - queries.weight * rise
        can = able & (more > tokens) & (worth > 0)
        if queries.least is not None:
            can &= more >= queries.least
        with np.errstate(all="ignore"):
            bargain = np.where(can, worth / np.maximum(cost, 1e-12), -np.inf)
        best = int(np.argmax(bargain))
        if not can[best]:
            break
        part = slice(columns.indptr[best], columns.indptr[best + 1])
        use = columns.data[part] * (more[best] - tokens[best])
        rows = columns.indices[part]
        room = problem.budgets - problem.activity(tokens)
        if (use > np.maximum(room[rows], 0.0)).any():
            able[best] = False
            continue
        tokens, utility = tokens.copy(), utility.copy()
        tokens[best], utility[best] = more[best], utility[best] + rise[best]
    return tokens


def _in_bulk(
    problem: SeveralRows,
    tokens: FloatArray,
    more: FloatArray,
    added: FloatArray,
    able: NDArray[np.bool_],
    room: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """One more token each for as many as every row has room for, the best first."""
    queries = problem.queries
    for _ in range(_PASSES):
        wanted = able & (more > tokens) & (added > 0)
        if queries.least is not None:
            wanted &= more >= queries.least
        # Who has no room of its own must not stand in line for the rows of others.
        wanted &= _fits_alone(problem, tokens, more, room)
        chosen = np.flatnonzero(wanted)
        chosen = chosen[np.argsort(-added[chosen], kind="stable")]
        use = sparse.csr_array(problem.rows[:, chosen].multiply((more - tokens)[chosen]))
        if queries.grid is not None:
            rise = (queries.curve(more) - queries.curve(tokens))[chosen]
            use = sparse.csr_array(use + problem.curve_rows[:, chosen].multiply(rise))
        use.sort_indices()
        fits = np.ones(chosen.size, dtype=bool)
        for k in range(use.shape[0]):
            part = slice(use.indptr[k], use.indptr[k + 1])
            fits[use.indices[part]] &= np.cumsum(np.maximum(use.data[part], 0.0)) <= room[k]
        given = chosen[fits]
        if not given.size:
            break
        tokens = tokens.copy()
        tokens[given] = more[given]
        room = problem.budgets - problem.activity(tokens)
        more = np.minimum(queries.whole_after(tokens), queries.upper)
        added = problem.gains(more) - problem.gains(tokens)
    return tokens, room


def _fits_alone(
    problem: SeveralRows, tokens: FloatArray, more: FloatArray, room: FloatArray
) -> NDArray[np.bool_]:
    """(n,) whether every row has room for the query's next token, if it alone had one more."""
    curves = problem.queries.curve(more) - problem.queries.curve(tokens)
    fits = np.ones(tokens.size, dtype=bool)
    for matrix, step in ((problem.rows, more - tokens), (problem.curve_rows, curves)):
        entries = matrix.tocoo()
        use = entries.data * step[entries.col]
        fits[entries.col[(use > 0) & (use > room[entries.row])]] = False
    return fits
