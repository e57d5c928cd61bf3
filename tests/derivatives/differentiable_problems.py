"""Small problems of every kind that has derivatives, and directions to move their numbers in."""

import jax
import numpy as np

import clearopt as co

TENANT = np.array(["acme", "globex"] * 4)


class Batch:
    """`n` queries of two tenants, and what problems are made of."""

    def __init__(self, seed=0, n=8, **allocation):
        rng = np.random.default_rng(seed)
        self.n, self.tenant = n, TENANT[:n]
        self.scale, self.threshold = rng.uniform(0.6, 1, n), rng.uniform(5, 40, n)
        self.rate, self.use = 10 ** rng.uniform(-1.3, -0.7, n), rng.uniform(0.5, 2, n)
        self.tokens = co.Allocation(n, **{"upper": 200, "name": "tokens"} | allocation)
        self.surge = co.CumulativeSurge(self.scale, self.threshold, self.rate)
        self.accuracy = self.surge(self.tokens)
        self.budget = (co.sum(self.tokens) <= 42.0 * n).named("budget")

    def most(self, *constraints, objective=None):
        objective = co.sum(self.accuracy) if objective is None else objective
        return co.Problem(co.Maximize(objective), constraints)

    def of(self, family, part=slice(None)):
        """Problem with another family on (a part of) the queries and surges on the others."""
        rest = np.ones(self.n, dtype=bool)
        rest[part] = False
        total = co.sum(family(self.tokens[part]))
        if rest.any():
            surge = co.CumulativeSurge(self.scale[rest], self.threshold[rest], self.rate[rest])
            total = total + co.sum(surge(self.tokens[rest]))
        return self.most((co.sum(self.tokens) <= 30.0 * self.n).named("budget"), objective=total)


def one_row():
    batch = Batch()
    return batch.most(batch.budget, batch.tokens[:2] <= np.array([48.0, 190.0]))


def shifted():
    batch = Batch(1)
    return batch.of(co.ShiftedSurge(batch.scale, batch.threshold, batch.rate))


def hill():
    return Batch(2).of(co.Hill(np.linspace(0.6, 0.9, 4), 30.0, [0.8, 1.0, 2.5, 4.0]), slice(0, 4))


def logistic():
    return Batch(3).of(co.Logistic(np.linspace(0.6, 0.9, 4), 30.0, 0.12), slice(0, 4))


def lognormal():
    return Batch(3).of(
        co.Lognormal(np.linspace(0.6, 0.9, 4), 30.0, [0.2, 0.4, 0.6, 1.2]), slice(0, 4)
    )


def saturating():
    batch = Batch(4)
    return batch.of(co.SaturatingExponential(batch.scale, batch.threshold, batch.rate))


def best_of_n():
    return Batch(5).of(co.BestOfN(np.linspace(0.2, 0.6, 5), 20.0), slice(0, 5))


def quadratic():
    return Batch(6).of(co.Quadratic(np.linspace(0.5, 0.9, 5), 8.0, 70.0), slice(0, 5))


def sigmoidal():
    def accuracy(tokens, scale, middle):
        return scale * (jax.nn.sigmoid((tokens - middle) / 9.0) - jax.nn.sigmoid(-middle / 9.0))

    family = co.Sigmoidal(accuracy, np.linspace(0.6, 0.9, 4), 30.0, longest=200.0)
    return Batch(7).of(family, slice(0, 4))


def summed():
    batch = Batch(8)
    early = co.SaturatingExponential(0.1, 0.0, 0.01)(batch.tokens[:3])
    late = co.SaturatingExponential(0.6, 0.0, 0.05)(batch.tokens[:3])
    rest = co.CumulativeSurge(batch.scale[3:], batch.threshold[3:], batch.rate[3:])
    total = co.sum(early) + co.sum(late) + co.sum(rest(batch.tokens[3:]))
    return batch.most((co.sum(batch.tokens) <= 240.0).named("budget"), objective=total)


def mixed():
    batch = Batch(18)
    early = co.Hill(batch.scale[:3], 30.0, 2.5)(batch.tokens[:3])
    soon = co.SaturatingExponential(batch.scale[3:5], 4.0, 0.03)(batch.tokens[3:5])
    late = co.ShiftedSurge(batch.scale[5:], batch.threshold[5:], batch.rate[5:])(batch.tokens[5:])
    total = co.sum(early) + co.sum(soon) + co.sum(late)
    return batch.most((co.sum(batch.tokens) <= 240.0).named("budget"), objective=total)


def varied():
    """The families of `ALONE` together, so that one compilation serves them all."""
    batch = Batch(22)
    part = [batch.tokens[k : k + 2] for k in (0, 2, 4, 6)]
    total = co.sum(co.Logistic([0.6, 0.9], 30.0, 0.12)(part[0]))
    total = total + co.sum(co.Lognormal([0.7, 0.8], 30.0, [0.3, 0.8])(part[1]))
    total = total + co.sum(co.BestOfN([0.2, 0.5], 20.0)(part[2]))
    total = total + co.sum(co.Quadratic([0.5, 0.9], 8.0, 70.0)(part[3]))
    return batch.most((co.sum(batch.tokens) <= 240.0).named("budget"), objective=total)


def paid():
    batch = Batch(9)
    paid_for = co.sum(batch.accuracy) - 0.002 * (batch.use @ batch.tokens)
    return batch.most((co.sum(batch.tokens) <= 320.0).named("budget"), objective=paid_for)


def at_least():
    batch = Batch(10)
    paid_for = co.sum(batch.accuracy) - 0.02 * co.sum(batch.tokens)
    return batch.most((co.sum(batch.tokens) >= 480.0).named("used"), objective=paid_for)


def exactly():
    batch = Batch(11)
    return batch.most((co.sum(batch.tokens) == 360.0).named("exactly"))


def semicontinuous():
    batch = Batch(12, lower=30.0, semicontinuous=True)
    return batch.most(batch.budget)


def two_rows():
    batch = Batch(13)
    return batch.most(
        (co.sum(batch.tokens) <= 384.0).named("budget"),
        (batch.use @ batch.tokens <= 420.0).named("memory"),
    )


def grouped():
    batch = Batch(14)
    caps = {"acme": 144.0, "globex": 192.0}
    return batch.most((co.sum(batch.tokens, by=batch.tenant) <= caps).named("cap"))


def floor():
    batch = Batch(15)
    weighted = co.sum(batch.use * batch.accuracy) - 0.005 * co.sum(batch.tokens)
    return batch.most(
        (co.sum(batch.tokens) <= 400.0).named("budget"),
        (co.mean(batch.accuracy[:4]) >= 0.66).named("floor"),
        objective=weighted,
    )


def fewest():
    batch = Batch(16)
    levels = {"acme": 0.68, "globex": 0.62}
    return co.Problem(
        co.Minimize(co.sum(batch.tokens)),
        [(co.mean(batch.accuracy, by=batch.tenant) >= levels).named("floor")],
    )


def realised():
    batch = Batch(17, n=4)
    cost = co.ExpectedTokens(batch.threshold, batch.rate, 0.8)(batch.tokens)
    return batch.most((co.sum(cost) <= 140.0).named("realised"))


def realised_lognormal():
    batch = Batch(18, n=4)
    curve = co.LognormalTokens([20.0, 40.0, 60.0, 30.0], [0.3, 0.6, 0.9, 0.4], 0.9)
    accuracy = co.Lognormal(batch.scale, [20.0, 40.0, 60.0, 30.0], [0.3, 0.5, 0.7, 0.4])
    return co.Problem(
        co.Maximize(co.sum(accuracy(batch.tokens))),
        [(co.sum(curve(batch.tokens)) <= 100.0).named("realised")],
    )


ONE_ROW = [
    one_row, shifted, hill, logistic, lognormal, saturating, best_of_n, quadratic, sigmoidal,
    summed, mixed, varied, paid, at_least, exactly, semicontinuous, realised, realised_lognormal,
]  # fmt: skip
SEVERAL_ROWS = [two_rows, grouped, floor, fewest]
# What compiles long is asked of these within `mixed` and `varied` alone.
ALONE = [shifted, logistic, lognormal, saturating, best_of_n, quadratic]


def moves(layer, seed=0):
    """A change of every kind of input, by its place: the others stand still."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten_with_path(layer.inputs)
    for position, (path, leaf) in enumerate(leaves):
        # In proportion to the number itself: what is 0, or infinite, has no other side.
        size = np.where(np.isfinite(leaf), np.abs(leaf), 0.0) * rng.uniform(0.5, 1, leaf.shape)
        if not np.any(size):
            continue
        change = [np.zeros_like(other) for _, other in leaves]
        change[position] = size
        yield jax.tree_util.keystr(path), jax.tree.unflatten(structure, change)


def together(named):
    """The same moves, of numbers of the problem, of bounds and of utilities all at once."""
    kinds = {}
    for place, change in named.items():
        kind = next((k for k in ("utilities", "curves", "er'") if k in place), "numbers")
        known = kinds.get(kind)
        kinds[kind] = change if known is None else jax.tree.map(np.add, known, change)
    return kinds


def moved(inputs, change, by):
    return jax.tree.map(lambda value, step: value + by * step, inputs, change)
