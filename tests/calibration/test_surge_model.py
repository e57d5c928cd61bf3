import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import gamma

import clearopt as co
from clearopt.calibration import CalibrationError, Rollouts, SurgeModel, fit_surge_model
from clearopt.calibration.surge_model import _LINKS, surge_score

STEPS = np.array([1.0, 5.0, 10.0, 19.0])


def features_of(steps, rng=None):
    return [
        {"steps": float(s), "noise": float(rng.normal()) if rng else 0.0, "constant": 3.0}
        for s in steps
    ]


def truth(steps):
    """Scale, threshold and spread of a query of so many steps."""
    return np.exp(-0.07 * steps), 5.0 + 6.0 * steps, 2.0 + 0.5 * steps


def simulate(seed, queries=400, samples=4):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 21, queries).astype(float)
    query = np.repeat(np.arange(queries), samples)
    scale, threshold, spread = truth(steps[query])
    tokens = np.round(threshold + spread * rng.gamma(2.0, 1.0, query.size))
    correct = rng.random(query.size) < scale
    finished = np.ones(query.size, dtype=bool)
    return features_of(steps, rng), Rollouts(query, tokens, correct, finished)


@pytest.mark.parametrize("seed", range(5))
def test_recovers_what_the_rollouts_were_drawn_from(seed):
    model = fit_surge_model(*simulate(seed))
    found = model.utilities(features_of(STEPS))
    scale, threshold, spread = truth(STEPS)
    assert found.scale == pytest.approx(scale, abs=0.08)
    assert found.threshold == pytest.approx(threshold, rel=0.05, abs=1.5)
    assert 1 / found.rate == pytest.approx(spread, rel=0.2)


def test_its_curve_is_the_accuracy_under_a_cap():
    features, rollouts = simulate(7, queries=1500, samples=2)
    model = fit_surge_model(*simulate(8))
    utilities = model.utilities(features)
    for cap in (20, 50, 100, 200):
        promised = float(np.mean(utilities.value(np.full(len(features), float(cap)))))
        assert promised == pytest.approx(rollouts.accuracy_under(cap), abs=0.03)


def test_constant_and_collinear_features_do_no_harm():
    features, rollouts = simulate(1)
    plain = fit_surge_model([{"steps": f["steps"]} for f in features], rollouts)
    twice = fit_surge_model(
        [{"steps": f["steps"], "double": 2 * f["steps"], "one": 1.0} for f in features], rollouts
    )
    assert twice.names == ("double", "steps")
    wanted = plain.utilities([{"steps": s} for s in STEPS])
    found = twice.utilities([{"steps": s, "double": 2 * s} for s in STEPS])
    for name in ("scale", "threshold", "rate"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=0.02)


def test_answers_that_were_cut_are_not_right_and_have_no_length():
    features, rollouts = simulate(2)
    cut = rollouts.query % 4 == 0
    tokens = np.where(cut, 7.0, rollouts.tokens)
    censored = Rollouts(rollouts.query, tokens, rollouts.correct, ~cut)
    model = fit_surge_model(features, censored)
    _, threshold, _ = truth(STEPS)
    found = model.utilities(features_of(STEPS)).threshold
    assert found == pytest.approx(threshold, rel=0.06, abs=2)
    assert model.summary["accuracy"] == pytest.approx((rollouts.solved & ~cut).mean())


@pytest.mark.parametrize("right", [1, 3])
def test_few_right_answers_still_give_a_finite_model(right):
    features, rollouts = simulate(3, queries=20, samples=1)
    correct = np.arange(20) < right
    model = fit_surge_model(features, Rollouts(rollouts.query, rollouts.tokens, correct, [1] * 20))
    found = model.utilities(features)
    assert np.all(np.isfinite(found.threshold) & np.isfinite(found.rate))
    assert np.all((found.scale > 0) & (found.scale < 1))


def test_features_that_say_nothing_give_everyone_the_same_utility():
    rng = np.random.default_rng(0)
    tokens = np.round(30 + 5 * rng.gamma(2.0, 1.0, 200))
    model = fit_surge_model(
        [{"x": 1.0}] * 200, Rollouts(np.arange(200), tokens, rng.random(200) < 0.7, [1] * 200)
    )
    found = model.utilities([{"x": 1.0}, {"other": 2.0}])
    assert model.names == ()
    assert found.threshold[0] == found.threshold[1] == pytest.approx(30, abs=2)
    assert found.scale[0] == pytest.approx(0.7, abs=0.08)


def test_lengths_that_never_vary_give_a_steep_curve():
    model = fit_surge_model(
        [{"x": float(i % 3)} for i in range(60)],
        Rollouts(np.arange(60), 10.0 + 5.0 * (np.arange(60) % 3), [1] * 60, [1] * 60),
    )
    found = model.utilities([{"x": 0.0}, {"x": 1.0}, {"x": 2.0}])
    assert found.value([12.0, 17.0, 22.0]) / found.scale == pytest.approx([1, 1, 1], abs=0.05)
    assert found.value([9.0, 14.0, 19.0]) == pytest.approx([0, 0, 0], abs=0.05)


def test_survives_a_round_trip_through_json():
    model = fit_surge_model(*simulate(4))
    again = SurgeModel.from_dict(json.loads(json.dumps(model.to_dict())))
    assert again == model


def test_the_same_rollouts_give_the_same_model():
    assert fit_surge_model(*simulate(5)) == fit_surge_model(*simulate(5))


@pytest.mark.parametrize("length", [-3.0, 0.5, 4.0, 20.0])
def test_the_score_is_the_squared_area_between_the_curves(length):
    threshold, theta = 1.0, 2.5

    def gap(b):
        return (gamma.cdf(b - threshold, 2, scale=theta) - (length <= b)) ** 2

    low = min(length, threshold) - 1
    area = quad(gap, low, length, limit=200)[0] + quad(gap, length, 300, limit=400)[0]
    score, _, _ = surge_score(np.array([length]), np.array([threshold]), np.array([theta]))
    assert score[0] == pytest.approx(area, rel=1e-6)


def test_slopes_are_those_of_the_values():
    lengths = np.array([3.0, 9.0, 30.0])

    def score(z):
        return surge_score(lengths, np.full(3, z[0]), np.full(3, z[1]))[0].sum()

    def slope(z):
        _, by_threshold, by_theta = surge_score(lengths, np.full(3, z[0]), np.full(3, z[1]))
        return np.array([by_threshold.sum(), by_theta.sum()])

    assert check_grad(score, slope, np.array([5.0, 2.0])) < 1e-5
    for link in _LINKS.values():
        for inner in (-3.0, 0.0, 2.0):
            x, step = np.array([inner]), 1e-6
            slope = (link(x + step)[0] - link(x - step)[0]) / (2 * step)
            assert link(x)[1] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_bad_arguments_are_named():
    features, rollouts = simulate(6, queries=10)
    with pytest.raises(co.DeclarationError, match=r"query\[20\] = 5.*beyond the 5 queries"):
        fit_surge_model(features[:5], rollouts)
    with pytest.raises(co.DeclarationError, match="there is no query"):
        fit_surge_model([], rollouts)
    with pytest.raises(co.DeclarationError, match="penalty = 0"):
        fit_surge_model(features, rollouts, penalty=0)
    with pytest.raises(co.DeclarationError, match=r"feature 'steps'\[3\] = nan.*must be finite"):
        fit_surge_model([*features[:3], features[3] | {"steps": np.nan}, *features[4:]], rollouts)
    with pytest.raises(co.DeclarationError, match=r"features\[0\] has no 'steps'"):
        fit_surge_model(features, rollouts).utilities([{"noise": 0.0}])
    wrong = Rollouts(rollouts.query, rollouts.tokens, np.zeros(40), np.ones(40))
    with pytest.raises(CalibrationError, match="none of the 40 calibration rollouts is right"):
        fit_surge_model(features, wrong)
