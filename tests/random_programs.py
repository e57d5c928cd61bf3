"""Seeded random problems in the public language: every kind of row, every family, whole or not.

`draw(seed)` goes round the kinds of rows and the families, so that any few hundred seeds in a row
hold all of their pairs. What is refused at declaration is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

import clearopt as co

MOST = 40  # tokens of a query, at most


@dataclass(frozen=True)
class Case:
    """A random problem and what it is made of."""

    problem: co.Problem
    rows: str
    family: str
    whole: bool


# ---------------------------------------------------------------- families
def _surge_like(kind):
    return lambda rng, m: kind(
        rng.uniform(0.1, 1, m), rng.uniform(0, 15, m), 10 ** rng.uniform(-1.2, 0.4, m)
    )


def _hump(kind):
    return lambda rng, m: kind(rng.uniform(0.1, 1, m), rng.uniform(0, 12, m), rng.uniform(3, 40, m))


def _table(interpolation: str, rising: bool):
    def family(rng, m):
        points = int(rng.integers(3, 7))
        grid = np.sort(rng.choice(np.arange(MOST), (m, points)) + 0.0, axis=1)
        grid += 0.25 * np.arange(points)  # distinct, and not all whole
        values = rng.uniform(0, 1, grid.shape)
        return co.Tabulated(grid, np.sort(values, axis=1) if rising else values, interpolation)

    return family


def _sigmoid(tokens, scale, middle, width):
    return scale / (1 + jnp.exp(-(tokens - middle) / width))


def _own_function(rng, m):
    return co.Sigmoidal(
        _sigmoid,
        rng.uniform(0.2, 1, m),
        rng.uniform(2, 20, m),
        rng.uniform(0.5, 5, m),
        longest=float(MOST),
    )


FAMILIES: dict[str, Callable[[np.random.Generator, int], co.Utility]] = {
    "cumulative surge": _surge_like(co.CumulativeSurge),
    "shifted surge": _surge_like(co.ShiftedSurge),
    "exponential": _surge_like(co.SaturatingExponential),
    "logistic": _surge_like(co.Logistic),
    "Hill": lambda rng, m: co.Hill(
        rng.uniform(0.1, 1, m), rng.uniform(2, 20, m), rng.uniform(0.5, 6, m)
    ),
    "lognormal": lambda rng, m: co.Lognormal(
        rng.uniform(0.1, 1, m), rng.uniform(2, 20, m), 10 ** rng.uniform(-1, 0.3, m)
    ),
    "triangular": _hump(co.Triangular),
    "quadratic": _hump(co.Quadratic),
    "best of n": lambda rng, m: co.BestOfN(rng.uniform(0.05, 0.9, m), rng.integers(1, 9, m)),
    "linear table": _table("linear", rising=True),
    "noisy table": _table("linear", rising=False),
    "step table": _table("step", rising=True),
    "noisy steps": _table("step", rising=False),
    "own function": _own_function,
    "sum": None,  # type: ignore[dict-item]  # of two families on the same queries
    "mixed": None,  # type: ignore[dict-item]  # different families on parts
}
_SMOOTH = ("cumulative surge", "shifted surge", "exponential", "logistic", "Hill", "lognormal",
    "best of n")  # fmt: skip


def _accuracies(rng, name, tokens, n, tied):
    """[(part, its vector of utilities)]: one part, or two where families are mixed."""
    if name == "mixed" and n > 1:
        cut = int(rng.integers(1, n))
        names = rng.choice([f for f in FAMILIES if f not in ("mixed", "sum")], 2)
        parts = slice(0, cut), slice(cut, n)
        return [
            (np.arange(n)[part], FAMILIES[kind](rng, size)(tokens[part]))
            for kind, part, size in zip(names, parts, (cut, n - cut), strict=True)
        ]
    if name == "sum":
        threshold, rate = rng.uniform(0, 10, n)[tied], 10 ** rng.uniform(-1, 0.2, n)[tied]
        one = co.CumulativeSurge(rng.uniform(0.1, 0.5, n)[tied], threshold, rate)
        two = co.CumulativeSurge(
            rng.uniform(0.1, 0.5, n)[tied], threshold, rate * rng.uniform(0.8, 1.2)
        )
        return [(np.arange(n), one(tokens) + 0.5 * two(tokens))]
    family = FAMILIES[name if name != "mixed" else "Hill"](rng, n).broadcast(n).take(tied)
    return [(np.arange(n), family(tokens))]


# ---------------------------------------------------------------- rows
ROWS = (
    "budget",
    "weights",
    "two budgets",
    "tenant caps",
    "at least",
    "equality",
    "difference",
    "floor",
    "tenant floors",
    "realised",
    "menu",
    "nothing or at least",
    "redundant",
    "duplicates",
    "fewest tokens",
    "everything",
    "infeasible",
)


def draw(seed: int, *, size: tuple[int, int] | None = None) -> Case:
    """The problem of a seed; `size` = (least, most) queries, chosen by kind where not given."""
    rows = ROWS[seed % len(ROWS)]
    family = tuple(FAMILIES)[(seed // len(ROWS) + seed) % len(FAMILIES)]
    whole = bool((seed // (len(ROWS) * len(FAMILIES)) + seed // len(ROWS)) % 2)
    if rows == "realised" and not whole:
        family = "cumulative surge"
    elif rows == "everything" and not whole:
        rows, family = "realised", "cumulative surge"
    for attempt in range(1000):
        rng = np.random.default_rng([seed, attempt])
        try:
            return Case(_declare(rng, rows, family, whole, size), rows, family, whole)
        except co.DeclarationError:
            continue
    raise AssertionError(f"seed {seed}: {rows} over {family}: always refused")


def _declare(rng, rows: str, family: str, whole: bool, size) -> co.Problem:
    costly = rows in ("realised", "everything")
    if costly and not whole:
        return _realised(rng, size)
    least, most = size or (1, 14 if whole or rows in ("budget", "weights") else 8)
    n = int(rng.integers(least, most + 1))
    menu = rows == "menu" or (rows == "everything" and rng.random() < 0.5)
    if menu:
        n += n % 2
    tied = rng.integers(0, max(1, n // 3), n) if rng.random() < 0.25 else np.arange(n)
    holes = rows in ("nothing or at least", "everything") or (menu and rng.random() < 0.3)
    lower = np.zeros(n)
    if not menu and rng.random() < 0.3:
        lower = np.where(rng.random(n) < 0.3, rng.integers(1, 8, n), 0).astype(float)
    if holes:
        lower = rng.integers(1, 12, n).astype(float)
    upper = lower + rng.integers(2, MOST - 12, n)
    if not whole and rng.random() < 0.5:
        lower, upper = lower * rng.uniform(0.5, 1), upper * rng.uniform(0.9, 1.3)
    lower, upper = lower[tied], upper[tied]
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=whole, semicontinuous=holes)
    parts = _accuracies(rng, family, tokens, n, tied)
    weight = rng.uniform(0.5, 2, n)[tied] if rng.random() < 0.5 else np.ones(n)
    if rng.random() < 0.1:
        weight[0] = 0.0
    objective = sum(weight[index] @ accuracy for index, accuracy in parts)
    if rng.random() < 0.2:
        objective = objective - float(rng.choice([1e-3, 1e-2])) * co.sum(tokens)
    need = np.where(holes, 0.0, lower).sum()
    share = float(rng.choice([0.05, 0.15, 0.3, 0.5, 0.8, 1.1]))
    budget = float(need + np.ceil(share * (upper - np.where(holes, 0.0, lower)).sum()))
    coefficient = rng.integers(1, 5, n).astype(float)
    if not whole or (rows != "equality" and rng.random() < 0.3):
        coefficient = rng.uniform(0.5, 4, n)
    coefficient = coefficient[tied]
    # A feasible allocation, drawn first: what it uses can be asked for.
    amounts = rng.uniform(lower, upper)
    amounts = np.round(amounts) if whole else amounts
    if menu:
        amounts[: n // 2] = 0.0
    if rows in ("at least", "equality", "floor", "tenant floors") and rng.random() < 0.9:
        budget = max(budget, float(np.ceil(amounts.sum())))

    total = co.sum(tokens)
    limits = [(total <= budget).named("budget")]

    def weighted(slack: float):
        rest = float(coefficient @ np.where(holes, 0.0, lower))
        return coefficient @ tokens <= rest + slack * float(coefficient @ upper - rest)

    if rows == "weights":
        limits = [weighted(share)]
    elif rows == "two budgets":
        limits.append(weighted(share * rng.uniform(0.7, 1.3)))
        if rng.random() < 0.5:
            limits.append(rng.integers(0, 3, n).astype(float) @ tokens <= budget)
    elif rows == "tenant caps":
        tenant = rng.integers(0, 3, n)
        cap = {
            int(t): float(np.ceil(lower[tenant == t].sum() + share * upper[tenant == t].sum()))
            for t in np.unique(tenant)
        }
        limits.append((co.sum(tokens, by=tenant) <= cap).named("caps"))
    elif rows == "at least":
        half = rng.random(n) < 0.5
        half[0] = True
        limits.append(co.sum(tokens[half]) >= float(np.floor(0.7 * amounts[half].sum())))
        if rng.random() < 0.5:
            limits.append(coefficient @ tokens >= float(np.floor(0.5 * coefficient @ amounts)))
    elif rows == "equality":
        some = rng.random(n) < 0.6
        some[0] = True
        limits.append(co.sum(tokens[some]) == float(amounts[some].sum()))
        if rng.random() < 0.4:
            limits.append(coefficient @ tokens == float(coefficient @ amounts))
    elif rows == "difference" and n > 1:
        limits.append(tokens[0] - tokens[1] <= float(np.floor(amounts[0] - amounts[1])) + 1.0)
        sign = rng.choice([-1.0, 1.0, 2.0], n)
        limits.append(sign @ tokens <= float(np.ceil(sign @ amounts)))
    elif rows == "redundant":
        limits += [
            total <= 2 * budget + 5,
            total >= 0.5 * need - 1,
            0.0 * coefficient @ tokens <= 1,
        ]
        limits += [3 * total <= 3 * budget + 1e-7]
    elif rows == "duplicates":
        limits += [total <= budget, -2 * total >= -2 * budget, weighted(share), weighted(share)]
    elif rows == "infeasible":
        if rng.random() < 0.5:
            limits.append(coefficient @ tokens >= float(coefficient.max() * budget + 1.0))
        else:
            limits += [2 * co.sum(tokens[:1]) + 4 * total == float(2 * rng.integers(1, 9) + 1)]
    if rows == "everything":
        curve = co.ExpectedTokens.from_lengths(rng.integers(1, 30, (n, 4)))
        if rng.random() < 0.5:
            curve = co.ExpectedTokens(rng.uniform(0, 8, n), 10 ** rng.uniform(-1, 0.2, n), 0.8)
        limits.append(co.sum(curve(tokens)) <= 0.8 * budget)
        if n > 1:
            limits.append(tokens[0] + 2 * tokens[n - 1] >= 2.0)
    if rows == "realised":
        curve = co.ExpectedTokens(rng.uniform(0, 8, n), 10 ** rng.uniform(-1, 0.2, n), 0.9)
        limits.append(co.sum(curve(tokens)) <= float(rng.uniform(0.3, 0.9)) * budget)
    if menu:
        limits.append(co.at_most_one(tokens[: n // 2], tokens[n // 2 :]).named("menu"))
    asked = ("floor", "tenant floors", "fewest tokens")
    if rows in asked or (rows == "everything" and rng.random() < 0.5):
        limits += _floors(rng, rows, parts, tokens, amounts)
    if rows == "fewest tokens":
        if rng.random() < 0.5:
            limits = limits[1:]  # without the budget
        return co.Problem(co.Minimize(coefficient @ tokens), limits)
    return co.Problem(co.Maximize(objective), limits)


def _floors(rng, rows, parts, tokens, amounts):
    """Accuracy that a feasible allocation has in good part."""
    floors = []
    for k, (index, accuracy) in enumerate(parts):
        alone = co.Problem(co.Maximize(co.sum(accuracy) + 0.0 * co.sum(tokens))).program
        reached = alone.utility(amounts)[index] if alone.n == amounts.size else None
        if reached is None:
            continue
        share = float(rng.uniform(0.3, 0.9))
        if rows == "tenant floors" and index.size > 1:
            tenant = rng.integers(0, 2, index.size)
            level = {int(t): share * float(reached[tenant == t].mean()) for t in np.unique(tenant)}
            floors.append((co.mean(accuracy, by=tenant) >= level).named(f"floor {k}"))
        else:
            floors.append((co.sum(accuracy) >= share * float(reached.sum())).named(f"floor {k}"))
    return floors


def _realised(rng, size) -> co.Problem:
    """Expected tokens alone are charged, by the law behind the surge: S-shaped in their cost."""
    least, most = size or (1, 8)
    n = int(rng.integers(least, most + 1))
    threshold, rate = rng.uniform(0, 15, n), 10 ** rng.uniform(-1.2, 0.2, n)
    ends = rng.uniform(0.3, 0.95, n)
    tokens = co.Allocation(n, upper=rng.uniform(10, 2 * MOST, n))
    accuracy = co.CumulativeSurge(ends, threshold, rate)(tokens)
    cost = co.ExpectedTokens(threshold, rate, ends)(tokens)
    budget = float(rng.uniform(0.1, 0.9) * (threshold + 1 / rate).sum())
    rows = [(co.sum(cost) <= budget).named("realised")]
    if rng.random() < 0.6:
        rows.append(rng.uniform(0.5, 2, n) @ cost <= budget * float(rng.uniform(0.8, 1.5)))
    if rng.random() < 0.3:
        rows.append((co.sum(accuracy) >= 0.01).named("floor"))
    return co.Problem(co.Maximize(rng.uniform(0.5, 2, n) @ accuracy), rows)
