"""Runs in processes of their own: whatever a solver does there, the table is finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile
import numpy as np
import pytest

import clearopt as co
from clearopt.comparison.rows import ComparisonRow


def declared(n: int = 6, *, budget: float = 120.0) -> co.Problem:
    rng = np.random.default_rng(n)
    tokens = co.Allocation(n, upper=200, integer=True)
    accuracy = co.CumulativeSurge(rng.uniform(0.3, 1, n), rng.uniform(5, 40, n), 0.1)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy)), [(co.sum(tokens) <= budget).named("budget")])


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (hostile.Leaves(), "ended with exit code 7"),
        (hostile.Shot(), "ended by SIGKILL"),
        (hostile.Segfaults(), "ended by SIGSEGV"),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_a_crash_is_a_row_and_the_others_go_on(solver: co.Backend, message: str) -> None:
    comparison = co.compare(declared(), [solver, "uniform"], time_limit=20)
    crashed = comparison[solver.name]
    assert crashed.outcome == "crashed"
    assert crashed.status is None
    assert message in crashed.message
    assert comparison["uniform"].feasible
    assert "crashed" in str(comparison).splitlines()[2]


@pytest.mark.parametrize(
    "solver", [hostile.Hangs(), hostile.HoldsTheLock()], ids=lambda solver: solver.name
)
def test_what_does_not_end_is_ended(solver: co.Backend) -> None:
    comparison = co.compare(declared(), [solver, "uniform"], time_limit=0.5, grace=0.5)
    row = comparison[solver.name]
    assert row.outcome == "killed"
    assert "its time limit was 0.5 s" in row.message
    assert not row.feasible
    assert not row.rigorous
    assert comparison["uniform"].feasible
    if solver.name == "hangs":
        assert row.curve == ((0.0, 0.25, 2.5),)
        assert "objective 0.25 and bound 2.5" in row.message


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_takes_too_much_memory_is_ended() -> None:
    row = co.compare(declared(), hostile.Hoards(), memory_limit=1.0, time_limit=300)["hoards"]
    assert row.outcome == "out of memory"
    assert "more than 1 GiB" in row.message


def test_an_exit_is_an_error_and_prints_are_no_answers() -> None:
    comparison = co.compare(declared(), [hostile.Exits(), hostile.Prints(), hostile.Lies()])
    assert comparison["exits"].message == "no more"
    assert comparison["exits"].outcome == "not run"
    assert comparison["prints"].feasible
    assert comparison["lies"].status is None
    assert "its answer was refused" in comparison["lies"].message
    assert "the allocation is worth" in comparison["lies"].message


def test_an_instance_goes_along_with_its_state() -> None:
    row = co.compare(declared(), hostile.Settable("as told"))["settable"]
    assert row.isolated
    assert row.message.startswith("as told, in process ")
    assert row.message != f"as told, in process {os.getpid()}"
    here = co.compare(declared(), hostile.Settable("as told"), isolated=False)["settable"]
    assert here.message == f"as told, in process {os.getpid()}"
    assert not here.isolated


def test_what_is_defined_where_it_cannot_be_imported_runs_here_with_a_note() -> None:
    class Local(hostile.Settable):
        name = "local"

    comparison = co.compare(declared(), [Local("here"), "uniform"])
    assert not comparison["local"].isolated
    assert comparison["uniform"].isolated
    assert comparison["local"].message == f"here, in process {os.getpid()}"
    assert any(note.startswith("local ran in this process") for note in comparison.notes)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import clearopt as co, numpy as np\n"
        "from clearopt.assemble import make_solution\n"
        "print('once')\n"
        "class Own(co.Backend):\n"
        "    name, summary = 'own', 'of the script'\n"
        "    def solve(self, program, options):\n"
        "        found = dict(solver='own', seconds=0.0, allocation=program.least)\n"
        "        return make_solution(program, **found)\n"
        "tokens = co.Allocation(3, upper=50)\n"
        "curve = co.Sigmoidal(lambda b, s: b / (b + s), [5.0, 6.0, 7.0], longest=50)\n"
        "surge = co.CumulativeSurge(0.9, 5.0, 0.2)\n"
        "for utility in (surge, curve):\n"
        "    problem = co.Problem(co.Maximize(co.sum(utility(tokens))), [co.sum(tokens) <= 60])\n"
        "    print(co.compare(problem, ['dual', Own()], time_limit=20))\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("once") == 1
    assert ran.stdout.count("optimal") == 2
    assert ran.stdout.count("note: own ran in this process") == 2
    assert ran.stdout.count("note: the problem ran in this process") == 1


def test_instances_and_repeats() -> None:
    told: list[tuple[ComparisonRow, int, int]] = []
    problems = {"small": declared(5), "large": declared(9).program}
    comparison = co.compare(
        problems, ["dual", "time-share"], repeats=3, on_run=lambda *run: told.append(run)
    )
    assert comparison.instances == ["small", "large"]
    assert [(row.instance, row.solver) for row in comparison] == [
        ("small", "dual"),
        ("small", "time-share"),
        ("large", "dual"),
        ("large", "time-share"),
    ]
    assert [ended for _, ended, _ in told] == list(range(1, 13))
    assert {total for _, _, total in told} == {12}
    for row in comparison:
        assert [run.repeat for run in row.runs] == [0, 1, 2]
        assert row.seconds == sorted(run.seconds for run in row.runs)[1]
        assert row.queries == problems[row.instance].n if row.instance == "large" else 5
        assert 0 <= row.compile_seconds <= row.seconds <= row.wall_seconds
        assert row.cpu_seconds >= 0
    assert len({run.objective for run in comparison["large", "time-share"].runs}) > 1  # seeds
    assert comparison.of("small").best_bound == comparison["small", "dual"].bound
    assert str(comparison).splitlines()[0].split()[:2] == ["instance", "solver"]
    with pytest.raises(co.DeclarationError, match="of which of the 2 instances"):
        comparison.best_bound
    with pytest.raises(KeyError, match="no instance 'medium'"):
        comparison.of("medium")
    assert co.compare([declared(5)], "uniform").instances == ["instance 1"]


def test_repeats_that_fail_are_counted() -> None:
    row = co.compare(declared(), hostile.Flaky(), repeats=3)["flaky"]
    assert row.feasible
    assert row.message.startswith("1 of 3 runs failed: crashed")
    assert [run.outcome for run in row.runs] == ["ran", "crashed", "ran"]


def test_an_answer_is_the_same_here_and_there() -> None:
    problem = declared(8)
    there, here = (co.compare(problem, "dual", isolated=where)["dual"] for where in (True, False))
    assert there.solution is not None
    assert here.solution is not None
    assert (there.solution.allocation == here.solution.allocation).all()
    assert there.solution.prices == here.solution.prices
    assert there.solution.marginal_values == here.solution.marginal_values
    assert there.bound == here.bound
    assert there.solution.program is problem.program


def test_what_no_file_holds_is_sent_all_the_same() -> None:
    tokens = co.Allocation(4, upper=50)
    groups = [frozenset("ab"), frozenset("ab"), frozenset("c"), frozenset("c")]
    problem = co.Problem(
        co.Maximize(co.sum(co.Sigmoidal(hostile.concave, longest=50)(tokens))),
        [co.sum(tokens) <= 60, (co.sum(tokens, by=groups) <= 40).named("by group")],
    )
    row = co.compare(problem, "dual")["dual"]
    assert row.isolated
    assert row.status == "optimal"
    assert row.solution is not None
    assert set(row.solution.prices["by group"]) == set(groups)


def test_curves_end_with_what_was_checked() -> None:
    comparison = co.compare(declared(12, budget=200.0), ["dual", "highs", "uniform"])
    for row in comparison:
        seconds, objective, bound = row.curve[-1]
        assert (seconds, objective, bound) == (row.seconds, row.objective, row.bound)
        assert all(point[0] <= seconds for point in row.curve)
    assert len(comparison["highs"].curve) > 1


def test_a_journal_is_taken_up(tmp_path: Path) -> None:
    journal = tmp_path / "runs.jsonl"
    first = co.compare(declared(), ["dual", hostile.Leaves()], out=journal)
    lines = journal.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["format"] == "clearopt comparison journal"
    journal.write_text("\n".join(lines) + '\n{"key": "cut sho')
    again = co.compare(declared(), ["dual", hostile.Leaves(), "uniform"], out=journal)
    assert again["dual"].seconds == first["dual"].seconds
    assert again["dual"].bound == first["dual"].bound
    assert again["dual"].solution is None
    assert again["leaves"].outcome == "crashed"
    assert again["uniform"].solution is not None
    assert len(journal.read_text().splitlines()) == 5
    other = co.compare(declared(budget=121.0), ["dual"], out=journal)  # another program: run anew
    assert other["dual"].solution is not None
    stranger = tmp_path / "notes.txt"
    stranger.write_text("something else\n")
    with pytest.raises(co.DeclarationError, match="is no journal"):
        co.compare(declared(), ["dual"], out=stranger)
    assert stranger.read_text() == "something else\n"


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs signals")
def test_ctrl_c_leaves_the_rows_so_far() -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(row: ComparisonRow, ended: int, total: int) -> None:
        threading.Thread(
            target=lambda: (time.sleep(0.5), signal.raise_signal(signal.SIGINT))
        ).start()

    comparison = co.compare(
        declared(), ["uniform", hostile.Hangs()], time_limit=60, on_run=interrupt
    )
    assert not comparison.complete
    assert [row.solver for row in comparison] == ["uniform"]
    assert "INTERRUPTED" in str(comparison)


def test_default_solvers_that_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from clearopt.solvers.scip import Scip

    monkeypatch.setattr(Scip, "modules", ("a_package_that_does_not_exist",))
    comparison = co.compare(declared(), time_limit=20)
    assert comparison.solvers == ["dual", "highs", "cvxpy", "uniform"]
    assert any("clearopt[scip]" in note and "left out" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats = 0: must be a whole number of at least 1"),
        ({"processes": 1.5}, "processes = 1.5: must be a whole number"),
        ({"grace": -1}, "grace = -1"),
        ({"memory_limit": True}, "memory_limit = True"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(co.DeclarationError, match=message):
        co.compare(declared(), ["uniform"], **options)  # type: ignore[arg-type]
    with pytest.raises(co.DeclarationError, match="no problem is given"):
        co.compare([])
    with pytest.raises(co.DeclarationError, match=r"compare\(int, ...\)"):
        co.compare([declared(), 3])  # type: ignore[list-item]


def test_versions_and_machine_are_told_without_names_and_paths() -> None:
    comparison = co.compare(declared(), ["dual", "highs"])
    assert comparison.versions["clearopt"] == co.__version__
    assert {"Python", "numpy", "jax", "highspy"} <= set(comparison.versions)
    assert {"processor", "cores", "system"} <= set(comparison.machine)
    told = json.dumps([comparison.machine, comparison.versions, comparison.settings])
    assert os.uname().nodename not in told
    assert str(Path.home()) not in told
