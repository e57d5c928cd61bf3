"""What prices and marginal values promise, held against problems solved again beside them.

Marginal values: the slope of the value function with the funded set as it is, by central finite
differences, where SciPy solves the smooth problem that remains. Prices: they prove the bound, so
that no bound beside it lies above the line they draw. Both are stated for what the user wrote on
the right-hand side, and positive where more of it would help.
"""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

import clearopt as co

TENANT = np.array(["acme", "globex"] * 20)


class Limits:
    """The right-hand sides of a problem, one entry of which may be moved."""

    def __init__(self, name=None, entry=(), by=0.0):
        self.name, self.entry, self.by = name, entry, by

    def __call__(self, name, value):
        if name != self.name:
            return value
        if isinstance(value, dict):
            return value | {self.entry: value[self.entry] + self.by}
        moved = np.array(value, dtype=float)
        moved[self.entry] += self.by
        return moved if moved.ndim else float(moved)


class Batch:
    """`n` queries of two tenants, and what the constraints are made of."""

    def __init__(self, seed, n, **allocation):
        rng = np.random.default_rng(seed)
        self.n, self.tenant = n, TENANT[:n]
        self.scale, self.threshold = rng.uniform(0.6, 1, n), rng.uniform(5, 40, n)
        self.rate, self.use = 10 ** rng.uniform(-1.3, -0.7, n), rng.uniform(0.5, 2, n)
        self.tokens = co.Allocation(n, **{"upper": 200, "name": "tokens"} | allocation)
        surge = co.CumulativeSurge(self.scale, self.threshold, self.rate)
        self.accuracy = surge(self.tokens)
        self.cost = co.ExpectedTokens(self.threshold, self.rate, 0.8)(self.tokens)

    def most(self, *constraints, objective=None):
        return co.Problem(
            co.Maximize(co.sum(self.accuracy) if objective is None else objective),
            [c.named(name) for name, c in constraints],
        )

    def least(self, *constraints):
        return co.Problem(
            co.Minimize(co.sum(self.tokens)), [c.named(name) for name, c in constraints]
        )


def at_most(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(("budget", co.sum(batch.tokens) <= limit("budget", 42.0 * n)))


def at_least(limit, seed=0, n=8):
    batch = Batch(seed, n)
    paid = co.sum(batch.accuracy) - 0.02 * co.sum(batch.tokens)
    return batch.most(("used", co.sum(batch.tokens) >= limit("used", 60.0 * n)), objective=paid)


def exactly(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(("exactly", co.sum(batch.tokens) == limit("exactly", 45.0 * n)))


def weighted(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(
        ("budget", co.sum(batch.tokens) <= limit("budget", 48.0 * n)),
        ("memory", batch.use @ batch.tokens <= limit("memory", 46.0 * n)),
    )


def grouped(limit, seed=0, n=8):
    batch = Batch(seed, n)
    caps = {"acme": 18.0 * n, "globex": 24.0 * n}
    return batch.most(("cap", co.sum(batch.tokens, by=batch.tenant) <= limit("cap", caps)))


def mean_floor(limit, seed=0, n=8):
    batch = Batch(seed, n)
    rare = co.sum(batch.use * batch.accuracy) - 0.01 * co.sum(batch.tokens)
    return batch.most(
        ("budget", co.sum(batch.tokens) <= limit("budget", 55.0 * n)),
        ("floor", co.mean(batch.accuracy[: n // 2]) >= limit("floor", 0.63)),
        objective=rare,
    )


def grouped_floor(limit, seed=0, n=8):
    batch = Batch(seed, n)
    levels = {"acme": 0.68, "globex": 0.62}
    return batch.least(
        ("floor", co.mean(batch.accuracy, by=batch.tenant) >= limit("floor", levels))
    )


def fewest(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.least(("floor", co.sum(batch.accuracy) >= limit("floor", 0.6 * n)))


def bounded(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(
        ("budget", co.sum(batch.tokens) <= limit("budget", 48.0 * n)),
        ("upper", batch.tokens[:3] <= limit("upper", np.array([52.0, 55.0, 199.0]))),
        ("factor", 2 * batch.tokens[3] <= limit("factor", 100.0)),
        ("lower", batch.tokens[4] >= limit("lower", 110.0)),
        ("pinned", batch.tokens[5] == limit("pinned", 70.0)),
    )


def realised(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(("realised", co.sum(batch.cost) <= limit("realised", 33.0 * n)))


def semicontinuous(limit, seed=0, n=8):
    batch = Batch(seed, n, lower=30.0, semicontinuous=True)
    return batch.most(("budget", co.sum(batch.tokens) <= limit("budget", 42.0 * n)))


def paid(limit, seed=0, n=8):
    batch = Batch(seed, n)
    return batch.most(
        ("budget", co.sum(batch.tokens) <= limit("budget", 40.0 * n)),
        objective=co.sum(batch.accuracy) - 0.002 * (batch.use @ batch.tokens),
    )


def mixed(limit, seed=0, n=8):
    batch = Batch(seed, n)
    early = co.Hill(batch.scale[:2], 30.0, 2.5)(batch.tokens[:2])
    soon = co.SaturatingExponential(batch.scale[2:4], 4.0, 0.03)(batch.tokens[2:4])
    late = co.ShiftedSurge(batch.scale[4:], batch.threshold[4:], batch.rate[4:])(batch.tokens[4:])
    return batch.most(
        ("budget", co.sum(batch.tokens) <= limit("budget", 30.0 * n)),
        objective=co.sum(early) + co.sum(soon) + co.sum(late),
    )


KINDS = [
    at_most, at_least, exactly, weighted, grouped, mean_floor, grouped_floor, fewest, bounded,
    realised, semicontinuous, paid, mixed,
]  # fmt: skip


def entries(values):
    """(name, entry, value) of every limit that has a price."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((name, label, each) for label, each in value.items())
        elif isinstance(value, np.ndarray):
            yield from ((name, position, each) for position, each in enumerate(value))
        else:
            yield name, (), value


# ------------------------------------------------------------------ marginal values
def local_value(program, start):
    """The best objective near `start`, (n,), with the funded set as it is there.

    Who is funded stays on the concave part; who sits on a bound below it stays on that bound.
    """
    inflection = np.zeros(program.n)
    for block in program.utilities:
        inflection[block.index] = block.family.origin + block.family.inflection_excess
    funded = program.utility(start) > 0
    low = np.where(funded, np.maximum(program.lower, inflection), program.least)
    stuck = funded & (start < inflection)
    low = np.where(stuck, program.lower, np.minimum(low, program.upper))
    high = np.where(stuck | ~funded, low, program.upper)
    unit = 50.0  # tokens: SLSQP likes variables of order one

    def row(sign, k):
        jacobian = program.rows[[k]].toarray()[0], program.curve_rows[[k]].toarray()[0]
        size = max(abs(program.right_hand_side[k]), 1.0)
        level = program.right_hand_side[k]
        return (
            lambda x: sign * (program.activity(x * unit)[k] - level) / size,
            lambda x: (
                sign * unit / size
                * (jacobian[0] + jacobian[1] * program.curve_marginal(x * unit))
            ),
        )  # fmt: skip

    def floor(j):
        share = program.floors[[j]].toarray()[0]
        return (
            lambda x: share @ program.utility(x * unit) - program.floor_levels[j],
            lambda x: unit * share * program.marginal(x * unit),
        )

    constraints = []
    for k, sense in enumerate(program.senses):
        value, slope = row(-1.0 if sense == "<=" else 1.0, k)
        kind = "eq" if sense == "==" else "ineq"
        constraints.append({"type": kind, "fun": value, "jac": slope})
    for j in range(program.floors.shape[0]):
        value, slope = floor(j)
        constraints.append({"type": "ineq", "fun": value, "jac": slope})
    size = max(1.0, abs(program.objective(start)))
    found = minimize(
        lambda x: -program.objective(x * unit) / size,
        np.clip(start, low, high) / unit,
        jac=lambda x: (
            -unit / size
            * (program.weight * program.marginal(x * unit) - program.cost)
        ),
        bounds=np.column_stack([low, high]) / unit,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 300},
    )  # fmt: skip
    assert found.success or found.status == 8, found.message  # 8: no better to rounding
    violated = [abs(min(c["fun"](found.x), 0.0)) for c in constraints if c["type"] == "ineq"]
    violated += [abs(c["fun"](found.x)) for c in constraints if c["type"] == "eq"]
    assert max(violated) < 1e-10
    return program.objective(found.x * unit)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("declare", KINDS)
def test_marginal_values_are_slopes_with_the_funded_set_as_it_is(declare, seed):
    solution = declare(Limits(), seed).solve(time_limit=5)
    start = np.asarray(solution.allocation, dtype=float)
    worth_something = 0
    for name, entry, value in entries(solution.marginal_values):
        step = 1e-3 if "floor" in name else 0.1
        values = []
        for by in (-step, step):
            program = declare(Limits(name, entry, by), seed).program
            values.append(local_value(program, start))
        slope = (values[1] - values[0]) / (2 * step)
        assert value == pytest.approx(slope, rel=1e-3, abs=1e-6), (name, entry)
        worth_something += value != 0
    assert worth_something


# ------------------------------------------------------------------ prices
def dual_bound(program, row_prices, floor_prices, points=20_001):
    """The Lagrangian bound at these prices by enumeration: each query's best on a fine grid."""
    amounts = np.linspace(program.lower, program.upper, points)  # (points, n)
    if program.semicontinuous.any():
        amounts = np.vstack([amounts, np.where(program.semicontinuous, 0.0, program.lower)])
    accuracy, cost = np.zeros(amounts.shape), np.zeros(amounts.shape)
    for values, blocks in ((accuracy, program.utilities), (cost, program.curves)):
        for block in blocks:
            values[:, block.index] = block.family.value(amounts[:, block.index])
    rows = np.zeros(program.rows.shape[0]) if row_prices is None else row_prices
    floors = np.zeros(program.floors.shape[0]) if floor_prices is None else floor_prices
    # A floor's price is at most 0: what it promises counts for its queries.
    gain = (program.weight - program.floors.T @ floors) * accuracy
    gain -= (program.cost + program.rows.T @ rows) * amounts
    gain -= (program.curve_cost + program.curve_rows.T @ rows) * cost
    level = program.right_hand_side @ rows + program.floor_levels @ floors
    return float(program.offset + gain.max(axis=0).sum() + level)


def upper_bound(solution):
    """The bound on what is maximised, whatever the user's sense."""
    return solution.program.sign * solution.bound


def step_for(name):
    return 0.005 if "floor" in name else 3.0


@pytest.mark.parametrize("declare", KINDS)
def test_prices_prove_the_bound_and_bounds_beside_it(declare):
    solution = declare(Limits(), n=12).solve(time_limit=1)
    proven = dual_bound(solution.program, solution.row_prices, solution.floor_prices)
    small = 1e-6 * abs(proven)
    assert upper_bound(solution) <= proven + small
    rows_and_floors = [g.name for g in solution.program.constraints if g.kind != "bound"]
    for name, entry, price in entries(solution.prices):
        if name not in rows_and_floors:
            continue  # the bound is no concave function of a query's own bounds
        for by in (-step_for(name), step_for(name)):
            beside = declare(Limits(name, entry, by), n=12).solve(time_limit=1)
            line = proven + price * by
            assert beside.program.sign * beside.objective <= line + small, (name, entry, by)
            # Branching proves more than the prices do, on either side of the line.
            assert upper_bound(beside) <= line + small, (name, entry, by)


@pytest.mark.parametrize(
    "declare", [at_most, at_least, exactly, fewest, realised, semicontinuous, paid, mixed]
)
def test_one_price_is_the_slope_of_the_bound_of_many_queries(declare):
    solution = declare(Limits(), n=40).solve(time_limit=5)
    ((name, price),) = solution.prices.items()
    step = 4 * step_for(name)
    low, high = (
        upper_bound(declare(Limits(name, (), by), n=40).solve(time_limit=5)) for by in (-step, step)
    )
    assert price == pytest.approx((high - low) / (2 * step), rel=0.1)
    # Two notions that meet as the queries grow many.
    assert solution.marginal_values[name] == pytest.approx(price, rel=0.1)


@pytest.mark.parametrize(("seed", "n"), [(1, 12), (2, 12)])
def test_prices_of_bounds_are_slopes_of_the_bound(seed, n):
    def least_bound(program):
        found = minimize_scalar(
            lambda price: dual_bound(program, np.array([price]), None, points=3_001),
            bounds=(0.004, 0.016),
            options={"xatol": 1e-9},
        )
        return found.fun

    solution = bounded(Limits(), seed, n).solve()
    worth_something = []
    for name, entry, price in entries(solution.prices):
        step = 0.2
        low, high = (
            least_bound(bounded(Limits(name, entry, by), seed, n).program) for by in (-step, step)
        )
        assert price == pytest.approx((high - low) / (2 * step), rel=2e-2, abs=1e-6), (name, entry)
        worth_something.append(price != 0)
    assert sum(worth_something) >= 5


# ------------------------------------------------------------------ signs, zeros, shapes
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("declare", KINDS)
def test_the_sign_says_whether_more_would_help(declare, integer, monkeypatch):
    if integer:
        plain = co.Allocation
        monkeypatch.setattr(co, "Allocation", lambda n, **given: plain(n, integer=True, **given))
    solution = declare(Limits()).solve(time_limit=1)
    senses = {"budget": 1, "memory": 1, "cap": 1, "realised": 1, "upper": 1, "factor": 1}
    senses |= {"used": -1, "floor": -1, "lower": -1}
    for values in (solution.prices, solution.marginal_values):
        assert list(values) == [c.name for c in solution.program.constraints]
        for name, _, value in entries(values):
            assert np.isfinite(value)
            assert senses.get(name, 0) * value >= 0, name
            assert str(value) != "-0.0"


@pytest.mark.parametrize("integer", [False, True])
def test_what_does_not_bind_is_worth_nothing(integer):
    batch = Batch(0, 8, integer=integer)
    problem = batch.most(
        ("budget", co.sum(batch.tokens) <= 330),
        ("slack", batch.use @ batch.tokens <= 9000),
        ("needless", co.sum(batch.tokens) >= 20),
        ("low floor", co.mean(batch.accuracy) >= 0.01),
        ("roomy", batch.tokens[:4] <= [190.0, 191.0, 192.0, 193.0]),
        ("half roomy", batch.tokens[:2] <= [190.0, np.inf]),
        ("caps", co.sum(batch.tokens, by=batch.tenant) <= {"acme": 4000.0, "globex": np.inf}),
        ("endless", co.sum(batch.tokens) <= np.inf),
        ("unfloored", co.sum(batch.tokens) >= -np.inf),
    )
    solution = problem.solve(time_limit=5)
    for values in (solution.prices, solution.marginal_values):
        assert values["budget"] > 0
        for name, entry, value in entries(values):
            assert name == "budget" or value == 0, (name, entry)


def test_shapes_follow_what_was_declared():
    batch = Batch(1, 8)
    problem = batch.most(
        ("scalar row", co.sum(batch.tokens) <= 330),
        ("scalar floor", co.mean(batch.accuracy) >= 0.3),
        ("scalar bound", batch.tokens[0] <= 60),
        ("rows by label", co.sum(batch.tokens, by=batch.tenant) <= {"acme": 150, "globex": np.inf}),
        ("floors by label", co.mean(batch.accuracy, by=batch.tenant) >= 0.2),
        ("rows", np.eye(3, 8) @ batch.tokens + np.eye(3, 8, 1) @ batch.tokens <= [90, np.inf, 80]),
        ("bounds", batch.tokens[2:5] <= [60, np.inf, 70]),
    )
    solution = problem.solve(time_limit=5)
    for values in (solution.prices, solution.marginal_values):
        for name in ("scalar row", "scalar floor", "scalar bound"):
            assert type(values[name]) is float
        for name in ("rows by label", "floors by label"):
            assert set(values[name]) == {"acme", "globex"}
            assert all(type(value) is float for value in values[name].values())
        for name in ("rows", "bounds"):
            assert values[name].shape == (3,)
            assert values[name].dtype == np.float64
            assert values[name][1] == 0.0


def test_a_name_that_is_none_says_which_there_are():
    solution = weighted(Limits()).solve(time_limit=5)
    for values in (solution.prices, solution.marginal_values):
        with pytest.raises(KeyError, match=r"'bugdet'; there are 'budget', 'memory'"):
            values["bugdet"]
    local = at_most(Limits()).solve("uniform")
    with pytest.raises(KeyError, match="none"):
        local.prices["budget"]
