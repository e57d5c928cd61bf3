import heapq

import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus

import clearopt as co
from clearopt.formulations import best_of_n

N, UPPER = 10, 12
rng = np.random.default_rng(0)
SUCCESS = np.r_[rng.uniform(0.02, 0.7, N - 2), 0.0, 1.0]
SAMPLES = np.arange(UPPER + 1.0)
VALUES = [1 - (1 - p) ** SAMPLES for p in SUCCESS]


def test_samples_go_where_the_next_one_helps_most():
    solution = best_of_n(SUCCESS, 30, samples_upper=UPPER).solve()
    # Each further sample of a query helps less, so that taking the best next one is exact.
    gains = heapq.merge(*(-np.diff(values) for values in VALUES))
    best = -sum(gain for _, gain in zip(range(30), gains, strict=False))
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, abs=1e-9)
    assert solution.allocation.sum() <= 30
    assert (solution.allocation == np.round(solution.allocation)).all()


def test_samples_of_different_price():
    price = rng.integers(100, 900, N)
    problem = best_of_n(SUCCESS, 9_000, samples_upper=UPPER, tokens_per_sample=price)
    solution = problem.solve()
    assert_agree(solution, *best_of_menus(VALUES, [([c * SAMPLES for c in price], 9_000)]))
    assert price @ solution.allocation <= 9_000
    assert (solution.allocation <= UPPER).all()
    assert_agrees_with_scip(problem, solution)


def test_a_chance_above_one_is_said():
    with pytest.raises(co.DeclarationError, match=r"success\[1\] = 1.2"):
        best_of_n([0.5, 1.2], 4, samples_upper=UPPER)


def test_one_chance_alone_is_said():
    with pytest.raises(co.DeclarationError, match="one chance a query"):
        best_of_n(0.5, 4, samples_upper=UPPER)
