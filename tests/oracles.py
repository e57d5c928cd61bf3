"""Independent oracles for small one-row programs: none of the package's own mathematics is used.

`enumerate_funded_sets` is exact for continuous tokens: at an optimum the funded queries have equal
marginal utility and at most one of them sits on its convex part. `dynamic_program` is exact for
whole tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Instance:
    """max sum a_i f(beta_i (b_i - tau_i)+), sum b <= budget, 0 <= b <= upper."""

    cumulative: np.ndarray  # (n,) bool: cumulative surge, else shifted surge
    scale: np.ndarray
    threshold: np.ndarray
    rate: np.ndarray
    upper: np.ndarray
    budget: float

    def value(self, tokens: np.ndarray) -> np.ndarray:
        """U of every query; `tokens` may carry leading axes."""
        y = self.rate * np.maximum(tokens - self.threshold, 0.0)
        shifted = y * np.exp(1.0 - y)
        # 1 - (1 + y) e^-y without cancellation: the Taylor series of e^y - 1 - y, times e^-y
        head = np.where(y < 0.3, y, 0.0)
        series = sum(head**k / float(np.prod(np.arange(1.0, k + 1))) for k in range(2, 16))
        cumulative = np.where(y < 0.3, series * np.exp(-y), 1.0 - (1.0 + y) * np.exp(-y))
        return self.scale * np.where(self.cumulative, cumulative, shifted)


def random_instance(
    rng: np.random.Generator, n: int, *, ties: bool = False, whole: bool = False
) -> Instance:
    """Scarce to ample budgets, both families, thresholds above the budget now and then."""
    kinds = max(1, n // 4) if ties else n
    pick = rng.integers(0, kinds, n) if ties else np.arange(n)
    threshold = rng.uniform(0, 40, kinds)
    threshold[rng.random(kinds) < 0.1] = 0.0
    threshold[rng.random(kinds) < 0.05] *= 20.0
    rate = 10 ** rng.uniform(-1.5, 0.3, kinds)
    need = (threshold + 3 / rate)[pick].sum()
    budget = float(need * rng.choice([0.02, 0.1, 0.25, 0.5, 0.9, 1.6]) * rng.uniform(0.7, 1.3))
    upper = rng.uniform(20, 200, kinds)
    if whole:
        upper, budget = np.floor(upper), float(min(np.floor(budget), 700))
    return Instance(
        cumulative=(rng.random(kinds) < 0.5)[pick],
        scale=rng.uniform(0.1, 1.0, kinds)[pick],
        threshold=threshold[pick],
        rate=rate[pick],
        upper=upper[pick],
        budget=budget,
    )


def enumerate_funded_sets(instance: Instance) -> float:
    """The optimum over continuous tokens, by enumeration of funded sets (n up to 14)."""
    n = instance.scale.shape[0]
    sets = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)
    top = np.where(instance.cumulative, 1 / np.e, np.e) * instance.scale * instance.rate
    prices = top.max() * np.exp(np.linspace(0.0, -40.0, 600))
    concave = np.stack([_concave(instance, p) for p in prices], axis=1)  # (n, prices)
    best = 0.0
    # Nobody on the convex part.
    best = max(best, _best_of_sets(instance, sets, None, prices, concave))
    for k in range(n):
        if instance.cumulative[k]:
            without = sets[sets[:, k] == 0]
            best = max(best, _best_of_sets(instance, without, k, prices, concave))
    return best


def _concave(instance: Instance, price: float) -> np.ndarray:
    """Each query's amount on its concave part with U' = price, clipped to its bounds."""
    return np.minimum(instance.threshold + _branch(instance, price, concave=True), instance.upper)


def _branch(instance: Instance, price: float | np.ndarray, *, concave: bool) -> np.ndarray:
    """Excess with U' = price, by bisection in y on a monotone branch (no Lambert W here)."""
    ratio = price / (instance.scale * instance.rate)
    if concave:
        low = np.where(instance.cumulative, 1.0, 0.0) * np.ones_like(ratio)
        high = np.where(instance.cumulative, 200.0, 1.0) * np.ones_like(ratio)
    else:
        low, high = np.zeros_like(ratio), np.ones_like(ratio)
    for _ in range(56):
        y = 0.5 * (low + high)
        slope = np.where(instance.cumulative, y * np.exp(-y), (1 - y) * np.exp(1 - y))
        further = (slope > ratio) if concave else (slope < ratio)
        low, high = np.where(further, y, low), np.where(further, high, y)
    return 0.5 * (low + high) / instance.rate


def _best_of_sets(
    instance: Instance,
    sets: np.ndarray,
    partial: int | None,
    prices: np.ndarray,
    concave: np.ndarray,
) -> float:
    """The best over `sets`, `partial` being the one query on its convex part."""
    total = sets @ concave
    if partial is not None:
        convex = np.stack([_branch(instance, p, concave=False)[partial] for p in prices])
        # Past the greatest marginal the branch ends at the inflection: still a feasible amount.
        total = total + np.minimum(instance.threshold[partial] + convex, instance.upper[partial])
    best = 0.0
    excess = total - instance.budget
    # Ample for a set: the amounts at the lowest price fit.
    if partial is None:
        fits = excess[:, -1] <= 0
        if fits.any():
            best = float((sets[fits] @ instance.value(concave[:, -1])).max())
        # The set's amounts may not fit at any price: such sets are not feasible on concave parts.
    elif instance.budget > instance.threshold[partial]:
        alone = np.zeros_like(instance.scale)  # one query with all of the budget
        alone[partial] = min(instance.budget, instance.upper[partial])
        best = float(instance.value(alone)[partial])
    crossing = (excess[:, :-1] > 0) != (excess[:, 1:] > 0)
    for start in range(0, sets.shape[0], 2048):
        chunk, column = np.nonzero(crossing[start : start + 2048])
        if chunk.size == 0:
            continue
        chosen = sets[start + chunk]
        low, high = np.log(prices[column + 1]), np.log(prices[column])
        left_sign = excess[start + chunk, column + 1] > 0
        for _ in range(46):
            middle = 0.5 * (low + high)
            amounts = _amounts(instance, chosen, partial, np.exp(middle))
            same = (amounts.sum(axis=1) > instance.budget) == left_sign
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        amounts = _amounts(instance, chosen, partial, np.exp(0.5 * (low + high)))
        values = instance.value(amounts).sum(axis=1)
        feasible = amounts.sum(axis=1) <= instance.budget * (1 + 1e-9) + 1e-12
        if feasible.any():
            best = max(best, float(values[feasible].max()))
    return best


def _amounts(
    instance: Instance, chosen: np.ndarray, partial: int | None, price: np.ndarray
) -> np.ndarray:
    excess = _branch(instance, price[:, None], concave=True)
    amounts = chosen * np.minimum(instance.threshold + excess, instance.upper)
    if partial is not None:
        convex = _branch(instance, price[:, None], concave=False)[:, partial]
        most = instance.upper[partial]
        amounts[:, partial] = np.minimum(instance.threshold[partial] + convex, most)
    return amounts


def dynamic_program(instance: Instance) -> float:
    """The optimum over whole tokens: max-plus convolution, query by query."""
    budget = int(np.floor(instance.budget))
    best = np.zeros(budget + 1)
    for i in range(instance.scale.shape[0]):
        most = int(min(np.floor(instance.upper[i]), budget))
        amounts = np.tile(np.arange(most + 1.0)[:, None], instance.scale.shape[0])
        gains = instance.value(amounts)[:, i]
        updated = np.full(budget + 1, -np.inf)
        for tokens, gain in enumerate(gains):
            updated[tokens:] = np.maximum(updated[tokens:], best[: budget + 1 - tokens] + gain)
        best = updated
    return float(best.max())
