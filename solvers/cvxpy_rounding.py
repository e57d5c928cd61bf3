"""From the relaxation's point to an allocation: queries decided, then the concave rest solved."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.program import Program
from clearopt.solvers.choices import Choices
from clearopt.solvers.cvxpy_cuts import Tangents
from clearopt.solvers.cvxpy_model import Run
from clearopt.solvers.cvxpy_relaxation import Relaxed, effective, price_ratio, relax
from clearopt.solvers.relaxation import Envelope, concave_envelope
from clearopt.solvers.repair import refill, repair, restricted
from clearopt.validation import FloatArray

_FLIPS = 4  # queries nearest to break-even whose decision is tried the other way round


def rounded(
    program: Program,
    envelope: Envelope,
    relaxed: Relaxed,
    run: Run,
    *,
    known: FloatArray | None = None,
    heard: Callable[[float, float], None] | None = None,
) -> FloatArray | None:
    """The best feasible allocation among a few roundings of the relaxed point, (n,), or None.

    A query on the straight part of its envelope is decided: down to its lower bound, or up to the
    concave part. With everybody decided the problem is concave; solving that once more spends
    what the decision has freed. `known` is a feasible allocation to begin with: nothing worse is
    returned. `heard` is told every better value.
    """
    assert relaxed.tokens is not None
    best, best_value = known, -math.inf if known is None else program.objective(known)
    up_amount = envelope.lower + envelope.reach
    up_amount = np.where(program.integer, np.ceil(up_amount - 1e-9), up_amount)
    up_amount = np.minimum(up_amount, envelope.upper)
    for up in _decisions(program, envelope, relaxed, up_amount):
        close = relaxed.bound - best_value <= run.options.tolerance * abs(best_value)
        if best is not None and (close or run.left <= 0):
            break
        found = _solve_decided(
            program, envelope, up, up_amount, relaxed.cuts, run, worth=best_value
        )
        if found is not None and program.objective(found) > best_value:
            best, best_value = found, program.objective(found)
            if heard is not None:
                heard(best_value, relaxed.bound)
    if best is not None:
        return best
    return repair(program, relaxed.tokens, time_limit=run.limit)


def _decisions(
    program: Program, envelope: Envelope, relaxed: Relaxed, up_amount: FloatArray
) -> list[NDArray[np.bool_]]:
    """Who is on the concave part, (n,) bool each, the most promising first, none twice."""
    assert relaxed.tokens is not None
    straight = envelope.reach
    prices = relaxed.row_prices, relaxed.floor_prices
    with np.errstate(all="ignore"):
        share = np.where(straight > 0, (relaxed.tokens - envelope.lower) / straight, 1.0)
        weight, price = effective(program, prices)
        merit = np.where(price > 0, weight * envelope.chord / price, np.inf)
        doubt = np.where(straight > 0, np.abs(np.log(merit)), np.inf)
    # What everybody buys on the concave part at these prices, never less than where it begins.
    bought = envelope.lower + envelope.offset + envelope.demand(price_ratio(program, prices))
    bought = np.clip(np.where(program.integer, np.floor(bought), bought), up_amount, envelope.upper)
    full = share >= 1.0 - 1e-6
    open_ = (share > 1e-6) & ~full
    order = np.lexsort((-merit, -share.round(6)))
    nobody = np.zeros(program.n, dtype=np.bool_)

    def filled(first: NDArray[np.bool_], never: NDArray[np.bool_] = nobody) -> NDArray[np.bool_]:
        return _while_it_fits(program, envelope, first, never, order, bought)

    least = _while_it_fits(program, envelope, nobody, nobody, order, up_amount)
    found = [filled(nobody), full, filled(open_), full | open_, least]
    doubtful = np.argsort(doubt, kind="stable")[:_FLIPS]
    for i in doubtful[np.isfinite(doubt[doubtful])]:
        flip = nobody.copy()
        flip[i] = True
        found += [filled(nobody, never=flip), filled(flip)]
    choices = Choices.of(program.choice)
    if choices is not None:
        liked = np.where(np.isfinite(merit), merit, np.finfo(float).max)
        found = [up & choices.best(np.where(up, liked, -1.0)) for up in found]
    distinct: list[NDArray[np.bool_]] = []
    for up in found:
        if not any(np.array_equal(up, other) for other in distinct):
            distinct.append(up)
    return distinct


def _while_it_fits(
    program: Program,
    envelope: Envelope,
    first: NDArray[np.bool_],
    never: NDArray[np.bool_],
    order: NDArray[np.intp],
    amount: FloatArray,
) -> NDArray[np.bool_]:
    """`first`, and then everybody in `order` whose `amount` overflows no row; `never` stay down."""
    up = first.copy()
    columns = sparse.csc_array(program.rows)
    capped = program.sense_array != ">="
    limit = np.where(capped, program.right_hand_side, np.inf)
    limit = limit + 1e-12 * np.where(capped, np.abs(program.right_hand_side), 0.0)
    activity = program.rows @ np.where(up, amount, envelope.lower)
    step = amount - envelope.lower
    for i in order:
        if up[i] or never[i]:
            continue
        part = slice(columns.indptr[i], columns.indptr[i + 1])
        rows = columns.indices[part]
        after = activity[rows] + columns.data[part] * step[i]
        if np.all((after <= limit[rows]) | (columns.data[part] <= 0)):
            up[i] = True
            activity[rows] = after
    return up


def _solve_decided(
    program: Program,
    envelope: Envelope,
    up: NDArray[np.bool_],
    up_amount: FloatArray,
    cuts: Tangents,
    run: Run,
    *,
    worth: float,
) -> FloatArray | None:
    """The concave problem left when `up` says who is on the concave part; a feasible allocation.

    None where there is none, or none better than `worth`.

    Where the envelope's chord ends at the upper bound, up means exactly there.
    """
    # Someone without a straight part is on the concave part already at the lower bound.
    upper = np.where(up | (envelope.reach <= 0), envelope.upper, envelope.lower)
    lower = np.where(up, up_amount, envelope.lower)
    decided = restricted(program, lower, upper)
    narrow = concave_envelope(decided, lower, upper)
    # Tangents of the curved part stay valid; they are only counted from another lower bound.
    shifted = cuts.moved(lower - envelope.lower)
    solved = relax(decided, narrow, run, shifted, worth=worth)
    if solved.tokens is None or solved.bound <= worth:
        return None
    tokens = np.where(program.integer, np.floor(solved.tokens + 1e-9), solved.tokens)
    found = repair(program, tokens, time_limit=run.limit)
    return None if found is None else refill(program, found)
