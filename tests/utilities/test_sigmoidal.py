"""`Sigmoidal`: the user's own JAX function, against the families it can be written as."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clearopt as co
from clearopt.utilities.family import concatenated

M = 40


def cumulative(tokens, scale, threshold, rate):
    y = rate * jnp.maximum(tokens - threshold, 0.0)
    return scale * (1.0 - (1.0 + y) * jnp.exp(-y))


def shifted(tokens, scale, threshold, rate):
    y = rate * jnp.maximum(tokens - threshold, 0.0)
    return scale * y * jnp.exp(1.0 - y)


def logistic(tokens, scale, middle, rate):
    return scale * jax.nn.sigmoid(rate * (tokens - middle))


PAIRS = [(cumulative, co.CumulativeSurge), (shifted, co.ShiftedSurge)]
both = pytest.mark.parametrize(("fn", "family"), PAIRS)


def parameters(m=M, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 1.0, m)
    threshold = rng.choice([0.0, 1.0, 30.0, 1000.0], m)
    return scale, threshold, 10.0 ** rng.uniform(-4, 0.5, m)


@pytest.fixture(scope="module")
def twins():
    """The same curves as a built-in family and as the user's function."""
    scale, threshold, rate = parameters()
    longest = threshold + 60 / rate
    return {
        fn: (
            co.Sigmoidal(fn, scale, threshold, rate, longest=longest),
            family(scale, threshold, rate),
        )
        for fn, family in PAIRS
    }


# ------------------------------------------------------------------ agreement
@both
def test_values_and_slopes_are_those_of_the_family(twins, fn, family):
    own, built_in = twins[fn]
    rng = np.random.default_rng(1)
    for _ in range(20):
        b = built_in.threshold * rng.uniform(0, 2, M) + rng.uniform(0, 20, M) / built_in.rate
        np.testing.assert_allclose(own.value(b), built_in.value(b), rtol=1e-11, atol=1e-15)
        off = np.abs(own.marginal(b) - built_in.marginal(b)) / built_in.greatest_marginal
        assert off.max() < 1e-14
    grid = np.linspace(0, 50, 7)[:, None] / built_in.rate  # an axis before the members
    np.testing.assert_allclose(own.value_at(grid), built_in.value(grid), rtol=1e-11, atol=1e-15)


@both
def test_the_shape_found_is_that_of_the_family(twins, fn, family):
    own, built_in = twins[fn]
    bend = (own.inflection_excess - built_in.threshold) * built_in.rate
    np.testing.assert_allclose(
        bend, built_in.inflection_excess * built_in.rate, rtol=1e-6, atol=1e-11
    )
    np.testing.assert_allclose(own.greatest_marginal, built_in.greatest_marginal, rtol=1e-11)
    np.testing.assert_allclose(own.break_even_price(), built_in.break_even_price(), rtol=1e-13)
    np.testing.assert_allclose(
        own.break_even_tokens(), built_in.break_even_tokens(), rtol=1e-12, atol=1e-9
    )
    peak = own.saturation_excess
    top = built_in.value_at(built_in.saturation_excess)
    np.testing.assert_allclose(own.value_at(peak), top, rtol=1e-15)
    if family is co.ShiftedSurge:
        np.testing.assert_allclose((peak - built_in.threshold) * built_in.rate, 1.0, rtol=1e-12)


@both
def test_stationary_points_to_the_last_digits(twins, fn, family):
    own, built_in = twins[fn]
    for fraction in [1e-12, 1e-6, 0.1, 0.9, 0.99]:
        price = fraction * built_in.greatest_marginal
        y = (own.stationary_excess(price) - built_in.threshold) * built_in.rate
        np.testing.assert_allclose(
            y, built_in.stationary_excess(price) * built_in.rate, rtol=1e-9, atol=1e-11
        )
        assert (own.stationary_excess(price) >= own.inflection_excess).all()
    assert (own.stationary_excess(2 * own.greatest_marginal) == own.inflection_excess).all()
    assert (own.stationary_excess(np.zeros(M)) == own.saturation_excess).all()


@both
def test_best_responses_over_random_boxes(twins, fn, family):
    own, built_in = twins[fn]
    rng = np.random.default_rng(2)
    for turn in range(60):
        ends = built_in.threshold * rng.uniform(0, 1.5, (2, M)) + 10.0 ** rng.uniform(
            -2, 1.5, (2, M)
        ) / np.asarray(built_in.rate)
        lower, upper = np.sort(ends, axis=0) if turn % 2 else (np.zeros(M), ends[0])
        price = 10.0 ** rng.uniform(-3, 0.5, M) * built_in.break_even_price()
        if turn % 5 == 4 and family is co.ShiftedSurge:
            price = -price  # tokens that somebody must take, past the peak
        whole = None
        if turn % 3 == 2:
            lower, upper, whole = np.floor(lower), np.ceil(upper), np.ones(M, dtype=bool)
        mine = own.best_response(np.ones(M), price, lower, upper, whole)
        reference = built_in.best_response(np.ones(M), price, lower, upper, whole)
        size = built_in.scale + np.abs(price) * upper
        assert (np.abs(mine.gain - reference.gain) <= 1e-13 * size).all()
        assert (mine.tokens >= lower).all()
        assert (mine.tokens <= upper).all()
        exact = mine.utility - price * mine.tokens
        assert (np.abs(exact - mine.gain) <= 1e-9 * size).all()


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(0.01, 1.0),
    middle=st.floats(0.0, 3000.0),
    rate=st.floats(1e-3, 1.0),
    relative_price=st.floats(0.0, 1.5),
)
def test_a_logistic_against_a_grid(scale, middle, rate, relative_price):
    own = co.Sigmoidal(logistic, scale, middle, rate, longest=4096.0)
    price = relative_price * own.break_even_price()
    menu = np.concatenate([np.linspace(0, 4096, 4097), middle + np.linspace(-40, 40, 2000) / rate])
    menu = menu[(menu >= 0) & (menu <= 4096)]
    gains = own.value(menu) - price * menu
    answer = own.best_response(np.float64(1), price, np.float64(0), np.float64(4096))
    assert answer.gain >= gains.max() - 1e-15
    assert own.demand(price, 0, 4096) == pytest.approx(float(answer.tokens), rel=1e-9, abs=1e-9)


def test_past_the_longest_it_is_constant():
    own = co.Sigmoidal(lambda b, a: a * b**2, [1e-6, 2e-6], longest=[100.0, 200.0])
    np.testing.assert_allclose(own.value([500.0, np.inf]), [0.01, 0.08], rtol=1e-15)
    assert own.marginal([100.0, 200.0]).tolist() == [0.0, 0.0]
    # Convex up to the end: all or nothing.
    assert own.inflection_excess.tolist() == own.saturation_excess.tolist() == [100.0, 200.0]
    np.testing.assert_allclose(own.break_even_price(), [1e-4, 4e-4], rtol=1e-14)
    np.testing.assert_allclose(own.demand([0.99e-4, 3.9e-4]), [100.0, 200.0])
    assert own.demand([1.01e-4, 4.1e-4]).tolist() == [0.0, 0.0]


def test_what_was_found_travels_with_the_members(twins):
    own = twins[cumulative][0].broadcast(M)
    part = own.take(np.array([3, 1]))
    assert part._shape is not None
    assert part.greatest_marginal.tolist() == own.greatest_marginal[[3, 1]].tolist()
    one = co.Sigmoidal(logistic, 0.8, 300.0, 0.02, longest=4000)
    assert one.broadcast(5).greatest_marginal.tolist() == [float(one.greatest_marginal)] * 5
    again = concatenated([own, part])
    assert again.kind == own.kind
    assert hash(again.kind) == hash(own.kind)
    assert again.kind != one.kind
    expected = np.concatenate([own.break_even_price(), own.break_even_price()[[3, 1]]])
    np.testing.assert_allclose(again.break_even_price(), expected, rtol=1e-14)
    assert "cumulative, scale=[" in repr(own)
    with pytest.raises(co.DeclarationError, match=r"Sigmoidal\(scale=...\) has length 40"):
        own.broadcast(3)


def test_other_units_are_the_same_curve():
    own = co.Sigmoidal(logistic, [0.8, 0.6], 300.0, 0.02, longest=4000).broadcast(2)
    unit = np.array([64.0, 128.0])
    scaled = own.in_units(unit, 0.5)
    b = np.array([310.0, 400.0])
    np.testing.assert_allclose(scaled.value(b / unit), own.value(b) / 0.5, rtol=1e-14)
    np.testing.assert_allclose(scaled.marginal(b / unit), own.marginal(b) * unit / 0.5, rtol=1e-14)
    fresh = scaled.kind.from_parameters(*scaled.parameters)  # searched again, in those units
    for mine, other in zip(scaled.shape, fresh.shape, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
    price = 0.3 * own.greatest_marginal
    np.testing.assert_allclose(
        scaled.stationary_excess(price * unit / 0.5) * unit,
        own.stationary_excess(price),
        rtol=1e-12,
    )


def test_a_rise_far_steeper_than_the_search_grid_is_found():
    own = co.Sigmoidal(shifted, 0.9, 7777.7, 5.0, longest=1e5)
    assert float(own.saturation_excess) == pytest.approx(7777.9, rel=1e-12)
    sharp = co.Sigmoidal(cumulative, 0.9, 7777.7, 1e4, longest=1e6)
    assert float(sharp.inflection_excess) == pytest.approx(7777.7001, rel=1e-12)


# ------------------------------------------------------------------ refused
def two_hills(tokens, second):
    return jax.nn.sigmoid((tokens - 100) / 10) + jax.nn.sigmoid((tokens - second) / 10)


NOT_S_SHAPED = [
    (lambda b: jnp.exp(-b / 100), r"falls from 1 at 0 tokens to .* at 1000 tokens and never rises"),
    (
        lambda b: 1 + jnp.sin(b / 50),
        r"value falls from 1.99997 at 78.* then rises to .*not S-shaped",
    ),
    (lambda b: jnp.where(b > 100, 1.0, 0.0), r"from 0 at 100 tokens to 1 at 100 .*it jumps"),
    (lambda b: jnp.round(b / 100), r"jumps"),
    (
        lambda b: jnp.tanh(b / 10) * (1 + 1e-3 * jax.nn.sigmoid((b - 777.3) * 10)),
        r"slope falls from 0.1 at 0 tokens .* then rises to .* at 777",
    ),
    # A long rise whose slope is next to nothing beside a sharp one before it.
    (
        lambda b: jax.nn.sigmoid((b - 1) * 1e8) + jax.nn.sigmoid((b - 700) / 50),
        r"slope falls from .* at 1 tokens to .*, then rises to 0.0049.* at 699.* tokens",
    ),
]


@pytest.mark.parametrize(("fn", "message"), NOT_S_SHAPED)
def test_what_is_not_s_shaped_is_refused_with_the_place(fn, message):
    with pytest.raises(co.DeclarationError, match=r"Sigmoidal: its .*" + message):
        co.Sigmoidal(fn, longest=1000)


def test_the_member_is_named():
    place = r"Sigmoidal\[2\]: its slope falls from 0.025 at 100.* tokens .* 0.025 at 300 tokens"
    with pytest.raises(co.DeclarationError, match=place):
        co.Sigmoidal(two_hills, [100.0, 100.0, 300.0, 400.0], longest=1000)
    with pytest.raises(co.DeclarationError, match=r"Sigmoidal\[2999\]: its slope"):
        co.Sigmoidal(two_hills, np.r_[np.linspace(99, 101, 2999), 300.0], longest=1000)


UNTRACEABLE = [
    (lambda b: np.exp(-b), "jnp.exp for np.exp"),
    (lambda b: b if b > 3 else 0.0, "jnp.where for if"),
    (lambda b: __import__("math").exp(-b), "jax.numpy"),
    (lambda b: b * jnp.ones(3), r"array of shape \(3,\); it must return one number"),
    (lambda b: (b, b), "it returns tuple; it must return one number"),
    (lambda b: jnp.float32(b), "float64"),
    (lambda b, c: b, r"with tokens and 0 parameters failed: TypeError.*'c'"),
    (3.0, r"expected a function fn\(tokens, \*parameters\), got float"),
]


@pytest.mark.parametrize(("fn", "message"), UNTRACEABLE)
def test_what_jax_cannot_use_is_refused(fn, message):
    with pytest.raises(co.DeclarationError, match=message):
        co.Sigmoidal(fn, longest=1000)


def test_bad_numbers_are_refused():
    with pytest.raises(co.DeclarationError, match=r"value is nan at 7.* tokens"):
        co.Sigmoidal(lambda b: jnp.exp(b) / (1 + jnp.exp(b)), longest=1000)
    with pytest.raises(co.DeclarationError, match="slope is nan at 0 tokens"):
        co.Sigmoidal(lambda b: jnp.sqrt(jnp.maximum(b - 3, 0)), longest=1000)
    with pytest.raises(co.DeclarationError, match=r"fn at 0 tokens = -1.0.*at least 0"):
        co.Sigmoidal(lambda b: jnp.tanh(b / 100) - 1, longest=1000)
    with pytest.raises(co.DeclarationError, match=r"longest\[1\] = -2.0: must be positive"):
        co.Sigmoidal(logistic, 0.5, 10.0, 0.1, longest=[5.0, -2.0])
    with pytest.raises(co.DeclarationError, match="longest = inf: must be finite"):
        co.Sigmoidal(logistic, 0.5, 10.0, 0.1, longest=np.inf)
    with pytest.raises(co.DeclarationError, match=r"middle\[0\] = nan"):
        co.Sigmoidal(logistic, 0.5, [np.nan], 0.1, longest=10)
    with pytest.raises(co.DeclarationError, match="middle has 2, rate has 3"):
        co.Sigmoidal(logistic, 0.5, [1.0, 2.0], [0.1] * 3, longest=10)


def test_plain_curves_are_accepted():
    constant = co.Sigmoidal(lambda b: 0.0 * b + 0.5, longest=1000)
    assert constant.break_even_price() == 0.0
    assert constant.demand(0.1) == 0.0
    straight = co.Sigmoidal(lambda b: 1e-3 * b, longest=1000)
    assert straight.break_even_price() == pytest.approx(1e-3)
    assert straight.demand(0.9e-3) == 1000.0


# ------------------------------------------------------------------ JAX and export
def test_the_global_precision_of_jax_is_left_alone():
    script = (
        "import sys, clearopt as co; assert 'jax' not in sys.modules\n"
        "import clearopt.utilities; assert 'jax' not in sys.modules\n"
        "import jax, jax.numpy as jnp\n"
        "s = co.Sigmoidal(lambda b: jax.nn.sigmoid(b - 5), longest=50); s.demand(0.01)\n"
        "assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == 'float32'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def many_operations(tokens, a, b):
    y = jnp.clip(tokens / b, 0.0, 50.0)
    soft = jax.nn.softplus(y - 1.0) - jnp.log1p(jnp.exp(-1.0))
    bend = jnp.tanh(y) + jax.nn.relu(y) ** 2 / (1 + y**2.0) + jnp.minimum(jnp.sqrt(y + 1), 3.0)
    return a * (soft + bend - jnp.expm1(-jnp.square(y)) + jnp.abs(y - 2) / jnp.exp2(y) + jnp.log(b))


EXPORTED = [
    (cumulative, (0.7, 30.0, 0.02)),
    (shifted, (0.7, 30.0, 0.02)),
    (logistic, (0.7, 300.0, 0.02)),
]


@pytest.mark.parametrize(("fn", "arguments"), EXPORTED)
def test_the_exported_formula_is_the_value(fn, arguments):
    # Up to 500 tokens: not settled there, so that the constant end is exported too.
    for longest in (500.0, 5000.0):
        own = co.Sigmoidal(fn, *arguments, longest=longest).broadcast(2)
        own = own.in_units(np.array([1.0, 16.0]), 0.25)
        excess = np.linspace(0, 2000, 101)
        for member in range(2):
            exported = own.expression(excess, np.exp, member)
            alone = own.take(slice(member, member + 1)).value_at(excess)
            np.testing.assert_allclose(exported, alone, rtol=1e-9, atol=1e-15)


def test_every_operation_that_can_be_written_is_translated():
    from clearopt.utilities.jaxpr_export import translated

    tokens = np.linspace(0.0, 300, 61)
    with jax.enable_x64(True):
        values = jax.vmap(lambda t: many_operations(t, 0.3, 40.0))(tokens)
        np.testing.assert_allclose(
            translated(many_operations, (tokens, 0.3, 40.0), np.exp), values, rtol=1e-12
        )


def test_pyomo_gets_an_expression_of_its_own():
    pyo = pytest.importorskip("pyomo.environ")
    from clearopt.utilities.jaxpr_export import translated

    model = pyo.ConcreteModel()
    model.b = pyo.Var(initialize=70.0)
    found = pyo.value(translated(many_operations, (model.b, 0.3, 40.0), pyo.exp))
    with jax.enable_x64(True):
        assert found == pytest.approx(float(many_operations(70.0, 0.3, 40.0)), rel=1e-12)


def test_what_cannot_be_exported_names_the_operation():
    own = co.Sigmoidal(lambda b: jax.scipy.special.erf(b / 100), longest=1000).broadcast(1)
    with pytest.raises(co.UnsupportedProblemError, match="fn uses erf"):
        own.expression(np.ones(1), np.exp, 0)
    branch = co.Sigmoidal(lambda b: jnp.where(b > 10, 1 - jnp.exp(10 - b), 0.0), longest=100)
    with pytest.raises(co.UnsupportedProblemError, match=r"fn uses gt \(a comparison"):
        branch.broadcast(1).expression(np.ones(1), np.exp, 0)


def test_a_loop_is_differentiated_forwards():
    def looped(b, scale):
        def step(state):
            count, total = state
            return count + 1, total + scale * jnp.tanh(b / 100) / 3

        return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, 0.0))[1]

    def straight(b, scale):
        return scale * jnp.tanh(b / 100)

    found, expected = (co.Sigmoidal(fn, [0.6, 0.9], longest=2000) for fn in (looped, straight))
    b = np.array([10.0, 300.0])
    np.testing.assert_allclose(found.marginal(b), expected.marginal(b), rtol=1e-12)
    np.testing.assert_allclose(found.demand(1e-3), expected.demand(1e-3), rtol=1e-9)
    with pytest.raises(co.UnsupportedProblemError, match="fn uses while"):
        found.broadcast(2).expression(np.ones(1), np.exp, 0)


def test_what_has_no_derivative_is_refused():
    @jax.custom_jvp
    def odd(b):
        return jnp.tanh(b / 100)

    @odd.defjvp
    def _(primals, tangents):
        raise RuntimeError("no derivative here")

    with pytest.raises(co.DeclarationError, match=r"cannot differentiate it.*no derivative here"):
        co.Sigmoidal(odd, longest=1000)


# ------------------------------------------------------------------ a whole problem
@both
@pytest.mark.parametrize("whole", [False, True])
def test_a_problem_solved_with_either_is_the_same(fn, family, whole):
    n = 12
    scale, _, _ = parameters(n, seed=5)
    threshold, rate = np.linspace(5, 60, n), np.geomspace(0.02, 0.2, n)
    objective = []
    for utility in (
        family(scale, threshold, rate),
        co.Sigmoidal(fn, scale, threshold, rate, longest=threshold + 60 / rate),
    ):
        tokens = co.Allocation(n, upper=1000, integer=whole)
        problem = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= 700])
        solution = problem.solve()
        assert solution.status == "optimal"
        objective.append(solution.objective)
    assert objective[1] == pytest.approx(objective[0], rel=2e-6)
