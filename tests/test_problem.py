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

    assert of() == {"fractional tokens", "whole tokens"}
    assert of(co.sum(tokens) <= 9, co.sum(tokens) <= 8) >= {"several rows"}
    assert of(tokens[0] <= tokens[1]) >= {"negative coefficients"}
    assert of(co.sum(tokens) == 9) >= {"equality rows"}
    assert of(co.mean(accuracy) >= 0.1) >= {"accuracy floors"}


def test_a_back_end_that_cannot_says_who_can(tokens):
    class Simple(Recorder):
        name = "simple"
        supports = frozenset({"fractional tokens", "whole tokens"})

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


# ------------------------------------------------------------------ sweeps
def swept():
    tokens = co.Allocation(4, lower=2, upper=50, name="tokens")
    level, least = co.Parameter(60.0, name="level"), co.Parameter(3.0, name="least")
    accuracy = co.CumulativeSurge(0.9, [5, 9, 14, 20], 0.2)(tokens)
    problem = co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= level).named("budget"),
            (tokens[0] >= least).named("least"),
            (co.mean(accuracy) >= 0.01).named("floor"),
        ],
    )
    return problem, level, least


def test_a_value_that_nothing_satisfies_is_an_entry_of_a_sweep():
    problem, level, least = swept()
    whole = problem.solve()
    for what, position in (("budget", "budget"), (level, "budget")):
        found = problem.sweep(what, [1, 60, 5, 40])
        assert [s.status == "infeasible" for s in found] == [True, False, True, False]
        assert found[0].message.startswith(f"{position} = 1: below what the bounds")
        assert found[0].allocation is None
        assert np.isnan(found[0].objective)
        assert found[0].program.right_hand_side.tolist() == [1.0]
        assert found[1].objective == pytest.approx(whole.objective, rel=1e-6)
    for what in ("least", least):
        found = problem.sweep(what, [51, 20])
        assert [s.status == "infeasible" for s in found] == [True, False]
        assert "query 0 is held at least 51, above its upper bound" in found[0].message
        assert found[0].program.lower.tolist() == problem.program.lower.tolist()
        assert found[1].program.lower[0] == 20
    found = problem.sweep("floor", [0.95, 0.3])
    assert [s.status == "infeasible" for s in found] == [True, False]
    assert "out of reach" in found[0].summary()
    assert (level.value, least.value) == (60.0, 3.0)


@pytest.mark.parametrize("what", ["budget", "level"])
@pytest.mark.parametrize(
    "values", [5, "60", {"a": 3}, np.float64(60), [60, "x"], [60, [1, 2]], [60, None]]
)
def test_a_value_of_the_wrong_kind_stops_a_sweep_before_it_solves(what, values, monkeypatch):
    problem, level, _ = swept()
    monkeypatch.setattr("clearopt.problem.solve_programs", lambda *_, **__: pytest.fail("solved"))
    with pytest.raises(co.DeclarationError):
        problem.sweep(level if what == "level" else what, values)
    assert level.value == 60.0
