"""Every argument of the public face, wrong: one clear error each.

A message names the argument, the first offending entry and its value, and what to write instead.
"""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.expressions import Expression

NAN, INF = float("nan"), float("inf")
N = 4

FAMILY = co.CumulativeSurge(scale=0.8, threshold=5.0, rate=0.1)


@pytest.fixture
def tokens():
    return co.Allocation(N, upper=50, name="tokens")


@pytest.fixture
def accuracy(tokens):
    return FAMILY(tokens)


def refuses(*pieces, error=co.DeclarationError):
    """Expect `error` with every piece in its message, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(re.escape(piece) for piece in pieces))


# ------------------------------------------------------------------ Allocation
@pytest.mark.parametrize(
    ("n", "options", "pieces"),
    [
        (0, {}, ["n = 0", "at least 1", "empty problem"]),
        (-3, {}, ["n = -3", "at least 1"]),
        (2.0, {}, ["n = 2.0", "whole number"]),
        (True, {}, ["n = True", "whole number"]),
        ("5", {}, ["n = '5'", "whole number"]),
        (None, {}, ["n = None", "whole number"]),
        (3, {"lower": -1}, ["lower = -1.0", "at least 0"]),
        (3, {"lower": [0, NAN, 0]}, ["lower[1] = nan", "not NaN"]),
        (3, {"lower": INF}, ["lower = inf", "finite"]),
        (3, {"lower": [0, 1]}, ["lower has length 2", "3 queries"]),
        (3, {"lower": [[0, 1, 2]]}, ["lower", "one-dimensional", "(1, 3)"]),
        (3, {"upper": [5, -2, -3]}, ["upper[1] = -2.0 (and 1 more)", "at least 0"]),
        (3, {"upper": NAN}, ["upper = nan", "not NaN"]),
        (3, {"upper": -INF}, ["upper = -inf", "at least 0"]),
        (3, {"upper": [1, 2, 3, 4]}, ["upper has length 4", "3 queries"]),
        (3, {"upper": "many"}, ["upper", "number", "str"]),
        (3, {"upper": "100"}, ["upper", "number", "str"]),
        (3, {"upper": None}, ["upper", "number", "NoneType"]),
        (3, {"upper": 10**400}, ["upper", "too large"]),
        (3, {"upper": 1j}, ["upper", "number", "complex"]),
        (3, {"lower": 5, "upper": [9, 4, 9]}, ["upper[1] = 4.0", "below the lower bound"]),
        (3, {"lower": 4.2, "upper": 4.8, "integer": True}, ["upper[0] = 4.8", "no whole number"]),
        (3, {"integer": [True, False]}, ["integer has length 2", "3 queries"]),
        (3, {"integer": "yes"}, ["integer", "mask of length 3", "'yes'"]),
        (3, {"integer": [0, 2, 1]}, ["integer", "mask of length 3"]),
        (3, {"integer": 0.5}, ["integer", "mask of length 3", "0.5"]),
        (3, {"name": 5}, ["name = 5", "text"]),
        (3, {"name": ""}, ["name = ''", "text"]),
    ],
)
def test_allocation(n, options, pieces):
    with refuses("Allocation", *pieces):
        co.Allocation(n, **options)


# ------------------------------------------------------------------ utilities
@pytest.mark.parametrize("family", [co.ShiftedSurge, co.CumulativeSurge])
@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"scale": -0.1}, ["scale = -0.1", "at least 0"]),
        ({"scale": [0.5, -0.2]}, ["scale[1] = -0.2", "at least 0"]),
        ({"scale": NAN}, ["scale = nan", "not NaN"]),
        ({"scale": INF}, ["scale = inf", "finite"]),
        ({"scale": "a"}, ["scale", "number", "str"]),
        ({"scale": None}, ["scale", "number", "NoneType"]),
        ({"threshold": -5}, ["threshold = -5.0", "at least 0"]),
        ({"threshold": [1, 2, NAN]}, ["threshold[2] = nan", "not NaN"]),
        ({"threshold": INF}, ["threshold = inf", "finite"]),
        ({"rate": 0}, ["rate = 0.0", "positive"]),
        ({"rate": [0.1, -1, -2]}, ["rate[1] = -1.0 (and 1 more)", "positive"]),
        ({"rate": NAN}, ["rate = nan", "not NaN"]),
        ({"rate": INF}, ["rate = inf", "finite"]),
        ({"rate": np.ones((2, 2))}, ["rate", "one-dimensional", "(2, 2)"]),
        ({"rate": [0.1] * 3, "scale": [0.5] * 2}, ["lengths", "scale has 2", "rate has 3"]),
    ],
)
def test_surge_parameters(family, changes, pieces):
    with refuses(family.__name__, *pieces):
        family(**({"scale": 0.5, "threshold": 5.0, "rate": 0.1} | changes))


@pytest.mark.parametrize("family", [co.ShiftedSurge, co.CumulativeSurge])
def test_a_scale_above_one_is_allowed_but_said(family):
    with pytest.warns(
        co.ScaleWarning, match=r"scale\[1\] = 1.5 is above 1 \(and 1 more\)"
    ) as caught:
        utility = family(scale=[0.5, 1.5, 2.0], threshold=5.0, rate=0.1)
    assert caught[0].filename == __file__
    assert utility.scale.tolist() == [0.5, 1.5, 2.0]
    with pytest.warns(co.ScaleWarning, match=r"scale = 1.5 is above 1: allowed"):
        family(scale=1.5, threshold=5.0, rate=0.1)


def test_what_a_utility_applies_to(tokens, accuracy):
    with refuses("CumulativeSurge(...)(...)", "got ndarray", ".value(tokens)"):
        FAMILY(np.ones(3))
    with refuses("(2 * tokens)", "not to a computed expression"):
        FAMILY(2 * tokens)
    with refuses("(tokens + 1)", "not to a computed expression"):
        FAMILY(tokens + 1)
    with refuses("not to a computed expression"):
        FAMILY(co.sum(tokens))
    with refuses("not to a computed expression"):
        FAMILY(accuracy)
    with refuses("not to a computed expression"):
        FAMILY(tokens + co.Allocation(N))
    with refuses("the same query is named twice"):
        FAMILY(tokens[[0, 1, 0]])
    with refuses("CumulativeSurge(rate=...) has length 3", "4 queries"):
        co.CumulativeSurge(scale=0.5, threshold=1.0, rate=[0.1] * 3)(tokens)


def test_demand_and_value():
    with refuses("price[1] = nan"):
        FAMILY.demand([0.1, NAN])
    with refuses("lower = inf", "finite"):
        FAMILY.demand(0.1, INF)
    with refuses("price", "number", "str"):
        FAMILY.demand("cheap")
    with refuses("tokens", "number", "str"):
        FAMILY.value("a")
    with refuses("tokens[0] = nan"):
        FAMILY.value([NAN, 1.0])
    with refuses("upper[1] = 3.0", "below the lower bound"):
        FAMILY.demand(0.1, 5.0, [9.0, 3.0])


# ------------------------------------------------------------------ arithmetic
def test_what_is_not_separable(tokens, accuracy):
    with refuses("tokens * tokens", "not separable"):
        tokens * tokens
    with refuses("tokens * CumulativeSurge(tokens)", "not separable"):
        tokens * accuracy
    with refuses("not separable"):
        tokens @ accuracy
    with refuses("not separable", "a >= 0.3 * b"):
        accuracy / tokens
    with refuses("... / tokens", "divide by numbers"):
        1 / tokens
    with refuses("tokens ** 2", "a curve of tokens is a utility"):
        tokens**2


def test_numbers_of_the_wrong_kind(tokens):
    with refuses("the number added to tokens", "str"):
        tokens + "1"
    with refuses("the number added to tokens = nan"):
        tokens + NAN
    with refuses("the array added to tokens has length 3", "4 queries"):
        tokens + [1, 2, 3]
    with refuses("the number taken from tokens", "NoneType"):
        tokens - None
    with refuses("the factor of tokens[2] = nan"):
        tokens * [1, 2, NAN, 4]
    with refuses("the factor of tokens = inf", "finite"):
        INF * tokens
    with refuses("the factor of tokens has length 5"):
        np.ones(5) * tokens
    with refuses("the divisor of tokens[1] = 0.0", "not be 0"):
        tokens / [1, 0, 1, 1]
    with refuses("tokens + tokens[...]", "lengths 4 and 2 differ"):
        tokens + tokens[:2]
    for matrix in (np.eye(N), sp.csr_matrix(np.eye(N)), sp.eye_array(N)):
        with refuses("tokens * matrix", "A @ tokens"):
            tokens * matrix
        with refuses("tokens * matrix", "A @ tokens"):
            matrix * tokens


def test_matrices_that_do_not_fit(tokens):
    with refuses("A @ tokens", "A has 3 columns", "4 entries"):
        np.ones((2, 3)) @ tokens
    with refuses("A @ tokens", "A has 3 columns", "4 entries"):
        sp.csr_matrix(np.ones((2, 3))) @ tokens
    with refuses("A @ tokens", "A has 3 columns"):
        np.ones(3) @ tokens
    with refuses("A[1, 2] = nan", "finite"):
        np.array([[1, 2, 3, 4], [0, 0, NAN, 1]]) @ tokens
    with refuses("A[1, 2] = inf", "finite"):
        sp.csr_array(np.array([[1, 2, 3, 4], [0, 0, INF, 1]])) @ tokens
    with refuses("A[3] = nan", "finite"):
        np.array([0, 0, 0, NAN]) @ tokens
    with refuses("vector or a matrix", "(2, 2, 4)"):
        np.ones((2, 2, 4)) @ tokens
    with refuses("matrix of numbers"):
        [["a"] * N] @ tokens
    with refuses("A has 4 columns, but there are 1"):
        np.ones(4) @ co.sum(tokens)


# ------------------------------------------------------------------ indexing
@pytest.mark.parametrize(
    ("key", "pieces"),
    [
        ([True, False, True], ["mask has length 3, not 4"]),
        (4, ["tokens[4]", "only 4 entries"]),
        (-5, ["tokens[-5]", "only 4 entries"]),
        ([0, 1, 9], ["indices[2] = 9", "only 4 entries"]),
        ([0, 1, 1, 0], ["look like a mask", "mask.astype(bool)"]),
        (np.array([1, 1, 0, 1]), ["look like a mask"]),
        (1.5, ["index by a mask", "float"]),
        ([1.5], ["index by a mask"]),
        ("vip", ["index by a mask", "str"]),
        ((1, 2), ["index by a mask", "tuple"]),
        (None, ["index by a mask"]),
        (np.ones((2, 2), dtype=bool), ["index by a mask", "(2, 2)"]),
    ],
)
def test_indices(tokens, key, pieces):
    with refuses(*pieces):
        tokens[key]


def test_a_scalar_is_not_indexed(tokens):
    with refuses("sum(tokens) is a scalar"):
        co.sum(tokens)[0]


# ------------------------------------------------------------------ co.sum and co.mean
@pytest.mark.parametrize("aggregate", [co.sum, co.mean])
@pytest.mark.parametrize(
    ("by", "pieces"),
    [
        (["a", "b"], ["shape (2,)", "4 entries"]),
        ([], ["shape (0,)", "4 entries"]),
        (np.zeros((4, 1)), ["shape (4, 1)", "4 entries"]),
        (["a", None, "b", "b"], ["label 1 is missing (None)"]),
        (["a", "a", NAN, "b"], ["label 2 is missing (nan)"]),
        (["a", "a", "b", ""], ["label 3 is missing ('')"]),
        (np.array(["a", "", "b", "b"]), ["label 1 is missing ('')"]),
        (np.array([1.0, NAN, 2.0, 2.0]), ["label 1 is missing (NaN)"]),
        (pd.Series(["a", pd.NA, "b", "b"], dtype="string"), ["label 1 is missing"]),
        (pd.Series([pd.NaT] + [pd.Timestamp("2026-01-01")] * 3), ["label 0 is missing"]),
        (pl.Series(["a", None, "b", "b"]), ["label 1 is missing (None)"]),
        (pl.Series([1, 2, None, 2]), ["label 2 is missing"]),
        ("aabb", ["one label an entry", "'aabb'"]),
        (3, ["one label an entry", "shape ()"]),
        ([[1], [1], [2], [2]], ["hashable"]),
    ],
)
def test_labels(tokens, aggregate, by, pieces):
    with refuses(f"co.{aggregate.__name__.rstrip('_')}(tokens, by=...)", *pieces):
        aggregate(tokens, by=by)


def test_aggregates_of_numbers():
    with refuses("co.sum(list)", "numpy.sum"):
        co.sum([1, 2, 3])
    with refuses("co.mean(ndarray)", "numpy.mean"):
        co.mean(np.ones(3))


# ------------------------------------------------------------------ comparisons
def test_strict_and_chained(tokens):
    with refuses("tokens < ...", "write <="):
        tokens < 5
    with refuses("tokens < ...", "write <="):
        5 > tokens  # noqa: SIM300
    with refuses("tokens > ...", "write >="):
        tokens > 5
    with refuses("tokens != ..."):
        tokens != 5
    with refuses("no truth value", "two constraints"):
        1 <= tokens <= 5
    with refuses("no truth value"):
        bool(tokens == 5)


def test_right_hand_sides(tokens, accuracy):
    total = co.sum(tokens, by=list("aabb"))
    with refuses("`sum(tokens) <= ...`", "nan", "not NaN"):
        co.sum(tokens) <= NAN
    with refuses("`tokens <= ...`[2] = nan"):
        tokens <= [1, 2, NAN, 3]
    with refuses("`tokens <= ...` has length 3"):
        tokens <= [1, 2, 3]
    with refuses("`sum(tokens) <= ...`", "str"):
        co.sum(tokens) <= "5"
    with refuses("`sum(tokens) == ...`", "NoneType"):
        co.sum(tokens) == None  # noqa: E711
    with refuses("`sum(tokens) >= ...`", "inf", "nothing can satisfy"):
        co.sum(tokens) >= INF
    with refuses("`tokens <= ...`[1] = -inf", "nothing can satisfy"):
        tokens <= [1, -INF, 3, 4]
    with refuses("`sum(tokens) == ...`", "inf", "nothing can satisfy"):
        co.sum(tokens) == INF
    with refuses("no value for 'b'", "float('inf')"):
        total <= {"a": 1}
    with refuses("no value for 'a', 'b'"):
        total <= pd.Series([1, 2])
    with refuses("'c' is not among the groups", "'a', 'b'"):
        total <= {"a": 1, "b": 2, "c": 3}
    with refuses("a mapping needs groups", "by=labels"):
        tokens <= {"a": 1}
    with refuses("a mapping needs groups"):
        co.sum(tokens) <= {"a": 1}
    with refuses("for 'b'", "expected a number", "str"):
        total <= {"a": 1, "b": "much"}
    with refuses("for 'b' = nan", "not NaN"):
        total <= {"a": 1, "b": NAN}
    with refuses("for 'a'", "one number", "(2,)"):
        total <= {"a": [1, 2], "b": 2}
    with refuses("the lengths 4 and 2 differ"):
        tokens <= tokens[:2]


@pytest.mark.parametrize("name", ["", 5, None])
def test_names(tokens, name):
    with refuses(f"named({name!r})", "non-empty string"):
        (co.sum(tokens) <= 5).named(name)


# ------------------------------------------------------------------ Problem
def maximize(expression, *constraints):
    return co.Problem(co.Maximize(expression), constraints)


def test_objectives(tokens, accuracy):
    with refuses("Maximize(CumulativeSurge(tokens))", "vector of 4", "co.sum"):
        co.Maximize(accuracy)
    with refuses("Maximize(float)", "expected an expression"):
        co.Maximize(1.0)
    with refuses("Maximize(Constraint)", "expected an expression"):
        co.Maximize(co.sum(tokens) <= 5)
    with refuses("Problem(Expression, ...)", "co.Maximize"):
        co.Problem(co.sum(accuracy))
    with refuses("query 2 has the negative weight -0.5", "price * co.sum(tokens)"):
        maximize(np.array([1, 0, -0.5, -1]) @ accuracy)
    with refuses("no Allocation occurs"):
        maximize(Expression({}, {}, np.zeros(1), scalar=True, text="0"))


def test_constraints_that_are_none(tokens, accuracy):
    with refuses("constraints[1] is True", "not a constraint"):
        maximize(co.sum(accuracy), co.sum(tokens) <= 5, True)
    with refuses("constraints[0] is [", "not a constraint"):
        maximize(co.sum(accuracy), [co.sum(tokens) <= 5])
    with refuses("two constraints are named 'budget'"):
        maximize(
            co.sum(accuracy),
            (co.sum(tokens) <= 5).named("budget"),
            (tokens >= 1).named("budget"),
        )


def test_accuracy_ceilings(tokens, accuracy):
    with refuses("top: `mean(", "<= 0.5`", "may not be capped", "cap the tokens"):
        maximize(co.sum(accuracy), (co.mean(accuracy) <= 0.5).named("top"))
    with refuses("may not be fixed", "write a floor"):
        maximize(co.sum(accuracy), co.mean(accuracy) == 0.5)
    with refuses("negative weight", "at least 0"):
        maximize(co.sum(accuracy), -accuracy >= -0.5)
    with refuses("negative weight"):
        maximize(co.sum(accuracy), co.mean(accuracy[:2]) >= co.mean(accuracy[2:]))
    with refuses("mixes tokens and utilities", "two constraints"):
        maximize(co.sum(accuracy), co.sum(accuracy) >= 0.01 * co.sum(tokens))


def test_utilities_of_one_query_that_do_not_add_up_to_an_s(tokens, accuracy):
    other = co.ShiftedSurge(scale=0.5, threshold=1.0, rate=0.2)
    with refuses(
        "query 2, query 3 have several utilities", "CumulativeSurge + ShiftedSurge", "not S-shaped"
    ):
        maximize(co.sum(accuracy) + co.sum(other(tokens[2:])))
    later = co.CumulativeSurge(scale=0.1, threshold=6.0, rate=0.1)(tokens)
    with refuses("fair", "query 0 has a sum of two utilities", "keep their proportion"):
        maximize(co.sum(accuracy) + co.sum(later), (co.mean(accuracy) >= 0.1).named("fair"))


def test_names_of_allocations_differ(accuracy):
    with refuses("two allocations are named 'tokens'", "name of its own"):
        maximize(co.sum(accuracy), co.sum(co.Allocation(N, upper=5, name="tokens")) <= 3)


def test_budgets_that_cannot_be_met():
    tokens = co.Allocation(N, lower=10, upper=50, name="tokens")
    accuracy = FAMILY(tokens)
    with refuses("budget = 39", "at least, 40", "raise the budget"):
        maximize(co.sum(accuracy), (co.sum(tokens) <= 39).named("budget"))
    with refuses("cap['b'] = 19", "at least, 20"):
        maximize(
            co.sum(accuracy), (co.sum(tokens, by=list("aabb")) <= {"a": 20, "b": 19}).named("cap")
        )
    with refuses("constraint 0[1] = 9", "at least, 20"):
        maximize(co.sum(accuracy), np.tri(2, N) @ tokens <= [10, 9])
    with refuses("least = 201", "at most, 200", "raise the bounds"):
        maximize(co.sum(accuracy), (co.sum(tokens) >= 201).named("least"))
    with refuses("exact = 30", "at least, 40"):
        maximize(co.sum(accuracy), (co.sum(tokens) == 30).named("exact"))
    with refuses("difference = 45", "at most, 40"):
        maximize(co.sum(accuracy), (tokens[0] - tokens[1] >= 45).named("difference"))
    with refuses("fair['b'] = 0.9", "out of reach", "lower the floor"):
        maximize(
            co.sum(accuracy),
            (co.mean(accuracy, by=list("aabb")) >= {"a": 0.1, "b": 0.9}).named("fair"),
        )
    maximize(co.sum(accuracy), co.sum(tokens) == 40, co.sum(tokens) >= 40, co.sum(tokens) <= 40)


def test_bounds_that_cross(tokens, accuracy):
    with refuses("vip: `tokens[...] >= 60`", "query 1", "at least 60", "upper bound of 50"):
        maximize(co.sum(accuracy), (tokens[[1, 2]] >= 60).named("vip"))
    with refuses("query 0", "at most -1", "lower bound of 0"):
        maximize(co.sum(accuracy), tokens <= -1)
    with refuses("query 3", "at most 10", "lower bound of 20"):
        maximize(co.sum(accuracy), tokens >= 20, tokens[3] <= 10)
    whole = co.Allocation(2, upper=9, integer=True)
    with refuses("query 0", "leave nothing", "whole tokens"):
        maximize(co.sum(FAMILY(whole)), whole >= 4.2, whole <= 4.8)


# ------------------------------------------------------------------ solve
class Absent(co.Backend):
    name = "absent"
    summary = "needs what nobody has"
    modules = ("json", "a_package_that_does_not_exist")
    extra = "scip"

    def solve(self, program, options):
        return make_solution(program, solver=self.name, seconds=0.0, allocation=program.lower)


@pytest.fixture
def problem(tokens, accuracy):
    return maximize(co.sum(accuracy), co.sum(tokens) <= 80)


def test_unknown_solvers(problem):
    for solver in ("nonsense", None, 5, "Dual"):
        with refuses(f"unknown solver {solver!r}", "'dual'", "'scip'", error=co.UnknownSolverError):
            problem.solve(solver)
    with refuses("Absent", "an instance, Absent()", error=co.UnknownSolverError):
        problem.solve(Absent)


def test_a_solver_that_is_not_installed_names_the_extra(problem):
    with refuses(
        "solver 'absent' needs a_package_that_does_not_exist",
        "pip install 'clearopt[scip]'",
        error=co.SolverNotInstalledError,
    ):
        problem.solve(Absent())

    class Foreign(Absent):
        extra = None

    with refuses("a_package_that_does_not_exist", error=co.SolverNotInstalledError) as caught:
        problem.solve(Foreign())
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        ({"tolerance": -1e-6}, ["tolerance = -1e-06", "at least 0"]),
        ({"tolerance": NAN}, ["tolerance = nan", "at least 0"]),
        ({"tolerance": INF}, ["tolerance = inf"]),
        ({"tolerance": "small"}, ["tolerance = 'small'"]),
        ({"tolerance": None}, ["tolerance = None"]),
        ({"time_limit": 0}, ["time_limit = 0", "positive", "None"]),
        ({"time_limit": -1.5}, ["time_limit = -1.5", "positive"]),
        ({"time_limit": NAN}, ["time_limit = nan"]),
        ({"time_limit": "1 min"}, ["time_limit = '1 min'"]),
        ({"threads": 0}, ["threads = 0", "at least 1"]),
        ({"threads": 1.5}, ["threads = 1.5", "whole"]),
        ({"seed": -1}, ["seed = -1", "at least 0"]),
        ({"seed": 0.5}, ["seed = 0.5", "whole"]),
    ],
)
@pytest.mark.parametrize("solver", ["dual", "uniform"])
def test_solve_options(problem, solver, options, pieces):
    with refuses(*pieces):
        problem.solve(solver, **options)


def test_options_nobody_knows(problem):
    with refuses(
        "solver 'uniform' has no option 'speed'", "time_limit", error=co.UnsupportedProblemError
    ):
        problem.solve("uniform", speed=9)


def test_every_error_is_caught_by_the_base_class():
    for name in co.__all__:
        item = getattr(co, name) if name.endswith("Error") else None
        if item is not None:
            assert issubclass(item, co.ClearoptError)
    assert issubclass(co.DeclarationError, ValueError)
    assert issubclass(co.SolverNotInstalledError, ImportError)
