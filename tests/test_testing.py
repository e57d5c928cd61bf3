"""The checker catches what is deliberately wrong; the suite reports what a back-end does."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import clearopt as co
from clearopt import testing
from clearopt.assemble import make_solution
from clearopt.solvers import ALL_FEATURES, get_solver
from clearopt.testing.instances import INSTANCES, named
from clearopt.testing.oracle import enumerate_identical, enumerate_whole, search_two
from clearopt.testing.process import fingerprint, process_state, unprinted
from clearopt.testing.sampling import best_responses


def solved(name, solver="dual", **options):
    program = named(name).declare()
    return program, co.Problem.from_program(program).solve(solver, **options)


def faults(program, solution, **options):
    return {f.about for f in testing.inspect_solution(program, solution, **options).faults}


# ------------------------------------------------------------------ right solutions
@pytest.mark.parametrize(
    "instance", [i for i in INSTANCES if i.outcome == "optimum"], ids=lambda i: i.name
)
def test_what_is_right_passes(instance):
    program = instance.declare()
    solution = co.Problem.from_program(program).solve("uniform" if instance.name.startswith(
        ("fractional tokens", "tokens and")) else "dual")  # fmt: skip
    found = testing.check_solution(program, solution)
    assert found.faults == []
    assert found.objective == pytest.approx(solution.objective, rel=1e-12)
    assert found.violation <= 1e-9


def test_a_problem_is_taken_as_well_as_its_program():
    problem = co.Problem.from_program(named("one budget").declare())
    found = testing.check_solution(problem, problem.solve())
    # D at the prices is an upper bound; two queries leave a duality gap that the search has closed.
    assert found.price_bound > found.objective
    assert found.complementarity == pytest.approx(found.price_bound - found.objective)


def test_the_prices_of_a_price_search_prove_its_bound():
    program, solution = solved("one budget", "price")
    found = testing.check_solution(program, solution)
    assert found.price_bound == pytest.approx(solution.bound, rel=1e-9)


# ------------------------------------------------------------------ wrong ones
def moved(solution, query, by):
    allocation = solution.allocation.copy()
    allocation[query] += by
    return replace(solution, allocation=allocation)


MUTATIONS = {
    "objective off by 1e-5": ("one budget", "objective", lambda s: replace(
        s, objective=s.objective * (1 + 1e-5), bound=s.bound * (1 + 2e-5))),
    "bound below the value": ("one budget", "bound", lambda s: replace(
        s, bound=s.objective * (1 - 1e-7))),
    "price of the wrong sign": ("one budget", "prices", lambda s: replace(
        s, row_prices=-s.row_prices)),
    "floor price of the wrong sign": ("an accuracy floor", "prices", lambda s: replace(
        s, floor_prices=np.abs(s.floor_prices) + 0.1)),
    "price of a row that nobody uses up": ("an ample budget", "prices", lambda s: replace(
        s, row_prices=np.array([1e-3]))),
    "price too low": ("one budget", "prices", lambda s: replace(
        s, row_prices=0.9 * s.row_prices)),
    "prices by name are others": ("one budget", "prices", lambda s: replace(s).stating(
        {"budget": 2 * s.prices["budget"]}, s.marginal_values)),
    "prices of no constraint": ("one budget", "prices", lambda s: replace(s).stating(
        {"x": 1.0}, s.marginal_values)),
    "fractional where whole": ("a difference of two queries", "allocation", lambda s: replace(
        s, allocation=s.allocation - 0.5)),
    "a row violated": ("one budget", "row", lambda s: moved(s, 1, 1e-6)),
    "an upper bound violated": ("no row at all", "upper bound", lambda s: moved(s, 0, 1e-6)),
    "a floor missed": ("an accuracy floor", "floor", lambda s: moved(s, 1, -1.0)),
    "less than the least": ("nothing or at least so much, whole tokens", "lower bound",
        lambda s: replace(s, allocation=np.where(s.allocation > 0, 4, s.allocation))),
    "both of a menu": ("a menu, whole tokens", "choice", lambda s: replace(
        s, allocation=np.ones_like(s.allocation))),
    "optimal with a gap": ("one budget", "status", lambda s: replace(s, bound=1.1 * s.bound)),
    "infeasible with an allocation": ("one budget", "status", lambda s: replace(
        s, status="infeasible")),
    "infeasible where nothing at all is feasible": ("one budget", "status", lambda s: replace(
        s, status="infeasible", allocation=None, utilities=None, funded=None, bound=-np.inf,
        objective=np.nan, row_prices=None, floor_prices=None)),
    "feasible without one": ("one budget", "status", lambda s: replace(s, allocation=None)),
    "an unknown status": ("one budget", "status", lambda s: replace(s, status="done")),
    "utilities of another allocation": ("one budget", "utilities", lambda s: replace(
        s, utilities=s.utilities + 1e-6)),
    "funded who is not": ("one budget", "funded", lambda s: replace(s, funded=~s.funded)),
    "a list": ("one budget", "allocation", lambda s: replace(s, allocation=list(s.allocation))),
    "one entry too many": ("one budget", "allocation", lambda s: replace(
        s, allocation=np.append(s.allocation, 0.0))),
    "float32": ("one budget", "allocation", lambda s: replace(
        s, allocation=s.allocation.astype(np.float32))),
    "whole tokens as floats": ("measured steps", "allocation", lambda s: replace(
        s, allocation=s.allocation.astype(float))),
    "NaN": ("one budget", "allocation", lambda s: replace(
        s, allocation=np.array([np.nan, 1.0]))),
    "the program's own array": ("an ample budget", "allocation", lambda s: replace(
        s, allocation=s.program.upper)),
    "negative time": ("one budget", "seconds", lambda s: replace(s, seconds=-1.0)),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_caught(mutation):
    name, about, change = MUTATIONS[mutation]
    program, solution = solved(name)
    assert faults(program, solution) == set()
    wrong = change(solution)
    assert about in faults(program, wrong)
    with pytest.raises(testing.WrongSolutionError, match=about):
        testing.check_solution(program, wrong)


@pytest.mark.parametrize("name", ["one budget", "a cost curve", "one budget, whole tokens"])
def test_a_bound_from_wrong_best_responses_is_caught(name):
    """As if one query's local best response had been taken for its global one."""
    program, solution = solved(name, "price")
    assert faults(program, solution) == set()
    lower = replace(solution, bound=solution.bound * (1 - 1e-6))
    assert "bound" in faults(program, lower)
    # A search may prove more than its prices do.
    assert "bound" not in faults(program, lower, proof="search")


def test_wholeness_is_checked_where_only_some_tokens_are_whole():
    tokens = co.Allocation(2, upper=10.0, integer=[True, False])
    accuracy = co.CumulativeSurge(0.9, 1.0, 0.5)(tokens)
    problem = co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 9])
    solution = problem.solve()
    assert faults(problem, solution) == set()
    assert "whole tokens" in faults(problem, moved(solution, 0, -0.25))


def test_marginal_values_that_took_too_long_are_no_fault():
    tokens = co.Allocation(2, upper=10.0)
    problem = co.Problem(
        co.Maximize(co.sum(co.CumulativeSurge(0.9, 1.0, 0.5)(tokens))),
        [(co.sum(tokens) <= 9).named("budget")],
    )
    solution = problem.solve()
    prices = solution.prices
    unknown = replace(solution).stating(prices, {"budget": float("nan")})
    assert faults(problem, unknown) == set()
    endless = replace(solution).stating(prices, {"budget": float("inf")})
    assert faults(problem, endless) == {"marginal_values"}


# ------------------------------------------------------------------ sampling
@pytest.mark.parametrize(
    "name",
    [
        "one budget",
        "measured steps",
        "a measured curve",
        "nothing or at least so much",
        "a cost curve",
        "a million tokens",
        "utilities that decay, tokens that cost",
        "everything at once",
    ],
)
def test_sampled_best_responses_are_those_of_enumeration(name):
    program = named(name).declare()
    rng = np.random.default_rng(3)
    grid = np.linspace(0.0, 1.0, 200_001)
    for _ in range(5):
        price = rng.uniform(0.3, 1.5) * 0.1 * np.ones(program.n) * 12.5 / program.upper.max()
        curve_price = price * (rng.random() if program.curves else 0.0)
        found = best_responses(program, program.weight, price, curve_price, 1e-9)
        for i in range(program.n):
            amounts = program.lower[i] + grid * (program.upper[i] - program.lower[i])
            amounts = np.unique(np.round(amounts)) if program.integer[i] else amounts
            amounts = np.append(amounts, program.least[i])
            utility, cost = np.zeros(amounts.size), np.zeros(amounts.size)
            for blocks, values in ((program.utilities, utility), (program.curves, cost)):
                for block in blocks:
                    for member in np.flatnonzero(block.index == i):
                        family = block.family.take(np.full(amounts.size, member))
                        values[:] = family.value(amounts)
            gain = program.weight[i] * utility - price[i] * amounts - curve_price[i] * cost
            assert found.gain[i] >= gain.max() - 1e-12
            assert found.gain[i] <= gain.max() + 1e-5  # the grid's own error, at a kink
            best = amounts[gain.argmax()]
            width = 1e-4 * max(program.upper[i], 1.0)
            assert found.fewest[i] - width <= best <= found.most[i] + width


@pytest.mark.parametrize("upper", [1024.0, 300.0])
def test_sampling_finds_the_top_where_spreads_have_the_same_amounts(upper):
    """A surge much narrower than its bounds: its top lies between samples that are far apart."""
    rng = np.random.default_rng(0)
    scale, threshold = rng.uniform(0.2, 1, 500).round(2), rng.uniform(5, 100, 500).round()
    family = co.CumulativeSurge(scale, threshold, 10 ** rng.uniform(-2, 0, 500))
    tokens = co.Allocation(500, upper=upper)
    program = co.Problem(co.Maximize(co.sum(family(tokens)))).program
    price = np.full(500, 0.0006)
    found = best_responses(program, program.weight, price, np.zeros(500), 1e-9)
    best = np.maximum(family.demand(price, upper=program.upper), 0.0)
    gain = np.maximum(family.value(best) - price * best, 0.0)
    assert np.abs(found.gain - gain).max() < 1e-13


# ------------------------------------------------------------------ the oracles
def test_the_two_oracles_agree_where_both_apply():
    alike = named("identical queries").declare()
    four = four_alike()
    assert enumerate_identical(four) == pytest.approx(enumerate_whole(four), rel=1e-14)
    # Whole tokens are among the fractional ones, and finer ones close in on them.
    program = named("one budget").declare()
    coarse = replace(program, integer=np.ones(2, dtype=bool), upper=np.floor(program.upper))
    assert enumerate_whole(coarse) <= search_two(program)
    with pytest.raises(ValueError, match="not all tokens are whole"):
        enumerate_whole(program)
    with pytest.raises(ValueError, match="two queries"):
        search_two(alike)


def four_alike():
    tokens = co.Allocation(4, upper=9, integer=True)
    accuracy = co.CumulativeSurge(0.8, 3.0, 0.7)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [co.sum(tokens) <= 20]).program


# ------------------------------------------------------------------ the suite
PLAIN = frozenset({"fractional tokens"})


class Careless(co.Backend):
    """Wrong in whatever way it is told to be."""

    name, summary, supports, certifies = "careless", "for tests", PLAIN, "optimum"

    def __init__(self, how):
        self.how = how

    def solve(self, program, options):
        solution = get_solver("dual").solve(program, options)
        return self.how(program, options, solution)


def spoilt(check, how, **changes):
    backend = Careless(how)
    for key, value in changes.items():
        setattr(backend, key, value)
    (one,) = [c for c in testing.checks() if str(c) == check]
    return one.run(backend, testing.Config(time_limit=10.0, grace=1.0))


def test_a_back_end_in_one_line():
    report = testing.check_backend("uniform")
    assert report.ok
    lines = str(report).splitlines()
    assert lines[0].startswith("uniform: ")
    assert len(lines) == 1 + len(testing.checks())
    assert any(line.startswith("not applicable  an equality: does not take") for line in lines)
    assert any(line.startswith("passed          one budget") for line in lines)


def test_a_failure_raises_with_the_whole_report():
    class Lazy(co.Backend):
        name, summary, certifies = "lazy", "gives nobody anything", "optimum"

        def solve(self, program, options):
            return make_solution(program, solver="lazy", seconds=0.0, allocation=program.least)

    with pytest.raises(testing.NonconformingBackendError) as caught:
        testing.check_backend(Lazy())
    text = str(caught.value)
    assert "failed          one budget: AssertionError: 'feasible', not optimal" in text
    assert "passed          class data" in text
    (check,) = [c for c in testing.checks() if str(c) == "one budget"]
    with pytest.raises(testing.NonconformingBackendError, match="lazy: failed"):
        check(Lazy())


def late(program, options, solution):
    time.sleep(4.0)
    return solution


def no_incumbent(program, options, solution):
    return make_solution(program, solver="careless", seconds=0.0, allocation=None)


def scribbling(program, options, solution):
    program.upper[0] = 1.0
    return solution


def unsettling(program, options, solution):
    np.random.seed(int(time.time() * 1e3) % 2**31)  # noqa: NPY002
    return solution


def chatty(program, options, solution):
    print("solving")
    return solution


def fickle(program, options, solution):
    share = np.random.default_rng().random()
    return make_solution(program, solver="x", seconds=0.0, allocation=share * solution.allocation)


def misled(program, options, solution):
    if options.warm_start is None:
        return solution
    return make_solution(program, solver="x", seconds=0.0, allocation=program.least)


def tripping(program, options, solution):
    if options.warm_start is None:
        return solution
    taken = options.warm_start.allocation * 1.0
    return make_solution(program, solver="x", seconds=0.0, allocation=taken)


def optimistic(program, options, solution):
    value = 0.9 * solution.objective
    return replace(solution, bound=value) if solution.allocation is not None else solution


@pytest.mark.parametrize(
    ("check", "how", "says"),
    [
        ("a time limit leaves incumbent and bound", late, "ran"),
        ("a time limit leaves incumbent and bound", no_incumbent, "no incumbent"),
        ("the program is left alone", scribbling, ""),
        ("no global state is changed", unsettling, "NumPy's global random state"),
        ("nothing is printed unless asked for", chatty, "solving"),
        ("the same seed, the same allocation", fickle, "and"),
        ("a warm start never hurts", misled, "a worse allocation"),
        ("a useless warm start", tripping, ""),
        ("one budget", optimistic, "bound"),
        ("one query", no_incumbent, "'unknown', not optimal"),
        ("lower bounds above the budget", no_incumbent, "is infeasible, but 'unknown'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_suite_catches(check, how, says):
    outcome = spoilt(check, how)
    assert outcome.result == "failed", outcome
    assert says in outcome.detail


def test_the_suite_catches_what_is_declared_wrongly():
    fine = lambda program, options, solution: solution  # noqa: E731
    assert spoilt("class data", fine, supports=frozenset({"wings"})).result == "failed"
    assert spoilt("class data", fine, own_options=frozenset({"seed"})).result == "failed"
    assert spoilt("class data", fine).result == "passed"
    # Refused although nothing is missing: an optimum it should have found.
    wings = spoilt("an equality", no_incumbent, supports=ALL_FEATURES)
    assert wings.result == "failed"
    assert spoilt("an equality", fine).result == "not applicable"
    assert spoilt("unsupported features are refused first", fine).result == "passed"


def test_a_baseline_may_not_claim_to_have_proven_anything():
    (check,) = [c for c in testing.checks() if str(c) == "one budget"]
    backend = Careless(lambda program, options, solution: solution)
    backend.certifies = "nothing"
    outcome = check.run(backend)
    assert "certifies nothing, but says 'optimal'" in outcome.detail


def test_checks_are_left_out_by_name_and_with_a_reason():
    config = testing.Config(exclude={"hardly any time": "does not look at the clock"})
    report = testing.check_backend("uniform", config)
    (outcome,) = report.of("excluded")
    assert outcome.detail == "does not look at the clock"
    for exclude in ({"no such check": "why"}, {"one budget": ""}):
        with pytest.raises(co.DeclarationError, match="name of a check, and a reason"):
            testing.check_backend("uniform", testing.Config(exclude=exclude))


def test_names_are_unique_and_stand_for_the_checks():
    names = [str(check) for check in testing.checks()]
    assert len(set(names)) == len(names)


def test_the_suite_needs_no_pytest():
    code = (
        "import sys, clearopt.testing as t\n"
        "assert t.check_backend('uniform').ok\n"
        "assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# ------------------------------------------------------------------ the process
def test_a_fingerprint_sees_every_array():
    program = named("everything at once").declare()
    before = fingerprint(program)
    assert fingerprint(program) == before
    for array in (program.lower, program.rows.data, program.floors.data, program.curve_rows.data):
        array.setflags(write=True)
        kept = array[0]
        array[0] = kept + 1
        assert fingerprint(program) != before
        array[0] = kept
    assert fingerprint(program) == before


def test_what_python_and_what_libraries_print_is_caught():
    with unprinted() as printed:
        print("from Python")
        sys.__stderr__.flush()
        subprocess.run(["echo", "from below"], check=True)
    assert "from Python" in printed.text
    assert "from below" in printed.text
    with unprinted() as printed:
        pass
    assert printed.text == ""


def test_process_state_compares():
    assert process_state() == process_state()
