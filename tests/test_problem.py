"""`Problem` and `solve`: what is passed on, what comes back, what is refused before solving."""

import numpy as np
import pytest

import clearopt as co
from clearopt.assemble import make_solution
from clearopt.solvers import ALL_FEATURES, SolveOptions, features_of

FAMILY = co.CumulativeSurge(scale=0.8, threshold=5.0, rate=0.1)


class Recorder(co.Backend):
    """Gives everybody the lower bound, and remembers how it was asked."""

    name = "recorder"
    summary = "for the tests"
    supports = ALL_FEATURES
    own_options = frozenset({"depth"})

    def solve(self, program, options):
        self.asked = options
        return make_solution(program, solver=self.name, seconds=0.0, allocation=program.lower)


@pytest.fixture
def tokens():
    return co.Allocation(4, upper=50, name="tokens")


@pytest.fixture
def problem(tokens):
    return co.Problem(co.Maximize(co.sum(FAMILY(tokens))), [(co.sum(tokens) <= 80).named("budget")])


def test_options_reach_the_back_end(problem):
    backend = Recorder()
    problem.solve(backend, tolerance=1e-3, time_limit=2, seed=7, threads=2, verbose=True, depth=3)
    assert backend.asked == SolveOptions(
        tolerance=1e-3, time_limit=2, seed=7, threads=2, verbose=True, extra={"depth": 3}
    )
    problem.solve(backend, tolerance=np.float32(1e-3), time_limit=np.int64(5), seed=np.int32(3))


def test_defaults(problem):
    backend = Recorder()
    problem.solve(backend)
    assert backend.asked == SolveOptions()


def test_one_constraint_needs_no_list(tokens):
    constraint = co.sum(tokens) <= 80
    assert co.Problem(co.Maximize(co.sum(FAMILY(tokens))), constraint).constraints == (constraint,)
    generated = (c for c in [constraint])
    assert co.Problem(co.Maximize(co.sum(FAMILY(tokens))), generated).constraints == (constraint,)
    assert co.Problem(co.Maximize(co.sum(FAMILY(tokens)))).constraints == ()


def test_repr_is_the_mathematics(problem):
    assert repr(problem) == (
        "maximize sum(CumulativeSurge(tokens))\n"
        "subject to\n"
        "  budget: sum(tokens) <= 80\n"
        "(4 queries, 1 rows, 0 accuracy floors)"
    )


def test_value_of_each_allocation():
    first, second = co.Allocation(2, lower=1, upper=9), co.Allocation(3, lower=2, upper=9)
    problem = co.Problem(co.Maximize(co.sum(FAMILY(first)) + co.sum(FAMILY(second))))
    solution = problem.solve(Recorder())
    assert problem.value_of(first, solution).tolist() == [1.0, 1.0]
    assert problem.value_of(second, solution).tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(co.DeclarationError, match="other is not part of this problem"):
        problem.value_of(co.Allocation(2, name="other"), solution)


def test_the_uniform_baseline_solves_at_once(problem):
    solution = problem.solve("uniform")
    assert solution.status == "feasible"
    np.testing.assert_allclose(solution.allocation, 20.0, rtol=1e-12)


# ------------------------------------------------------------------ what a back-end can take
def test_features():
    tokens = co.Allocation(3, upper=50, integer=[False, True, False])
    accuracy = FAMILY(tokens)

    def of(*constraints):
        return features_of(co.Problem(co.Maximize(co.sum(accuracy)), constraints).program)

    assert of() == {"whole tokens"}
    assert of(co.sum(tokens) <= 9, co.sum(tokens) <= 8) >= {"several rows"}
    assert of(tokens[0] <= tokens[1]) >= {"negative coefficients"}
    assert of(co.sum(tokens) == 9) >= {"equality rows"}
    assert of(co.mean(accuracy) >= 0.1) >= {"accuracy floors"}


def test_a_back_end_that_cannot_says_who_can(tokens):
    class Simple(Recorder):
        name = "simple"
        supports = frozenset({"whole tokens"})

    problem = co.Problem(
        co.Maximize(co.sum(FAMILY(tokens))), [co.mean(FAMILY(tokens)) >= 0.1, co.sum(tokens) == 90]
    )
    with pytest.raises(
        co.UnsupportedProblemError,
        match=r"solver 'simple' cannot take accuracy floors and equality rows; .*'scip'.* can",
    ):
        problem.solve(Simple())


def test_solvers_lists_what_is_registered():
    table = co.solvers()
    assert {"dual", "scip", "cvxpy", "price", "uniform", "time-share"} <= set(table)
    assert table["dual"].certifies == "optimum"
    assert table["uniform"].installed
    text = repr(table)
    for name in table:
        assert name in text
