"""`greedy`: serve whoever gains most per token first, then share what is left. A rule of thumb.

Queries are served in the order of their break-even price, each with the tokens it breaks even at,
as long as the rows allow. What the rows still leave is shared among the served at one price for
all. In contrast to marginal-utility greedy, which buys nothing before a threshold, it looks at
whole purchases; in contrast to an exact method it never takes one back.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
from scipy import sparse

from clearopt.assemble import make_solution
from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.relaxation import implied_bounds
from clearopt.solvers.scaling_up import largest_that_fits, whole_where_asked
from clearopt.validation import FloatArray


class Greedy(Backend):
    """Purchases by surplus per token, never taken back; certifies nothing."""

    name = "greedy"
    summary = "whoever gains most per token first, what is left at one price (baseline)"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        (
            "several rows",
            "fractional tokens",
            "whole tokens",
            "semicontinuous tokens",
            "measured curves",
            "functions without a formula",
        )
    )
    certifies = "nothing"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        if np.any(program.sense_array != "<="):
            raise UnsupportedProblemError(
                f"solver {self.name!r} takes <= rows; a >= row asks for tokens, which a rule that "
                "buys what pays cannot promise"
            )
        lower, upper = implied_bounds(program)
        tokens, message = None, ""
        if np.isinf(upper).any():
            message = "a query has no upper bound, and none follows from the rows"
        elif (program.rows @ lower > program.right_hand_side * (1 + 1e-12)).any():
            message = "the lower bounds alone exceed a row"
        else:
            tokens = purchases(program, lower, upper)
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            tolerance=options.tolerance,
            certifies=False,
            message=message,
        )


def purchases(program: Program, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """The greedy allocation, (n,), between finite bounds whose lower ends the rows allow."""
    charge = _charge(program, lower)
    wanted, rate = _break_even(program, lower, upper, charge)
    columns = sparse.csc_array(program.rows)
    left = program.right_hand_side - program.rows @ lower
    tokens = lower.copy()
    for i in np.argsort(-rate, kind="stable"):
        if not rate[i] > 0:
            break
        part = slice(columns.indptr[i], columns.indptr[i + 1])
        rows, used = columns.indices[part], columns.data[part] * (wanted[i] - lower[i])
        if (used <= left[rows]).all():
            tokens[i] = wanted[i]
            left[rows] -= used
    return _shared(program, tokens, upper, charge)


def _charge(program: Program, lower: FloatArray) -> FloatArray:
    """(n,) what a token takes of all rows together, each as a share of what it has to give."""
    free = np.maximum(program.right_hand_side - program.rows @ lower, 0.0)
    with np.errstate(divide="ignore"):
        share = np.where(free > 0, 1.0 / free, 1e300)
    return np.asarray(program.rows.T @ share) if free.size else np.zeros(program.n)


def _break_even(
    program: Program, lower: FloatArray, upper: FloatArray, charge: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(tokens, gain per charge) of each query's best first purchase, (n,) each; 0 for none."""
    wanted, rate = lower.copy(), np.zeros(program.n)
    for block in program.utilities:
        i, family = block.index, block.family
        with np.errstate(all="ignore"):
            even = np.clip(np.nan_to_num(family.break_even_tokens(), posinf=1e300),
                           lower[i], upper[i])  # fmt: skip
        even = np.where(program.semicontinuous[i], np.maximum(even, program.lower[i]), even)
        even = np.where(program.integer[i], np.minimum(np.ceil(even), np.floor(upper[i])), even)
        wanted[i] = np.where(even <= upper[i], even, lower[i])
    gain = program.gains(wanted) - program.gains(lower)
    paid = charge * (wanted - lower)
    worth = (gain > 0) & (wanted > lower)
    with np.errstate(divide="ignore", over="ignore"):
        rate[worth] = np.where(paid > 0, gain / np.where(paid > 0, paid, 1.0), np.inf)[worth]
    return wanted, rate


def _shared(
    program: Program, tokens: FloatArray, upper: FloatArray, charge: FloatArray
) -> FloatArray:
    """More for those already served, at one price of the rows' charge: what still fits."""
    served = tokens > 0
    most = np.where(served, upper, tokens)

    def at(cheapness: float) -> FloatArray:
        """The allocation at the price 1 / cheapness."""
        more = tokens.copy()
        price = program.cost + (charge / cheapness if cheapness > 0 else 1e300)
        for block in program.utilities:
            i = block.index
            whole = program.integer[i]
            with np.errstate(all="ignore"):
                best = block.family.best_response(
                    program.weight[i], price[i], tokens[i], most[i],
                    whole if whole.any() else None,
                )  # fmt: skip
            more[i] = best.tokens
        return whole_where_asked(program, more)

    found = largest_that_fits(program, at, 1e-300, 1e300)
    return tokens if found is None else found
