"""`time-share`: a random share of the queries served at the best common cap, the others not.

The strongest policy that looks at no query: where a uniform cap would be too small for anybody, it
serves fewer, properly. Which ones is left to chance (`seed`).
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
from clearopt.validation import FloatArray

_QUANTILES = 64  # of each kind of landmark of the queries' own curves
_GRID = 128
_REFINEMENTS = 3  # each divides the spacing of the caps around the best one by _FINE / 2
_FINE = 32


class TimeShare(Backend):
    """A random subset at the common cap of greatest expected total; certifies nothing.

    A >= row asks for tokens, which serving a random share cannot promise.
    """

    name = "time-share"
    summary = "a random share of the queries at the best common cap (baseline)"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        ("fractional tokens", "whole tokens", "measured curves", "functions without a formula")
    )
    certifies = "nothing"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        lower, upper = implied_bounds(program)
        charge, budget = _budget(program)
        left = budget - float(charge @ lower)
        tokens: FloatArray | None = None
        statistics: dict[str, float] = {}
        message = ""
        if left < -1e-12 * abs(budget):
            message = "the lower bounds alone exceed the budget"
        elif np.isinf(upper).any():
            message = "a query has no upper bound, and none follows from the budget"
        else:
            cap = best_cap(program, lower, upper, charge, max(left, 0.0))
            served = _under(program, lower, upper, cap)
            chosen = _drawn(charge * (served - lower), max(left, 0.0), options.seed)
            tokens = np.where(chosen, served, lower)
            statistics = {"cap": cap, "share": float(chosen.mean())}
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            tolerance=options.tolerance,
            certifies=False,
            message=message,
            statistics=statistics,
        )


def _budget(program: Program) -> tuple[FloatArray, float]:
    """The one row: what a token of each query is charged, (n,), and the budget."""
    if program.rows.shape[0] == 0:
        return np.zeros(program.n), 0.0
    return program.rows[[0]].toarray().ravel(), float(program.right_hand_side[0])


def _under(program: Program, lower: FloatArray, upper: FloatArray, cap: float) -> FloatArray:
    tokens = np.clip(cap, lower, upper)
    return np.where(program.integer, np.maximum(np.floor(tokens + 1e-9), lower), tokens)


def best_cap(
    program: Program, lower: FloatArray, upper: FloatArray, charge: FloatArray, left: float
) -> float:
    """The common cap, tokens, at which the expected total over a random share is greatest.

    Args:
        program: the program.
        lower, upper: (n,) finite bounds in tokens.
        charge: (n,) what a token costs in the budget row, at least 0.
        left: what the budget leaves above the lower bounds.
    """
    idle = program.weight * program.utility(lower) - program.cost * lower

    def expected_gain(cap: float) -> float:
        tokens = _under(program, lower, upper, cap)
        price = float(charge @ (tokens - lower))
        share = 1.0 if price <= left else left / price
        gains = program.weight * program.utility(tokens) - program.cost * tokens
        return share * float(np.sum(gains - idle))

    caps = _landmarks(program, lower, upper)
    for _ in range(_REFINEMENTS + 1):
        gains = [expected_gain(cap) for cap in caps]
        best = int(np.argmax(gains))
        around = caps[max(best - 1, 0)], caps[min(best + 1, caps.size - 1)]
        winner = float(caps[best])
        caps = np.unique(np.append(np.linspace(*around, _FINE), winner))
    return winner


def _landmarks(program: Program, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Caps worth trying: an even grid, and quantiles of bounds, kinks and break-even amounts."""
    share = np.linspace(0.0, 1.0, _QUANTILES)
    found = [np.linspace(lower.min(), upper.max(), _GRID)]
    found += [np.quantile(bound, share) for bound in (lower, upper)]
    for block in program.utilities:
        family = block.family
        for excess in (0.0, family.inflection_excess, family.saturation_excess):
            found.append(np.quantile(family.origin + excess + np.zeros(block.index.size), share))
        found.append(np.quantile(family.break_even_tokens(), share))
    caps = np.concatenate(found)
    caps = caps[np.isfinite(caps)]
    return np.unique(np.clip(caps, lower.min(), upper.max()))


def _drawn(prices: FloatArray, left: float, seed: int) -> np.ndarray:
    """Which queries are served, (n,) bool: in random order, everyone who still fits."""
    chosen = np.zeros(prices.shape[0], dtype=np.bool_)
    for i in np.random.default_rng(seed).permutation(prices.shape[0]):
        if prices[i] <= left:
            left -= prices[i]
            chosen[i] = True
    return chosen
