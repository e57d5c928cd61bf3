"""`proportional`: tokens in proportion to the threshold, by one common factor. A rule of thumb.

What a predictor of difficulty suggests: who needs more gets more, and all are cut alike where the
budget is short. Below its threshold a query is paid for nothing, which is what this rule overlooks.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.relaxation import implied_bounds
from clearopt.solvers.scaling_up import largest_that_fits, whole_where_asked
from clearopt.validation import FloatArray


class Proportional(Backend):
    """b_i = clip(factor * need_i, l_i, u_i), the factor as large as the rows allow."""

    name = "proportional"
    summary = "tokens in proportion to the predicted threshold (baseline)"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        (
            "several rows",
            "at-least rows",
            "fractional tokens",
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
        lower, implied = implied_bounds(program)
        # Declared bounds stand: the rule knows of a query what a predictor does, its need.
        upper = np.where(np.isinf(program.upper), implied, program.upper)
        tokens, message = None, "no common factor satisfies every row"
        if np.isinf(upper).any():
            message = "a query has no upper bound, and none follows from the rows"
        else:
            need = needed_tokens(program, upper)

            def at(factor: float) -> FloatArray:
                return whole_where_asked(program, np.clip(factor * need, lower, upper))

            positive = need > 0
            most = float((upper[positive] / need[positive]).max(initial=1.0))
            tokens = largest_that_fits(program, at, 0.0, most)
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            tolerance=options.tolerance,
            certifies=False,
            message="" if tokens is not None else message,
        )


def needed_tokens(program: Program, upper: FloatArray) -> FloatArray:
    """(n,) the threshold of every query, or, of a curve without one, where it is steepest.

    Measured curves, which may have neither, need what they break even at. Queries without a
    utility need nothing.
    """
    need = np.zeros(program.n)
    for block in program.utilities:
        family, i = block.family, block.index
        with np.errstate(all="ignore"):
            origin = np.broadcast_to(np.asarray(family.origin, dtype=np.float64), i.shape)
            bend = origin + family.inflection_excess
            start = np.where(origin > 0, origin, bend)
            even = family.break_even_tokens()
        start = np.where(np.isfinite(start) & (start > 0), start, even)
        need[i] = np.clip(np.where(np.isfinite(start), start, upper[i]), 0.0, upper[i])
    return need
