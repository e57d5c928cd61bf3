import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import tokens_and_memory

N, BUDGET, MEMORY, UPPER = 8, 360, 8e7, 120
rng = np.random.default_rng(1)
FAMILY = co.CumulativeSurge(
    scale=rng.uniform(0.5, 1, N), threshold=rng.uniform(5, 50, N), rate=rng.uniform(0.04, 0.15, N)
)
KV_BYTES = np.array([131_072, 262_144, 524_288])[np.arange(N) % 3]


def test_both_resources_are_kept_at_the_best_total():
    problem = tokens_and_memory(FAMILY, N, BUDGET, KV_BYTES, MEMORY, upper=UPPER)
    solution = problem.solve()
    menu = np.arange(UPPER + 1.0)
    limits = [([menu] * N, BUDGET), ([size * menu for size in KV_BYTES], MEMORY)]
    assert_agree(solution, *best_of_menus(values_of(FAMILY, N, menu), limits))
    assert solution.allocation.sum() <= BUDGET
    assert KV_BYTES @ solution.allocation <= MEMORY
    assert set(solution.prices) == {"budget", "memory"}
    assert_agrees_with_scip(problem, solution)


def test_one_size_for_all_is_a_second_budget():
    problem = tokens_and_memory(FAMILY, N, BUDGET, 1e5, 2e7, upper=UPPER)
    assert problem.solve().allocation.sum() <= 200


def test_a_wrong_number_of_sizes_is_said():
    with pytest.raises(co.DeclarationError, match="factor of tokens has length 3"):
        tokens_and_memory(FAMILY, N, BUDGET, [1e5, 2e5, 3e5], MEMORY, upper=UPPER)


def test_negative_sizes_are_refused():
    sizes = np.full(N, 1e5)
    sizes[3] = -1
    with pytest.raises(co.DeclarationError, match=r"kv_bytes\[3\] = -1\.0: must be at least 0"):
        tokens_and_memory(FAMILY, N, BUDGET, sizes, MEMORY, upper=UPPER)
    with pytest.raises(co.DeclarationError, match=r"kv_bytes = -1\.0"):
        tokens_and_memory(FAMILY, N, BUDGET, -1.0, MEMORY, upper=UPPER)
