"""A first allocation, cheap and good, for a general solver to start from.

One price for all rows at once: a query's charge is its largest share of any row, and it buys where
its envelope's slope is that price. The lowest price at which all rows hold is found by bisection;
then whoever still fits is funded, by break-even price. Where rows do more than cap, or floors
promise something, there is no such price and nobody knows a first allocation.
"""

from __future__ import annotations

import numpy as np

from clearopt.certificate import check_feasibility
from clearopt.program import Program
from clearopt.solvers.relaxation import concave_envelope, implied_bounds
from clearopt.validation import FloatArray

_HALVINGS = 60


def first_allocation(program: Program) -> FloatArray | None:
    """A feasible allocation, (n,), or None where it takes more than a price to find one."""
    negative = (program.rows.data < 0).any() or (program.curve_rows.data < 0).any()
    caps = np.all(program.sense_array == "<=") and not negative
    choosing = bool((program.choice >= 0).any() or program.semicontinuous.any())
    if not caps or choosing or program.floors.shape[0] or not program.n:
        return None
    lower, upper = implied_bounds(program)
    if np.isinf(upper).any():
        return None
    envelope = concave_envelope(program, lower, upper)
    room = program.right_hand_side - program.activity(lower)
    if (room < 0).any():
        return None
    # A cost curve is priced as if every cap were used up, which it never exceeds; what the rows
    # really charge decides what fits.
    charged = program.rows + program.curve_rows
    shares = charged.multiply((1.0 / np.maximum(room, 1e-300))[:, None])
    charge = np.asarray(shares.max(axis=0).todense()).ravel() if room.size else np.zeros(program.n)
    value = np.where(program.weight > 0, program.weight, 1.0)
    own_cost = program.cost + program.curve_cost

    def bought(price: float) -> FloatArray:
        asked = (own_cost + price * charge) / value
        buys = (program.weight > 0) & (asked <= envelope.chord)
        amount = lower + np.maximum(envelope.offset + envelope.demand(asked), 0.0)
        amount = np.where(buys, np.minimum(amount, upper), lower)
        return np.where(program.integer, np.floor(amount), amount)

    def fits(tokens: FloatArray) -> bool:
        return bool((program.activity(tokens) <= program.right_hand_side).all())

    net = program.weight * envelope.chord - own_cost
    low, high = 0.0, float((net / np.maximum(charge, 1e-300)).max(initial=0.0)) * (1 + 1e-9)
    if fits(bought(0.0)):
        high = 0.0
    for _ in range(_HALVINGS if high > 0 else 0):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fits(bought(middle)) else (middle, high)
    tokens = bought(high)
    if not fits(tokens):
        tokens = lower.copy()
    wanted = bought(0.0 if high == 0 else low)
    for i in np.argsort(-net / np.maximum(charge, 1e-300)).tolist():
        if tokens[i] == lower[i] and wanted[i] > lower[i]:
            kept, tokens[i] = tokens[i], wanted[i]
            if not fits(tokens):
                tokens[i] = kept
    return tokens if check_feasibility(program, tokens).ok else None
