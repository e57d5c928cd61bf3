"""`uniform`: one common cap for every query, as large as the rows allow. The usual practice."""

from __future__ import annotations

import time

import numpy as np

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, SolveOptions
from clearopt.validation import FloatArray


class Uniform(Backend):
    """The largest common cap: b_i = clip(cap, l_i, u_i). Certifies nothing."""

    name = "uniform"
    summary = "the same cap for every query (baseline)"
    supports = frozenset({"several rows", "whole tokens"})
    certifies = "nothing"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        tokens = common_cap(program)
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            tolerance=options.tolerance,
            certifies=False,
            message="" if tokens is not None else "no common cap satisfies every row",
        )


def common_cap(program: Program) -> FloatArray | None:
    """The allocation under the largest common cap that meets every <= row, or None."""

    def under(cap: float) -> FloatArray:
        tokens = np.clip(cap, program.lower, program.upper)
        return np.where(program.integer, np.floor(tokens + 1e-9), tokens)

    limits = program.sense_array == "<="
    rows, budgets = program.rows[np.flatnonzero(limits)], program.right_hand_side[limits]

    def fits(cap: float) -> bool:
        return bool(np.all(rows @ under(cap) <= budgets))

    finite = program.upper[np.isfinite(program.upper)]
    high = max(float(finite.max()) if finite.size else 1.0, 1.0)
    if not finite.size or finite.size < program.n:
        while fits(high) and high < 1e18:
            high *= 2.0
    if fits(high):
        return under(high)
    low = float(program.lower.min())
    if not fits(low):
        return None
    while True:  # to the last bit: the cap is monotone, a hundred halvings at most
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return under(low)
        low, high = (middle, high) if fits(middle) else (low, middle)
