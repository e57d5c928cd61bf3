import json
import subprocess
import sys

import numpy as np
import pytest

from clearopt.cli import main
from tests.runs.workloads import workload
from tests.serving.stub import Running, Stub


@pytest.fixture
def table(tmp_path):
    """The stub's queries with their curves."""
    work = workload(30)
    path = tmp_path / "queries.jsonl"
    with path.open("w") as file:
        for i, query in enumerate(work.queries):
            curve = {
                name: float(values[i])
                for name, values in zip(
                    ("scale", "threshold", "rate"), work.utilities.parameters, strict=True
                )
            }
            line = {
                "id": query.key,
                "prompt": query.prompt,
                "answer": query.answer,
                "tenant": i % 2,
            }
            file.write(json.dumps(line | curve) + "\n")
    return path


def command(path, *arguments, budget=1000):
    return main(["run", str(path), "--budget", str(budget), "--upper", "200", *arguments])


def report_of(path):
    return json.loads((path.with_name("queries.run") / "report.json").read_text())


def test_a_table_is_answered_within_the_budget(table, capsys):
    stub = Stub()
    with Running(stub) as url:
        arguments = ("--server", url, "--verify", "exact", "--mark", "####")
        assert command(table, *arguments) == 0
        asked = len(stub.log)
        first = report_of(table)
        assert command(table, *arguments) == 0
        assert len(stub.log) == asked
    told = capsys.readouterr().out
    report = report_of(table)
    assert report["rows"] == first["rows"]
    assert stub.generated == report["spending"]["spent"] <= 1000
    assert f"right      {report['right']:g} of 30" in told
    assert "shared out again" in told
    answers = (table.with_name("queries.run") / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in answers] == [f"q{i}" for i in range(30)]


def test_caps_by_group_and_a_queue(table, tmp_path):
    later = tmp_path / "later.jsonl"
    with Running(Stub()) as url:
        arguments = ["--server", url, "--cap-by", "tenant=0:300,1:600", "--quiet"]
        assert command(table, *arguments, "--unfunded", f"queue:{later}") == 0
    rows = report_of(table)["rows"]
    spent = [sum(row["spent"] for row in rows[tenant::2]) for tenant in (0, 1)]
    assert (np.array(spent) <= [300, 600]).all()
    queued = [row["key"] for row in rows if row["status"] == "queued"]
    assert [json.loads(line)["id"] for line in later.read_text().splitlines()] == queued


def test_without_curves_a_note_says_so(tmp_path, capsys):
    path = tmp_path / "queries.csv"
    path.write_text("question\n" + "".join(f"need={12 + i} say={i}\n" for i in range(9)))
    with Running(Stub()) as url:
        arguments = ["--server", url, "--column", "prompt=question", "--unfunded", "fallback:3"]
        assert command(path, *arguments, budget=180) == 0
    told = capsys.readouterr()
    assert "tokens are shared evenly" in told.err
    assert "right" not in told.out
    assert [row["key"] for row in report_of(path)["rows"]] == [str(i) for i in range(9)]


def test_a_users_own_verifier(table, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def judge(query, text):\n    return 0.5 * text.endswith(query.answer)\n")
    with Running(Stub()) as first:
        assert command(table, "--server", first, "--verify", f"{file}:judge") == 0
    assert {row["score"] for row in report_of(table)["rows"]} == {0, 0.5}
    file.write_text("def judge(query, text):\n    return 1.0 * (query.data['tenant'] == 1)\n")
    stub = Stub()
    with Running(stub) as url:  # another verifier of the same answers
        assert command(table, "--server", url, "--model", "stub", "--verify", f"{file}:judge") == 2
        assert command(table, "--server", first, "--verify", f"{file}:judge") == 0
    assert not stub.log
    assert {row["score"] for row in report_of(table)["rows"]} == {0, 1}


def test_a_run_that_stops_before_its_end_says_so(table, capsys):
    with Running(Stub(delay=0.05)) as url:
        assert command(table, "--server", url, "--time-limit", "4", "--concurrency", "2") == 1
    told = capsys.readouterr().out
    assert "time limit of 4 s" in told
    assert "give the same command again" in told


def test_nobody_at_the_address_is_told_at_once(table, capsys):
    assert command(table, "--server", "http://127.0.0.1:9", "--model", "m", "--patience", "1") == 1
    told = capsys.readouterr().err
    assert "cannot be reached" in told.splitlines()[0]
    assert "(the run waits for up to 1 s)" in told.splitlines()[0]
    assert "clearopt: error: nothing was answered for" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "who is to answer? give --server URL or --model MODEL"),
        (["--server", "nowhere"], "base_url = 'nowhere': expected something like"),
        (["--server", "http://h", "--unfunded", "beg"], "--unfunded beg: write skip"),
        (["--server", "http://h", "--unfunded", "cheaper:5"], "needs --cheaper-server"),
        (["--server", "http://h", "--verify", "luck"], "--verify luck: known are exact"),
        (["--server", "http://h", "--verify", "no.py:f"], "no.py: there is no such file"),
        (["--server", "http://h", "--reserve", "1000"], "nothing is left of the budget"),
        (
            ["--server", "http://h", "--column", "prompt=p"],
            "there is no column 'p' for the prompts",
        ),
        (["--server", "http://h", "--set", "scale=x"], "--set scale=x: not a number"),
        (["--server", "http://h", "--family", "No"], "--family No: known are"),
        (["--model", "nothing"], "unknown model 'nothing'"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(arguments, message, table, capsys):
    assert command(table, "--quiet", *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("clearopt: error: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_help_loads_nothing_heavy():
    for name in ("run", "serve"):
        script = (
            "import sys\nfrom clearopt.cli import main\n"
            f"try:\n    main([{name!r}, '--help'])\nexcept SystemExit:\n"
            "    print([m for m in ('jax', 'aiohttp', 'rich', 'vllm') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"
