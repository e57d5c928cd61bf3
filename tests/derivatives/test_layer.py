"""Derivatives through solved problems, held against central finite differences of the solves.

Every kind of input is moved, in some problems each by itself, in the others a few kinds together;
the derivative rules are forward, so that one compiled function gives all of them, and reverse mode
is held against forward mode.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differentiable_problems import (
    ALONE,
    ONE_ROW,
    SEVERAL_ROWS,
    Batch,
    at_least,
    floor,
    grouped,
    mixed,
    moved,
    moves,
    one_row,
    together,
    two_rows,
)  # fmt: skip

import clearopt as co


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def functions(layer):
    return {"dual_value": layer.dual_value, "value": layer.value, "allocation": layer.allocation}


def all_derivatives(layer, changes):
    """By function, the derivatives along the changes, (changes, ...): one solve for all of them."""
    batch = jax.tree.map(lambda *steps: jnp.stack(steps), *changes)

    def along(change):
        return {
            name: jax.jvp(f, (layer.inputs,), (change,))[1] for name, f in functions(layer).items()
        }

    return jax.jit(jax.vmap(along))(batch)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("declare", [d for d in ONE_ROW + SEVERAL_ROWS if d not in ALONE])
def test_derivatives_are_those_of_finite_differences(declare):
    layer = co.differentiable(declare())
    named = dict(moves(layer))
    assert len(named) >= 5
    if declare not in (one_row, mixed, floor):
        named = together(named)
    found = all_derivatives(layer, list(named.values()))
    step = 1e-5
    for name, f in functions(layer).items():
        size = np.abs(f()).max()
        for position, (place, change) in enumerate(named.items()):
            exact = np.asarray(found[name][position])
            beside = [np.asarray(f(moved(layer.inputs, change, by))) for by in (-step, step)]
            slope = (beside[1] - beside[0]) / (2 * step)
            allowed = 2e-5 * np.abs(slope).max() + 1e-6 * size
            assert np.abs(exact - slope).max() <= allowed, (name, place, exact, slope)


@pytest.mark.parametrize("declare", ONE_ROW + SEVERAL_ROWS)
def test_what_a_layer_finds_is_what_solve_finds(declare):
    problem = declare()
    layer, solution = co.differentiable(problem), problem.solve()
    assert float(layer.value()) == pytest.approx(solution.objective, rel=1e-6)
    np.testing.assert_allclose(layer.allocation(), solution.allocation, rtol=0.02, atol=1e-6)
    sign = solution.program.sign
    assert sign * float(layer.dual_value()) >= sign * float(layer.value()) * (1 - 1e-12)
    found = jax.jit(jax.grad(layer.value))(layer.inputs)
    for group in solution.program.constraints:
        if group.kind != "bound":
            key = "right_hand_side" if group.kind == "row" else "floor_levels"
            worth = solution.marginal_values[group.name]
            worth = list(worth.values()) if isinstance(worth, dict) else worth
            np.testing.assert_allclose(sign * found[key][group.name], worth, rtol=1e-3)


# ------------------------------------------------------------------ under JAX's transformations
def test_reverse_mode_is_forward_mode():
    layer = co.differentiable(two_rows())
    weights = np.linspace(1.0, 2.0, 8)

    def loss(inputs):
        return weights @ layer.allocation(inputs) + layer.value(inputs) + layer.dual_value(inputs)

    gradient = jax.jit(jax.grad(loss))(layer.inputs)
    along = jax.jit(lambda change: jax.jvp(loss, (layer.inputs,), (change,))[1])
    for place, change in moves(layer):
        inner = sum(
            np.vdot(part, step)
            for part, step in zip(jax.tree.leaves(gradient), jax.tree.leaves(change), strict=True)
        )
        assert inner == pytest.approx(float(along(change)), rel=1e-9, abs=1e-12), place


def test_a_batch_of_budgets():
    problem = one_row()
    layer = co.differentiable(problem)
    budgets = jnp.array([150.0, 250.0, 336.0, 500.0])

    def at(f):
        return lambda budget: f({"right_hand_side": {"budget": budget}})

    batch = jax.jit(jax.vmap(at(layer.allocation)))(budgets)
    worth, marginal = jax.jit(jax.vmap(jax.value_and_grad(at(layer.value))))(budgets)
    price = jax.jit(jax.vmap(jax.grad(at(layer.dual_value))))(budgets)
    moved_by_one = jax.jit(jax.vmap(jax.jacfwd(at(layer.allocation))))(budgets)
    solutions = problem.sweep("budget", budgets.tolist())
    for k, solution in enumerate(solutions):
        np.testing.assert_allclose(batch[k], solution.allocation, rtol=1e-9)
        assert float(worth[k]) == pytest.approx(solution.objective, rel=1e-12)
        assert float(marginal[k]) == pytest.approx(solution.marginal_values["budget"], rel=1e-9)
        assert float(price[k]) == pytest.approx(solution.prices["budget"], rel=1e-6)
        # The budget binds: one more token goes somewhere.
        assert float(moved_by_one[k].sum()) == pytest.approx(1.0, rel=1e-9)
    nested = jax.vmap(jax.vmap(at(layer.value)))(budgets.reshape(2, 2))
    np.testing.assert_allclose(nested.ravel(), worth, rtol=1e-12)


def test_float64_survives_a_callback_in_another_thread():
    # The runtime calls back from its own threads for large arrays, where 64-bit types are off.
    from clearopt.derivatives.callback import solved_outside

    def doubled(arrays):
        assert arrays[0].dtype == np.float64
        return [2.0 * arrays[0], arrays[1] + arrays[0][0]]

    @jax.jit
    def f(x, y):
        return solved_outside(doubled, [x, y], [x.shape, ()])

    x = jnp.linspace(0.1, 1.0, 2_000_000)
    many, one = f(x, jnp.asarray(1e-12))
    np.testing.assert_array_equal(many, 2.0 * np.asarray(x))
    assert float(one) == 1e-12 + 0.1


def test_many_queries_and_rows_take_the_sparse_path(monkeypatch):
    from clearopt.derivatives import implicit

    layer = co.differentiable(grouped())
    dense = jax.jit(jax.jacfwd(layer.allocation))(layer.inputs)
    monkeypatch.setattr(implicit, "_DENSE", 0)
    sparse = jax.jit(jax.jacfwd(co.differentiable(grouped()).allocation))(layer.inputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), dense, sparse
    )


# ------------------------------------------------------------------ where there is nothing to move
def test_abandoned_queries_do_not_move_and_bounded_ones_follow_their_bound():
    problem = one_row()
    layer, solution = co.differentiable(problem), problem.solve()
    jacobian = jax.jit(jax.jacfwd(layer.allocation))(layer.inputs)
    abandoned = np.flatnonzero(solution.allocation == 0)
    assert abandoned.size
    for name, moved_by in jacobian["utilities"]["CumulativeSurge"].items():
        assert np.all(np.asarray(moved_by)[abandoned] == 0), name
        assert np.all(np.asarray(moved_by)[:, abandoned] == 0), name
    assert solution.allocation[0] == 48.0  # at its upper bound
    assert float(jacobian["upper"][0, 0]) == 1.0
    assert float(jacobian["upper"][:, 0].sum()) == pytest.approx(0.0, abs=1e-9)  # taken from others
    assert np.all(np.asarray(jacobian["utilities"]["CumulativeSurge"]["scale"])[0] == 0)


def test_whole_tokens_stand_still_and_their_value_is_the_marginal_value():
    batch = Batch(3, integer=True)
    problem = batch.most(batch.budget)
    layer, solution = co.differentiable(problem), problem.solve()
    jacobian = jax.jit(jax.jacfwd(layer.allocation))(layer.inputs)
    assert all(np.all(np.asarray(part) == 0) for part in jax.tree.leaves(jacobian))
    gradient = jax.jit(jax.grad(layer.value))(layer.inputs)
    assert float(gradient["right_hand_side"]["budget"]) == pytest.approx(
        solution.marginal_values["budget"]
    )
    # In utilities and weights the tokens are held, and the derivative is exact.
    for place, change in moves(layer):
        if "utilities" in place or "weight" in place:
            beside = [float(layer.value(moved(layer.inputs, change, by))) for by in (-1e-5, 1e-5)]
            inner = sum(
                np.vdot(part, step)
                for part, step in zip(
                    jax.tree.leaves(gradient), jax.tree.leaves(change), strict=True
                )
            )
            assert inner == pytest.approx((beside[1] - beside[0]) / 2e-5, rel=1e-5), place


def slope_of(f, step=1e-5):
    return (np.asarray(f(step)) - np.asarray(f(-step))) / (2 * step)


def test_fractional_tokens_move_between_whole_ones():
    rng = np.random.default_rng(1)
    whole = co.Allocation(4, upper=200, integer=True, name="whole")
    split = co.Allocation(4, upper=200.0, name="split")
    worth = sum(
        co.sum(co.CumulativeSurge(rng.uniform(0.6, 1, 4), rng.uniform(5, 40, 4), 0.08)(t))
        for t in (whole, split)
    )
    problem = co.Problem(co.Maximize(worth), [co.sum(whole) + co.sum(split) <= 300.5])
    layer = co.differentiable(problem)
    for f in (layer.allocation, layer.value):

        def at(by, f=f):
            return f({"right_hand_side": {"constraint 0": 300.5 + by}})

        moved_by = np.asarray(jax.jit(jax.jacfwd(at))(0.0))
        np.testing.assert_allclose(moved_by, slope_of(at), rtol=1e-5, atol=1e-8)
        assert moved_by.ndim == 0 or not moved_by[:4].any()


def test_who_has_just_the_least_amount_goes_where_that_goes():
    tokens = co.Allocation(5, lower=60.0, upper=200.0, semicontinuous=True, name="tokens")
    surge = co.CumulativeSurge([0.7, 0.8, 0.9, 0.95, 0.6], [5.0, 10.0, 15.0, 40.0, 60.0], 0.15)
    problem = co.Problem(
        co.Maximize(co.sum(surge(tokens))), [(co.sum(tokens) <= 250).named("budget")]
    )
    layer, direction = co.differentiable(problem), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (problem.solve().allocation == 60.0).sum() >= 2
    for f in functions(layer).values():

        def at(by, f=f):
            return f({"lower": layer.inputs["lower"] + by * direction})

        moved_by = jax.jit(jax.jacfwd(at))(0.0)
        np.testing.assert_allclose(moved_by, slope_of(at), rtol=1e-4, atol=1e-8)


def test_measured_tables_stand_still_and_are_no_inputs():
    table = co.Tabulated([0, 20, 40, 60, 120], [0.0, 0.1, 0.5, 0.7, 0.8])
    problem = Batch(0).of(table, slice(0, 3))  # a budget at which a kink is best
    layer, solution = co.differentiable(problem), problem.solve()
    assert layer.inputs["utilities"]["Tabulated"] == {}
    kinks = np.flatnonzero(np.isin(solution.allocation[:3], [20, 40, 60, 120]))
    jacobian = jax.jit(jax.jacfwd(layer.allocation))(layer.inputs)
    by_budget = np.asarray(jacobian["right_hand_side"]["budget"])
    assert kinks.size
    assert np.all(by_budget[kinks] == 0)
    assert by_budget.sum() == pytest.approx(1.0)  # the others take it


def test_a_table_between_its_measurements_takes_what_is_left():
    tokens = co.Allocation(2, upper=100.0)
    table = co.Tabulated([0, 100], [0.0, 0.5])(tokens[:1])
    surge = co.SaturatingExponential(0.9, 0.0, 0.05)(tokens[1:])
    problem = co.Problem(
        co.Maximize(co.sum(table) + co.sum(surge)), [(co.sum(tokens) <= 100).named("budget")]
    )
    layer = co.differentiable(problem)
    moved_by = jax.jit(jax.jacfwd(layer.allocation))(layer.inputs)["right_hand_side"]["budget"]
    np.testing.assert_allclose(moved_by, [1.0, 0.0], atol=1e-6)


def test_a_menu():
    tokens = co.Allocation(4, upper=150, name="small")
    other = co.Allocation(4, upper=300, name="large")
    worth = co.sum(co.CumulativeSurge([0.4, 0.5, 0.6, 0.5], 10.0, 0.1)(tokens))
    worth = worth + co.sum(co.CumulativeSurge([0.9, 0.8, 0.7, 0.9], 60.0, 0.05)(other))
    spent = (co.sum(tokens) + co.sum(other) <= 320).named("budget")
    problem = co.Problem(co.Maximize(worth), [spent, co.at_most_one(tokens, other)])
    layer = co.differentiable(problem)
    assert list(layer.queries) == ["CumulativeSurge 1", "CumulativeSurge 2"]
    gradient = jax.jit(jax.grad(layer.value))(layer.inputs)
    for label in layer.queries:
        change = np.array([0.3, 0.2, 0.4, 0.1]) * 1e-4
        beside = [
            float(layer.value({"utilities": {label: {"scale": scale + sign * change}}}))
            for scale in [layer.inputs["utilities"][label]["scale"]]
            for sign in (-1, 1)
        ]
        exact = float(np.vdot(gradient["utilities"][label]["scale"], change))
        assert exact == pytest.approx((beside[1] - beside[0]) / 2, rel=1e-5)


# ------------------------------------------------------------------ what is refused, and how
def test_float32_is_refused():
    layer = co.differentiable(one_row())
    with jax.enable_x64(False):
        for call in (layer.value, jax.jit(layer.value), jax.grad(layer.value)):
            with pytest.raises(co.DeclarationError, match="enable_x64"):
                call(jax.tree.map(jnp.float32, layer.inputs))


def test_float32_numbers_are_taken_and_get_float32_gradients():
    layer = co.differentiable(one_row())

    def value(budget):
        return layer.value({"right_hand_side": {"budget": budget}})

    worth, slope = jax.jit(jax.value_and_grad(value))(jnp.float32(300))
    assert worth.dtype == jnp.float64
    assert slope.dtype == jnp.float32


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"budget": 3.0}, "no 'budget'; there is 'right_hand_side'"),
        ({"right_hand_side": {"bugdet": 3.0}}, "no 'bugdet'; there is 'budget'"),
        ({"right_hand_side": 3.0}, r"\['right_hand_side'\]: expected a dictionary, got float"),
        ({"weight": np.ones(3)}, r"shape \(3,\) stands where \(8,\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(inputs, says):
    with pytest.raises(co.DeclarationError, match=says):
        co.differentiable(one_row()).value(inputs)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"utilities": {"CumulativeSurge": {"rate": -1.0}}}, r"CumulativeSurge: rate\[0\] = -1.0"),
        ({"weight": np.r_[np.ones(7), -1.0]}, r"weight\[7\] = -1.0: must be at least 0"),
        ({"right_hand_side": {"budget": np.nan}}, "right_hand_side.'budget'. = nan"),
        ({"lower": 60.0, "upper": 50.0}, r"upper\[0\] = 50.0 .* below the lower bound"),
    ],
)
def test_numbers_that_no_problem_can_have_raise(inputs, says):
    layer = co.differentiable(one_row())
    for call in (layer.value, jax.jit(layer.value)):
        with pytest.raises((co.DeclarationError, jax.errors.JaxRuntimeError), match=says):
            jax.block_until_ready(call(inputs))


def test_what_is_infeasible_is_not_a_number():
    layer = co.differentiable(at_least())
    short = {"right_hand_side": {"used": 480.0}, "upper": np.full(8, 10.0)}
    assert np.isnan(layer.value(short))
    assert np.isnan(layer.allocation(short)).all()
    assert np.isnan(layer.dual_value(short))


def test_a_family_that_jax_cannot_trace_is_refused():
    class Opaque(co.CumulativeSurge):
        traceable = False

    problem = Batch(0).of(Opaque(0.7, 10.0, 0.1))
    with pytest.raises(co.UnsupportedProblemError, match=r"Opaque .*Sigmoidal"):
        co.differentiable(problem)


def test_second_derivatives_through_a_solver_are_refused():
    layer = co.differentiable(one_row(), price_search="solver")
    for f in functions(layer).values():
        slope = jax.jacfwd(lambda budget, f=f: f({"right_hand_side": {"budget": budget}}))
        for again in (jax.jacfwd, jax.jacrev):
            with pytest.raises(co.UnsupportedProblemError, match="second derivatives"):
                again(slope)(300.0)


def test_a_sigmoid_held_at_its_midpoint_has_its_slope():
    tokens = co.Allocation(2, lower=40.0, upper=40.0)
    problem = co.Problem(co.Maximize(co.sum(co.Logistic(0.8, 40.0, 0.1)(tokens))), [])
    slope = jax.jit(jax.grad(co.differentiable(problem).dual_value))({"upper": np.full(2, 40.0)})
    layer = co.differentiable(problem)

    def at(midpoint):
        return layer.dual_value({"utilities": {"Logistic": {"midpoint": midpoint}}})

    middle = jnp.full(2, 40.0)
    np.testing.assert_allclose(jax.jit(jax.grad(at))(middle), -0.25 * 0.8 * 0.1, rtol=1e-12)
    np.testing.assert_allclose(slope["upper"], 0.0)  # both bounds hold it: the lower one counts


# ------------------------------------------------------------------ learning through the allocation
def test_a_threshold_predictor_learns_from_the_decisions_own_value():
    rng = np.random.default_rng(0)
    n = 24
    features = np.c_[np.ones(n), rng.normal(size=(n, 2))]
    true = np.exp(features @ [3.4, 0.5, -0.3])
    scale, rate = rng.uniform(0.6, 1.0, n), 0.08
    tokens = co.Allocation(n, upper=400.0)
    accuracy = co.CumulativeSurge(scale, true, rate)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 45.0 * n])
    layer = co.differentiable(problem)

    @jax.jit
    @jax.value_and_grad
    def loss(theta):
        predicted = jnp.exp(features @ theta)
        spent = layer.allocation({"utilities": {"CumulativeSurge": {"threshold": predicted}}})
        return -layer.utilities(spent).mean()  # what the tokens are worth in truth

    theta = jnp.array([3.2, 0.2, 0.0])
    first, _ = loss(theta)
    best = first
    for _ in range(25):
        value, slope = loss(theta)
        best = min(best, value)
        theta = theta - 0.05 * slope / jnp.linalg.norm(slope)
    ideal = float(layer.value()) / n
    assert -best > -first + 0.5 * (ideal + first)  # half of the regret is gone
    assert -best <= ideal + 1e-9
