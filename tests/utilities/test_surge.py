"""The two surges: values, stationary points, break-even prices and the global best response."""

import warnings

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clearopt as co

FAMILIES = [co.ShiftedSurge, co.CumulativeSurge]
EPS = np.finfo(float).eps

both = pytest.mark.parametrize("family", FAMILIES)
magnitudes = st.floats(-6.0, 6.0).map(lambda exponent: 10.0**exponent)
scales = st.floats(1e-6, 1.0)
thresholds = st.one_of(st.just(0.0), magnitudes)


def exact_value(family, scale, threshold, rate, tokens):
    with mpmath.workdps(50):
        y = mpmath.mpf(rate) * max(mpmath.mpf(tokens) - mpmath.mpf(threshold), 0)
        if family is co.ShiftedSurge:
            return mpmath.mpf(scale) * y * mpmath.exp(1 - y)
        return mpmath.mpf(scale) * (1 - (1 + y) * mpmath.exp(-y))


def a_mixture(family, m=400, seed=0):
    rng = np.random.default_rng(seed)
    return family(
        scale=rng.uniform(0.01, 1.0, m),
        threshold=rng.choice([0.0, 1.0, 30.0, 1000.0], m),
        rate=10.0 ** rng.uniform(-4, 1, m),
    )


# ------------------------------------------------------------------ values
@both
def test_value_against_fifty_digits_also_where_it_cancels(family):
    utility = family(scale=0.7, threshold=0.0, rate=0.01)
    tokens = np.concatenate([[0.0], np.geomspace(1e-12, 7e4, 200)])
    for b, value in zip(tokens, utility.value(tokens), strict=True):
        reference = exact_value(family, 0.7, 0.0, 0.01, b)
        # The exponential's argument is rounded: its relative error grows with y = b / 100.
        allowed = EPS * (8 + 2 * b / 100) * abs(reference) + mpmath.mpf(1e-300)
        assert abs(value - reference) <= allowed, b


def test_the_parameters_mean_what_they_say():
    shifted = co.ShiftedSurge(scale=0.8, threshold=50, rate=0.02)
    assert shifted.value(np.array([0.0, 50.0])).tolist() == [0.0, 0.0]
    assert shifted.value(100.0) == pytest.approx(
        0.8, rel=4 * EPS
    )  # the peak, at threshold + 1/rate
    assert shifted.value(130.0) < 0.8
    alpha = 0.8 * np.e * 0.02  # the paper's own parameters
    assert shifted.value(80.0) == pytest.approx(alpha * 30 * np.exp(-0.02 * 30), rel=1e-14)
    cumulative = co.CumulativeSurge(scale=0.8, threshold=50, rate=0.02)
    assert cumulative.value(50.0) == 0.0
    assert cumulative.value(1e6) == pytest.approx(0.8, rel=4 * EPS)
    assert np.all(np.diff(cumulative.value(np.linspace(0, 5000, 1000))) >= 0)


@both
def test_marginal_is_the_derivative_by_automatic_differentiation(family):
    utility = family(scale=0.6, threshold=40.0, rate=0.03)
    tokens = np.concatenate([np.linspace(40.5, 600.0, 200), 40.0 + np.geomspace(1e-6, 0.5, 50)])
    with jax.enable_x64(True):
        gradient = jax.vmap(jax.grad(lambda b: utility.value_at(b - 40.0)))(jnp.asarray(tokens))
        traced = jax.jit(utility.value_at)(jnp.asarray(tokens - 40.0))
    np.testing.assert_allclose(utility.marginal(tokens), gradient, rtol=1e-11, atol=1e-16)
    np.testing.assert_allclose(utility.value(tokens), traced, rtol=1e-14, atol=1e-300)


@both
def test_marginal_before_and_at_the_threshold(family):
    utility = family(scale=0.6, threshold=40.0, rate=0.03)
    before, at = utility.marginal(np.array([39.9, 40.0]))
    assert before == 0.0
    right = 0.6 * np.e * 0.03 if family is co.ShiftedSurge else 0.0
    assert at == pytest.approx(right, rel=4 * EPS)


def test_shifted_is_the_slope_of_cumulative_up_to_a_factor():
    tokens = np.linspace(0, 900, 300)
    slope = co.CumulativeSurge(scale=1.0, threshold=30.0, rate=0.02).marginal(tokens)
    shape = co.ShiftedSurge(scale=1.0, threshold=30.0, rate=0.02).value(tokens)
    np.testing.assert_allclose(slope, 0.02 / np.e * shape, rtol=1e-13, atol=1e-300)


# ------------------------------------------------------------------ stationary points
@both
def test_the_marginal_at_the_stationary_point_is_the_price(family):
    utility = a_mixture(family)
    for fraction in [1e-12, 1e-6, 0.01, 0.3, 0.9, 0.99]:
        price = fraction * utility.greatest_marginal
        excess = utility.stationary_excess(price)
        assert (excess >= utility.inflection_excess).all()
        off = np.abs(utility.marginal_at(excess) - price)
        # Next to the peak the marginal is small because it cancels: absolute there.
        assert (off <= 2e-13 / (1 - fraction) * price + 8 * EPS * utility.greatest_marginal).all()


@both
def test_the_stationary_point_next_to_the_greatest_marginal_keeps_its_digits(family):
    utility = family(scale=1.0, threshold=0.0, rate=1.0)
    for below in [1e-3, 1e-6, 1e-9, 1e-12]:
        price = np.float64(utility.greatest_marginal) * (1 - below)
        y = float(utility.stationary_excess(price))
        with mpmath.workdps(50):
            if family is co.ShiftedSurge:
                reference = 1 - mpmath.lambertw(mpmath.mpf(float(price))).real
            else:
                reference = -mpmath.lambertw(-mpmath.mpf(float(price)), -1).real
        # The price is given to one rounding error; the root moves by its square root or less.
        moved = EPS / below**0.5 if family is co.CumulativeSurge else EPS
        assert abs(y - float(reference)) <= 20 * moved, below


@both
def test_prices_past_either_end(family):
    utility = family(scale=0.5, threshold=10.0, rate=0.1)
    top = np.float64(utility.greatest_marginal)
    assert utility.stationary_excess(top * 2) == pytest.approx(utility.inflection_excess, abs=1e-6)
    free = utility.stationary_excess(np.float64(0.0))
    assert utility.value_at(free) == pytest.approx(0.5, rel=4 * EPS)


# ------------------------------------------------------------------ break-even prices
@both
def test_the_break_even_line_touches_the_curve(family):
    utility = a_mixture(family)
    excess, slope = utility.tangent_from_zero()
    tokens = utility.break_even_tokens()
    np.testing.assert_allclose(utility.value_at(excess), slope * tokens, rtol=1e-13)
    np.testing.assert_allclose(utility.marginal_at(excess), slope, rtol=1e-11)


@both
def test_it_buys_just_below_the_break_even_price_and_nothing_just_above(family):
    utility = a_mixture(family)
    price, tokens = utility.break_even_price(), utility.break_even_tokens()
    bought = utility.demand(price * (1 - 1e-11))
    assert (bought > 0).all()
    np.testing.assert_allclose(bought, tokens, rtol=1e-5, atol=1e-6)
    assert (utility.demand(price * (1 + 1e-11)) == 0).all()
    for fraction in [0.999, 0.5, 0.01]:  # rational abandonment: nothing in between is ever bought
        assert (utility.demand(fraction * price) >= tokens * (1 - 1e-12)).all()


@both
def test_an_upper_bound_before_the_point_of_contact_gives_the_chord(family):
    utility = family(scale=0.6, threshold=50.0, rate=0.02)
    contact = float(utility.break_even_tokens())
    for upper in [50.5, 70.0, 0.99 * contact]:
        price = float(utility.break_even_price(upper))
        assert price == pytest.approx(float(utility.value(upper)) / upper, rel=1e-14)
        assert utility.demand(price * (1 - 1e-9), 0.0, upper) == upper
        assert utility.demand(price * (1 + 1e-9), 0.0, upper) == 0.0
    assert utility.break_even_price(2 * contact) == utility.break_even_price()
    assert utility.break_even_price(np.array([0.0, 20.0, 50.0])).tolist() == [0.0, 0.0, 0.0]


def test_the_surge_never_stands_near_the_branch_point():
    rate = np.geomspace(1e-12, 1e12, 200)
    excess, _ = co.CumulativeSurge(scale=1.0, threshold=1.0, rate=rate).tangent_from_zero()
    assert (rate * excess >= 1.793).all()
    for beta, x in zip(rate, excess, strict=True):
        with mpmath.workdps(50):
            s, y = mpmath.mpf(float(beta)), mpmath.mpf(float(beta * x))
            residual = y - mpmath.log1p((1 + s) * y + y * y)
            assert abs(residual) <= 1e-14 * (1 + y)


# ------------------------------------------------------------------ the best response
def gains(family, weight, price, scale, threshold, rate, lower, upper, amounts=3000):
    """The greatest gain over a fine grid, straight from the definition."""
    y = np.concatenate([np.linspace(0, 50, amounts), np.geomspace(1e-9, 1e3, amounts)])
    tokens = np.clip(np.concatenate([[lower, upper], threshold + y / rate]), lower, upper)
    value = family(scale=scale, threshold=threshold, rate=rate).value(tokens)
    return (weight * value - price * tokens).max()


@both
@settings(max_examples=300, deadline=None)
@given(
    scale=scales,
    threshold=thresholds,
    rate=magnitudes,
    weight=magnitudes,
    relative_price=st.one_of(st.just(0.0), magnitudes),
    ends=st.tuples(magnitudes, magnitudes),
    from_zero=st.booleans(),
)
def test_best_response_is_at_least_as_good_as_any_on_a_grid(
    family, scale, threshold, rate, weight, relative_price, ends, from_zero
):
    lower, upper = sorted(ends)
    lower = 0.0 if from_zero else lower
    utility = family(scale=scale, threshold=threshold, rate=rate)
    price = relative_price * weight * float(utility.break_even_price())
    answer = utility.best_response(*(np.float64(v) for v in (weight, price, lower, upper)))
    assert lower <= answer.tokens <= upper
    reference = gains(family, weight, price, scale, threshold, rate, lower, upper)
    size = weight * scale + price * float(answer.tokens) + price * lower
    # A token count next to the threshold is rounded to it: the value cannot be better known.
    rounding = weight * scale * min(1.0, rate * threshold * EPS)
    assert answer.gain >= reference - 1e-14 * size - 4 * rounding


@both
@settings(max_examples=300, deadline=None)
@given(
    scale=scales,
    threshold=st.floats(0.0, 60.0),
    rate=st.floats(0.01, 20.0),
    relative_price=st.floats(0.0, 2.0),
    ends=st.tuples(st.integers(0, 120), st.integers(0, 120)),
)
def test_whole_tokens_against_enumeration(family, scale, threshold, rate, relative_price, ends):
    lower, upper = sorted(ends)
    utility = family(scale=scale, threshold=threshold, rate=rate)
    price = relative_price * float(utility.break_even_price())
    answer = utility.best_response(
        np.float64(1.0), np.float64(price), np.float64(lower), np.float64(upper), np.bool_(True)
    )
    menu = np.arange(lower, upper + 1.0)
    gain = utility.value(menu) - price * menu
    assert answer.tokens == np.floor(answer.tokens)
    assert lower <= answer.tokens <= upper
    assert answer.gain >= gain.max() - 1e-15 * (1 + price * upper)


@both
def test_ties_go_to_the_larger_amount(family):
    utility = family(scale=0.5, threshold=10.0, rate=0.1)
    price = np.float64(0.0)
    # Every amount before the threshold is worth nothing and costs nothing: the larger one.
    answer = utility.best_response(np.float64(1.0), price, np.float64(0.0), np.float64(8.0))
    assert answer.tokens == 8.0
    weightless = utility.best_response(np.float64(0.0), price, np.float64(0.0), np.float64(50.0))
    assert weightless.tokens == 50.0
    charged = utility.best_response(
        np.float64(0.0), np.float64(1e-3), np.float64(0.0), np.float64(50.0)
    )
    assert charged.tokens == 0.0


def test_free_tokens():
    assert co.CumulativeSurge(0.5, 10.0, 0.1).demand(0.0) == np.inf
    assert co.CumulativeSurge(0.5, 10.0, 0.1).demand(0.0, 0.0, 300.0) == 300.0
    assert co.ShiftedSurge(0.5, 10.0, 0.1).demand(0.0) == pytest.approx(20.0, rel=1e-12)
    assert co.ShiftedSurge(0.5, 10.0, 0.1).demand(0.0, 0.0, 15.0) == 15.0
    assert co.ShiftedSurge(0.5, 10.0, 0.1).demand(-0.1) == np.inf


@both
def test_demand_falls_as_the_price_rises(family):
    utility = family(scale=0.9, threshold=100.0, rate=0.01)
    price = np.geomspace(1e-12, 1.0, 4000)
    demand = utility.demand(price, 0.0, 4096.0)
    assert (np.diff(demand) <= 0).all()
    assert demand[0] > 0
    assert demand[-1] == 0


# ------------------------------------------------------------------ extremes
@both
@pytest.mark.parametrize(
    ("scale", "threshold", "rate"),
    [
        (1.0, 50.0, 1e300),
        (1.0, 50.0, 1e-300),
        (0.0, 50.0, 0.1),
        (1.0, 0.0, 0.1),
        (1.0, 1e300, 0.1),
        (1e-300, 0.0, 1e-10),
        (5e-324, 1.0, 1.0),
        (1.0, 0.0, 1e300),
    ],
)
@pytest.mark.parametrize("upper", [0.0, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("price", [0.0, 5e-324, 1e-12, 1.0, 1e300])
def test_extreme_parameters_give_numbers(family, scale, threshold, rate, upper, price):
    utility = family(scale=scale, threshold=threshold, rate=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(all="ignore"):
            for integer in (None, np.bool_(True)):
                answer = utility.best_response(
                    np.float64(1.0), np.float64(price), np.float64(0.0), np.float64(upper), integer
                )
                assert 0.0 <= answer.tokens <= upper
                assert np.isfinite(answer.gain)
                assert 0.0 <= answer.utility <= scale * (1 + 8 * EPS)
                assert answer.gain >= 0.0  # nothing at all is always possible
            assert not np.isnan(utility.break_even_price(upper))
            assert not np.isnan(utility.demand(price))


@both
def test_a_rate_so_steep_that_threshold_plus_excess_rounds_to_the_threshold(family):
    utility = family(scale=1.0, threshold=50.0, rate=1e300)
    answer = utility.best_response(
        np.float64(1.0), np.float64(0.001), np.float64(0.0), np.float64(100.0)
    )
    # Rounded up, for at 50 tokens exactly there is nothing yet; the gain is that of the excess
    # itself, so that it never lies below what any number of tokens can give.
    assert answer.tokens == np.nextafter(50.0, np.inf)
    assert answer.gain == pytest.approx(0.95, abs=1e-12)
    assert utility.value(50.0) == 0.0
    whole = utility.best_response(
        np.float64(1.0), np.float64(0.001), np.float64(0.0), np.float64(100.0), np.bool_(True)
    )
    if family is co.CumulativeSurge:
        assert whole.tokens == 51.0
        assert whole.gain == pytest.approx(0.949, abs=1e-12)
    else:
        assert whole.tokens == 0.0  # one token later the surge has long decayed


# ------------------------------------------------------------------ arrays, repr, export
def test_broadcast_take_and_repr():
    utility = co.ShiftedSurge(scale=0.5, threshold=[1.0, 2.0, 3.0], rate=0.1).broadcast(3)
    assert [p.shape for p in utility.parameters] == [(3,)] * 3
    part = utility.take(np.array([2, 0]))
    assert part.threshold.tolist() == [3.0, 1.0]
    assert repr(part) == "ShiftedSurge(scale=0.5, threshold=[1 .. 3], rate=0.1)"


@both
def test_the_exported_formula_is_the_value(family):
    utility = family(scale=[0.5, 0.9], threshold=[10.0, 20.0], rate=[0.1, 0.02]).broadcast(2)
    excess = np.geomspace(1e-3, 300, 50)
    for member in range(2):
        np.testing.assert_allclose(
            utility.expression(excess, np.exp, member),
            utility.take(slice(member, member + 1)).value_at(excess),
            rtol=1e-9,
            atol=1e-15,  # an algebraic formula cannot switch to a series where it cancels
        )


@pytest.mark.parametrize("family", [co.CumulativeSurge, co.ShiftedSurge])
@pytest.mark.parametrize("whole", [False, True])
def test_below_saturation_the_upper_bound_needs_no_look(family, whole):
    rng = np.random.default_rng(5)
    n = 20_000
    utility = family(rng.uniform(0.1, 1, n), rng.uniform(0, 50, n), 10 ** rng.uniform(-2, 0, n))
    enough = utility.origin + utility.saturation_excess
    lower = np.floor(rng.uniform(0, 0.2, n) * enough)
    upper = lower + np.floor(rng.uniform(0, 1, n) * (enough - lower))
    price = np.where(rng.random(n) < 0.1, 0.0, 10 ** rng.uniform(-12, 0, n))
    integer = np.full(n, True) if whole else None
    with np.errstate(all="ignore"):
        looked, spared = (
            utility.best_response(1.0, price, lower, upper, integer, saturated=saturated)
            for saturated in (False, True)
        )
    np.testing.assert_allclose(spared.gain, looked.gain, rtol=1e-14, atol=1e-15)
