"""The optimum seen from nearby: who can still move, which limits hold, and at what multipliers.

Everything here is NumPy: it runs in the callback that solves, where JAX must not be called.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.certificate import check_feasibility
from clearopt.marginal_values import Slopes, binding_limits, bounds_met, marginal_multipliers
from clearopt.program import Program
from clearopt.validation import FloatArray

_STEPS = 8  # Newton steps; from a solver's answer two or three do
_NEARBY = 1e-6  # relative step of the differences that give second derivatives
_FLAT = 1e-9  # curvature that stands for none, relative to slope / tokens
_NEGLIGIBLE = 1e-10  # relative size of an eigenvalue that is none


class Local(NamedTuple):
    """A local optimum, the funded set as it is: float64 arrays, conditions as 0 and 1."""

    tokens: FloatArray  # (n,)
    objective: FloatArray  # (), of what is maximised
    rows: FloatArray  # (K,) marginal multipliers, objective per unit of the right-hand side
    floors: FloatArray  # (J,) likewise, at most 0
    above: FloatArray  # (n,) per token of the upper bound, at least 0
    below: FloatArray  # (n,) per token of the lower bound, at most 0
    free: FloatArray  # (n,) strictly between its bounds, where its marginal utility is equal
    at_lower: FloatArray  # (n,) goes where its lower bound goes
    at_upper: FloatArray  # (n,) goes where its upper bound goes
    row_held: FloatArray  # (K,) binding, with a multiplier of its own (or an equality)
    floor_held: FloatArray  # (J,)


def nothing_known(program: Program) -> Local:
    """What stands for a local optimum where no allocation was found: not a number, throughout."""
    n, k, j = program.n, program.rows.shape[0], program.floors.shape[0]
    sizes = (n, None, k, j, n, n, n, n, n, k, j)
    return Local(*(np.full(() if s is None else (s,), np.nan) for s in sizes))


def local_optimum(program: Program, tokens: FloatArray) -> Local:
    """What holds at an allocation, after Newton steps that make its marginals equal."""
    found = _look(program, tokens)
    for _ in range(_STEPS):
        moved = _newton(program, found)
        if moved is None:
            break
        following = _look(program, moved)
        same = all(
            np.array_equal(getattr(found, name), getattr(following, name))
            for name in ("free", "at_lower", "at_upper", "row_held", "floor_held")
        )
        worse = following.objective < found.objective - 1e-9 * abs(found.objective)
        if not same or worse or not check_feasibility(program, moved).ok:
            break
        change = np.abs(moved - found.tokens).max(initial=0.0)
        found = following
        if change <= 1e-13 * np.abs(moved).max(initial=0.0):
            break
    return found


def _look(program: Program, tokens: FloatArray) -> Local:
    multipliers = marginal_multipliers(program, tokens)
    more = Slopes.at(program, tokens, 1)
    fewest, most = bounds_met(program, tokens)
    # What is whole stands still under small changes, and so does what sits at a kink.
    still = program.integer | (program.choice >= 0) & (tokens == 0)
    nothing = program.semicontinuous & (tokens == 0)
    weight = program.weight - program.floors.T @ multipliers.floors
    moves = (weight * more.utility != 0) & np.isfinite(more.utility)
    free = more.smooth & ~fewest & ~most & ~still & moves
    row_binds, floor_binds = binding_limits(program, tokens)
    return Local(
        tokens=tokens,
        objective=np.asarray(program.objective(tokens)),
        rows=multipliers.rows,
        floors=multipliers.floors,
        above=multipliers.above,
        below=multipliers.below,
        free=_flags(free),
        at_lower=_flags(fewest & ~still & ~nothing & (tokens >= program.lower)),
        at_upper=_flags(most & ~fewest & ~still),
        row_held=_flags(row_binds & ((multipliers.rows != 0) | (program.sense_array == "=="))),
        floor_held=_flags(floor_binds & (multipliers.floors != 0)),
    )


def _flags(held: NDArray[np.bool_]) -> FloatArray:
    return held.astype(np.float64)


def _newton(program: Program, at: Local) -> FloatArray | None:
    """One Newton step on equal marginals and held limits; None where nothing can be moved."""
    free = np.flatnonzero(at.free)
    rows, floors = np.flatnonzero(at.row_held), np.flatnonzero(at.floor_held)
    if not free.size or not rows.size + floors.size:
        return None
    tokens = at.tokens
    weight = program.weight - program.floors.T @ at.floors
    curve_price = program.curve_cost + program.curve_rows.T @ at.rows
    slope, curve = program.marginal(tokens), program.curve_marginal(tokens)
    price = program.cost + program.rows.T @ at.rows
    residual = (weight * slope - price - curve_price * curve)[free]
    bend = (weight * _derivative(program.marginal, tokens))[free]
    if program.has_curves:
        bend = bend - (curve_price * _derivative(program.curve_marginal, tokens))[free]
    flat = _FLAT * np.abs(weight * slope)[free] / tokens[free]
    bend = np.where(np.abs(bend) > flat, bend, -flat)
    charged = program.rows[rows] + program.curve_rows[rows].multiply(curve[None, :])
    promised = program.floors[floors].multiply(slope[None, :])
    gradient = sparse.csr_array(sparse.vstack([charged, promised]))[:, free]
    missing = np.r_[
        program.right_hand_side[rows] - program.activity(tokens)[rows],
        program.floor_levels[floors] - (program.floors @ program.utility(tokens))[floors],
    ]
    # bend x - gradient^T y = -residual and gradient x = missing
    matrix = (gradient.multiply(1.0 / bend[None, :]) @ gradient.T).toarray()
    change = _solved(matrix, missing + gradient @ (residual / bend))
    moved = tokens.copy()
    moved[free] += (gradient.T @ change - residual) / bend
    inside = (moved[free] > program.lower[free]) & (moved[free] < program.upper[free])
    return moved if inside.all() and np.isfinite(moved).all() else None


def _derivative(function: object, tokens: FloatArray) -> FloatArray:
    """(n,) of an elementwise function, by a central difference."""
    assert callable(function)
    step = np.maximum(tokens * _NEARBY, 1e-300)
    low, high = tokens - step, tokens + step
    with np.errstate(all="ignore"):
        slope = (function(high) - function(low)) / (high - low)
    return np.where(np.isfinite(slope), slope, 0.0)


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """The least-norm solution of a symmetric system, its rows scaled to one size."""
    size = np.sqrt(np.abs(np.diag(matrix)))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(matrix / size / size[:, None])
    kept = np.abs(values) > _NEGLIGIBLE * np.abs(values).max(initial=0.0)
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    return np.asarray(vectors @ (inverse * (vectors.T @ (right / size)))) / size
