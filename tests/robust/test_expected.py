from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import clearopt as co
from clearopt.errors import DeclarationError
from clearopt.robust import chance_constrained, expected_utility, mixture_utility
from clearopt.robust.expected import with_threshold


def alone(utility, tokens):
    """The value of a single member, as a number."""
    return float(np.ravel(utility.value(np.array([tokens])))[0])


def by_quadrature(utility, threshold, spread, tokens):
    """E[U(tokens)] with the threshold times e^N(0, spread^2)."""

    def weighted(z):
        return alone(with_threshold(utility, threshold * np.exp(spread * z)), tokens) * norm.pdf(z)

    # A surge has its kink where the threshold reaches the tokens, and rises just before.
    kink = float(np.clip(np.log(tokens / threshold) / spread, -8, 8))
    places = sorted({-8.0, kink - 0.5, kink - 0.05, kink, 8.0})
    return sum(quad(weighted, *pair, limit=200)[0] for pair in pairwise(places))


CASES = [
    (co.CumulativeSurge(0.8, 500.0, 0.01), 0.3),
    (co.CumulativeSurge(0.8, 500.0, 0.001), 0.3),  # the surge wider than the threshold's law
    (co.CumulativeSurge(1.0, 500.0, 0.2), 0.8),  # and far narrower
    (co.ShiftedSurge(0.8, 500.0, 0.01), 0.3),
    (co.ShiftedSurge(1.0, 500.0, 0.001), 0.1),
    (co.ShiftedSurge(1.0, 500.0, 0.05), 0.6),
    (co.Lognormal(0.7, 500.0, 0.4), 0.6),
]


@pytest.mark.parametrize(("utility", "spread"), CASES)
def test_it_is_the_expectation_over_the_threshold(utility, spread):
    found = expected_utility(utility, spread)
    for tokens in (100.0, 350.0, 500.0, 700.0, 1200.0, 4000.0):
        true = by_quadrature(utility, 500.0, spread, tokens)
        assert alone(found, tokens) == pytest.approx(true, abs=1e-3)


def test_many_members_are_each_their_own():
    scale, threshold, spread = [0.5, 1.0], [100.0, 3000.0], [0.2, 0.6]
    both = expected_utility(co.CumulativeSurge(scale, threshold, 0.01), spread)
    for i in range(2):
        own = expected_utility(co.CumulativeSurge(scale[i], threshold[i], 0.01), spread[i])
        for tokens in (90.0, 500.0, 5000.0):
            assert both.value(np.full(2, tokens))[i] == pytest.approx(alone(own, tokens), abs=1e-12)


def test_without_uncertainty_nothing_changes():
    surge = co.CumulativeSurge(0.9, 300.0, 0.02)
    found = expected_utility(surge, 0.0)
    for tokens in np.linspace(0, 1500, 31):
        assert alone(found, tokens) == pytest.approx(alone(surge, tokens), abs=1e-3)
    assert chance_constrained(surge, 0.0, 0.1).threshold == 300.0
    at_once = co.CumulativeSurge(0.9, 0.0, 0.02)  # no threshold to be wrong in
    assert alone(expected_utility(at_once, 0.5), 100.0) == pytest.approx(
        alone(at_once, 100.0), abs=1e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_expected_cumulative_surge_is_s_shaped(seed):
    """Ibragimov's theorem: slopes rise to one top and fall from there."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        threshold, rate = 10 ** rng.uniform(0, 4), 10 ** rng.uniform(-4, 0)
        found = expected_utility(co.CumulativeSurge(1.0, threshold, rate), rng.uniform(0.01, 1.0))
        slope = np.diff(np.ravel(found.values)) / np.diff(np.ravel(found.grid))
        top = int(np.argmax(slope))
        allowed = 1e-4 * slope[top]
        assert (np.diff(slope[: top + 1]) >= -allowed).all()
        assert (np.diff(slope[top:]) <= allowed).all()


def test_a_mixture_that_surges_twice_is_solved_exactly_all_the_same():
    utility = co.CumulativeSurge(0.9, 1.0, 0.1)
    found = mixture_utility(utility, [[100.0, 2000.0], [400.0, 400.0]])
    for tokens in (50.0, 150.0, 1000.0, 2100.0):
        true = 0.5 * sum(alone(with_threshold(utility, t), tokens) for t in (100.0, 2000.0))
        assert found.value(np.full(2, tokens))[0] == pytest.approx(true, abs=2e-3)
    tokens = co.Allocation(2, upper=3000.0)
    problem = co.Problem(co.Maximize(co.sum(found(tokens))), [co.sum(tokens) <= 700.0])
    solution = problem.solve()
    assert solution.status == "optimal"
    # The first query's early surge, and the second's only one.
    assert 100 < solution.allocation[0] < 270
    assert 400 < solution.allocation[1] < 600


def test_a_lognormal_mixture_and_weights():
    found = mixture_utility(co.Lognormal(1.0, 1.0, 0.3), [[100.0, 1000.0]], weights=[0.25, 0.75])
    expected = 0.25 * alone(co.Lognormal(1.0, 100.0, 0.3), 120.0)
    assert alone(found, 120.0) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("risk", [0.05, 0.3])
def test_a_funded_query_reaches_its_accuracy_with_the_promised_probability(risk):
    rng = np.random.default_rng(0)
    n, spread = 40, 0.5
    predicted = np.exp(rng.normal(6.0, 0.7, n))
    cautious = chance_constrained(co.Lognormal(0.8, predicted, 0.2), spread, risk)
    tokens = co.Allocation(n, upper=1e5)
    budget = co.sum(tokens) <= 0.4 * predicted.sum()
    solution = co.Problem(co.Maximize(co.sum(cautious(tokens))), [budget]).solve()
    bought = solution.allocation
    funded, promised = bought > 0, cautious.value(bought)
    kept = []
    for _ in range(400):
        true = co.Lognormal(0.8, predicted * np.exp(spread * rng.normal(size=n)), 0.2)
        kept.append((true.value(bought) >= promised - 1e-12)[funded])
    error = np.sqrt(risk * (1 - risk) / np.size(kept))
    assert np.mean(kept) == pytest.approx(1 - risk, abs=4 * error)


def test_jointly_the_margin_grows_with_the_queries():
    truth = co.CumulativeSurge(1.0, np.full(20, 100.0), 0.1)
    each, together = (chance_constrained(truth, 0.3, 0.1, jointly=j) for j in (False, True))
    assert (together.threshold > each.threshold).all()
    true = 100.0 * np.exp(0.3 * np.random.default_rng(1).normal(size=(4000, 20)))
    assert (true <= together.threshold).all(axis=1).mean() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_utility(co.Hill(0.9, 100.0, 2.0), 0.1), "got Hill"),
        (lambda: expected_utility(co.Lognormal(0.9, 100.0, 0.2), -0.1), "log_spread = -0.1"),
        (
            lambda: expected_utility(co.Lognormal(0.9, [1.0, 2.0], 0.2), [0.1, 0.1, 0.1]),
            "length 3, the utility 2",
        ),
        (lambda: chance_constrained(co.ShiftedSurge(1, 9, 1), 0.1, 0.1), "decays past its peak"),
        (lambda: chance_constrained(co.Lognormal(1, 9, 1), 0.1, 1.0), "risk = 1.0"),
        (lambda: mixture_utility(co.Lognormal(1, 9, 1), [1.0, 2.0]), "one row a query"),
        (lambda: mixture_utility(co.Lognormal(1, 9, 1), [[1.0, 2.0]], [0.5, 0.6]), "sum to 1.1"),
        (
            lambda: mixture_utility(co.CumulativeSurge(1, 9, 1), [[1.0, -2.0]]),
            r"sample 1\[0\] = -2.0",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(DeclarationError, match=message):
        call()
