"""The optimum of tiny programs by plain enumeration, which knows nothing of utilities but values.

Whole tokens: every allocation. Fractional ones, two queries: on a fine grid of one query's tokens
the other's are at one of their ends or where a row or a floor is used up, which is where the
optimum lies if utilities never fall and tokens cost nothing; the grid closes in on the best.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.validation import FloatArray

_FITS = 1e-9  # relative
_MOST_ALLOCATIONS = 3_000_000
_GRID, _CLOSER, _CELLS, _ROUNDS, _HALVINGS = 801, 41, 8, 8, 55


def enumerate_whole(program: Program) -> float:
    """The greatest objective over whole tokens, offset included; -inf if nothing is feasible.

    Raises:
        ValueError: tokens are not all whole, or the allocations too many.
    """
    if not program.integer.all():
        raise ValueError("enumerate_whole: not all tokens are whole")
    axes = [_whole_amounts(program, i) for i in range(program.n)]
    if np.prod([float(axis.size) for axis in axes]) > _MOST_ALLOCATIONS:
        raise ValueError("enumerate_whole: too many allocations")
    return _best(program, np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")]))


def enumerate_identical(program: Program) -> float:
    """As `enumerate_whole`, for queries that are all alike: their order does not matter."""
    amounts = _whole_amounts(program, 0).tolist()
    sets = itertools.combinations_with_replacement(amounts, program.n)
    return _best(program, np.array(list(sets)).T)


def search_two(program: Program) -> float:
    """The greatest objective of two queries with fractional tokens; see the module's docstring.

    Raises:
        ValueError: there are not two queries, or tokens cost something.
    """
    if program.n != 2 or program.cost.any() or program.curve_cost.any():
        raise ValueError("search_two: two queries whose tokens cost nothing")
    best = -np.inf
    for first in (0, 1):
        low, high = float(program.lower[first]), float(program.upper[first])
        nothing = float(program.least[first])  # below `low` where semicontinuous
        grid, width = np.linspace(low, high, _GRID), (high - low) / (_GRID - 1)
        for _ in range(_ROUNDS):
            amounts = np.append(grid, nothing)
            value = _given(program, first, amounts)
            best = max(best, float(value.max()))
            centres = amounts[np.argsort(-value)[:_CELLS]]
            steps = width * np.linspace(-1.0, 1.0, _CLOSER)
            grid = np.clip(np.add.outer(centres, steps).ravel(), low, high)
            width = 2.0 * width / (_CLOSER - 1)
    return best


def _whole_amounts(program: Program, query: int) -> FloatArray:
    amounts = np.arange(np.ceil(program.lower[query]), np.floor(program.upper[query]) + 1.0)
    return np.unique(np.append(amounts, program.least[query]))


class _Points(NamedTuple):
    """Many allocations at once: all (n, points)."""

    tokens: FloatArray
    utility: FloatArray
    cost: FloatArray


def _points(program: Program, tokens: FloatArray) -> _Points:
    utility, cost = np.zeros_like(tokens), np.zeros_like(tokens)
    for blocks, values in ((program.utilities, utility), (program.curves, cost)):
        for block in blocks:
            for member, query in enumerate(block.index.tolist()):
                alone = block.family.take(np.full(tokens.shape[1], member))
                values[query] = alone.value(tokens[query])
    return _Points(tokens, utility, cost)


def _best(program: Program, tokens: FloatArray) -> float:
    return float(_worth(program, tokens).max(initial=-np.inf))


def _worth(program: Program, tokens: FloatArray) -> FloatArray:
    """The objective at each allocation, (points,); -inf where it is not feasible."""
    at = _points(program, tokens)
    fits: NDArray[np.bool_] = np.ones(tokens.shape[1], dtype=bool)
    used = program.rows @ tokens + program.curve_rows @ at.cost
    size = abs(program.rows) @ tokens + abs(program.curve_rows) @ at.cost
    for k, sense in enumerate(program.senses):
        over = used[k] - program.right_hand_side[k]
        slack = _FITS * np.maximum(abs(program.right_hand_side[k]), size[k])
        if sense != ">=":
            fits &= over <= slack
        if sense != "<=":
            fits &= over >= -slack
    reached = program.floors @ at.utility
    for j, level in enumerate(program.floor_levels.tolist()):
        fits &= reached[j] >= level * (1 - _FITS)
    for choice in np.unique(program.choice[program.choice >= 0]).tolist():
        fits &= (tokens[program.choice == choice] > 0).sum(axis=0) <= 1
    gains = program.weight @ at.utility - program.cost @ tokens - program.curve_cost @ at.cost
    return np.where(fits, program.offset + gains, -np.inf)


def _given(program: Program, first: int, amounts: FloatArray) -> FloatArray:
    """The best of two queries where `first` has `amounts`, (points,)."""
    other = 1 - first
    candidates = [
        np.full(amounts.shape, end)
        for end in (program.least[other], program.lower[other], program.upper[other])
    ]
    limits = program.rows.shape[0] + program.floors.shape[0]
    low, high = float(program.lower[other]), float(program.upper[other])
    for limit in range(limits):
        if limit < program.rows.shape[0] and not program.curve_rows[[limit]].nnz:
            row = program.rows[[limit]].toarray().ravel()
            if row[other] != 0:
                used_up = (program.right_hand_side[limit] - row[first] * amounts) / row[other]
                candidates.append(np.clip(used_up, low, high))
            continue
        short = _excess(program, first, amounts, np.full(amounts.shape, low), limit)
        left, right = np.full(amounts.shape, low), np.full(amounts.shape, high)
        for _ in range(_HALVINGS):
            middle = 0.5 * (left + right)
            same = (_excess(program, first, amounts, middle, limit) > 0) == (short > 0)
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        candidates += [left, right]
    best = np.full(amounts.shape, -np.inf)
    for tokens in candidates:
        best = np.maximum(best, _worth(program, _pair(first, amounts, tokens)))
    return best


def _pair(first: int, amounts: FloatArray, others: FloatArray) -> FloatArray:
    return np.stack([amounts, others] if first == 0 else [others, amounts])


def _excess(
    program: Program, first: int, amounts: FloatArray, others: FloatArray, limit: int
) -> FloatArray:
    """How far above its right-hand side a row, or after the rows a floor, is."""
    at = _points(program, _pair(first, amounts, others))
    rows = program.rows.shape[0]
    if limit >= rows:
        reached: FloatArray = program.floors[[limit - rows]] @ at.utility
        return np.ravel(reached) - program.floor_levels[limit - rows]
    used = program.rows[[limit]] @ at.tokens + program.curve_rows[[limit]] @ at.cost
    return np.ravel(used) - program.right_hand_side[limit]
