"""Wrong arguments are told by the formulation's own names."""

import numpy as np
import pandas as pd
import pytest

import clearopt as co
from clearopt import formulations as ready

N = 4
FAMILY = co.CumulativeSurge(0.9, 10, 0.1)
TENANT = list("aabb")
LIMITS = {"upper": 100}


@pytest.mark.parametrize("utility", [0.5, [0.1, 0.2], None, co.CumulativeSurge])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("token_budget", lambda u: ready.token_budget(u, N, 50, **LIMITS)),
        ("tenant_shares", lambda u: ready.tenant_shares(u, TENANT, 50, {"a": 1, "b": 1}, **LIMITS)),
        ("fairness_floors", lambda u: ready.fairness_floors(u, TENANT, 50, 0.1, **LIMITS)),
        ("tokens_and_memory", lambda u: ready.tokens_and_memory(u, N, 50, 1.0, 9.0, **LIMITS)),
        ("guaranteed_service",
         lambda u: ready.guaranteed_service(u, N, 50, np.ones(N, bool), 5, **LIMITS)),
        ("promised_accuracy", lambda u: ready.promised_accuracy(u, N, 0.1, **LIMITS)),
        ("realised_tokens",
         lambda u: ready.realised_tokens(u, co.ExpectedTokens(5, 0.1), N, 50, **LIMITS)),
        ("model_routing: models['x']",
         lambda u: ready.model_routing({"x": ready.ModelOption(u, upper=100)}, N, 50)),
    ],
)  # fmt: skip
def test_a_utility_is_a_utility(name, call, utility):
    with pytest.raises(co.DeclarationError) as caught:
        call(utility)
    assert str(caught.value).startswith(f"{name}: utility is ")
    assert "co.CumulativeSurge(scale, threshold, rate)" in str(caught.value)


@pytest.mark.parametrize("share", [60, 1.01, -0.3, np.nan, "60%", None])
def test_a_share_is_a_part(share):
    with pytest.raises(co.DeclarationError, match=r"tenant_shares: shares\['b'\] = .*from 0 to 1"):
        ready.tenant_shares(FAMILY, TENANT, 50, {"a": 0.5, "b": share}, **LIMITS)


def test_shares_go_by_tenant():
    with pytest.raises(co.DeclarationError, match=r"shares is -0\.3; give a mapping"):
        ready.tenant_shares(FAMILY, TENANT, 50, -0.3, **LIMITS)
    for shares in ({"a": 1, "b": np.inf}, pd.Series({"b": 0.5, "a": 0.0})):
        ready.tenant_shares(FAMILY, TENANT, 50, shares, **LIMITS)


def test_a_sample_costs_something():
    with pytest.raises(co.DeclarationError, match=r"tokens_per_sample\[1\] = -2"):
        ready.best_of_n([0.1, 0.2], 9, samples_upper=4, tokens_per_sample=[1, -2])
