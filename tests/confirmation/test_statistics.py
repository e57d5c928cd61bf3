import numpy as np
import pytest

import clearopt as co
from clearopt.confirmation.statistics import paired_bootstrap


def test_interval_of_an_accuracy_is_that_of_a_binomial():
    correct = np.arange(1000) < 300
    found = paired_bootstrap(correct, correct).accuracy
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - spread, abs=0.004)
    assert found.high == pytest.approx(0.3 + spread, abs=0.004)


def test_ratio_to_itself_is_exactly_one():
    correct = np.arange(100) % 3 == 0
    found = paired_bootstrap(correct, correct).ratio
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairing_narrows_the_ratio():
    rng = np.random.default_rng(0)
    baseline = rng.random(400) < 0.4
    better = baseline | (rng.random(400) < 0.1)
    paired = paired_bootstrap(better, baseline).ratio
    shuffled = paired_bootstrap(rng.permutation(better), baseline).ratio
    assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)
    assert paired.low > 1.0


def test_coverage_of_the_ratio():
    """In 95 of 100 draws the interval holds the true ratio, 2."""
    rng = np.random.default_rng(1)
    hits = 0
    for draw in range(200):
        u = rng.random(300)
        found = paired_bootstrap(u < 0.5, u < 0.25, seed=draw, resamples=500).ratio
        hits += found.low <= 2.0 <= found.high
    assert hits >= 180


def test_equal_seeds_give_equal_intervals():
    rng = np.random.default_rng(2)
    a, b = rng.random(80) < 0.5, rng.random(80) < 0.4
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_a_baseline_of_zero_has_no_ratio():
    found = paired_bootstrap([1, 0, 1, 1], [0, 0, 0, 0]).ratio
    assert found.value is None
    assert found.high is None
    both = paired_bootstrap([0, 0], [0, 0])
    assert (both.ratio.value, both.ratio.low, both.ratio.high) == (None, 1.0, 1.0)
    assert both.accuracy.value == 0.0


def test_a_baseline_near_zero_is_open_above_only():
    baseline = np.arange(200) < 1
    better = np.arange(200) < 40
    found = paired_bootstrap(better, baseline).ratio
    assert found.value == pytest.approx(40)
    assert found.low is not None
    assert found.low > 5
    assert found.high is None  # a third of the resamples hold no right answer of the baseline


def test_many_queries_are_resampled_in_blocks():
    correct = np.arange(50_000) % 2 == 0
    found = paired_bootstrap(correct, correct, resamples=200).accuracy
    assert found.low == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("correct", "baseline", "options", "message"),
    [
        ([], [], {}, "of at least one query"),
        ([1, 0], [1], {}, r"correct has shape \(2,\), baseline \(1,\)"),
        ([1], [1], {"level": 1.0}, "level = 1.0"),
        ([1], [1], {"resamples": 0}, "resamples = 0"),
    ],
)
def test_bad_arguments_are_named(correct, baseline, options, message):
    with pytest.raises(co.DeclarationError, match=message):
        paired_bootstrap(correct, baseline, **options)
