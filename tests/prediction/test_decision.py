import numpy as np
import pytest

import clearopt as co
from clearopt.errors import DeclarationError
from clearopt.prediction.decision import fit_to_value


def misspecified(seed, n):
    """Thresholds that bend with the features and depend on one that is not there."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    signal = 3.0 + 0.8 * np.tanh(2 * x[:, 0]) * x[:, 1] + 0.6 * x[:, 1]
    threshold = np.exp(signal + 0.4 * rng.normal(size=n))
    return x, co.CumulativeSurge(rng.uniform(0.4, 1.0, n), threshold, 0.08)


def worth(threshold, truth, tokens, batch=24):
    """Mean true utility of exact allocations on the word of these thresholds, batch by batch."""
    found, truth = [], truth.broadcast(threshold.size)
    for start in range(0, threshold.size, batch):
        members = np.arange(start, start + batch)
        own = truth.take(members)
        believed = co.CumulativeSurge(own.scale, threshold[members], own.rate)
        allocation = co.Allocation(batch, upper=400.0)
        budget = co.sum(allocation) <= tokens * batch
        problem = co.Problem(co.Maximize(co.sum(believed(allocation))), [budget])
        found.append(own.value(problem.solve().allocation))
    return float(np.mean(found))


@pytest.mark.slow
def test_training_on_the_value_beats_regression_where_that_is_misspecified():
    x, truth = misspecified(0, 40 * 24)
    model = fit_to_value(x, truth, 25.0)
    assert model.steps > 0
    assert model.value > model.regression_value
    new, true = misspecified(1, 20 * 24)
    trained = worth(model.threshold(new), true, 25.0)
    assert trained > worth(model.threshold(new, regression=True), true, 25.0)


def test_regression_is_kept_where_no_step_is_taken():
    x, truth = misspecified(2, 4 * 24)
    model = fit_to_value(x, truth, 25.0, steps=0)
    assert model.steps == 0
    assert (model.threshold(x) == model.threshold(x, regression=True)).all()
    assert model.value == model.regression_value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": co.Hill(0.5, 10.0, 2.0)}, "got Hill"),
        ({"tokens": 0.0}, "tokens = 0.0"),
        ({"batch": 40}, "2 batches of 40"),
    ],
)
def test_bad_input_is_told(change, message):
    x, truth = misspecified(3, 96)
    arguments = {"features": x, "truth": truth, "tokens": 25.0} | change
    with pytest.raises(DeclarationError, match=message):
        fit_to_value(**arguments)
