"""Prices and purchases found inside JAX, held against a solver's and against finite differences.

Every problem is looked at with a query that is indifferent between two purchases, where the price
stays what it is when the budget moves, and without one, where it moves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differentiable_problems import (
    ONE_ROW,
    SEVERAL_ROWS,
    Batch,
    at_least,
    grouped,
    hill,
    mixed,
    moves,
    together,
    varied,
)

import clearopt as co
from clearopt.derivatives.separate_rows import obstacle

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def triangular():
    return Batch(19).of(co.Triangular(np.linspace(0.5, 0.9, 5), 8.0, 70.0), slice(0, 5))


def endless():
    batch = Batch(20, upper=np.inf)
    return batch.most(batch.budget)


def partly_limited():
    """A row over some queries, another over others, and queries that pay for themselves."""
    batch = Batch(21)
    return batch.most(
        (co.sum(batch.tokens[:3]) <= 90.0).named("some"),
        (batch.use[3:6] @ batch.tokens[3:6] >= 160.0).named("others"),
        objective=co.sum(batch.accuracy) - 0.006 * co.sum(batch.tokens),
    )


PLAIN = [
    declare for declare in (*ONE_ROW, *SEVERAL_ROWS) if obstacle(declare().program) is None
] + [triangular, endless, partly_limited]
TOGETHER = [hill, mixed, varied, at_least, grouped, triangular, partly_limited]
NOT_PLAIN = [declare for declare in (*ONE_ROW, *SEVERAL_ROWS) if declare not in PLAIN]


def levels(layer, by):
    """The right-hand sides, each in its own proportion `by`."""
    return {"right_hand_side": {k: v * by for k, v in layer.inputs["right_hand_side"].items()}}


def without_the_indifferent(layer):
    """Right-hand sides a hair below what is bought without the indifferent."""
    relaxed = jax.jit(layer.relaxed)()
    change = np.asarray(relaxed.tokens - np.where(relaxed.share < 1, relaxed.few, relaxed.many))
    rows, program = layer.inputs["right_hand_side"], layer._names.program
    spent = 1.002 * np.asarray(program.rows @ change)
    return {"right_hand_side": {g.name: rows[g.name] - spent[g.rows].reshape(rows[g.name].shape)
                                for g in program.constraints if g.name in rows}}  # fmt: skip


# ------------------------------------------------------------------ the same as a solver's
@pytest.mark.parametrize("declare", PLAIN)
def test_bounds_and_prices_are_the_solvers(declare):
    problem = declare()
    layer = co.differentiable(problem)
    other = co.differentiable(problem, price_search="solver")
    assert layer.not_in_jax is None
    factors = jnp.array([1.0, 0.97, 1.04])

    def at(layer, by):
        return jax.value_and_grad(lambda i: layer.dual_value({**layer.inputs, **i}))(
            levels(layer, by)
        )

    def native(by):
        return *at(layer, by), layer.prices(levels(layer, by))

    bound, slope, price = jax.jit(jax.vmap(native))(factors)
    its_bound, its_slope = jax.jit(jax.vmap(lambda by: at(other, by)))(factors)
    np.testing.assert_allclose(bound, its_bound, rtol=1e-12)
    for name, rows in slope["right_hand_side"].items():
        # A solver's search ends when the bound is closed to rounding, 1e-16: where the bound is
        # smooth, its price is then good to the root of that.
        np.testing.assert_allclose(rows, its_slope["right_hand_side"][name], rtol=3e-8, atol=1e-15)
        np.testing.assert_allclose(rows, price[name], rtol=1e-12)
    solution = problem.solve()
    for name, rows in price.items():
        worth = solution.prices[name]
        worth = list(worth.values()) if isinstance(worth, dict) else worth
        np.testing.assert_allclose(np.asarray(rows)[0], worth, rtol=1e-6)


@pytest.mark.parametrize("declare", PLAIN)
def test_the_purchases_prove_the_bound_and_meet_the_rows(declare):
    layer = co.differentiable(declare())
    program = layer._names.program

    @jax.jit
    def found():
        relaxed = layer.relaxed()
        expected = relaxed.share * layer.utilities(relaxed.many)
        expected += (1 - relaxed.share) * layer.utilities(relaxed.few)
        return relaxed, expected, layer.dual_value(), tuple(layer.prices().values())

    relaxed, expected, bound, prices = found()
    reached = program.offset + program.weight @ expected - program.cost @ relaxed.tokens
    assert float(reached) == pytest.approx(program.sign * float(bound), rel=1e-12)
    activity = program.rows @ np.asarray(relaxed.tokens)
    price = np.concatenate([np.ravel(part) for part in prices])
    priced = price != 0
    level = program.right_hand_side
    np.testing.assert_allclose(activity[priced], level[priced], rtol=1e-12)
    slack = (level - activity) * np.where(program.sense_array == ">=", -1, 1)
    assert (slack[~priced] >= 0).all()
    assert (np.asarray(relaxed.share) < 1).sum() <= program.rows.shape[0]


def test_a_thousand_queries():
    rng = np.random.default_rng(0)
    n = 1000
    tokens = co.Allocation(n, upper=4096.0)
    surge = co.CumulativeSurge(
        rng.uniform(0.2, 1, n), rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    )
    problem = co.Problem(
        co.Maximize(co.sum(surge(tokens))), [(co.sum(tokens) <= 30.0 * n).named("budget")]
    )
    layer = co.differentiable(problem)
    budgets = 1000.0 * np.array([0.01, 1.0, 10.0, 30.0, 100.0])
    at = [{"right_hand_side": {"budget": budget}} for budget in budgets]
    found = jax.jit(jax.vmap(lambda b: layer.dual_value({"right_hand_side": {"budget": b}})))
    solutions = problem.sweep("budget", budgets.tolist())
    bounds = [solution.bound for solution in solutions]
    # A branch and bound's bound may be below the dual's, never above.
    assert (np.asarray(found(budgets)) >= np.array(bounds) * (1 - 1e-12)).all()
    other = co.differentiable(problem, price_search="solver")
    np.testing.assert_allclose(found(budgets), [other.dual_value(i) for i in at], rtol=1e-12)


# ------------------------------------------------------------------ derivatives
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("declare", TOGETHER)
def test_first_and_second_derivatives_are_those_of_finite_differences(declare):
    layer = co.differentiable(declare())
    widths = (1e-4, 1e-5, 1e-6)
    steps = jnp.array([0.0, *(sign * h for h in widths for sign in (-1, 1))])

    def at(t, change, inputs):
        def functions(t):
            moved = jax.tree.map(lambda value, step: value + t * step, inputs, change)
            relaxed = layer.relaxed(moved)
            return layer.dual_value(moved), layer.prices(moved), relaxed.tokens, relaxed.share

        def slopes(t):
            return jax.jvp(functions, (t,), (1.0,))

        (found, slope), (_, bend) = jax.jvp(slopes, (t,), (1.0,))
        return found, slope, bend

    batched = jax.jit(jax.vmap(jax.vmap(at, (0, None, None)), (None, 0, None)))
    only_rows = jax.tree.map(np.zeros_like, layer.inputs)
    only_rows["right_hand_side"] = jax.tree.map(np.abs, layer.inputs["right_hand_side"])
    changes = [only_rows, *together(dict(moves(layer))).values()]
    directions = jax.tree.map(lambda *parts: jnp.stack(parts), *changes)
    for inputs in (layer.inputs, {**layer.inputs, **without_the_indifferent(layer)}):
        found, slope, bend = batched(steps, directions, inputs)
        parts = zip(*(jax.tree.leaves(x) for x in (found, slope, bend)), strict=True)
        for number, (values, first, second) in enumerate(parts):
            size = np.abs(values).max()
            for known, below, what in ((first, values, "slope"), (second, first, "bend")):
                exact, errors = np.asarray(known[:, 0]), []
                for k, h in enumerate(widths):
                    difference = (below[:, 2 * k + 2] - below[:, 2 * k + 1]) / (2 * h)
                    errors.append(np.abs(np.asarray(difference) - exact))
                allowed = 1e-6 * (np.abs(exact).max() + size)
                assert np.min(errors, axis=0).max() <= allowed, (number, what, errors, exact)
    # Now nobody is indifferent (but where utilities are straight): prices move with their rows.
    moved = np.concatenate([np.ravel(p[0, 0]) for p in slope[1].values()])
    priced = np.concatenate([np.ravel(p[0, 0]) for p in found[1].values()]) != 0
    assert declare is triangular or (moved[priced] < 0).all()


@pytest.mark.usefixtures("quick_compilation")
def test_the_hessian_in_budgets_and_parameters():
    layer = co.differentiable(Batch(0).of(co.BestOfN(np.linspace(0.2, 0.6, 8), 20.0)))
    budget = jnp.asarray(240.0)

    def value(budget, success):
        return layer.dual_value(
            {
                "right_hand_side": {"budget": budget},
                "utilities": {"BestOfN": {"success": success}},
            }
        )

    success = jnp.asarray(layer.inputs["utilities"]["BestOfN"]["success"])
    (bend, mixed), (_, own) = jax.jit(jax.hessian(value, (0, 1)))(budget, success)
    gradient = jax.jit(jax.grad(value, (0, 1)))
    h = 1e-3
    high, low = gradient(budget + h, success), gradient(budget - h, success)
    assert float(bend) < 0
    assert float(bend) == pytest.approx(float(high[0] - low[0]) / (2 * h), rel=1e-6)
    np.testing.assert_allclose(mixed, (high[1] - low[1]) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(own, own.T, rtol=1e-9, atol=1e-12)
    # And once more: the third derivative in the budget.
    bends = jax.jit(jax.hessian(value))
    third = jax.jit(jax.jacfwd(jax.hessian(value)))(budget, success)
    difference = (bends(budget + h, success) - bends(budget - h, success)) / (2 * h)
    assert float(third) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.usefixtures("quick_compilation")
def test_a_batch_is_a_loop():
    layer = co.differentiable(ONE_ROW[0]())
    rng = np.random.default_rng(1)
    budgets = jnp.asarray(rng.uniform(40, 800, 6))
    thresholds = jnp.asarray(rng.uniform(5, 40, (6, 8)))

    def value(budget, threshold):
        return layer.dual_value(
            {
                "right_hand_side": {"budget": budget},
                "utilities": {"CumulativeSurge": {"threshold": threshold}},
            }
        )

    both = jax.jit(jax.value_and_grad(value, (0, 1)))
    batch = jax.jit(jax.vmap(jax.value_and_grad(value, (0, 1))))(budgets, thresholds)
    loop = [both(*pair) for pair in zip(budgets, thresholds, strict=True)]
    loop = jax.tree.map(lambda *parts: jnp.stack(parts), *loop)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15), batch, loop)
    total = jax.jit(jax.grad(lambda *pair: jax.vmap(value)(*pair).sum(), (0, 1)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15),
        total(budgets, thresholds),
        batch[1],
    )
    np.testing.assert_allclose(value(budgets[0], thresholds[0]), batch[0][0], rtol=1e-14)


# ------------------------------------------------------------------ the ends of the range
def surges(n, **allocation):
    tokens = co.Allocation(n, **{"upper": 200.0} | allocation)
    accuracy = co.CumulativeSurge(np.linspace(0.6, 0.9, n), np.linspace(10, 30, n), 0.1)(tokens)
    return tokens, accuracy


def in_budget(layer):
    def functions(budget):
        inputs = {"right_hand_side": {"budget": budget}}
        return (
            layer.dual_value(inputs),
            layer.prices(inputs)["budget"],
            layer.relaxed(inputs).tokens,
        )

    return jax.jit(lambda b: (functions(b), jax.jacfwd(functions)(b)))


@pytest.mark.usefixtures("quick_compilation")
def test_an_ample_budget_has_no_price():
    tokens, accuracy = surges(4)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 1.0).named("budget")])
    layer = co.differentiable(problem)
    for budget in (800.0, 1e9):
        (value, price, bought), slopes = in_budget(layer)(budget)
        assert float(price) == 0.0
        assert float(value) == pytest.approx(layer._names.program.utility(np.full(4, 200.0)).sum())
        np.testing.assert_array_equal(bought, 200.0)
        assert all(not np.any(slope) for slope in slopes)
    # All that is worth something is bought long before the upper bounds are.
    (value, price, bought), slopes = in_budget(layer)(790.0)
    assert float(price) == 0.0 or float(price) * 790 < 1e-5 * float(value)
    assert float(bought.sum()) <= 790 * (1 + 1e-12)


def test_a_budget_of_nothing_has_the_best_break_even_price():
    tokens, accuracy = surges(4)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 0.0).named("budget")])
    layer = co.differentiable(problem)
    (value, price, bought), (slope, bend, moved) = in_budget(layer)(0.0)
    family = layer._names.program.utilities[0].family
    dearest = family.break_even_price(np.full(4, 200.0)).max()
    assert float(value) == pytest.approx(0.0, abs=1e-15)
    assert float(price) == pytest.approx(dearest, rel=1e-12)
    assert float(slope) == pytest.approx(dearest, rel=1e-12)
    assert float(bend) == 0.0
    np.testing.assert_array_equal(bought, 0.0)
    assert float(moved.sum()) == pytest.approx(1.0)


@pytest.mark.usefixtures("quick_compilation")
def test_everything_abandoned():
    tokens, accuracy = surges(4)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy) - 0.5 * co.sum(tokens)),
        [(co.sum(tokens) <= 100.0).named("budget")],
    )
    layer = co.differentiable(problem)
    (value, price, bought), slopes = in_budget(layer)(100.0)
    assert float(value) == 0.0
    assert float(price) == 0.0
    np.testing.assert_array_equal(bought, 0.0)
    assert all(not np.any(slope) for slope in slopes)
    gradient = jax.jit(jax.grad(layer.dual_value))(layer.inputs)
    np.testing.assert_allclose(gradient.pop("lower"), -0.5)  # what nobody wants costs
    assert all(not np.any(part) for part in jax.tree.leaves(gradient))


def test_ties_share_alike():
    tokens = co.Allocation(5, upper=200.0)
    accuracy = co.CumulativeSurge(0.8, 20.0, 0.1)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 100.0).named("budget")])
    layer = co.differentiable(problem)
    relaxed = jax.jit(layer.relaxed)()
    assert np.unique(relaxed.share).size == 1
    assert float(relaxed.tokens.sum()) == pytest.approx(100.0, rel=1e-12)
    assert float(layer.dual_value()) == pytest.approx(
        float(co.differentiable(problem, price_search="solver").dual_value()), rel=1e-12
    )
    gradient = jax.jit(jax.grad(layer.dual_value))(layer.inputs)
    # Moved together, nothing is torn: the value goes as it does for one of them.
    step = 1e-5 * np.ones(5)
    beside = [
        float(layer.dual_value({"utilities": {"CumulativeSurge": {"threshold": 20.0 + s * step}}}))
        for s in (-1, 1)
    ]
    along = float(gradient["utilities"]["CumulativeSurge"]["threshold"].sum())
    assert along == pytest.approx((beside[1] - beside[0]) / 2e-5, rel=1e-6)


def test_no_row_at_all():
    tokens, accuracy = surges(4)
    problem = co.Problem(co.Maximize(co.sum(accuracy) - 0.004 * co.sum(tokens)), [])
    layer = co.differentiable(problem)
    assert layer.prices() == {}
    solution = problem.solve()
    assert float(layer.dual_value()) == pytest.approx(solution.objective, rel=1e-9)
    np.testing.assert_allclose(layer.relaxed().tokens, solution.allocation, rtol=1e-6)


def test_queries_without_a_utility():
    tokens, accuracy = surges(4)
    used = co.Allocation(2, lower=5.0, upper=20.0, name="used")
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)), [(co.sum(tokens) + co.sum(used) <= 120.0).named("budget")]
    )
    layer = co.differentiable(problem)
    np.testing.assert_array_equal(layer.relaxed().tokens[4:], 5.0)
    other = co.differentiable(problem, price_search="solver")
    assert float(layer.dual_value()) == pytest.approx(float(other.dual_value()), rel=1e-12)


# ------------------------------------------------------------------ what is refused, and how
@pytest.mark.parametrize("declare", NOT_PLAIN)
def test_what_cannot_be_searched_in_jax_says_why(declare):
    problem = declare()
    layer = co.differentiable(problem)
    assert layer.not_in_jax
    for call in (
        layer.prices, layer.relaxed, lambda: co.differentiable(problem, price_search="jax")
    ):  # fmt: skip
        with pytest.raises(co.UnsupportedProblemError, match=layer.not_in_jax):
            call()


def test_whole_tokens_are_left_to_the_solver():
    batch = Batch(3, integer=True)
    assert "whole" in co.differentiable(batch.most(batch.budget)).not_in_jax
    with pytest.raises(co.DeclarationError, match="must be 'auto', 'jax' or 'solver'"):
        co.differentiable(batch.most(batch.budget), price_search="gpu")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"utilities": {"CumulativeSurge": {"rate": -1.0}}}, r"CumulativeSurge: rate\[0\] = -1.0"),
        ({"weight": np.r_[np.ones(7), -1.0]}, r"weight\[7\] = -1.0: must be at least 0"),
        ({"right_hand_side": {"budget": np.nan}}, "right_hand_side.'budget'. = nan"),
        ({"lower": 60.0, "upper": 50.0}, r"upper\[0\] = 50.0 .* below the lower bound"),
    ],
)
def test_numbers_that_no_problem_can_have_raise_or_give_nan(inputs, says):
    layer = co.differentiable(ONE_ROW[0]())
    for call in (layer.dual_value, layer.prices, layer.relaxed):
        with pytest.raises(co.DeclarationError, match=says):
            call(inputs)
    assert np.isnan(jax.jit(layer.dual_value)(inputs))


def test_what_is_infeasible_is_not_a_number():
    tokens, accuracy = surges(4, lower=30.0)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 200.0).named("budget")])
    layer = co.differentiable(problem)
    for budget in (119.0, -1.0):
        inputs = {"right_hand_side": {"budget": budget}}
        assert np.isnan(layer.dual_value(inputs))
        assert np.isnan(layer.relaxed(inputs).tokens).all()
    exactly = {"right_hand_side": {"budget": 120.0}}
    assert np.isfinite(layer.dual_value(exactly))
    np.testing.assert_array_equal(layer.relaxed(exactly).tokens, 30.0)


def test_float32_is_refused():
    layer = co.differentiable(ONE_ROW[0]())
    with jax.enable_x64(False):
        for call in (layer.dual_value, jax.jit(layer.prices), layer.relaxed):
            with pytest.raises(co.DeclarationError, match="enable_x64"):
                call(jax.tree.map(jnp.float32, layer.inputs))
