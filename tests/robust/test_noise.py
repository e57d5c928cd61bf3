import numpy as np
import pytest

import clearopt as co
from clearopt.errors import DeclarationError
from clearopt.robust import noise_study

NOISE, SHARES = (0.0, 0.3, 1.0), (0.1, 0.3)


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    n = 60
    truth = co.Lognormal(rng.uniform(0.4, 1.0, n), np.exp(rng.normal(7.0, 1.0, n)), 0.3)
    return noise_study(truth, noise=NOISE, shares=SHARES, draws=4, seed=1)


@pytest.mark.parametrize("share", SHARES)
def test_without_noise_every_policy_is_the_optimum(study, share):
    best = study.accuracy("plain", 0.0, share)
    assert best > study.accuracy("time-share", 0.0, share) > 0
    for policy in ("expected", "shrunk", "cautious"):
        assert study.accuracy(policy, 0.0, share) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("share", SHARES)
def test_noise_costs_and_allowing_for_it_costs_less(study, share):
    plain = [study.accuracy("plain", noise, share) for noise in NOISE]
    assert plain[0] > plain[1] > plain[2]
    for noise in NOISE[1:]:
        assert study.accuracy("shrunk", noise, share) > study.accuracy("plain", noise, share)


def test_thresholds_wrong_by_a_factor_e_are_worth_less_than_none_if_believed(study):
    assert study.accuracy("plain", 1.0, 0.3) < study.accuracy("uniform", 1.0, 0.3)


def test_baselines_know_no_noise(study):
    for policy in ("uniform", "time-share"):
        assert len({study.accuracy(policy, noise, 0.1) for noise in NOISE}) == 1


def test_table_and_picture(study, tmp_path):
    lines = study.table().splitlines()
    assert len(lines) == 1 + len(NOISE) * len(SHARES)
    assert lines[0].split() == [
        "ample", "noise", "uniform", "time-share", "plain", "expected", "shrunk", "cautious"
    ]  # fmt: skip
    assert study.plot(tmp_path / "noise.svg").stat().st_size > 1000


def test_recorded_answers_can_score():
    thresholds = np.random.default_rng(2).uniform(50, 500, 20)
    found = noise_study(
        co.CumulativeSurge(0.9, thresholds, 0.05),
        noise=[0.2], shares=[0.3], policies=["plain"], draws=1,
        score=lambda tokens: (tokens > 0).astype(float),
    )  # fmt: skip
    assert found.accuracy("uniform", 0.2, 0.3) == 1.0
    assert 0 < found.accuracy("plain", 0.2, 0.3) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": co.Hill([0.9, 0.9], 100.0, 2.0)}, "is a Hill"),
        ({"truth": co.Lognormal(0.9, 100.0, 0.2)}, "one member"),
        ({"noise": [-1.0]}, r"noise\[0\] = -1.0"),
        ({"policies": ["clever"]}, "clever"),
        ({"draws": 0}, "draws = 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    options = {"truth": co.Lognormal([0.9, 0.8], 100.0, 0.2)} | options
    with pytest.raises(DeclarationError, match=message):
        noise_study(options.pop("truth"), **options)


def test_every_panel_of_the_picture_shows_its_lines(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    rng = np.random.default_rng(3)
    truth = co.Lognormal(rng.uniform(0.5, 1.0, 12), np.exp(rng.normal(5.0, 0.8, 12)), 0.3)
    study = noise_study(truth, noise=[0.0, 0.3], shares=[0.1, 0.6], draws=1)
    drawn, save = [], Figure.savefig

    def noted(self, *arguments, **options):
        drawn.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    assert study.plot(tmp_path / "noise.png").exists()
    for axes in drawn[0].axes:
        low, high = axes.get_ylim()
        assert low == 0
        assert len(axes.lines) >= 6
        assert max(np.max(line.get_ydata()) for line in axes.lines) <= high
