"""`solver="auto"`: what it chooses, and what it says about it."""

import pytest

import clearopt as co
from clearopt.solvers import SolverInfo, get_solver
from clearopt.solvers.auto import choose
from clearopt.testing.instances import INSTANCES, named


def problem(name):
    return co.Problem.from_program(named(name).declare())


@pytest.mark.parametrize("name", ["one budget", "everything at once", "measured steps"])
def test_the_dual_wherever_it_takes_the_problem(name):
    choice = co.solvers().choose(problem(name))
    assert choice.solver == "dual"
    assert str(choice).startswith("dual: proves the optimum and takes all of this problem")
    assert {"highs", "scip"} & set(choice.next_best)
    solution = problem(name).solve("auto")
    assert solution.status == "optimal"
    assert solution.solver == "dual"
    assert solution.statistics["auto"] == str(choice)


def test_another_one_where_it_does_not_and_why():
    mixed = problem("fractional tokens and a cost curve charged")
    choice = co.solvers().choose(mixed)
    assert choice.solver == "scip"
    assert choice.passed_over["dual"] == "cannot take fractional mixed charges"
    assert "not dual: cannot take fractional mixed charges" in str(choice)
    solution = mixed.solve("auto", time_limit=20)
    assert solution.solver == "scip"
    assert "not dual" in solution.statistics["auto"]


def info(name, certifies="optimum", installed=True, supports=frozenset()):
    install = f"pip install {name}"
    return SolverInfo(name, "a solver", certifies, frozenset(supports), installed, install)


def test_proof_before_order_and_what_is_not_installed_is_passed_over():
    program = named("one budget").declare()
    table = [info("rule", "nothing"), info("absent", installed=False), info("sure"), info("next")]
    choice = choose(program, table)
    assert choice.solver == "sure"
    assert choice.passed_over == {"absent": "not installed (pip install absent)"}
    assert choice.next_best == ("next", "rule")


def test_where_nobody_can_it_says_why_of_each():
    program = named("an equality").declare()
    with pytest.raises(
        co.UnsupportedProblemError, match=r"no solver can .*one: cannot take equality rows; two:"
    ):
        choose(program, [info("one"), info("two", supports=())])
    balance = co.Allocation(2)
    endless = co.Problem(
        co.Maximize(co.sum(co.CumulativeSurge(0.9, 5.0, 0.2)(balance)) - 0.01 * balance[0]),
        [balance[0] - balance[1] == 0, co.sum(balance) >= 1],
    )
    refused = dict.fromkeys(co.solvers(), "refused")
    with pytest.raises(co.UnsupportedProblemError, match="no solver can take this problem"):
        choose(endless.program, co.solvers().values(), refused)


def test_options_go_to_the_one_chosen():
    one = problem("one budget")
    assert one.solve("auto", node_limit=100, tolerance=1e-3).tolerance == 1e-3
    with pytest.raises(co.UnsupportedProblemError, match="solver 'dual' has no option 'nonsense'"):
        one.solve("auto", nonsense=1)


def test_it_is_offered_but_is_none_of_the_solvers():
    assert "auto" not in co.solvers()
    assert 'solver="auto"' in repr(co.solvers())
    assert get_solver("auto").name == "auto"
    with pytest.raises(co.UnknownSolverError, match="'auto'"):
        get_solver("no such solver")


def test_sweeps_and_comparisons_take_it():
    tokens = co.Allocation(3, upper=30.0)
    accuracy = co.CumulativeSurge(0.9, [3.0, 5.0, 8.0], 0.4)(tokens)
    swept = co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= 20).named("budget")])
    assert [s.status for s in swept.sweep("budget", [10, 20], "auto")] == ["optimal"] * 2
    comparison = co.compare(swept, ["auto", "uniform"])
    assert comparison["auto"].status == "optimal"


def test_every_problem_of_the_suite_finds_a_solver():
    for instance in INSTANCES:
        assert co.solvers().choose(instance.declare()).solver
