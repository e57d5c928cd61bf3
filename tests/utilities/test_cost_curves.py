"""Cost curves: values, slopes, inverses, and the law of lengths behind them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import clearopt as co

CURVES = {
    "all end": co.ExpectedTokens([0.0, 3.0, 50.0], [0.5, 0.1, 0.02]),
    "some end": co.ExpectedTokens([0.0, 3.0, 50.0], [0.5, 0.1, 0.02], [0.3, 0.9, 0.0]),
    "lognormal": co.LognormalTokens([5.0, 30.0, 80.0], [0.2, 1.0, 0.5]),
    "lognormal, some end": co.LognormalTokens([5.0, 30.0, 80.0], [0.2, 1.0, 2.0], [0.3, 0.9, 0.0]),
    "sampled": co.ExpectedTokens.from_lengths([[3, 9, 9, 40], [0, 0, 5, 6], [70, 80, 90, 200]]),
    "cut": co.ExpectedTokens.from_lengths(
        [[3.0, 9, 9, 40]] * 3, cut=np.array([[False, True, False, True]] * 3)
    ),
}
every = pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)


def columns(values):
    """(points, 3): the same amount for each of the three members."""
    return np.repeat(np.asarray(values, dtype=float)[:, None], 3, axis=1)


@every
def test_concave_and_never_above_the_cap(curve):
    amounts = columns(np.linspace(0, 400, 801))
    cost = np.stack([curve.value(row) for row in amounts])
    steps = np.diff(cost, axis=0)
    assert (cost[0] == 0).all()
    assert (cost <= amounts * (1 + 1e-14)).all()
    assert (steps >= -1e-12).all()
    assert (np.diff(steps, axis=0) <= 1e-12).all()


@every
def test_the_marginal_is_the_slope(curve):
    for amount in (0.7, 2.3, 7.7, 33.3, 81.1, 250.5):
        at, step = np.full(3, amount), 1e-6
        slope = (curve.value(at + step) - curve.value(at - step)) / (2 * step)
        np.testing.assert_allclose(curve.marginal(at), slope, rtol=1e-5, atol=1e-8)


@every
def test_the_inverse_is_the_smallest_cap_of_that_cost(curve):
    for amount in (0.0, 0.5, 3.0, 8.5, 30.0, 75.0):
        at = np.full(3, amount)
        cost = curve.value(at)
        back = curve.inverse(cost)
        # Where nearly all answers have ended, many caps have the same cost, to rounding.
        assert (back <= at * (1 + 1e-2) + 1e-12).all()
        np.testing.assert_allclose(curve.value(back), cost, rtol=1e-12, atol=1e-12)
    beyond = curve.value(np.full(3, np.inf)) + 1.0
    assert np.isinf(curve.inverse(np.where(np.isfinite(beyond), beyond, np.inf))).all()


def test_expected_tokens_are_the_mean_of_the_law():
    threshold, rate, ends = 20.0, 0.1, 0.7
    curve = co.ExpectedTokens(threshold, rate, ends)
    law = stats.gamma(2, loc=threshold, scale=1 / rate)
    for cap in (5.0, 20.0, 24.0, 60.0, 300.0):
        survives = integrate.quad(lambda t: 1 - ends * law.cdf(t), 0, cap, points=[threshold])[0]
        assert curve.value(cap) == pytest.approx(survives, rel=1e-9)
    lengths = law.rvs(200_000, random_state=1)
    sampled = co.ExpectedTokens.from_lengths(lengths)
    assert sampled.value(60.0) == pytest.approx(
        co.ExpectedTokens(threshold, rate).value(60.0), rel=5e-3
    )


def test_lognormal_tokens_are_the_mean_of_the_law():
    for median, spread, ends in ((20.0, 0.1, 1.0), (300.0, 0.8, 0.7), (5.0, 3.0, 0.4)):
        curve = co.LognormalTokens(median, spread, ends)
        law = stats.lognorm(spread, scale=median)
        for z in (-3.0, -1.0, 0.0, 0.5, 2.0, 5.0):
            cap = median * np.exp(spread * z)
            bends = median * np.exp(spread * np.linspace(-4, z, 9))
            survives = sum(
                integrate.quad(lambda t, e=ends, law=law: 1 - e * law.cdf(t), a, b)[0]
                for a, b in itertools.pairwise([0.0, *bends])
            )
            assert curve.value(cap) == pytest.approx(survives, rel=1e-8)
    assert co.LognormalTokens(20.0, 1.0).value(np.inf) == pytest.approx(20 * np.exp(0.5))
    assert co.LognormalTokens(20.0, 1.0, 0.9).value(np.inf) == np.inf


@settings(max_examples=60, deadline=None)
@given(st.floats(-2, 6), st.floats(-3, 1), st.sampled_from([0.0, 0.2, 0.999, 1.0]), st.floats(0, 9))
def test_lognormal_tokens_can_be_turned_around(place, width, ends, z):
    curve = co.LognormalTokens(10.0**place, 10.0**width, ends)
    cap = float(curve.median * np.exp(np.minimum(curve.spread * (z - 3), 200)))
    cost = float(curve.value(cap))
    assert 0 <= cost <= cap
    back = float(curve.inverse(cost))
    if np.isfinite(back):
        assert back <= cap * (1 + 1e-6)
        assert float(curve.value(back)) == pytest.approx(cost, rel=1e-11)


def test_samples_are_averaged():
    lengths = np.array([[3.0, 9.0, 9.0, 40.0]])
    curve = co.ExpectedTokens.from_lengths(lengths)
    for cap in (0.0, 2.0, 5.0, 9.0, 41.0):
        assert curve.value(np.array([cap]))[0] == np.minimum(lengths, cap).mean()
    endless = co.ExpectedTokens.from_lengths(lengths, cut=lengths == 40)
    assert endless.value(np.array([100.0]))[0] == (3 + 9 + 9 + 100) / 4


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 1e4), st.floats(-4, 1), st.sampled_from([0.0, 0.2, 0.999, 1.0]), st.floats(0, 1e5)
)
def test_value_and_inverse_agree_anywhere(threshold, exponent, ends, cap):
    curve = co.ExpectedTokens(threshold, 10.0**exponent, ends)
    cost = curve.value(cap)
    assert 0 <= cost <= cap * (1 + 1e-14)
    back = float(curve.inverse(cost))
    if np.isfinite(back):
        assert back <= cap * (1 + 1e-6) + 1e-9
        assert float(curve.value(back)) == pytest.approx(float(cost), rel=1e-11, abs=1e-12)


@every
def test_the_export_is_the_curve(curve):
    member = curve.broadcast(3)
    if isinstance(curve, co.LognormalTokens):
        with pytest.raises(co.UnsupportedProblemError, match="LognormalTokens has no algebraic"):
            member.expression(2.0, np.exp, 0)
        return
    for amount in (0.0, 2.0, 9.0, 50.0, 120.5):
        value = member.value(np.full(3, amount))
        for k in range(3):
            assert member.expression(amount, np.exp, k) == pytest.approx(value[k], rel=1e-12)


def test_wrong_arguments():
    for wrong, message in (
        (lambda: co.ExpectedTokens(-1, 0.1), "threshold = -1.0: must be at least 0"),
        (lambda: co.ExpectedTokens(1, 0), "rate = 0.0: must be positive"),
        (lambda: co.ExpectedTokens(1, 0.1, 1.5), "ends = 1.5: is a share"),
        (lambda: co.LognormalTokens(0, 1), "median = 0.0: must be positive"),
        (lambda: co.LognormalTokens(1, 0.1, 1.5), "ends = 1.5: is a share"),
        (lambda: co.ExpectedTokens([1, 2], [0.1] * 3), "lengths of its parameters differ"),
        (lambda: co.ExpectedTokens.from_lengths([]), r"got shape \(0,\)"),
        (lambda: co.ExpectedTokens.from_lengths([[1, np.nan]]), r"lengths\[0, 1\] = nan"),
        (lambda: co.ExpectedTokens.from_lengths([1, -2]), r"lengths\[1\] = -2.0"),
        (lambda: co.ExpectedTokens.from_lengths(["a"]), "expected numbers"),
        (lambda: co.ExpectedTokens.from_lengths([1, 2], cut=[1, 0]), "cut must be a mask"),
        (lambda: co.ExpectedTokens.from_lengths([[1], [2]])(co.Allocation(3)), "2 rows.*3 queries"),
        (lambda: co.ExpectedTokens(1, 0.1)(5.0), r"got float.*\.value\(tokens\)"),
        (lambda: co.ExpectedTokens(1, 0.1)(2 * co.Allocation(3)), "a cost curve applies to an"),
    ):
        with pytest.raises(co.DeclarationError, match=f"(?s){message}"):
            wrong()
