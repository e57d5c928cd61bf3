"""The one-dimensional search on dual functions whose minimiser is known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import clearopt as co
from clearopt.solvers.dual.one_row import OneRow, relax
from clearopt.solvers.dual.price_search import search_price
from clearopt.solvers.dual.separable import separate, view


def kinked(prices: np.ndarray, amounts: np.ndarray, budget: float):
    """D(p) = sum amount_i max(price_i - p, 0) + p budget: a fractional knapsack's dual."""

    def evaluate(price: float) -> tuple[float, float]:
        bought = prices >= price
        value = float((amounts * np.maximum(prices - price, 0)).sum() + price * budget)
        return value, budget - float(amounts[bought].sum())

    return evaluate


@pytest.mark.parametrize("start", [1e-12, 0.3, 1.0, 1e9])
@pytest.mark.parametrize("seed", range(10))
def test_kinks_are_found_exactly(seed: int, start: float) -> None:
    rng = np.random.default_rng(seed)
    prices, amounts = 10 ** rng.uniform(-6, 3, 50), rng.uniform(0.1, 5, 50)
    budget = 0.3 * amounts.sum()
    evaluate = kinked(prices, amounts, budget)
    bracket = search_price(evaluate, start=start)
    assert bracket.low is not None
    assert bracket.low.slope < 0 <= bracket.high.slope
    assert bracket.best.value == pytest.approx(min(evaluate(p)[0] for p in prices), rel=1e-12)
    mixture = bracket.share * -bracket.low.slope
    assert mixture == pytest.approx((1 - bracket.share) * bracket.high.slope)


def test_smooth_functions_take_few_evaluations() -> None:
    # D(p) = 1/p + 4 p: minimum 4 at p = 1/2
    bracket = search_price(
        lambda p: (1 / p + 4 * p, 4 - 1 / p**2) if p > 0 else (math.inf, -math.inf), start=300.0
    )
    assert bracket.best.value == pytest.approx(4.0, rel=1e-13)
    assert bracket.evaluations < 60


def test_an_ample_budget_costs_nothing() -> None:
    bracket = search_price(kinked(np.array([2.0, 3.0]), np.array([1.0, 1.0]), 5.0), start=1.0)
    assert bracket.low is None
    assert bracket.high.price == 0.0


def test_the_cutoff_stops_early() -> None:
    evaluate = kinked(np.array([2.0, 3.0]), np.array([1.0, 1.0]), 0.5)
    assert search_price(evaluate, start=1e6, cutoff=1e9).evaluations == 1


def test_equality_rows_may_have_negative_prices() -> None:
    # min over p of (p + 3)^2: slope 2 (p + 3)
    bracket = search_price(lambda p: ((p + 3) ** 2 + 1, 2 * (p + 3)), start=1.0, equality=True)
    assert bracket.best.price == pytest.approx(-3.0, abs=1e-5)


def test_a_budget_that_nothing_fits_is_reported() -> None:
    bracket = search_price(lambda p: (1.0 - p, -1.0), start=1.0)
    assert bracket.high.slope < 0


def test_a_box_that_no_price_makes_fit_says_so_without_a_warning() -> None:
    # Prices rise until what they cost in all overflows.
    tokens = co.Allocation(3, lower=1e20, upper=2e20)
    curves = co.Lognormal([0.5, 0.6, 0.7], [1e20, 1e20, 2e20], 0.3)
    problem = co.Problem(co.Maximize(co.sum(curves(tokens))), [co.sum(tokens) <= 4e20])
    queries = separate(view(problem.program), "numpy")
    row = OneRow(queries, np.ones(3), 2.9e20, equality=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = relax(row, queries.lower, queries.upper, start=1e270)
    assert not found.fits
    assert found.bound == math.inf  # at such a price nothing is proven
