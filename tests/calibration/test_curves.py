"""`fit_curves`: known parameters are found within the errors that it states."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import STRETCH, simulated, z_scores

import clearopt as co
from clearopt.calibration import CalibrationError, FittedCurves, Rollouts, fit_curves

PARAMETRIC = ("lognormal", "cumulative-surge", "shifted-surge")
FAMILIES = (*PARAMETRIC, "isotonic")
POOLINGS = ("none", "partial", "complete")


def halves(rollouts, seed=0):
    """Every answer in one of two halves, at random."""
    first = np.random.default_rng(seed).random(len(rollouts)) < 0.5
    return tuple(
        Rollouts(rollouts.query[m], rollouts.tokens[m], rollouts.correct[m], rollouts.finished[m])
        for m in (first, ~first)
    )


# ------------------------------------------------------------------ known parameters
@pytest.mark.parametrize("cut_share", [0.0, 0.3])
@pytest.mark.parametrize("samples", [4, 16, 64])
@pytest.mark.parametrize("family", PARAMETRIC)
def test_partial_pooling_finds_each_query_within_its_standard_error(family, samples, cut_share):
    queries = 60 if samples == 64 else 120
    rollouts, truth = simulated(family, queries, samples, seed=samples, cut_share=cut_share)
    fitted = fit_curves(rollouts, queries, family=family)
    for name in truth.estimates:
        z = z_scores(fitted, truth, name)
        # 95 % within two errors; a shifted surge's thresholds take the stretch as known.
        least = 0.75 if family == "shifted-surge" else 0.86
        assert (np.abs(z) <= 2.0).mean() >= least, (name, np.abs(z).max())
        assert np.median(np.abs(z)) <= 1.1, name
        assert np.median(np.abs(z)) >= 0.35, name  # nor are the errors far too large


@pytest.mark.parametrize("cut_share", [0.0, 0.3])
def test_partial_pooling_finds_the_population_within_its_standard_errors(cut_share):
    missed = []
    for seed in range(3):
        rollouts, _ = simulated("lognormal", 200, 4, seed=seed, cut_share=cut_share)
        shared = fit_curves(rollouts, 200).population
        truth = {
            "location": 7.0, "log_deviation": np.log(0.8), "shape": np.log(0.35),
            "log_shape_deviation": np.log(0.3), "stretch": STRETCH, "chance": 0.8, "slope": -0.8,
            "log_agreement": np.log(2.0),
        }  # fmt: skip
        missed += [(shared[k].value - x) / shared[k].standard_error for k, x in truth.items()]
    assert np.mean(np.abs(missed) <= 2.0) >= 0.85
    assert np.max(np.abs(missed)) < 4.0


@pytest.mark.parametrize("cut_share", [0.0, 0.3])
@pytest.mark.parametrize("samples", [4, 16, 64])
def test_maximum_likelihood_finds_each_query_within_its_standard_error(samples, cut_share):
    # Four answers are few for a normal approximation: Student's law of three degrees of freedom.
    rollouts, truth = simulated("lognormal", 120, samples, seed=samples, cut_share=cut_share)
    fitted = fit_curves(rollouts, 120, pooling="none")
    for name in truth.estimates:
        z = z_scores(fitted, truth, name)
        z = z[np.isfinite(z)]
        assert (np.abs(z) <= 2.5).mean() >= (0.78 if samples == 4 else 0.85), name


@pytest.mark.parametrize("family", PARAMETRIC)
@pytest.mark.parametrize("pooling", ["none", "partial"])
def test_the_paper_model_where_only_the_threshold_differs(family, pooling):
    rollouts, truth = simulated(family, 80, 8, seed=3, shared=True)
    fitted = fit_curves(rollouts, 80, family=family, pooling=pooling, free="threshold")
    scale, second = fitted.estimates["scale"], [k for k in truth.estimates if k != "scale"][1]
    assert np.ptp(scale) < 1e-12
    assert abs(scale[0] - 0.7) < 3 * fitted.standard_errors["scale"].max() + 0.06
    assert np.ptp(np.log(fitted.estimates[second])) < 1e-12
    # Eight answers estimate a location and a share of the shape: too narrow by 1 in 8 or so.
    assert abs(np.log(fitted.estimates[second][0] / truth.estimates[second][0])) < 0.25


def test_maximum_likelihood_without_cut_answers_is_mean_and_deviation():
    rollouts, _ = simulated("lognormal", 12, 9, seed=1)
    every_right = Rollouts(rollouts.query, rollouts.tokens, np.ones(108), np.ones(108))
    fitted = fit_curves(every_right, pooling="none")
    y = np.log(rollouts.tokens).reshape(12, 9)
    np.testing.assert_allclose(np.log(fitted.utilities.median), y.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(fitted.utilities.spread, y.std(axis=1), rtol=1e-4)
    assert (fitted.utilities.scale == 1.0).all()
    np.testing.assert_allclose(
        fitted.standard_errors["median"] / fitted.estimates["median"],
        y.std(axis=1) / 3.0, rtol=1e-3,
    )  # fmt: skip


def test_maximum_likelihood_with_cut_answers_is_tobits():
    from scipy.optimize import minimize
    from scipy.stats import norm

    rng = np.random.default_rng(5)
    y = rng.normal(6.0, 0.5, 40)
    cap = 6.2
    rollouts = Rollouts(np.zeros(40), np.exp(np.minimum(y, cap)), y <= cap, y <= cap)
    fitted = fit_curves(rollouts, pooling="none")

    def loss(x):
        m, s = x[0], np.exp(x[1])
        seen = norm.logpdf(y[y <= cap], m, s).sum()
        return -seen - (y > cap).sum() * norm.logsf(cap, m, s)

    m, log_s = minimize(loss, [6.0, -0.5], method="Nelder-Mead", options={"xatol": 1e-8}).x
    assert float(np.log(fitted.utilities.median[0])) == pytest.approx(m, abs=1e-4)
    assert float(fitted.utilities.spread[0]) == pytest.approx(np.exp(log_s), rel=1e-3)
    assert fitted.utilities.scale[0] == pytest.approx(
        1.0, abs=1e-6
    )  # nothing says it is ever wrong


# ------------------------------------------------------------------ pooling
@pytest.mark.parametrize("family", ["lognormal", "cumulative-surge"])
def test_partial_pooling_foretells_other_answers_best(family):
    rollouts, _ = simulated(family, 100, 8, seed=11)
    seen, unseen = halves(rollouts)
    scores = {
        pooling: fit_curves(seen, 100, family=family, pooling=pooling).score(unseen)
        for pooling in POOLINGS
    }
    assert scores["partial"]["log_score"] > scores["none"]["log_score"]
    assert scores["partial"]["log_score"] > scores["complete"]["log_score"]
    assert scores["partial"]["brier"] < scores["none"]["brier"]
    assert scores["partial"]["brier"] < scores["complete"]["brier"]


@pytest.mark.parametrize("family", FAMILIES)
def test_complete_pooling_is_one_curve_that_of_all_answers(family):
    rollouts, _ = simulated("lognormal", 20, 4, seed=2)
    fitted = fit_curves(rollouts, 23, family=family, pooling="complete")
    together = Rollouts(np.zeros(80), rollouts.tokens, rollouts.correct, rollouts.finished)
    alone = fit_curves(together, family=family, pooling="none")
    for cap in np.geomspace(100, 20_000, 9):
        value = fitted.utilities.value(np.full(23, cap))
        assert np.ptp(value) == 0.0
        assert value[0] == pytest.approx(
            float(alone.utilities.value(np.full(1, cap))[0]), abs=1e-12
        )
    if family == "isotonic":
        shown = rollouts.solved & (rollouts.tokens <= 1500)
        assert float(fitted.utilities.value(np.full(23, 1500.0))[0]) == pytest.approx(shown.mean())


def test_tables_without_pooling_are_the_measured_shares():
    rollouts, _ = simulated("lognormal", 15, 6, seed=4)
    fitted = fit_curves(rollouts, family="isotonic", pooling="none")
    for cap in np.geomspace(50, 30_000, 25):
        right = rollouts.solved & (rollouts.tokens <= cap)
        shares = np.bincount(rollouts.query, right) / 6
        np.testing.assert_allclose(fitted.utilities.value(np.full(15, cap)), shares, atol=1e-12)
        spent = np.bincount(rollouts.query, np.minimum(rollouts.tokens, cap)) / 6
        np.testing.assert_allclose(fitted.cost_curves.value(np.full(15, cap)), spent, rtol=1e-12)


def test_tables_with_cut_answers_are_those_of_competing_risks():
    # Right at 10, cut at 20, wrong at 30, right at 40: the cut one goes on as the two after it.
    rollouts = Rollouts([0] * 4, [10, 20, 30, 40], [1, 0, 0, 1], [1, 0, 1, 1])
    utility = fit_curves(rollouts, family="isotonic", pooling="none").utilities
    assert float(utility.value(np.array([10.0]))[0]) == pytest.approx(1 / 4)
    assert float(utility.value(np.array([39.0]))[0]) == pytest.approx(1 / 4)
    assert float(utility.value(np.array([40.0]))[0]) == pytest.approx(1 / 4 + 3 / 8)


def test_groups_are_fitted_apart():
    easy, _ = simulated("lognormal", 40, 4, seed=1)
    hard, _ = simulated("lognormal", 40, 4, seed=2)
    both = Rollouts(
        np.concatenate([easy.query, 40 + hard.query]),
        np.concatenate([easy.tokens, 30 * hard.tokens]),
        np.concatenate([easy.correct, hard.correct]),
        np.concatenate([easy.finished, hard.finished]),
    )
    labels = ["easy"] * 40 + ["hard"] * 40
    fitted = fit_curves(both, 80, groups=labels)
    alone = fit_curves(easy, 40)
    at = np.full(80, 900.0)
    np.testing.assert_allclose(fitted.utilities.value(at)[:40], alone.utilities.value(at[:40]))
    ratio = (
        fitted.populations["hard"]["location"].value - fitted.populations["easy"]["location"].value
    )
    assert ratio == pytest.approx(np.log(30), abs=0.5)
    assert len(fitted.predict(groups=["hard", "easy"])) == 2
    for family in ("isotonic", "lognormal"):
        for pooling in POOLINGS:
            assert len(fit_curves(both, 80, family=family, pooling=pooling, groups=labels)) == 80
    with pytest.raises(co.DeclarationError, match="2 groups"):
        _ = fitted.population
    with pytest.raises(co.DeclarationError, match=r"groups\[0\] = 'odd': known are"):
        fitted.predict(groups=["odd"])


def test_covariates_foretell_queries_that_nobody_answered():
    rng = np.random.default_rng(8)
    feature = rng.normal(size=160)
    query = np.repeat(np.arange(160), 4)
    y = 7.0 + 0.7 * feature[query] + 0.2 * rng.normal(size=160)[query] + 0.3 * rng.normal(size=640)
    right = rng.random(640) < 1 / (1 + np.exp(-1.0 + 1.2 * feature[query]))
    known = query < 100
    rollouts = Rollouts(query[known], np.exp(y[known]), right[known], np.ones(known.sum()))
    fitted = fit_curves(rollouts, 100, design=feature[:100, None])
    new = fitted.predict(feature[100:, None])
    assert new.goodness is None
    assert np.corrcoef(np.log(new.utilities.median), feature[100:])[0, 1] > 0.99
    unseen = Rollouts(query[~known] - 100, np.exp(y[~known]), right[~known], np.ones(240))
    blind = fit_curves(rollouts, 100).predict(queries=60)
    assert new.score(unseen)["log_score"] > blind.score(unseen)["log_score"] + 0.2
    assert new.score(unseen)["brier"] < blind.score(unseen)["brier"]
    # Those in the fit without an answer get the same curve.
    missing = fit_curves(rollouts, 160, design=feature[:, None])
    at = np.full(60, 1500.0)
    np.testing.assert_allclose(
        missing.utilities.value(np.full(160, 1500.0))[100:], new.utilities.value(at), rtol=1e-9
    )


# ------------------------------------------------------------------ what is used
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_curves_are_bought_from(family, pooling):
    rollouts, _ = simulated("lognormal", 25, 4, seed=6)
    fitted = fit_curves(rollouts, 25, family=family, pooling=pooling)
    tokens = co.Allocation(25, upper=6000, integer=True)
    problem = co.Problem(
        co.Maximize(co.sum(fitted.utilities(tokens))),
        [co.sum(fitted.cost_curves(tokens)) <= 9_000],
    )
    solution = problem.solve(time_limit=20)
    assert solution.objective > 0
    assert fitted.cost_curves.value(solution.allocation).sum() <= 9_000 * (1 + 1e-9)


def test_a_lognormal_fit_is_solved_exactly_in_realised_tokens():
    rollouts, _ = simulated("lognormal", 40, 4, seed=6)
    fitted = fit_curves(rollouts, 40)
    assert (fitted.cost_curves.spread >= fitted.utilities.spread).all()
    tokens = co.Allocation(40, upper=20_000)  # not whole: no grid to fall back on
    problem = co.Problem(
        co.Maximize(co.sum(fitted.utilities(tokens))),
        [co.sum(fitted.cost_curves(tokens)) <= 15_000],
    )
    assert problem.solve().status == "optimal"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_plain_data_and_back(family, pooling):
    rollouts, _ = simulated("lognormal", 10, 4, seed=7, cut_share=0.2)
    fitted = fit_curves(rollouts, 12, family=family, pooling=pooling)
    again = FittedCurves.from_dict(json.loads(json.dumps(fitted.to_dict())))
    at = np.full(12, 1200.0)
    np.testing.assert_array_equal(again.utilities.value(at), fitted.utilities.value(at))
    np.testing.assert_array_equal(again.cost_curves.value(at), fitted.cost_curves.value(at))
    assert again.goodness == fitted.goodness
    assert again.warnings == fitted.warnings
    assert again.populations.keys() == fitted.populations.keys()
    if pooling == "none":
        with pytest.raises(co.DeclarationError, match="nothing is learnt"):
            again.predict()
    else:
        one = np.full(1, 1200.0)
        np.testing.assert_array_equal(
            again.predict().utilities.value(one), fitted.predict().utilities.value(one)
        )
    with pytest.raises(co.DeclarationError, match="format = 0"):
        FittedCurves.from_dict({"format": 0})


def test_the_goodness_of_fit_knows_the_right_law_from_a_wrong_one():
    rollouts, _ = simulated("lognormal", 150, 6, seed=9)
    right = fit_curves(rollouts, 150)
    assert right.goodness.held_out
    assert right.goodness.ks_p_value > 0.01
    assert right.goodness.brier < right.goodness.brier_base
    assert not any("do not follow" in said for said in right.warnings)
    wrong = fit_curves(rollouts, 150, family="shifted-surge", free="threshold")
    assert wrong.goodness.ks > 2 * right.goodness.ks
    assert any("do not follow the shifted-surge law" in said for said in wrong.warnings)
    # Chances are calibrated: predicted and observed shares agree, tenth by tenth.
    fit = right.goodness
    off = np.array(fit.chance_predicted) - np.array(fit.chance_observed)
    assert np.abs(off).max() < 4 * 0.5 / np.sqrt(min(fit.chance_count))


# ------------------------------------------------------------------ odd data
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("free", ["all", "threshold"])
@pytest.mark.parametrize(
    "rows",
    [
        [(0, 500, 1, 1)],
        [(0, 500, 0, 1)],
        [(0, 500, 0, 0)],
        [(0, 0, 0, 1)],
        [(0, 0, 1, 1), (1, 0, 0, 0)],
        [(q, 700, 1, 1) for q in range(3) for _ in range(4)],
        [(q, 100 + 50 * q + s, 0, 1) for q in range(5) for s in range(3)],
        [(q, 100 + 50 * q + s, 1, 1) for q in range(5) for s in range(3)],
        [(q, 4096, 0, 0) for q in range(4) for _ in range(4)],
        [(0, 100 + s, s % 2, 1) for s in range(50)],
        [(q, 1, 1, 1) for q in range(4)] + [(q, 10**7, 0, 1) for q in range(4)],
        [(3, 800, 1, 1), (3, 900, 0, 0), (7, 0, 1, 1)],
        [(q, 1000 + 100 * s + q, s > 0, s != 3) for q in range(9) for s in range(5)]
        + [(q, 1, 0, 1) for q in range(9)],
    ],
    ids=lambda rows: f"{len(rows)} rows from {rows[0]}",
)
@pytest.mark.filterwarnings("error")
def test_odd_data_give_curves(rows, family, pooling, free):
    if family == "isotonic" and free != "all":
        return
    rollouts = Rollouts(*np.array(rows, dtype=float).T)
    n = int(rollouts.query.max()) + 2
    fitted = fit_curves(rollouts, n, family=family, pooling=pooling, free=free)
    caps = np.array([0.0, 1.0, 300.0, 1e4, 1e9])
    values = np.stack([fitted.utilities.value(np.full(n, cap)) for cap in caps])
    costs = np.stack([fitted.cost_curves.value(np.full(n, cap)) for cap in caps])
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    assert (costs <= caps[:, None] * (1 + 1e-12)).all()
    assert (np.diff(costs, axis=0) >= -1e-9 * caps[1:, None]).all()
    for name, value in fitted.estimates.items():
        assert np.isfinite(value).all(), name
        assert (fitted.standard_errors[name] >= 0).all(), name
    assert all(isinstance(said, str) for said in fitted.warnings)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_the_rollouts_the_curves_are_curves(data):
    size = data.draw(st.integers(1, 30))
    query = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    tokens = data.draw(st.lists(st.floats(0, 1e6), min_size=size, max_size=size))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    rollouts = Rollouts(query, tokens, data.draw(flags), data.draw(flags))
    family = data.draw(st.sampled_from(FAMILIES))
    fitted = fit_curves(rollouts, 6, family=family, pooling=data.draw(st.sampled_from(POOLINGS)))
    grid = np.geomspace(1.0, 1e7, 40)
    values = np.stack([fitted.utilities.value(np.full(6, b)) for b in grid])
    assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    if family != "shifted-surge":
        assert (np.diff(values, axis=0) >= -1e-12).all()
    assert math.isfinite(fitted.score(rollouts)["brier"])


def test_a_stray_answer_does_not_decide_a_curve():
    rollouts, _ = simulated("lognormal", 60, 6, seed=12)
    tokens = rollouts.tokens.copy()
    tokens[0] = 3.0  # a refusal, say
    with_stray = Rollouts(rollouts.query, tokens, rollouts.correct, rollouts.finished)
    before, after = fit_curves(rollouts, 60), fit_curves(with_stray, 60)
    change = np.abs(np.log(after.estimates["median"] / before.estimates["median"]))
    assert change[0] < 0.3
    assert change[1:].max() < 0.05


def test_warnings_name_the_queries():
    rows = [
        *[(0, 500 + s, 1, 1) for s in range(4)],
        *[(1, 700 + s, 0, 1) for s in range(4)],
        *[(2, 4096, 0, 0)] * 4,
        (3, 800, 1, 1),
    ]
    fitted = fit_curves(Rollouts(*np.array(rows, dtype=float).T), 5)
    said = "\n".join(fitted.warnings)
    assert "query 4 without any rollout" in said
    assert "query 1 without a right answer" in said
    assert "query 2 with cut answers alone" in said
    assert "query 3 with one whole answer" in said
    assert "4 queries have rollouts: too few" in said


# ------------------------------------------------------------------ bad input
def test_wrong_arguments_are_named():
    rollouts = Rollouts([0, 1], [10, 20], [1, 0], [1, 1])
    for wrong, message in (
        (lambda: fit_curves([1, 2]), "expected Rollouts, got list; read a file"),
        (lambda: fit_curves(rollouts, 1), r"query\[1\] = 1: is beyond the 1 queries"),
        (lambda: fit_curves(rollouts, 0), "queries = 0: must be a whole number"),
        (lambda: fit_curves(rollouts, family="normal"), "family = 'normal': must be one of"),
        (lambda: fit_curves(rollouts, pooling="some"), "pooling = 'some'"),
        (lambda: fit_curves(rollouts, free="rate"), "free = 'rate'"),
        (lambda: fit_curves(rollouts, groups=[1]), r"groups has shape \(1,\)"),
        (lambda: fit_curves(rollouts, design=[[1.0]]), r"\(2, d\), got shape \(1, 1\)"),
        (
            lambda: fit_curves(rollouts, design=[1.0, np.nan]),
            r"column 0\[1\] = nan",
        ),
        (
            lambda: fit_curves(rollouts, design=[1.0, 2.0], pooling="none"),
            "covariates belong",
        ),
        (
            lambda: fit_curves(rollouts, family="isotonic", free="threshold"),
            "no parameters",
        ),
        (lambda: fit_curves(rollouts).predict([1.0]), "has 1 covariates, the fit had 0"),
        (lambda: fit_curves(rollouts, design=[1.0, 2.0]).predict(), "with 1 covariates a query"),
    ):
        with pytest.raises(co.DeclarationError, match=message):
            wrong()
    with pytest.raises(CalibrationError, match="group 'b' has a rollout"):
        fit_curves(rollouts, 3, groups=["a", "a", "b"])


def test_the_calibration_can_be_drawn_where_it_was_measured(tmp_path):
    rollouts, _ = simulated("lognormal", 20, 4, seed=8)
    fitted = fit_curves(rollouts)
    path = fitted.plot(tmp_path / "new" / "fit.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    for without in (fitted.predict(queries=3), fit_curves(rollouts, family="isotonic")):
        with pytest.raises(co.DeclarationError, match=r"plot_calibration: (no answer|tables)"):
            without.plot(tmp_path / "no.png")


def test_covariates_that_say_nothing_are_held_near_0_and_those_that_say_much_are_not():
    rng = np.random.default_rng(11)
    rollouts, truth = simulated("lognormal", 45, 8, seed=11)
    noise = rng.normal(size=(45, 6))
    by_noise = fit_curves(rollouts, design=noise).population
    slopes = [by_noise[f"by_location_{k}"].value for k in range(6)]
    # Sampling alone would give slopes of 0.8 / sqrt(45) = 0.12 each.
    assert np.sqrt(np.mean(np.square(slopes))) < 0.06
    location = np.log(truth.estimates["median"])
    known = fit_curves(rollouts, design=np.column_stack([location, noise[:, 0]])).population
    assert known["by_location_0"].value == pytest.approx(location.std(), rel=0.1)
    assert abs(known["by_location_1"].value) < 0.06
