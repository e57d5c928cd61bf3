"""`uniform`: one common cap for every query, as large as the rows allow. The usual practice."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

import numpy as np

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.relaxation import implied_bounds
from clearopt.validation import FloatArray


class Uniform(Backend):
    """The largest common cap: b_i = clip(cap, l_i, u_i). Certifies nothing."""

    name = "uniform"
    summary = "the same cap for every query (baseline)"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        (
            "several rows",
            "at-least rows",
            "whole tokens",
            "semicontinuous tokens",
            "cost curves",
            "mixed charges",
            "fractional mixed charges",
            "measured curves",
            "functions without a formula",
        )
    )
    certifies = "nothing"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        lower, upper = implied_bounds(program)
        message = "no common cap satisfies every row"
        tokens = None
        if np.isinf(upper).any():
            message = "a query has no upper bound, and none follows from the rows"
        else:
            # Declared bounds stand: a cap for all knows nothing of the utilities.
            declared = np.where(np.isinf(program.upper), upper, program.upper)
            whole = np.where(program.semicontinuous, program.lower, lower)
            tokens = common_cap(replace(program, lower=whole, upper=declared))
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            tolerance=options.tolerance,
            certifies=False,
            message="" if tokens is not None else message,
        )


def common_cap(program: Program) -> FloatArray | None:
    """The allocation under the largest common cap that meets every <= row, or None.

    Upper bounds must be finite. A semicontinuous query whose least amount is above the cap has
    nothing.
    """

    def under(cap: float) -> FloatArray:
        tokens = np.clip(cap, program.lower, program.upper)
        tokens = np.where(program.semicontinuous & (cap < program.lower), 0.0, tokens)
        return np.where(program.integer, np.floor(tokens + 1e-9), tokens)

    limits = program.sense_array == "<="

    def fits(cap: float) -> bool:
        charged = program.activity(under(cap))
        return bool(np.all(charged[limits] <= program.right_hand_side[limits]))

    high = float(program.upper.max())
    if fits(high):
        return under(high)
    low = float(program.least.min())
    if not fits(low):
        return None
    while True:  # to the last bit: the cap is monotone, a hundred halvings at most
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return under(low)
        low, high = (middle, high) if fits(middle) else (low, middle)
