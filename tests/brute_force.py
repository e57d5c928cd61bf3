"""Small random programs with every feature, and their optimum by enumeration of whole tokens."""

from __future__ import annotations

import numpy as np

import clearopt as co

FEATURES = ("budget", "difference", "equality", "floor", "at least", "two rows")


def random_problem(
    seed: int, feature: str, *, whole: bool, n: int = 3, most: int = 40
) -> co.Problem:
    """n queries of at most `most` tokens, some with a lower bound, under a budget and `feature`."""
    rng = np.random.default_rng([seed, FEATURES.index(feature)])
    lower = np.where(rng.random(n) < 0.3, rng.integers(1, 12, n), 0).astype(float)
    upper = np.minimum(lower + rng.integers(5, most, n), most).astype(float)
    threshold, rate = rng.uniform(0, 20, n), 10 ** rng.uniform(-0.8, 0.3, n)
    family = (co.CumulativeSurge, co.ShiftedSurge)[seed % 2]
    tokens = co.Allocation(n, lower=lower, upper=upper, integer=whole)
    accuracy = family(rng.uniform(0.2, 1.0, n), threshold, rate)(tokens)
    budget = float(np.ceil(lower.sum() + rng.uniform(0.15, 0.7) * (upper - lower).sum()))
    rows = [(co.sum(tokens) <= budget).named("budget")]
    if feature == "difference":
        rows.append(tokens[0] - tokens[1] <= float(rng.integers(0, 9)) + lower[0] - lower[1])
    elif feature == "equality":
        rows.append(tokens[0] + tokens[1] == float(lower[:2].sum() + rng.integers(0, 12)))
    elif feature == "floor":
        rows.append((co.mean(accuracy) >= float(rng.uniform(0.02, 0.15))).named("floor"))
    elif feature == "at least":
        rows.append(tokens[1] + 2 * tokens[2] >= float(lower[1] + 2 * lower[2] + 4))
    elif feature == "two rows":
        rows.append(rng.integers(1, 4, n).astype(float) @ tokens <= 1.5 * budget + 2 * lower.sum())
    gain = rng.uniform(0.5, 2.0, n) @ accuracy
    cost = float(rng.choice([0.0, 0.0, 1e-3, 1e-2]))
    return co.Problem(co.Maximize(gain - cost * co.sum(tokens)), rows)


def brute_force(program: co.Program) -> float:
    """The greatest objective over all whole allocations within the bounds; -inf if none fits."""
    axes = [
        np.arange(np.ceil(low), np.floor(high) + 1)
        for low, high in zip(program.lower, program.upper, strict=True)
    ]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])  # (n, points)
    utility = np.zeros_like(grid)
    for block in program.utilities:
        for member, query in enumerate(block.index):
            alone = block.family.take(np.array([member]))
            utility[query] = alone.value(grid[query])
    feasible = np.ones(grid.shape[1], dtype=bool)
    activity = program.rows @ grid
    for row, sense in enumerate(program.senses):
        level = program.right_hand_side[row]
        slack = 1e-9 * max(abs(level), 1.0)
        if sense != ">=":
            feasible &= activity[row] <= level + slack
        if sense != "<=":
            feasible &= activity[row] >= level - slack
    for row, level in enumerate(program.floor_levels):
        feasible &= (program.floors @ utility)[row] >= level - 1e-12
    objective = program.offset + program.weight @ utility - program.cost @ grid
    return float(objective[feasible].max()) if feasible.any() else -np.inf
