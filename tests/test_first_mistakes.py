"""The mistakes a newcomer makes first: each error can be acted on without reading the source.

A message names the piece that is wrong, in the user's own words, and what to write instead.
"""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import clearopt as co
from clearopt import formulations as ready

N = 6
TENANT = list("aabbcc")
tokens = co.Allocation(N, upper=100, name="tokens")
family = co.CumulativeSurge(scale=0.9, threshold=10, rate=0.1)
accuracy = family(tokens)
objective = co.Maximize(co.sum(accuracy))
budget = (co.sum(tokens) <= 50).named("budget")


def problem(*constraints, of=objective):
    return co.Problem(of, constraints)


def by_tenant():
    return co.sum(tokens, by=TENANT)


MISTAKES = {
    "maximises a vector": (
        lambda: co.Maximize(accuracy),
        ["CumulativeSurge(tokens)", "must be one number", "co.sum"],
    ),
    "forgets Maximize": (
        lambda: co.Problem(co.sum(accuracy), [budget]),
        ["objective comes first", "co.Maximize(...)"],
    ),
    "uses Python's sum": (lambda: sum(tokens) <= 50, ["tokens", "co.sum(...)"]),
    "uses NumPy's sum": (lambda: np.sum(tokens) <= 50, ["numpy.sum", "tokens", "co.sum"]),
    "applies a NumPy function": (
        lambda: np.exp(-tokens),
        ["numpy.exp(-1 * tokens)", "a curve of tokens is a utility", "co.Sigmoidal"],
    ),
    "chains comparisons": (lambda: 10 <= tokens <= 50, ["two constraints", "tokens >= a"]),
    "joins constraints with and": (
        lambda: budget and co.sum(tokens) >= 2,
        ["no truth value", "two constraints"],
    ),
    "joins constraints with &": (
        lambda: (co.sum(tokens) <= 50) & (tokens[0] >= 2),
        ["& with `sum(tokens) <= 50`", "one list"],
    ),
    "forgets the brackets beside &": (
        lambda: co.sum(tokens) <= 50 & tokens[0] <= 2,
        ["& with tokens[0]", "brackets"],
    ),
    "wants one constraint or the other": (
        lambda: (tokens <= 0) | (tokens >= 20),
        ["| with `tokens <= 0`", "semicontinuous=True"],
    ),
    "negates a constraint": (lambda: ~(tokens <= 5), ["~ with", "cannot be negated", ">="]),
    "calls .sum()": (lambda: tokens.sum() <= 50, ["tokens.sum", "co.sum(tokens)", "by=labels"]),
    "asks an allocation for its value": (
        lambda: tokens.value,
        ["tokens.value", "solution = problem.solve()", ".allocation"],
    ),
    "rounds": (lambda: int(co.sum(tokens)), ["sum(tokens) has no value", "solution"]),
    "takes a float": (lambda: float(tokens[0]), ["tokens[0] has no value", "solution"]),
    "divides into whole blocks": (lambda: tokens // 2, ["tokens // 2", "/ 2", "integer=True"]),
    "takes a remainder": (lambda: tokens % 2 == 0, ["tokens % 2", "not linear", "in blocks"]),
    "assigns to an entry": (
        lambda: tokens.__setitem__(0, 5),
        ["not assigned to", "tokens[i] == number"],
    ),
    "applies a JAX function": (
        lambda: jnp.exp(-tokens),
        ["jax.numpy on -1 * tokens", "a curve of tokens is a utility", "co.Sigmoidal"],
    ),
    "multiplies a pandas matrix": (
        lambda: pd.DataFrame(np.eye(N)) @ tokens,
        ["frame @ tokens", "frame.to_numpy() @ tokens"],
    ),
    "gives one number a list of limits": (
        lambda: co.sum(tokens) <= [100, 200],
        ["sum(tokens) is one number", "a list of 2", "by=labels"],
    ),
    "groups by a mapping": (
        lambda: co.sum(tokens, by=dict(enumerate(TENANT))),
        ["a dict is not a list", "list(by.values())"],
    ),
    "groups by a generator": (
        lambda: co.sum(tokens, by=(name for name in TENANT)),
        ["a generator is not a list", "in the order of the 6 entries"],
    ),
    "averages nobody": (
        lambda: co.mean(tokens[np.zeros(N, dtype=bool)]),
        ["nothing is selected", "if mask.any()"],
    ),
    "names the paper's parameters": (
        lambda: co.CumulativeSurge(scale=0.9, tau=10, beta=0.1),
        ["CumulativeSurge(...)", "'tau'", "'beta'", "CumulativeSurge(scale, threshold, rate)"],
    ),
    "sweeps over one number": (
        lambda: problem(budget).sweep("budget", 5),
        ["values = 5", "a list", "[1_000, 2_000, 4_000]"],
    ),
    "gives a number for a utility": (
        lambda: ready.token_budget(0.5, N, 50, upper=100),
        ["token_budget: utility is 0.5", "co.CumulativeSurge(scale, threshold, rate)"],
    ),
    "gives shares in percent": (
        lambda: ready.tenant_shares(family, TENANT, 50, {"a": 60, "b": 1, "c": 1}, upper=100),
        ["shares['a'] = 60", "0 to 1", "0.6 for 60 %"],
    ),
    "is strict": (lambda: co.sum(tokens) < 50, ["sum(tokens) < ...", "write <="]),
    "takes a maximum": (
        lambda: max(tokens[0], tokens[1]) <= 5,
        ["tokens[1]", "max", "one constraint for each"],
    ),
    "multiplies decisions": (
        lambda: co.sum(accuracy * tokens),
        ["CumulativeSurge(tokens) * tokens", "not separable", "multiply by numbers"],
    ),
    "squares tokens": (lambda: tokens**2, ["tokens ** 2", "a curve of tokens is a utility"]),
    "wants accuracy per token": (
        lambda: co.sum(accuracy) / co.sum(tokens) >= 0.01,
        ["ratio", "multiply the constraint out", "a >= 0.3 * b"],
    ),
    "caps accuracy": (
        lambda: problem((co.mean(accuracy) <= 0.5).named("ceiling")),
        ["ceiling", "may not be capped", "cap the tokens instead"],
    ),
    "minimises accuracy": (
        lambda: problem(budget, of=co.Minimize(co.sum(accuracy))),
        ["Minimize(sum(CumulativeSurge(tokens)))", "less accuracy", "Minimize tokens"],
    ),
    "subtracts utilities": (
        lambda: problem(budget, of=co.Maximize(co.sum(accuracy) - 2 * accuracy[3])),
        ["query 3 has the negative weight -1", "Charge tokens instead"],
    ),
    "gives a floor in percent": (
        lambda: problem((co.mean(accuracy) >= 30).named("floor")),
        ["floor = 30", "out of reach", "0.898", "lower the floor"],
    ),
    "has no budget left": (
        lambda: problem((co.sum(tokens) <= -5).named("budget")),
        ["budget = -5", "at least, 0", "raise the budget"],
    ),
    "writes the budget as text": (
        lambda: co.sum(tokens) <= "4M",
        ["sum(tokens) <= ...", "expected a number", "got str"],
    ),
    "leaves a tenant out": (
        lambda: by_tenant() <= {"a": 1, "b": 2},
        ["no value for 'c'", "float('inf')"],
    ),
    "mistypes a tenant": (
        lambda: by_tenant() <= {"a": 1, "b": 2, "c": 3, "C": 4},
        ["'C' is not among the groups", "'a', 'b', 'c'"],
    ),
    "forgets by=": (lambda: co.sum(tokens) <= {"a": 1}, ["a mapping needs groups", "by=labels"]),
    "has labels of another length": (
        lambda: co.sum(tokens, by=["a", "b"]),
        ["one label an entry", "(2,)", "6 entries"],
    ),
    "has parameters of another length": (
        lambda: co.CumulativeSurge(scale=[0.9, 0.8], threshold=10, rate=0.1)(tokens),
        ["scale=...", "length 2", "6 queries"],
    ),
    "has a hole in the data": (
        lambda: co.CumulativeSurge(scale=[0.9, np.nan, 0.8], threshold=10, rate=0.1),
        ["scale[1] = nan"],
    ),
    "gives 1/rate for rate": (
        lambda: co.CumulativeSurge(scale=0.9, threshold=10, rate=-20),
        ["rate = -20.0", "must be positive", "1/tokens"],
    ),
    "applies a utility to twice the tokens": (
        lambda: family(2 * tokens),
        ["2 * tokens", "put factors into the utility's parameters"],
    ),
    "applies a utility to numbers": (lambda: family([1, 2]), ["got list", ".value(tokens)"]),
    "masks with integers": (
        lambda: tokens[[0, 1, 1, 0, 0, 1]] >= 5,
        ["look like a mask", "mask.astype(bool)"],
    ),
    "indexes by label": (lambda: tokens["vip"] >= 5, ["index by a mask", "str"]),
    "passes a truth value": (lambda: problem(True), ["constraints[0] is True", "a comparison"]),
    "names two constraints alike": (
        lambda: problem(budget, (co.sum(tokens[:2]) <= 9).named("budget")),
        ["'budget'", "names must differ"],
    ),
    "asks for a solver that is none": (
        lambda: problem(budget).solve(solver="gurobi"),
        ["'gurobi'", "'dual'", "'scip'"],
    ),
    "misspells an option": (
        lambda: problem(budget).solve(tol=1e-3),
        ["'tol'", "tolerance"],
    ),
    "asks for the price of nothing": (
        lambda: problem(budget).solve().prices["bugdet"],
        ["'bugdet'", "'budget'"],
    ),
    "writes a utility in NumPy": (
        lambda: co.Sigmoidal(lambda b: 1 / (1 + np.exp(-b)), longest=10)(tokens),
        ["Sigmoidal", "jax.numpy", "jnp.exp"],
    ),
    "adds curves that surge one after the other": (
        lambda: problem(
            budget,
            of=co.Maximize(co.sum(accuracy) + co.sum(co.CumulativeSurge(0.9, 70, 0.5)(tokens))),
        ),
        ["query 0", "CumulativeSurge + CumulativeSurge", "not S-shaped"],
    ),
    "chooses between one option": (lambda: co.at_most_one(tokens), ["needs two or more"]),
    "gives a text for integer": (
        lambda: co.Allocation(3, integer="yes"),
        ["integer must be True, False or a mask", "'yes'"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_error_says_what_to_do(mistake):
    action, pieces = MISTAKES[mistake]
    with pytest.raises((co.ClearoptError, KeyError)) as caught:
        action()
    message = str(caught.value)
    for piece in pieces:
        assert piece in message, message
    assert len(message) < 700
