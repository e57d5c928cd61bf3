"""Time limits, node limits and Ctrl-C on every path of `dual`: the best so far, with its bound.

Ctrl-C is a real SIGINT, raised as one of the functions named is entered for the k-th time.
"""

import importlib
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import clearopt as co
from clearopt import sharded
from clearopt.assemble import make_solution
from clearopt.deadline import Deadline
from clearopt.least_squares import bounded_least_squares
from clearopt.marginal_values import marginal_multipliers
from clearopt.solvers import get_solver, solve_program
from clearopt.solvers.dual.blocks import ArraySource
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits
from clearopt.solvers.dual.caps import Chunk
from clearopt.solvers.dual.large import LargeRow
from clearopt.solvers.dual.large_caps import solve_large_caps
from clearopt.solvers.dual.many_rows import ManyRows
from clearopt.solvers.dual.separable import separate, view
from clearopt.solvers.dual.several_rows import SeveralRows, first_prices
from clearopt.solvers.progress import Silent


def surges(n, seed=0):
    rng = np.random.default_rng(seed)
    threshold, rate = rng.uniform(5, 100, n), 10 ** rng.uniform(-2, 0, n)
    return co.CumulativeSurge(rng.uniform(0.3, 1, n), threshold, rate), rng


def one_row(n=40, *, integer=True, sense="<="):
    family, _ = surges(n)
    tokens = co.Allocation(n, upper=512, integer=integer)
    total = co.sum(tokens)
    row = total <= 12.0 * n if sense == "<=" else total == 12.0 * n
    return co.Problem(co.Maximize(co.sum(family(tokens))), [row.named("budget")])


def many_rows(n=60, rows=4, *, integer=False):
    family, rng = surges(n, 1)
    tokens = co.Allocation(n, upper=512, integer=integer)
    charges = rng.uniform(0.2, 1, (rows, n))
    limit = charges.sum(axis=1) * 10
    return co.Problem(co.Maximize(co.sum(family(tokens))), [(charges @ tokens <= limit).named("k")])


def floors(n=60):
    family, rng = surges(n, 2)
    tokens = co.Allocation(n, upper=512, integer=True)
    accuracy, group = family(tokens), rng.integers(0, 3, n)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 30.0 * n).named("budget"),
            (co.mean(accuracy, by=group) >= 0.2).named("floor"),
        ],
    )


def groups(n=120, count=12):
    family, _ = surges(n, 3)
    tokens = co.Allocation(n, upper=512, integer=True)
    caps = co.sum(tokens, by=np.arange(n) % count) <= 90.0
    return co.Problem(co.Maximize(co.sum(family(tokens))), [caps.named("caps")])


def semicontinuous(n=60):
    family, rng = surges(n, 4)
    tokens = co.Allocation(n, lower=20, upper=512, semicontinuous=True)
    charges = rng.uniform(0.2, 1, (3, n))
    limit = charges.sum(axis=1) * 10
    return co.Problem(co.Maximize(co.sum(family(tokens))), [(charges @ tokens <= limit).named("k")])


def large(n=20_000):
    return one_row(n, integer=False)


def infeasible(n=30):
    family, rng = surges(n, 5)
    tokens = co.Allocation(n, upper=512, integer=True)
    accuracy, group = family(tokens), rng.integers(0, 3, n)
    return co.Problem(
        co.Maximize(co.sum(accuracy)),
        [
            (co.sum(tokens) <= 2 * n).named("budget"),
            (co.mean(accuracy, by=group) >= 0.5).named("floor"),
        ],
    )


PROBLEMS = {
    "one row": one_row,
    "equality": lambda: one_row(integer=False, sense="=="),
    "many rows": many_rows,
    "many rows, whole tokens": lambda: many_rows(integer=True),
    "floors": floors,
    "groups": groups,
    "semicontinuous": semicontinuous,
    "large": large,
}
TRIVIAL = [name for name in PROBLEMS if name != "floors"]  # a feasible allocation is at hand


def pressing(monkeypatch, place, times=1):
    """Ctrl-C as `place`, "module:function", is entered for the `times`-th time."""
    module, _, path = place.partition(":")
    owner = importlib.import_module(f"clearopt.{module}")
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, count = getattr(owner, name), 0

    def pressed(*args, **kwargs):
        nonlocal count
        count += 1
        if count == times:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, pressed)
    return lambda: count


def assert_partial(solution, reference):
    """An allocation or none, and a bound that holds for the best one."""
    assert solution.status in ("feasible", "optimal", "unknown")
    assert np.isfinite(solution.bound)
    assert solution.bound >= reference.objective * (1 - 1e-9)
    if solution.allocation is not None:
        assert solution.feasibility.ok
        assert solution.objective <= reference.bound * (1 + 1e-9)


@pytest.fixture(scope="module")
def references():
    return {name: build().solve(node_limit=60) for name, build in PROBLEMS.items()}


INTERRUPTIONS = [
    ("one row", "solvers.dual.one_row:search_price", 1),
    ("one row", "solvers.dual.one_row:refill", 1),
    ("one row", "solvers.dual.branch_and_bound:BranchAndBound._node", 1),
    ("equality", "solvers.dual.price_search:_narrow", 1),
    ("many rows", "solvers.dual.many_rows:descend", 1),
    ("many rows", "solvers.dual.interior:_Newton.__init__", 3),
    ("many rows", "solvers.dual.branch_and_bound:BranchAndBound._split", 1),
    ("many rows, whole tokens", "solvers.dual.master:Master.solve", 2),
    ("many rows, whole tokens", "solvers.dual.many_rows:whole_tokens", 1),
    ("floors", "solvers.dual.interior:_Newton.__init__", 1),
    ("floors", "solvers.dual.rounding:_meet_floors", 1),
    ("groups", "solvers.dual.components:_part", 1),
    ("groups", "solvers.dual.components:_part", 5),
    ("groups", "solvers.dual.branch_and_bound:BranchAndBound._node", 3),
    ("semicontinuous", "solvers.dual.many_rows:ManyRows.candidates", 1),
    ("large", "solvers.dual.large:presolve", 1),
    ("large", "solvers.dual.large:LargeRow._demand", 1),
    ("large", "solvers.dual.large:LargeRow._straddle", 1),
]


@pytest.mark.parametrize(("name", "place", "times"), INTERRUPTIONS)
def test_ctrl_c_returns_what_was_found(name, place, times, references, monkeypatch):
    problem = PROBLEMS[name]()
    reached = pressing(monkeypatch, place, times)
    solution = problem.solve(tolerance=0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if reached() < times:
        pytest.fail(f"{place} is not on the way")
    assert_partial(solution, references[name])
    if name in TRIVIAL:
        assert solution.allocation is not None
    if solution.status != "optimal":
        assert "stopped at the keyboard interrupt" in solution.message


@pytest.mark.parametrize("place", ["assemble:check_feasibility"])
def test_ctrl_c_after_the_search_loses_nothing(place, references, monkeypatch):
    problem = many_rows()
    pressing(monkeypatch, place)
    solution = problem.solve()
    assert solution.status == "optimal"
    assert solution.objective == references["many rows"].objective


def test_a_second_ctrl_c_raises(monkeypatch):
    problem = many_rows()
    pressing(monkeypatch, "solvers.dual.many_rows:descend", 1)
    pressing(monkeypatch, "solvers.dual:make_solution", 1)
    with pytest.raises(KeyboardInterrupt):
        problem.solve()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_from_a_timer(references):
    problem = many_rows(integer=True)
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    try:
        solution = problem.solve(tolerance=0, node_limit=10**6)
    finally:
        heard = not timer.is_alive()
        timer.cancel()
    if heard:  # else it was done before
        assert_partial(solution, references["many rows, whole tokens"])


def test_ctrl_c_while_reasons_are_looked_for(monkeypatch):
    pressing(monkeypatch, "solvers.conflict:_Search.smallest")
    solution = infeasible().solve()
    assert solution.status in ("infeasible", "unknown")


def test_other_threads_solve_on():
    found = []
    thread = threading.Thread(target=lambda: found.append(many_rows().solve()))
    thread.start()
    thread.join()
    assert found[0].status == "optimal"


# ------------------------------------------------------------------ several solves
def test_a_sweep_keeps_what_is_solved(monkeypatch):
    problem, values = one_row(), [200.0, 400.0, 600.0, 800.0]
    expected = problem.sweep("budget", values)
    problem = one_row()
    count = 0
    original = type(get_solver("dual")).solve

    def solve(self, program, options):
        nonlocal count
        count += 1
        if count == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, program, options)

    monkeypatch.setattr(type(get_solver("dual")), "solve", solve)
    found = problem.sweep("budget", values)
    assert len(found) == 3
    for one, other in zip(found[:2], expected, strict=False):
        assert one.objective == other.objective
    assert_partial(found[2], expected[2])
    assert "keyboard interrupt" in found[2].message
    count = 0
    curve = co.frontier(problem, "budget", values)
    assert len(curve) == curve.objective.size == len(curve.status) == 3
    assert str(curve)


def test_a_sweep_of_another_back_end_raises(monkeypatch):
    pressing(monkeypatch, "solvers.uniform:make_solution")
    with pytest.raises(KeyboardInterrupt):
        one_row().sweep("budget", [200.0, 400.0], "uniform")


def test_ctrl_c_of_a_table(tmp_path, monkeypatch):
    n = 3_000
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "scale": rng.uniform(0.3, 1, n),
            "threshold": rng.uniform(5, 100, n),
            "rate": 10 ** rng.uniform(-2, 0, n),
        }
    )
    frame.write_parquet(tmp_path / "in.parquet")
    whole = co.solve_parquet(
        tmp_path / "in.parquet", tmp_path / "whole.parquet", budget=5e4, upper=512, chunk=1_000
    )
    for place in ("ParquetSource.check", "LargeRow._straddle"):
        with monkeypatch.context() as patch:
            pressing(patch, f"streaming:{place}")
            found = co.solve_parquet(
                tmp_path / "in.parquet", tmp_path / f"{place}.parquet", budget=5e4, upper=512,
                chunk=1_000,
            )  # fmt: skip
        assert found.status == "feasible"
        assert found.message == "stopped at the keyboard interrupt"
        assert found.bound >= whole.objective * (1 - 1e-9)
        assert found.spent <= 5e4
        assert pl.read_parquet(tmp_path / f"{place}.parquet").height == n


@pytest.mark.parametrize("engine", ["problem", "sharded"])
def test_ctrl_c_of_sharded_queries(engine, monkeypatch):
    problem = one_row(500, integer=False)
    reference = problem.solve()
    pressing(monkeypatch, "solvers.dual.large:LargeRow._straddle")
    found = problem.solve(engine="sharded") if engine == "problem" else sharded.solve(problem)
    assert found.status == "feasible"
    assert found.message == "stopped at the keyboard interrupt"
    assert reference.objective * (1 - 1e-9) <= found.bound < np.inf


# ------------------------------------------------------------------ time
@pytest.mark.parametrize("limit", [1e-9, 1e-2])
@pytest.mark.parametrize("name", PROBLEMS)
def test_any_time_limit_leaves_a_bound_and_what_is_at_hand(name, limit, references):
    solution = PROBLEMS[name]().solve(tolerance=0, time_limit=limit)
    assert_partial(solution, references[name])
    if name in TRIVIAL:
        assert solution.allocation is not None
    if limit < 1e-6:
        assert solution.message == "stopped at the time limit"


def test_bounds_that_must_be_kept_are_at_hand():
    family, rng = surges(50)
    tokens = co.Allocation(50, lower=5.0, upper=512)
    charges = rng.uniform(0.2, 1, (3, 50))
    limit = charges.sum(axis=1) * 10
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [charges @ tokens <= limit])
    assert problem.solve(time_limit=1e-9).allocation is not None


def test_an_infeasible_large_program_is_told_from_one_without_time():
    family, _ = surges(20_000)
    tokens = co.Allocation(20_000, lower=5.0, upper=512)
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), co.sum(tokens) <= 200_000.0)
    program = replace(problem.program, right_hand_side=np.array([99_000.0]))
    solution = solve_program(program, get_solver("dual"), time_limit=1e-9)
    assert solution.status == "infeasible"


@pytest.mark.parametrize("build", [infeasible, lambda: groups(4_000, 400)])
def test_nothing_hangs_past_its_limit(build):
    started = time.perf_counter()
    build().solve(time_limit=1.0, tolerance=0)
    assert time.perf_counter() - started < 60


class Countdown(Deadline):
    """Over from the k-th look at it on; `then` is called as it ends."""

    def __init__(self, looks, then=lambda: None):
        super().__init__(None)
        self.looks, self.then = looks, then

    @property
    def over(self):
        self.looks -= 1
        if self.looks == 0:
            self.then()
        return self.looks <= 0

    @property
    def left(self):
        return 0.0 if self.looks <= 0 else np.inf


def counted(monkeypatch, owner, name, size):
    """A list of one number: what calls of a method have come to, each `size` of its arguments."""
    original, total = getattr(owner, name), [0]

    def counting(self, *args, **kwargs):
        total[0] += size(self, *args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return total


@settings(max_examples=25, deadline=None)
@given(looks=st.integers(1, 40), seed=st.integers(0, 5), lower=st.sampled_from([0.0, 2.0]))
def test_one_row_is_passed_over_but_little_after_its_time(looks, seed, lower):
    n = 20_000
    family, _ = surges(n, seed)
    tokens = co.Allocation(n, lower=lower, upper=512)
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), [co.sum(tokens) <= 12.0 * n])
    program = problem.program
    at_the_end = []
    deadline = Countdown(looks, lambda: at_the_end.append(run.passes))
    run = LargeRow(ArraySource(program, np.ones(())), 12.0 * n, deadline=deadline)
    found = np.zeros(n)

    def keep(block, tokens):
        found[block.index] = tokens

    committed = run.solve(keep)
    if not at_the_end:
        return
    # What the search was at, the purchases handed on, and where these did not fit a dearer price's.
    assert committed.passes - at_the_end[0] <= 4
    assert found.sum() <= 12.0 * n * (1 + 1e-12)
    assert committed.bound >= problem.solve().objective * (1 - 1e-9)


@pytest.mark.parametrize("looks", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("budget", [True, False])
def test_caps_are_asked_but_little_after_their_time(looks, budget, monkeypatch):
    n, groups = 30_000, 30
    family, _ = surges(n, 7)
    tokens = co.Allocation(n, upper=512)
    rows = [(co.sum(tokens, by=np.arange(n) % groups) <= 12.0 * n / groups).named("caps")]
    if budget:
        rows.append((co.sum(tokens) <= 9.0 * n).named("budget"))
    problem = co.Problem(co.Maximize(co.sum(family(tokens))), rows)
    reference = problem.solve()
    asked = counted(monkeypatch, Chunk, "ask", lambda chunk, *_: chunk.size)
    passed = counted(monkeypatch, LargeRow, "_buy", lambda run, *_: run.source.size)
    at_the_end = []
    deadline = Countdown(looks, lambda: at_the_end.append(asked[0] + passed[0]))
    found = solve_large_caps(problem.program, tolerance=1e-6, deadline=deadline, ticker=Silent())
    solution = make_solution(problem.program, solver="", seconds=0.0, **found)
    assert_partial(solution, reference)
    assert solution.objective > 0.5 * reference.objective
    assert asked[0] + passed[0] - at_the_end[0] <= 6 * n


@pytest.mark.parametrize("looks", [1, 2, 3, 5, 8])
def test_dense_rows_without_time_have_an_allocation(looks, monkeypatch):
    problem = many_rows(3_000, 12)
    reference = problem.solve()
    program = problem.program
    queries = separate(view(program), "numpy")
    several, _ = SeveralRows.of(program, queries)
    asked = counted(monkeypatch, type(queries), "respond", lambda *_: 1)
    at_the_end = []
    deadline = Countdown(looks, lambda: at_the_end.append(asked[0]))
    limits = Limits(tolerance=1e-6, deadline=deadline, nodes=50, eager_nodes=0)
    prices = first_prices(several, 1e-3)
    outcome = BranchAndBound(ManyRows(several, deadline), limits, prices, Silent()).solve()
    assert outcome.stopped == "time limit"
    assert asked[0] - at_the_end[0] <= 4
    assert 0.2 * reference.objective <= outcome.value <= reference.bound
    assert outcome.bound >= reference.objective * (1 - 1e-9)


def test_least_squares_ends_with_its_time():
    rng = np.random.default_rng(0)
    matrix = sparse.csr_array(rng.uniform(size=(40, 5)))
    goal = matrix @ np.array([1.0, 0.0, 2.0, 0.0, 0.5])
    found = bounded_least_squares(
        matrix, goal, (0.0, np.inf), Deadline(), tol=1e-13, lsmr_tol=1e-13
    )
    assert np.allclose(found, [1.0, 0.0, 2.0, 0.0, 0.5], atol=1e-6)
    assert bounded_least_squares(matrix, goal, (0.0, np.inf), Deadline(0.0)) is None


def test_marginal_values_for_which_there_is_no_time_are_nan():
    problem = many_rows()
    solution = problem.solve()
    found = marginal_multipliers(problem.program, solution.allocation, Deadline(0.0))
    assert found.unknown
    assert not marginal_multipliers(problem.program, solution.allocation).unknown


# ------------------------------------------------------------------ nodes and tolerance
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "large"])
@pytest.mark.parametrize("limit", [1, 2, 5, 14, 40])
def test_nodes_are_counted_over_all_groups(name, limit, references):
    solution = PROBLEMS[name]().solve(tolerance=0, node_limit=limit)
    assert solution.statistics["nodes"] <= limit
    assert_partial(solution, references[name])


def test_a_loose_tolerance_stops_early():
    loose, tight = (
        many_rows(100, integer=True).solve(tolerance=tolerance, node_limit=40)
        for tolerance in (5e-2, 0.0)
    )
    assert loose.status == "optimal"
    assert loose.gap <= 5e-2
    assert loose.statistics["nodes"] < tight.statistics["nodes"]


def test_no_tolerance_asks_for_a_proof_to_rounding():
    solution = one_row().solve(tolerance=0)
    assert solution.status == "optimal"
    assert solution.gap <= 1e-10
