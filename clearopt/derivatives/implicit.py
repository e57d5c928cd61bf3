"""How an allocation answers small changes: the equal-marginal conditions, differentiated.

At a local optimum the queries that are free (strictly between their bounds) and the limits that
hold satisfy

    g_i = W_i U_i' - c_i - d_i C_i' - sum_k lambda_k (A_ki + B_ki C_i') = 0
    h_k = sum_i A_ki b_i + B_ki C_i - r_k = 0        h_j = sum_i V_ji U_i - f_j = 0

with W_i = w_i + sum_j mu_j V_ji. The implicit function theorem: with H = dg/db (diagonal, second
derivatives), G the gradients of the limits that hold, and dg, dh the changes that the inputs make
while tokens and multipliers stay,

    H db - G^T dnu + dg = 0,   G db + dh = 0,   nu = (lambda, -mu)

so that (G H^-1 G^T) dnu = G H^-1 dg - dh: a system as small as there are limits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from clearopt.derivatives.inputs import Inputs
from clearopt.derivatives.lines import Lines
from clearopt.derivatives.local import Local
from clearopt.program import Program

_DENSE = 4_000_000  # entries up to which the limits' gradients are held as a full matrix
_NEGLIGIBLE = 1e-10  # relative size of an eigenvalue that is none
_FLAT = 1e-9  # curvature that stands for none, relative to slope / tokens


class Conditions:
    """The conditions of one program as JAX functions of tokens, multipliers and inputs."""

    def __init__(self, program: Program, lines: Lines) -> None:
        self.program, self.lines = program, lines
        self.n, self.k = program.n, program.rows.shape[0]
        self.limits = self.k + program.floors.shape[0]
        ones = sparse.csr_array(program.rows != 0) + sparse.csr_array(program.curve_rows != 0)
        ones = sparse.csr_array(sparse.vstack([ones, program.floors != 0]))
        entries = ones.tocoo()
        self.row, self.column = (np.asarray(x, dtype=np.int64) for x in entries.coords)
        in_row = self.row < self.k

        def values(matrix: sparse.csr_array, there: Any, shift: int) -> Any:
            found = np.zeros(self.row.size)
            at = matrix[self.row[there] - shift, self.column[there]]
            found[there] = np.asarray(at).ravel()
            return found

        self.linear = values(program.rows, in_row, 0)
        self.curved = values(program.curve_rows, in_row, 0)
        self.promised = values(program.floors, ~in_row, self.k)
        self._pairs = None if self.limits * self.n <= _DENSE else _pairs(self.column)

    # ------------------------------------------------------------------ pieces
    def gather(self, values: Any) -> Any:
        """(limits,) sums over the entries of each limit."""
        return jax.ops.segment_sum(values, self.row, self.limits)

    def spread(self, values: Any) -> Any:
        """(n,) sums over the entries of each query."""
        return jax.ops.segment_sum(values, self.column, self.n)

    def multipliers(self, at: Any) -> Any:
        """nu = (lambda, -mu), (limits,); the floors' own sign already is -mu."""
        return jnp.concatenate([at.rows, at.floors])

    def levels(self, inputs: Inputs) -> Any:
        """(limits,) right-hand sides and floor levels."""
        found = jnp.concatenate(
            [jnp.asarray(self.program.right_hand_side), jnp.asarray(self.program.floor_levels)]
        )
        for group in self.program.constraints:
            key = "floor_levels" if group.kind == "floor" else "right_hand_side"
            if group.kind != "bound" and group.count:
                shift = self.k if group.kind == "floor" else 0
                part = slice(group.first + shift, group.first + shift + group.count)
                found = found.at[part].set(inputs[key][group.name])
        return found

    def gaps(self, tokens: Any, inputs: Inputs) -> Any:
        """h: activity less level of every limit, (limits,)."""
        terms = self.linear * tokens[self.column]
        if self.curved.any():
            terms += self.curved * self.lines.curve(tokens, inputs)[self.column]
        if self.promised.any():
            terms += self.promised * self.lines.utility(tokens, inputs)[self.column]
        return self.gather(terms) - self.levels(inputs)

    def charged(self, tokens: Any, nu: Any, inputs: Inputs) -> Any:
        """Each query's part of the Lagrangian, (n,): what it gains less what limits charge it."""
        at_entries = nu[self.row]
        weight = inputs["weight"] - self.spread(self.promised * at_entries)
        price = inputs["cost"] + self.spread(self.linear * at_entries)
        gains = weight * self.lines.utility(tokens, inputs) - price * tokens
        if self.program.has_curves:
            curve_price = self.program.curve_cost + self.spread(self.curved * at_entries)
            gains = gains - curve_price * self.lines.curve(tokens, inputs)
        return gains

    def stationarity(self, tokens: Any, nu: Any, inputs: Inputs) -> Any:
        """g: the slope of the Lagrangian in every query's tokens, (n,)."""
        at_entries = nu[self.row]
        weight = inputs["weight"] - self.spread(self.promised * at_entries)
        price = inputs["cost"] + self.spread(self.linear * at_entries)
        slope = weight * self.lines.utility_slope(tokens, inputs) - price
        if self.program.has_curves:
            curve_price = self.program.curve_cost + self.spread(self.curved * at_entries)
            slope = slope - curve_price * self.lines.curve_slope(tokens, inputs)
        return slope

    def gradients(self, tokens: Any, inputs: Inputs) -> Any:
        """The entries of G, in the order of `row` and `column`."""
        found = jnp.asarray(self.linear)
        if self.curved.any():
            found += self.curved * self.lines.curve_slope(tokens, inputs)[self.column]
        if self.promised.any():
            slope = self.lines.utility_slope(tokens, inputs)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            found += self.promised * slope[self.column]
        return found

    # ------------------------------------------------------------------ derivatives
    def response(self, at: Local, inputs: Inputs, change: Inputs) -> Any:
        """db, (n,): how the allocation answers a change of the inputs."""
        nu = self.multipliers(at)
        free = at.free > 0
        held = jnp.concatenate([at.row_held, at.floor_held])
        following = at.at_lower * _finite(inputs["lower"], change["lower"])
        following += at.at_upper * _finite(inputs["upper"], change["upper"])
        # Who is not free takes no part: its slopes are asked for where they are numbers.
        regular = jnp.where(free, at.tokens, jnp.maximum(at.tokens, 1.0))

        def both(inputs: Inputs) -> Any:
            return self.stationarity(regular, nu, inputs), self.gaps(at.tokens, inputs)

        _, (d_slope, d_gap) = jax.jvp(both, (inputs,), (change,))
        _, bend = jax.jvp(
            lambda tokens: self.stationarity(tokens, nu, inputs), (regular,), (free * 1.0,)
        )
        weight = inputs["weight"] - self.spread(self.promised * nu[self.row])
        worth = jnp.abs(weight * self.lines.utility_slope(regular, inputs))
        least = jnp.where(worth > 0, _FLAT * worth / regular, 1.0)
        bend = jnp.where(free & (jnp.abs(bend) > least), bend, -least)
        inverse = jnp.where(free, 1.0 / bend, 0.0)

        entries = self.gradients(regular, inputs) * held[self.row]
        moved = self.gather(self.gradients(at.tokens, inputs) * following[self.column])
        d_gap = held * (d_gap + moved)
        d_slope = inverse * d_slope
        right = self.gather(entries * d_slope[self.column]) - d_gap
        d_nu = _solved(self._schur(entries, inverse), right)
        pushed = self.spread(entries * d_nu[self.row])
        return jnp.where(free, inverse * pushed - d_slope, following)

    def _schur(self, entries: Any, inverse: Any) -> Any:
        """G H^-1 G^T over the free queries, (limits, limits)."""
        if self._pairs is None:
            full = jnp.zeros((self.limits, self.n)).at[self.row, self.column].add(entries)
            return (full * inverse) @ full.T
        first, second = self._pairs
        terms = entries[first] * entries[second] * inverse[self.column[first]]
        places = self.row[first] * self.limits + self.row[second]
        square = jax.ops.segment_sum(terms, places, self.limits * self.limits)
        return square.reshape(self.limits, self.limits)


def _finite(bound: Any, change: Any) -> Any:
    return jnp.where(jnp.isfinite(bound), change, 0.0)


def _solved(matrix: Any, right: Any) -> Any:
    """The least-norm solution of a symmetric system: redundant limits share a multiplier."""
    if not matrix.shape[0]:
        return right
    size = jnp.sqrt(jnp.abs(jnp.diagonal(matrix)))
    size = jnp.where(size > 0, size, 1.0)
    values, vectors = jnp.linalg.eigh(matrix / size / size[:, None])
    kept = jnp.abs(values) > _NEGLIGIBLE * jnp.abs(values).max()
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    return (vectors @ (inverse * (vectors.T @ (right / size)))) / size


def _pairs(column: Any) -> tuple[Any, Any]:
    """Every ordered pair of entries of the same query, as positions of the entries."""
    order = np.argsort(column, kind="stable")
    _, start, count = np.unique(column[order], return_index=True, return_counts=True)
    total = count * count
    group = np.repeat(np.arange(count.size), total)
    within = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
    first = order[start[group] + within // count[group]]
    second = order[start[group] + within % count[group]]
    return first, second
