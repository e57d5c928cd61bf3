import numpy as np
import pytest
from menus import assert_agree, assert_agrees_with_scip, best_of_menus, values_of

import clearopt as co
from clearopt.formulations import ModelOption, model_routing

N, BUDGET = 8, 600
rng = np.random.default_rng(0)
MODELS = {
    "small": ModelOption(
        co.CumulativeSurge(scale=rng.uniform(0.2, 0.6, N), threshold=5.0, rate=0.15), upper=60
    ),
    "large": ModelOption(
        co.CumulativeSurge(scale=rng.uniform(0.7, 1, N), threshold=30.0, rate=0.05),
        upper=120,
        price=rng.uniform(3, 5, N).round(1),
        least=32,
    ),
}


def test_each_query_goes_to_one_model_within_the_price():
    problem = model_routing(MODELS, N, BUDGET)
    solution = problem.solve()
    gain, charge = [], []
    small, large = np.arange(61.0), np.arange(32.0, 121)
    for i in range(N):
        low, high = (
            values_of(model.utility, N, menu)[i]
            for model, menu in zip(MODELS.values(), (small, large), strict=True)
        )
        gain.append(np.r_[low, high])
        charge.append(np.r_[small, MODELS["large"].price[i] * large])
    assert_agree(solution, *best_of_menus(gain, [(charge, BUDGET)]))
    assert_agrees_with_scip(problem, solution, time_limit=3)  # its bound holds before it is closed

    assert [model.name for model in problem.allocations] == ["small", "large"]
    to_small, to_large = (problem.value_of(model, solution) for model in problem.allocations)
    assert ((to_small == 0) | (to_large == 0)).all()
    assert ((to_large == 0) | (to_large >= 32)).all()
    assert to_small.sum() + MODELS["large"].price @ to_large <= BUDGET
    assert to_small.any()
    assert to_large.any()
    expected = sum(
        model.utility.value(sent).sum()
        for model, sent in zip(MODELS.values(), (to_small, to_large), strict=True)
    )
    assert solution.objective == pytest.approx(expected, rel=1e-12)


def test_one_model_is_a_token_budget():
    problem = model_routing({"small": MODELS["small"]}, N, 200)
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.allocation.sum() <= 200


@pytest.mark.parametrize("models", [{}, {"small": MODELS["small"].utility}, [MODELS["small"]]])
def test_what_is_not_a_mapping_of_options_is_said(models):
    with pytest.raises(co.DeclarationError, match="mapping from a name to a ModelOption"):
        model_routing(models, N, BUDGET)


def test_a_model_for_other_queries_is_said():
    with pytest.raises(co.DeclarationError, match="length 8, but it applies to 5 queries"):
        model_routing(MODELS, 5, BUDGET)
