"""The oracles themselves: against each other, and against every allocation there is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from branch_and_price import BranchAndPrice, continuous_optimum
from exhaustive import Limits, misses, optimum, values_at, whole_optimum
from oracles import Instance, dynamic_program, enumerate_funded_sets, random_instance
from random_programs import FAMILIES, ROWS, draw

import clearopt as co


def enumerated(program: co.Program) -> float:
    """The best of all allocations of whole tokens, one by one."""
    axes = []
    for i in range(program.n):
        amounts = np.arange(np.ceil(program.lower[i]), np.floor(program.upper[i]) + 1)
        axes.append(np.append(amounts, 0.0) if program.semicontinuous[i] else amounts)
    grid = np.array(list(itertools.product(*axes))).reshape(-1, program.n)
    tables = []
    for blocks in (program.utilities, program.curves):
        columns = [values_at(blocks, i, axes[i]) for i in range(program.n)]
        tables.append(np.array(list(itertools.product(*columns))).reshape(-1, program.n))
    utility, cost = tables
    limits = Limits.of(program)
    terms = ((grid, limits.tokens), (cost, limits.curve), (utility, limits.utility))
    excess = sum(x @ a.T for x, a in terms) - limits.level
    size = np.maximum(sum(np.abs(x) @ np.abs(a).T for x, a in terms), np.abs(limits.level))
    missed = np.where(limits.exact, np.abs(excess), excess)
    fits = (missed <= 1e-11 * np.maximum(size, 1e-300)).all(axis=1)
    for k in range(int(program.choice.max()) + 1):
        fits &= (grid[:, program.choice == k] > 0).sum(axis=1) <= 1
    worth = utility @ program.weight - grid @ program.cost - cost @ program.curve_cost
    return float(program.offset + worth[fits].max()) if fits.any() else -np.inf


def agree(one: float, two: float, exact: float) -> bool:
    return one == two or abs(one - two) <= exact * max(abs(one), abs(two), 1e-3)


@pytest.mark.parametrize("seed", range(2 * len(ROWS)))
def test_whole_tokens_of_three_queries_equal_every_allocation(seed: int) -> None:
    # Seeds whose tokens are whole; both oracles see the same program.
    seeds = (s for s in itertools.count(seed, len(ROWS)) if draw(s, size=(1, 3)).whole)
    program = draw(next(seeds), size=(1, 3)).problem.program
    best = enumerated(program)
    assert agree(whole_optimum(program), best, 1e-13)
    assert agree(continuous_optimum(program), best, 1e-10)


@pytest.mark.parametrize("seed", range(0, 500, 9))
def test_both_oracles_agree_on_whole_tokens(seed: int) -> None:
    program = draw(seed).problem.program
    if program.integer.all():
        assert agree(continuous_optimum(program), whole_optimum(program), 1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_one_row_equals_the_enumeration_of_funded_sets(seed: int) -> None:
    rng = np.random.default_rng([21, seed])
    instance = random_instance(rng, int(rng.integers(1, 7)), ties=seed % 3 == 0)
    assert agree(optimum(_declared(instance).program), enumerate_funded_sets(instance), 1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_one_row_of_whole_tokens_equals_dynamic_programming(seed: int) -> None:
    rng = np.random.default_rng([22, seed])
    instance = random_instance(rng, int(rng.integers(5, 15)), ties=seed % 3 == 0, whole=True)
    assert agree(optimum(_declared(instance, True).program), dynamic_program(instance), 1e-12)


def _declared(instance: Instance, whole: bool = False) -> co.Problem:
    tokens = co.Allocation(instance.scale.size, upper=instance.upper, integer=whole)
    total = 0.0
    for family, mask in (
        (co.CumulativeSurge, instance.cumulative),
        (co.ShiftedSurge, ~instance.cumulative),
    ):
        if mask.any():
            parameters = instance.scale[mask], instance.threshold[mask], instance.rate[mask]
            total = total + co.sum(family(*parameters)(tokens[mask]))
    return co.Problem(co.Maximize(total), [co.sum(tokens) <= instance.budget])


@pytest.mark.parametrize("seed", range(0, 500, 7))
def test_continuous_optimum_is_feasible_and_no_worse_than_any_grid(seed: int) -> None:
    program = draw(seed, size=(1, 3)).problem.program
    if program.integer.any():
        return
    search = BranchAndPrice(program)
    best = search.run()
    if best > -np.inf:
        assert not misses(program, search.best_tokens)
        assert program.objective(search.best_tokens) == pytest.approx(best, rel=1e-13)
    # A grid of whole tokens is a part of what continuous ones may be.
    low, high = np.ceil(program.lower), np.floor(program.upper)
    if (low <= high).all():
        grid = replace(program, integer=np.ones(program.n, bool), lower=low, upper=high)
        coarse = whole_optimum(grid)
        assert coarse <= best or agree(coarse, best, 1e-10)


def test_the_seeds_hold_every_kind_of_row_and_every_family() -> None:
    cases = [draw(seed) for seed in range(500)]
    assert {case.rows for case in cases} == set(ROWS)
    assert {case.family for case in cases} == set(FAMILIES)
    sizes = {case.problem.program.n for case in cases}
    assert sizes == set(range(1, 15))
    whole = sum(case.whole for case in cases)
    assert 200 < whole < 300


@pytest.mark.parametrize("seed", range(3, 500, 11))
def test_what_is_bought_at_any_prices_is_the_best_of_a_dense_sample(seed: int) -> None:
    program = draw(seed).problem.program
    search, rng = BranchAndPrice(program), np.random.default_rng(seed)
    everyone = np.arange(program.n)
    low, high = program.lower.copy(), program.upper.copy()
    if not program.integer.any():  # a box within
        low, high = low + 0.2 * rng.random(program.n) * (high - low), high
    node = low, high, program.semicontinuous & (low > 0)
    search.end_values = search.table.curves(np.tile(everyone, 2), np.concatenate([low, high]))
    search.idle_values, search.scale = search.table.curves(everyone, 0.0 * everyone), search.size
    for _ in range(5):
        prices = search.size * 10 ** rng.uniform(-1.5, 1, search.limits.level.size)
        query, tokens, _, worth = search.price(node, prices, 1)
        found = worth(query, tokens, search.table.curves(query, tokens))
        for i, value in zip(query.tolist(), found.tolist(), strict=True):
            sample = np.sort(low[i] + rng.random(4000) ** 2 * (high[i] - low[i]))
            sample = np.unique(np.round(sample)) if program.integer[i] else sample
            sample = sample[(sample >= low[i]) & (sample <= high[i])]
            who = np.full(sample.size, i)
            best = worth(who, sample, search.table.curves(who, sample)).max(initial=-np.inf)
            assert value >= best - 1e-11 * search.size
