"""The concave relaxation: cone forms solved once, tangents refined where the solution lies.

The number reported as the bound is not the solver's: its multipliers are put into the dual
function, which is an upper bound at any multipliers of the right sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from clearopt.program import Program
from clearopt.solvers.cvxpy_cuts import Queries, Tangents, first_tangents, is_piecewise_linear
from clearopt.solvers.cvxpy_model import Model, Run
from clearopt.solvers.relaxation import Envelope, lagrangian_bound
from clearopt.validation import FloatArray

_ROUNDS = 40
_INEXACT = 1e-7  # relative; a gap that interior-point solvers leave on cones is smaller
_LINE_STEPS = 16
_RAY = (0.0, 1.0, 2.0)  # parts of the prices between which a lower bound is looked for
_RAY_STEPS = 32
_AROUND_KNOWN = (0.9, 0.97, 1.0, 1.03, 1.1)  # parts of an earlier solution's prices

Prices: TypeAlias = tuple[FloatArray, FloatArray]  # of the rows (K,), of the floors (J,)


@dataclass
class Relaxed:
    """A solved relaxation: its best bound, the multipliers that prove it, and its last point."""

    bound: float
    row_prices: FloatArray
    floor_prices: FloatArray
    tokens: FloatArray | None = None
    value: float = math.nan
    infeasible: bool = False
    message: str = ""
    cuts: Tangents = field(default_factory=Tangents.none)
    in_cones: int = 0  # queries whose envelope was a cone in the last model

    def improve(self, program: Program, envelope: Envelope, prices: Prices) -> None:
        """Take these multipliers if they prove as much as those known, but for rounding."""
        bound = _dual(program, envelope, prices)
        if bound <= self.bound + 1e-13 * abs(self.bound):
            self.bound, (self.row_prices, self.floor_prices) = bound, prices


def relax(
    program: Program,
    envelope: Envelope,
    run: Run,
    cuts: Tangents | None = None,
    *,
    known: Prices | None = None,
    worth: float = -math.inf,
    heard: Callable[[float, float], None] | None = None,
) -> Relaxed:
    """Solve, evaluate the dual function at the multipliers, cut, repeat.

    Args:
        program: the program, without cost curves.
        envelope: its utilities' envelopes.
        run: what the models of a call share.
        cuts: tangents known from an earlier relaxation and still valid in this one.
        known: multipliers of the right sign, from an earlier solution: where to begin.
        worth: a bound at or below it ends the search.
        heard: told every bound.
    """
    no_price = np.zeros(program.rows.shape[0]), np.zeros(program.floors.shape[0])
    best = Relaxed(_dual(program, envelope, no_price), *no_price)
    model = Model(program, envelope, cones=run.cones)
    start = first_tangents(envelope) + (Tangents.none() if cuts is None else cuts)
    if known is not None:
        best.improve(program, envelope, known)
        start = start + _around(program, envelope, known, _AROUND_KNOWN)
    best.cuts = start.of(~model.exact)
    finished = is_piecewise_linear(envelope)
    aim = 0.1 * run.options.tolerance
    uses = program.weight + np.asarray(program.floors.sum(axis=0)).ravel()
    for turn in range(_ROUNDS):
        if run.left <= 0:
            best.message = "stopped at the time limit"
            break
        in_cones = model.exact
        status, point = model.solve(best.cuts, run)
        if point is None and status != "infeasible" and in_cones.any() and run.left > 0:
            run.cones = False  # it takes no such cones, or failed on them
            model, best.cuts = Model(program, envelope, cones=False), best.cuts + start.of(in_cones)
            continue
        if status == "infeasible":
            best.infeasible = True
            best.message = "no allocation satisfies even the relaxed constraints"
            break
        if point is None:
            best.message = f"{run.solver} stopped: {status}"
            break
        last = best.row_prices, best.floor_prices
        best.in_cones = int(in_cones.sum())
        best.improve(program, envelope, (point.row_prices, point.floor_prices))
        best.tokens = point.tokens
        reached = envelope.value(point.tokens)
        gains = program.weight * reached - program.cost * point.tokens
        best.value = program.offset + math.fsum(gains)
        size = max(abs(best.bound), abs(best.value))
        missed = program.floor_levels - program.floors @ reached
        met = bool(np.all(missed <= aim * np.abs(program.floor_levels)))
        done = (met and best.bound - best.value <= aim * size) or best.bound <= worth
        # Where the point's utility is above the envelope: its tangent there.
        excess_utility = (point.utility - reached) * np.where(uses > 0, uses, 1.0)
        excess_utility[in_cones | finished] = 0.0  # nothing to be added to these
        loose = np.flatnonzero(excess_utility > 0.1 * aim * size / program.n)
        prices = (point.row_prices, point.floor_prices)
        if not done:
            prices = _best_between(program, envelope, last, prices)
            best.improve(program, envelope, prices)
        if heard is not None:
            heard(-math.inf, best.bound)
        if done:
            break
        if loose.size == 0:
            if not in_cones.any() or best.bound - best.value <= _INEXACT * size:
                break
            # The solver was not exact on its cones: tangents can be as close as one likes.
            model, best.cuts = Model(program, envelope, cones=False), best.cuts + start.of(in_cones)
            continue
        best.cuts = best.cuts + Tangents.at(envelope, envelope.excess(point.tokens), loose)
        # And around the prices of the lowest bound between the last ones and these, closer each
        # time. A linear program's multipliers are slopes of tangents it already has; these are
        # not, and the corners that two neighbouring tangents leave shrink tenfold a round.
        width = 0.1 ** (turn + 1)
        factors = (1.0 - width, 1.0, 1.0 + width)
        best.cuts = best.cuts + _around(program, envelope, prices, factors, loose)
    if best.tokens is not None and best.bound > worth:
        _polish(program, envelope, best)
    return best


def _polish(program: Program, envelope: Envelope, best: Relaxed) -> None:
    """Lower the bound along its prices, where whole tokens or choices let it be lower.

    The relaxation knows neither; the dual function does, and may be least at other prices.
    """
    if not (program.integer.any() or (program.choice >= 0).any()):
        return
    rows, floors = best.row_prices, best.floor_prices
    less, same, more = ((factor * rows, factor * floors) for factor in _RAY)
    for ends in ((less, same), (same, more)):
        best.improve(program, envelope, _best_between(program, envelope, *ends, steps=_RAY_STEPS))


def _around(
    program: Program,
    envelope: Envelope,
    prices: Prices,
    factors: tuple[float, ...],
    query: Queries | None = None,
) -> Tangents:
    """Tangents with the slopes that parts of these prices ask for, of the queries named."""
    curved = np.flatnonzero(envelope.contact < envelope.end) if query is None else query
    ratio = price_ratio(program, prices)
    cuts = Tangents.none()
    for factor in factors:
        cuts = cuts + Tangents.at(envelope, envelope.demand(factor * ratio), curved)
    return cuts


def price_ratio(program: Program, prices: Prices) -> FloatArray:
    """(n,) effective price over effective weight, infinite where the weight is 0."""
    weight, price = effective(program, prices)
    with np.errstate(all="ignore"):
        return np.where(weight > 0, price / np.where(weight > 0, weight, 1.0), np.inf)


def effective(program: Program, prices: Prices) -> tuple[FloatArray, FloatArray]:
    """Effective weight and price of every query, (n,) each."""
    row_prices, floor_prices = prices
    weight = program.weight + program.floors.T @ floor_prices
    return weight, program.cost + program.rows.T @ row_prices


def _best_between(
    program: Program, envelope: Envelope, first: Prices, second: Prices, steps: int = _LINE_STEPS
) -> Prices:
    """The prices of the lowest dual bound between two, by golden section (the dual is convex)."""

    def at(share: float) -> Prices:
        rows, floors = ((1 - share) * p + share * q for p, q in zip(first, second, strict=True))
        return rows, floors

    def bound(share: float) -> float:
        return _dual(program, envelope, at(share))

    low, high, golden = 0.0, 1.0, 0.5 * (math.sqrt(5.0) - 1.0)
    left, right = high - golden, low + golden
    at_left, at_right = bound(left), bound(right)
    for _ in range(steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = bound(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = bound(right)
    return at(left if at_left <= at_right else right)


def _dual(program: Program, envelope: Envelope, prices: Prices) -> float:
    return lagrangian_bound(program, envelope.lower, envelope.upper, *prices)
