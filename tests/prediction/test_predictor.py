import warnings

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

import clearopt as co
from clearopt.calibration import CalibrationError, Rollouts
from clearopt.errors import DeclarationError
from clearopt.prediction import Features, PredictionWarning, fit_predictor
from clearopt.robust import expected_utility
from tests.prediction.simulated import simulated

pytestmark = pytest.mark.filterwarnings("ignore::clearopt.prediction.PredictionWarning")


@pytest.mark.parametrize("regressor", ["ridge", "boosting"])
@pytest.mark.parametrize("samples", [4, 16])
def test_recovers_thresholds_and_probabilities_of_unseen_queries(regressor, samples):
    data = simulated(0, queries=500, samples=samples)
    predictor = fit_predictor(data.features, data.rollouts, regressor=regressor)
    assert all(predictor.informative.values())
    new = simulated(1, queries=400, samples=1)
    found = predictor.predict(new.features)
    error = np.log(found.threshold) - new.centre
    # What no feature shows has a spread of 0.5; little is added to it.
    assert np.std(error) < 0.58
    assert abs(error.mean()) < 0.1
    assert np.corrcoef(found.solve, new.share)[0, 1] > 0.8
    assert found.spread.mean() == pytest.approx(np.hypot(0.5, 0.3), abs=0.07)
    assert found.threshold_spread.mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("law", ["measured", "lognormal"])
def test_the_utility_is_the_accuracy_of_unseen_queries_under_a_cap(law):
    data = simulated(2, queries=500, samples=4)
    new = simulated(3, queries=800, samples=8)
    found = fit_predictor(data.features, data.rollouts, law=law).predict(new.features)
    for cap in (100.0, 300.0, 1000.0, 4000.0):
        promised = float(np.mean(found.utilities.value(np.full(800, cap))))
        assert promised == pytest.approx(new.rollouts.accuracy_under(cap), abs=0.03)
        cost = float(np.mean(found.cost_curves.value(np.full(800, cap))))
        spent = np.minimum(new.rollouts.tokens, cap).mean()
        assert cost == pytest.approx(spent, rel=0.06)


def test_answers_that_were_cut_are_longer_than_seen():
    cap = 900.0
    data = simulated(4, queries=600, samples=4, cap=cap)
    with pytest.warns(PredictionWarning, match="were cut"):
        predictor = fit_predictor(data.features, data.rollouts)
    new = simulated(5, queries=800, samples=8)
    found = predictor.predict(new.features)
    for b in (200.0, 600.0, cap):  # up to the cap nothing is lost
        promised = float(np.mean(found.utilities.value(np.full(800, b))))
        assert promised == pytest.approx(new.rollouts.accuracy_under(b), abs=0.04)
    cost = float(np.mean(found.cost_curves.value(np.full(800, cap))))
    assert cost == pytest.approx(np.minimum(new.rollouts.tokens, cap).mean(), rel=0.08)


def test_what_is_expected_is_what_is_known_spread_by_the_error():
    data = simulated(19, queries=200, samples=4)
    predictor = fit_predictor(data.features, data.rollouts, law="lognormal")
    found = predictor.predict(data.features)
    expected = expected_utility(found.known_threshold, found.threshold_spread)
    assert expected.spread == pytest.approx(found.utilities.spread, rel=1e-3)
    assert expected.median == pytest.approx(found.utilities.median)


@pytest.mark.parametrize("law", ["measured", "lognormal"])
def test_utilities_and_costs_make_a_problem(law):
    data = simulated(6, queries=200, samples=4)
    found = fit_predictor(data.features, data.rollouts, law=law).predict(simulated(7, 50).features)
    # Tables have no shape to rely on in what they cost: of whole tokens their grid is searched.
    tokens = co.Allocation(50, upper=5000.0, integer=law == "measured")
    for row in (co.sum(tokens), co.sum(found.cost_curves(tokens))):
        problem = co.Problem(co.Maximize(co.sum(found.utilities(tokens))), [row <= 20_000.0])
        assert problem.solve(tolerance=1e-3).status == "optimal"


@pytest.mark.parametrize("regressor", ["ridge", "boosting"])
@pytest.mark.parametrize("kind", ["constant", "none"])
def test_features_without_signal_fall_back_to_the_population(regressor, kind):
    data = simulated(8, queries=60, samples=4)
    values = {"constant": np.ones((60, 2)), "none": np.empty((60, 0))}[kind]
    features = Features(tuple("ab"[: values.shape[1]]), values)
    with pytest.warns(PredictionWarning, match="tell nothing about how long"):
        predictor = fit_predictor(features, data.rollouts, regressor=regressor)
    assert not any(predictor.informative.values())
    assert predictor.signal["length"] <= 1e-9
    found = predictor.predict(features)
    for array in (found.threshold, found.solve, found.spread, found.cost_threshold):
        assert np.ptp(array) == 0
    assert found.solve[0] == pytest.approx(data.rollouts.solved.mean(), abs=0.02)


def test_a_feature_that_varies_by_rounding_alone_does_no_harm():
    data = simulated(27, queries=80, samples=3)
    nearly = np.full((80, 1), np.log(3.0))
    nearly[::2] = np.nextafter(nearly[::2], 2.0)
    joined = data.features.joined(Features(("nearly",), nearly))
    plain, with_it = (fit_predictor(f, data.rollouts) for f in (data.features, joined))
    assert with_it.signal == pytest.approx(plain.signal, abs=1e-9)


def test_noise_is_seldom_taken_for_signal():
    taken = []
    for seed in range(12):
        data = simulated(300 + seed, queries=60, samples=4)
        noise = np.random.default_rng(seed).normal(size=(60, 3))
        taken += fit_predictor(noise, data.rollouts).informative.values()
    assert np.mean(taken) < 0.2  # one side of 5 % each, three that hang together


@pytest.mark.parametrize("samples", [1, 4])
def test_intervals_cover_what_they_promise(samples):
    covered = {0.5: [], 0.9: []}
    for seed in range(8):
        data = simulated(20 + seed, queries=80, samples=samples)
        new = simulated(60 + seed, queries=300, samples=samples)
        found = fit_predictor(data.features, data.rollouts).predict(new.features)
        shown = new.mean_right_log_length
        for level, hits in covered.items():
            low, high = found.interval(level)
            seen = np.isfinite(shown)
            hits.append(((np.log(low) <= shown) & (shown <= np.log(high)))[seen].mean())
    for level, hits in covered.items():
        # Over the draw of training queries as well, hence the standard error of those 8.
        allowed = 3 * np.std(hits) / np.sqrt(len(hits)) + 0.01
        assert np.mean(hits) == pytest.approx(level, abs=allowed + 0.02)


def test_one_sided_ends_cover_too():
    hits = []
    for seed in range(8):
        data, new = simulated(100 + seed, 80, 4), simulated(200 + seed, 300, 4)
        found = fit_predictor(data.features, data.rollouts).predict(new.features)
        shown = new.mean_right_log_length
        seen = np.isfinite(shown)
        hits.append((shown <= np.log(found.threshold_below(0.8)))[seen].mean())
    assert np.mean(hits) == pytest.approx(0.8, abs=0.06)


def test_quantile_intervals_are_wide_where_queries_scatter():
    data = simulated(11, queries=450, samples=4, uneven=True)
    new = simulated(12, queries=600, samples=4, uneven=True)
    predictor = fit_predictor(data.features, data.rollouts, intervals="quantile", level=0.8)
    found = predictor.predict(new.features)
    low, high = found.interval()
    wide = np.log(high / low)
    scattered = new.features.values[:, 1] > 0
    assert wide[scattered].mean() > 1.3 * wide[~scattered].mean()
    shown = new.mean_right_log_length
    seen = np.isfinite(shown)
    inside = ((np.log(low) <= shown) & (shown <= np.log(high)))[seen]
    assert inside.mean() == pytest.approx(0.8, abs=0.06)
    with pytest.raises(DeclarationError, match=r"fitted for 0\.8"):
        found.interval(0.9)


def test_a_measured_law_knows_the_least_length_of_answers():
    """Below 300 tokens nothing ends, which no normal law of the logarithm can say."""
    data, new = simulated(25, queries=200, samples=6), simulated(26, queries=300, samples=6)
    floored = [
        Rollouts(d.rollouts.query, d.rollouts.tokens + 300.0, d.rollouts.correct,
                 d.rollouts.finished) for d in (data, new)
    ]  # fmt: skip
    for cap in (320.0, 380.0, 600.0, 1500.0):
        missed = {}
        for law in ("measured", "lognormal"):
            found = fit_predictor(data.features, floored[0], law=law).predict(new.features)
            promised = float(np.mean(found.utilities.value(np.full(300, cap))))
            missed[law] = abs(promised - floored[1].accuracy_under(cap))
        assert missed["measured"] < max(0.04, 1.5 * missed["lognormal"])
        if cap == 380.0:
            assert missed["measured"] < missed["lognormal"]


def test_few_queries_give_honest_intervals():
    data = simulated(13, queries=12, samples=4)
    found = fit_predictor(data.features, data.rollouts).predict(data.features)
    low, high = found.interval(0.95)
    assert (low == 0).all()
    assert np.isinf(high).all()


def test_an_estimator_of_ones_own():
    data = simulated(14, queries=300, samples=4)
    predictor = fit_predictor(
        data.features, data.rollouts, regressor=DecisionTreeRegressor(max_depth=3)
    )
    assert predictor.signal["length"] > 0.2
    assert len(np.unique(predictor.predict(data.features).threshold)) <= 8


def test_queries_without_rollouts_or_right_answers_are_no_obstacle():
    data = simulated(15, queries=100, samples=4)
    kept = data.rollouts.query % 3 != 0
    rollouts = Rollouts(*(
        getattr(data.rollouts, name)[kept] for name in ("query", "tokens", "correct", "finished")
    ))  # fmt: skip
    predictor = fit_predictor(data.features, rollouts)
    assert predictor.queries == 66
    assert predictor.with_right <= 66
    assert np.isfinite(predictor.predict(data.features).threshold).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"regressor": "oracle"}, DeclarationError, "'ridge', 'boosting'"),
        ({"law": "normal"}, DeclarationError, "'measured' or 'lognormal'"),
        ({"intervals": "guess"}, DeclarationError, "'conformal' or 'quantile'"),
        ({"intervals": "quantile", "level": 2.0}, DeclarationError, "level = 2.0"),
        ({"features": np.ones((3, 1))}, DeclarationError, "beyond the 3 queries"),
        ({"features": np.full((30, 1), np.nan)}, DeclarationError, r"'x0'\[0\] = nan"),
    ],
)
def test_bad_input_is_told(change, error, message):
    data = simulated(16, queries=30, samples=2)
    arguments = {"features": data.features, "rollouts": data.rollouts} | change
    with pytest.raises(error, match=message):
        fit_predictor(**arguments)


def test_too_few_right_answers_are_told():
    rollouts = Rollouts(np.arange(20), np.full(20, 9.0), np.arange(20) < 5, np.full(20, True))
    with pytest.raises(CalibrationError, match="5 queries have a right answer"):
        fit_predictor(np.arange(20.0)[:, None], rollouts)


def test_other_features_than_those_of_the_fit_are_refused():
    data = simulated(17, queries=60, samples=2)
    predictor = fit_predictor(data.features, data.rollouts)
    a, b, c = data.features.names
    for names, message in (
        ((a, b, "new"), f"{c!r} is missing"),
        ((b, a, c), "another order"),
        ((a, b, c, "new"), "'new' was not among"),
    ):
        with pytest.raises(DeclarationError, match=message):
            predictor.predict(Features(names, np.ones((2, len(names)))))
    with pytest.raises(DeclarationError, match=r"level = 1\.5"):
        predictor.predict(data.features).interval(1.5)


def test_equal_inputs_give_equal_predictions():
    data = simulated(18, queries=80, samples=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (fit_predictor(data.features, data.rollouts) for _ in range(2))
    assert (one.predict(data.features).threshold == two.predict(data.features).threshold).all()


def test_where_all_answers_are_right_there_is_nothing_to_explain():
    data = simulated(6, queries=40, samples=4)
    answers = data.rollouts
    right = Rollouts(answers.query, answers.tokens, np.ones(160, dtype=bool), answers.finished)
    for regressor in ("ridge", "boosting"):
        predictor = fit_predictor(data.features, right, regressor=regressor)
        assert predictor.signal["solve"] == 0.0
        assert not predictor.informative["solve"]
        assert predictor.informative["length"]
        assert (predictor.predict(data.features).solve == 1.0).all()
    one_wrong = right.correct.copy()
    one_wrong[7] = False
    seen = Rollouts(answers.query, answers.tokens, one_wrong, answers.finished)
    predictor = fit_predictor(data.features, seen)
    assert -0.1 < predictor.signal["solve"] <= 0.1
    assert not predictor.informative["solve"]
