"""The best prices, and what is bought at them: the saddle point of the Lagrangian.

At the best prices a few queries are indifferent between two purchases, and only a mixture of both
meets the limits. The dual value's derivative is the Lagrangian's at that mixture (Danskin's
theorem), so the mixture has to be found beside the prices. Both are the two sides of one linear
program over the purchases seen so far, whose prices call for new purchases (Dantzig and Wolfe
1960); the prices stay in a box around the last ones that were best (boxstep, Marsten, Hogan and
Blankenship 1975).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from clearopt.bound_prices import mixture, purchases
from clearopt.marginal_values import Slopes, pressing
from clearopt.program import Program
from clearopt.validation import FloatArray

_ROUNDS = 60
_PATIENCE = 6  # rounds without a better bound after which prices are as good as they get
_CLOSED = 1e-12  # relative gap between mixture and bound that is none
_LARGEST = 20_000  # queries up to which prices are improved by linear programs
_TURN = 1e-6  # relative change of price at which the indifferent make up their minds


class Relaxed(NamedTuple):
    """The saddle point: multipliers (objective per unit, as `Solution.prices`) and purchases."""

    value: FloatArray  # () the dual value: the least bound on what is maximised
    rows: FloatArray  # (K,)
    floors: FloatArray  # (J,) at most 0
    many: FloatArray  # (n,) one purchase
    few: FloatArray  # (n,) another, the same where the query is not indifferent
    share: FloatArray  # (n,) how much of `many`
    above: FloatArray  # (n,) per token of the upper bound
    below: FloatArray  # (n,) per token of the lower bound


def nothing_known(program: Program) -> Relaxed:
    """What stands for a saddle point where there is none: not a number, throughout."""
    n, k, j = program.n, program.rows.shape[0], program.floors.shape[0]
    return Relaxed(*(np.full(s, np.nan) for s in ((), (k,), (j,), (n,), (n,), (n,), (n,), (n,))))


def saddle_point(program: Program, rows: FloatArray | None, floors: FloatArray | None) -> Relaxed:
    """From good prices to the best ones, and the mixture of purchases that proves it."""
    rows = np.zeros(program.rows.shape[0]) if rows is None else rows
    floors = np.zeros(program.floors.shape[0]) if floors is None else floors
    at = _Prices(program, rows, floors)
    if program.n <= _LARGEST and rows.size + floors.size:
        at = _improved(program, at)
    share = mixture(program, at.rows, at.floors, at.many, at.few)
    undecided = np.abs(at.many - at.few) > 1e-4 * np.maximum(at.many, at.few)
    many = np.where(undecided, at.many, at.tokens)
    few = np.where(undecided, at.few, at.tokens)
    share = np.where(undecided, share, 1.0)
    above, below = np.zeros(program.n), np.zeros(program.n)
    for tokens, part in ((many, share), (few, 1.0 - share)):
        side = Slopes.at(program, tokens, 1)
        gained = np.where(at.weight > 0, at.weight * side.utility, 0.0)
        slope = gained - at.price - at.curve_price * side.curve
        upwards, downwards = pressing(program, tokens, slope)
        above, below = above + part * upwards, below + part * downwards
    value = np.asarray(program.offset + at.bound)
    return Relaxed(value, at.rows, at.floors, many, few, share, above, below)


class _Prices:
    """What every query buys at given prices, and the bound that they prove."""

    def __init__(self, program: Program, rows: FloatArray, floors: FloatArray) -> None:
        self.rows, self.floors = rows, floors
        self.weight = program.weight - program.floors.T @ floors
        self.price = program.cost + program.rows.T @ rows
        self.curve_price = program.curve_cost + program.curve_rows.T @ rows
        self._program = program
        self.tokens = self._bought(0.0)
        self.many, self.few = self._bought(_TURN), self._bought(-_TURN)
        gains = self.weight * program.utility(self.tokens) - self.price * self.tokens
        if program.has_curves:
            gains = gains - self.curve_price * program.curve_value(self.tokens)
        terms = np.r_[rows * program.right_hand_side, floors * program.floor_levels]
        self.bound = math.fsum(gains) + math.fsum(terms)

    def _bought(self, turn: float) -> FloatArray:
        price, curve_price = self.price, self.curve_price
        return purchases(
            self._program,
            self.weight,
            price - turn * np.abs(price),
            curve_price - turn * np.abs(curve_price),
        )


def _improved(program: Program, at: _Prices) -> _Prices:
    """Prices whose bound is met by a mixture of purchases, to rounding."""
    columns = _Columns(program)
    columns.add(at)
    best, width, idle = at, 0.1, 0
    for _ in range(_ROUNDS):
        if idle >= _PATIENCE:
            break
        found = columns.priced(best, width)
        if found is None:
            width *= 10.0
            if width > 1e6:
                break
            continue
        rows, floors, reached, pressed = found
        if best.bound - reached <= _CLOSED * abs(best.bound) and not pressed:
            break
        following = _Prices(program, rows, floors)
        columns.add(following)
        idle = 0 if following.bound < best.bound - _CLOSED * abs(best.bound) else idle + 1
        if following.bound < best.bound:
            best = following
            width = width * 4.0 if pressed else width
        else:
            width = max(0.5 * width, 1e-9)
    return best


class _Columns:
    """The purchases seen so far, and the linear program that mixes them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        # The options of one choice are bought together.
        group = np.where(program.choice >= 0, program.n + program.choice, np.arange(program.n))
        self.groups, self.of_query = np.unique(group, return_inverse=True)
        self.seen: list[FloatArray] = []

    def add(self, at: _Prices) -> None:
        self.seen.extend([at.tokens, at.many, at.few])

    def priced(
        self, best: _Prices, width: float
    ) -> tuple[FloatArray, FloatArray, float, bool] | None:
        """The best mixture's prices in a box around `best`, its value, and whether the box presses.

        None where SciPy finds no solution.
        """
        p, k = self.program, self.program.rows.shape[0]
        count = self.groups.size
        objective, use, member = [], [], []
        kept: set[tuple[int, bytes]] = set()
        order = np.argsort(self.of_query, kind="stable")
        starts = np.searchsorted(self.of_query[order], np.arange(count + 1))
        for tokens in self.seen:
            new = np.ones(count, dtype=bool)
            for g in range(count):
                key = (g, tokens[order[starts[g] : starts[g + 1]]].tobytes())
                new[g] = key not in kept
                kept.add(key)
            gains, utility = p.gains(tokens), p.utility(tokens)
            charged = p.rows.multiply(tokens[None, :])
            if p.has_curves:
                charged = charged + p.curve_rows.multiply(p.curve_value(tokens)[None, :])
            both = sparse.vstack([charged, p.floors.multiply(utility[None, :])]).tocsc()
            to_group = sparse.csr_array(
                (np.ones(p.n), (np.arange(p.n), self.of_query)), (p.n, count)
            )
            wanted = np.flatnonzero(new)
            objective.append((gains @ to_group)[wanted])
            use.append(sparse.csc_array(both @ to_group)[:, wanted])
            member.append(wanted)
        column = np.concatenate(member)
        size = column.size
        limits = k + p.floors.shape[0]
        level = np.r_[p.right_hand_side, p.floor_levels]
        prices = np.r_[best.rows, best.floors]
        senses = np.r_[p.sense_array, np.full(limits - k, ">=")]
        scale = np.maximum(np.abs(prices), 1e-3 * np.abs(prices).max(initial=0.0))
        scale = np.where(scale > 0, scale, 1e-9)
        low, high = prices - width * scale, prices + width * scale
        low = np.where(senses == "<=", np.maximum(low, 0.0), low)
        high = np.where(senses == ">=", np.minimum(high, 0.0), high)
        matrix = sparse.hstack([sparse.hstack(use), -sparse.eye_array(limits),
                                sparse.eye_array(limits)])  # fmt: skip
        one = sparse.csc_array((np.ones(size), (column, np.arange(size))), (count, size))
        one = sparse.hstack([one, sparse.csc_array((count, 2 * limits))])
        solved = linprog(
            np.r_[-np.concatenate(objective), high, -low],
            A_eq=sparse.vstack([matrix, one]).tocsc(),
            b_eq=np.r_[level, np.ones(count)],
            bounds=(0, None),
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if solved.status != 0:
            return None
        found = np.clip(-solved.eqlin.marginals[:limits], low, high)
        edge = 1e-9 * scale
        pressed = (found >= high - edge) & (high != 0) | (found <= low + edge) & (low != 0)
        return found[:k], found[k:], -float(solved.fun), bool(pressed.any())
