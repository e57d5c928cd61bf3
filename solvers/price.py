"""`price`: the paper's price search alone. Every query answers the best price, and that is all.

At that price the marginal query jumps from nothing to its full purchase, so part of the budget is
left over: this is the allocation of arXiv 2606.03092, and `dual` is what closes the gap it leaves.
"""

from __future__ import annotations

import math
import time
from typing import ClassVar

import numpy as np

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.dual import one_row_program, restore
from clearopt.solvers.dual.one_row import guess_price, relax
from clearopt.solvers.dual.separable import Unbounded, separate, view


class Price(Backend):
    """The demand at the lowest price that fits the budget; its bound is the dual bound."""

    name = "price"
    summary = "price search alone, as in the paper: a bound, and the budget not used up (baseline)"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        (
            "negative coefficients",
            "at-least rows",
            "fractional tokens",
            "whole tokens",
            "semicontinuous tokens",
            "cost curves",
            "measured curves",
            "functions without a formula",
        )
    )
    certifies = "bound"
    modules = ("jax",)

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        tokens, bound, prices = None, math.inf, np.zeros(program.rows.shape[0])
        infeasible = unbounded = False
        message = ""
        try:
            seen = view(program)
            queries = separate(seen)
            row, sign = one_row_program(seen.program, queries)
            relaxation = relax(row, queries.lower, queries.upper, start=guess_price(row))
            bound = program.offset + relaxation.bound
            prices[:] = sign * relaxation.price
            infeasible = not relaxation.fits
            if relaxation.fits:
                tokens = seen.tokens(restore(queries, relaxation.under))
        except Unbounded as reason:
            unbounded, message = True, str(reason)
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=bound,
            row_prices=prices,
            tolerance=options.tolerance,
            infeasible=infeasible,
            unbounded=unbounded,
            message=message,
        )
