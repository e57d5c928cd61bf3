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
from clearopt.solvers.scaling_up import largest_that_fits, whole_where_asked
from clearopt.validation import FloatArray


class Uniform(Backend):
    """The largest common cap: b_i = clip(cap, l_i, u_i). Certifies nothing."""

    name = "uniform"
    summary = "the same cap for every query (baseline)"
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
        return whole_where_asked(program, np.clip(cap, program.least, program.upper))

    return largest_that_fits(program, under, float(program.least.min()), float(program.upper.max()))
