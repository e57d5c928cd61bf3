"""The optimum of a small program, exact to rounding, by means no solver of the package shares.

`optimum` takes a plain `Program` and uses the values (and marginals) of its families and nothing
else. Whole tokens are enumerated here; continuous ones are searched in `branch_and_price`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

import clearopt as co

SLACK = 1e-11  # relative to the size of a row: rounding of its terms, and no more
WIDTHS = (300, 3_000, 30_000, 300_000)  # partial allocations kept at a time


class TooLargeError(Exception):
    """The oracle gives up: draw another instance."""


@dataclass(frozen=True)
class Limits:
    """Rows and floors alike: uses (R,) that may add up to `level` at most, or exactly."""

    tokens: np.ndarray  # (R, n) what a token uses
    curve: np.ndarray  # (R, n) what a token of expected cost uses
    utility: np.ndarray  # (R, n) what accuracy uses: at most 0
    level: np.ndarray  # (R,)
    exact: np.ndarray  # (R,) bool

    @classmethod
    def of(cls, program: co.Program) -> Limits:
        sign = np.where(np.asarray(program.senses) == ">=", -1.0, 1.0)[:, None]
        rows, floors = program.rows.toarray(), program.floors.toarray()
        return cls(
            tokens=np.concatenate([sign * rows, 0.0 * floors]),
            curve=np.concatenate([sign * program.curve_rows.toarray(), 0.0 * floors]),
            utility=np.concatenate([0.0 * rows, -floors]),
            level=np.concatenate([sign[:, 0] * program.right_hand_side, -program.floor_levels]),
            exact=np.concatenate(
                [np.asarray(program.senses) == "==", np.zeros(floors.shape[0], bool)]
            ),
        )

    def uses(self, query: int, tokens: np.ndarray, utility: np.ndarray, cost: np.ndarray):
        """What one query uses at several amounts, (amounts, R)."""
        columns = (self.tokens[:, query], self.curve[:, query], self.utility[:, query])
        return sum(np.outer(a, u) for a, u in zip((tokens, cost, utility), columns, strict=True))


def optimum(program: co.Program) -> float:
    """The greatest objective (of the program, which maximises); -inf if nothing is feasible."""
    if program.integer.all():
        return whole_optimum(program)
    from branch_and_price import continuous_optimum

    return continuous_optimum(program)


def misses(program: co.Program, tokens: np.ndarray) -> str:
    """What an allocation violates by more than 1e-9 of its size; empty where nothing is."""
    tokens = np.asarray(tokens, dtype=float)
    if tokens.shape != (program.n,) or not np.isfinite(tokens).all():
        return f"no allocation: {tokens}"
    every = range(program.n)
    utility = np.array([values_at(program.utilities, i, tokens[i : i + 1])[0] for i in every])
    cost = np.array([values_at(program.curves, i, tokens[i : i + 1])[0] for i in every])
    near = 1e-9 * np.maximum(tokens, 1.0)
    idle = program.semicontinuous & (tokens == 0)
    if (~idle & (tokens < program.lower - near)).any() or (tokens > program.upper + near).any():
        return f"bounds: {tokens}"
    if (program.integer & (tokens != np.round(tokens))).any():
        return f"whole tokens: {tokens}"
    if (np.bincount(program.choice[(program.choice >= 0) & (tokens > 0)]) > 1).any():
        return f"two of one choice: {tokens}"
    limits = Limits.of(program)
    terms = (limits.tokens * tokens, limits.curve * cost, limits.utility * utility)
    excess = sum(term.sum(axis=1) for term in terms) - limits.level
    size = sum(np.abs(term).sum(axis=1) for term in terms)
    size = np.maximum(np.maximum(size, np.abs(limits.level)), 1e-300)
    missed = np.where(limits.exact, np.abs(excess), excess) / size
    return f"rows and floors, by {missed}" if (missed > 1e-9).any() else ""


def values_at(blocks, query: int, tokens: np.ndarray) -> np.ndarray:
    """A block's curve of one query at several amounts; 0 where the query is in no block."""
    for block in blocks:
        member = np.flatnonzero(block.index == query)
        if member.size:
            alone = block.family.take(member)
            return np.array([float(alone.value(np.array([b]))[0]) for b in tokens])
    return np.zeros(tokens.shape)


# ---------------------------------------------------------------- menus
@dataclass(frozen=True)
class Menu:
    """What one query, or one choice of several, can have: gains (m,), uses (m, R)."""

    gain: np.ndarray
    use: np.ndarray


def menus(program: co.Program) -> list[Menu]:
    limits, alone = Limits.of(program), {}
    for i in range(program.n):
        amounts = np.arange(np.ceil(program.lower[i]), np.floor(program.upper[i]) + 1)
        if program.semicontinuous[i] and program.lower[i] > 0:
            amounts = np.concatenate([[0.0], amounts])
        utility = values_at(program.utilities, i, amounts)
        cost = values_at(program.curves, i, amounts)
        gain = program.weight[i] * utility - program.cost[i] * amounts
        gain = gain - program.curve_cost[i] * cost
        alone[i] = Menu(gain, limits.uses(i, amounts, utility, cost))
    found = [alone[i] for i in range(program.n) if program.choice[i] < 0]
    for choice in np.unique(program.choice[program.choice >= 0]):
        members = [alone[i] for i in np.flatnonzero(program.choice == choice)]
        # One member has what it likes, the others their first option, which is nothing.
        idle = Menu(sum(m.gain[:1] for m in members), sum(m.use[:1] for m in members))
        gains = [idle.gain, *(idle.gain - m.gain[:1] + m.gain[1:] for m in members)]
        uses = [idle.use, *(idle.use - m.use[:1] + m.use[1:] for m in members)]
        found.append(Menu(np.concatenate(gains), np.concatenate(uses)))
    return found


# ---------------------------------------------------------------- whole tokens
def whole_optimum(program: co.Program) -> float:
    """Query by query, every partial allocation that can still be the best is kept.

    One is dropped where the limits can no longer be met, where another one has used the same and
    gained as much, or where even the Lagrangian bound on its completion (prices of the linear
    relaxation; any prices are valid) does not reach an allocation already known. The best-looking
    few of all are followed first, to know a good one; then more, until none had to be left out.
    """
    limits = Limits.of(program)
    level, exact = limits.level, limits.exact
    items = menus(program)
    size = sum(np.abs(m.use).max(axis=0, initial=0.0) for m in items) + np.zeros(level.shape)
    # Uses in units of their row, so that slacks compare.
    unit = np.maximum(np.maximum(size, np.abs(level)), 1e-300)
    items = [Menu(m.gain, m.use / unit) for m in items]
    level = level / unit
    prices = _prices(items, level, exact)
    if prices is None:
        return -np.inf
    worth = [m.gain - m.use @ prices for m in items]
    # The most constrained first: few options near the best.
    order = np.argsort([(w.max() - w < 0.1 * np.ptp(w) + 1e-12).sum() for w in worth])
    items, worth = [items[k] for k in order], [worth[k] for k in order]
    best = -np.inf
    for width in WIDTHS:
        found, complete = _followed(items, worth, prices, level, exact, best, width)
        best = max(best, found)
        if complete:
            return best + program.offset
    raise TooLargeError(f"{program.n} queries, {level.size} limits")


def _prices(items: list[Menu], level: np.ndarray, exact: np.ndarray) -> np.ndarray | None:
    """(R,) the prices of the linear relaxation; None where even that is infeasible."""
    sizes = [m.gain.size for m in items]
    one_each = np.zeros((len(items), sum(sizes)))
    one_each[np.repeat(np.arange(len(items)), sizes), np.arange(sum(sizes))] = 1.0
    use = np.concatenate([m.use for m in items]).T
    gain = np.concatenate([m.gain for m in items])
    scale = max(float(np.abs(gain).max()), 1e-300)
    result = linprog(
        -gain / scale,
        A_ub=use[~exact] if (~exact).any() else None,
        b_ub=level[~exact] if (~exact).any() else None,
        A_eq=np.concatenate([one_each, use[exact]]),
        b_eq=np.concatenate([np.ones(len(items)), level[exact]]),
        method="highs",
    )
    if result.status == 2:
        return None
    assert result.status == 0, result.message
    prices = np.zeros(level.shape)
    prices[exact] = -scale * result.eqlin.marginals[len(items) :]
    if (~exact).any():
        prices[~exact] = np.maximum(-scale * result.ineqlin.marginals, 0.0)
    return prices


def _followed(items, worth, prices, level, exact, best: float, width: int) -> tuple[float, bool]:
    """The best allocation among those followed, and whether nothing promising was left out."""
    count, rows = len(items), level.size
    rest = np.zeros(count + 1)
    least, most = np.zeros((count + 1, rows)), np.zeros((count + 1, rows))
    for k in range(count - 1, -1, -1):
        rest[k] = rest[k + 1] + worth[k].max()
        least[k] = least[k + 1] + items[k].use.min(axis=0)
        most[k] = most[k + 1] + items[k].use.max(axis=0)
    allowance = 1e-13 * max(sum(np.abs(m.gain).max() for m in items), 1e-300)
    constant = float(prices @ level)
    gain, use, reduced = np.zeros(1), np.zeros((1, rows)), np.zeros(1)
    complete = True
    for k, (menu, value) in enumerate(zip(items, worth, strict=True)):
        reduced = (reduced[:, None] + value).ravel()
        keep = np.flatnonzero(reduced + rest[k + 1] + constant >= best - allowance)
        came, option = np.divmod(keep, value.size)
        gain, use, reduced = (
            gain[came] + menu.gain[option],
            use[came] + menu.use[option],
            reduced[keep],
        )
        fits = (use + least[k + 1] <= level + SLACK).all(axis=1)
        fits &= (use + most[k + 1] >= level - SLACK)[:, exact].all(axis=1)
        gain, use, reduced = gain[fits], use[fits], reduced[fits]
        kept = _distinct(gain, use)
        gain, use, reduced = gain[kept], use[kept], reduced[kept]
        if gain.size > width:
            complete = False
            kept = np.argpartition(-reduced, width)[:width]
            gain, use, reduced = gain[kept], use[kept], reduced[kept]
    return (float(gain.max()) if gain.size else -np.inf), complete


def _distinct(gain: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Of partial allocations that have used the same (to rounding), the one that gained most."""
    if gain.size < 2:
        return np.arange(gain.size)
    key = np.round(use / (0.1 * SLACK))
    order = np.lexsort([-gain, *key.T])
    ordered = key[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    return order[new]
