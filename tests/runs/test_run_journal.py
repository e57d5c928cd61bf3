import asyncio
import errno
import json
import os
import subprocess
import sys

import pytest

import clearopt as co
from clearopt.runs.journal import Journal, JournalError
from clearopt.runs.record import Outcome, Record
from clearopt.serving import Generation


def write(path, *entries):
    async def writing():
        journal = Journal(path)
        await asyncio.gather(*(journal.append(entry) for entry in entries))
        journal.close()

    asyncio.run(writing())


def test_lines_are_there_when_append_returns(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"

    async def one_after_the_other():
        journal = Journal(path)
        for number in range(5):
            await journal.append({"n": number})
            assert len(path.read_text().splitlines()) == number + 1
        journal.close()

    asyncio.run(one_after_the_other())
    write(path, *({"n": n} for n in range(5, 300)))
    assert sorted(entry["n"] for entry in Journal(path).entries) == list(range(300))


def test_lines_that_wait_together_are_synchronised_together(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(file))
    write(tmp_path / "j", *({"n": n} for n in range(1000)))
    assert len(calls) < 10


@pytest.mark.parametrize("torn", ['{"n": 2', '{"n": 2}', "\x00\x00", "{"])
def test_a_torn_last_line_is_taken_away(tmp_path, torn):
    path = tmp_path / "j"
    path.write_text('{"n": 0}\n{"n": 1}\n' + torn)
    journal = Journal(path)
    assert [entry["n"] for entry in journal.entries] == [0, 1]
    journal.close()
    write(path, {"n": 9})
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n{"n": 9}\n'


def test_a_damaged_line_is_told(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"n": 0}\n{"n\xff": \n[]\n{"n": 3}\n')
    journal = Journal(path)
    assert [entry["n"] for entry in journal.entries] == [0, 3]
    assert journal.damaged == [2, 3]


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    with pytest.raises(co.DeclarationError, match="another process is writing it"):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_a_full_disk_leaves_whole_lines_and_is_told(tmp_path, monkeypatch):
    path, real = tmp_path / "j", os.write

    def full(file, data):
        real(file, bytes(data[:5]))
        raise OSError(errno.ENOSPC, "No space left on device")

    async def writing():
        journal = Journal(path)
        await journal.append({"n": 0})
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(JournalError, match=r"No space left on device.*same command again"):
            await journal.append({"n": 1})
        monkeypatch.setattr(os, "write", real)
        with pytest.raises(JournalError):
            await journal.append({"n": 2})
        journal.close()

    asyncio.run(writing())
    assert path.read_text() == '{"n": 0}\n'


def test_the_operating_systems_own_limit(tmp_path):
    """A file that may not grow beyond 4 096 bytes, in a process of its own."""
    script = f"""
import asyncio, resource
from pathlib import Path
from clearopt.runs.journal import Journal, JournalError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
async def main():
    journal = Journal(Path({str(tmp_path / "j")!r}))
    try:
        for n in range(1000):
            await journal.append({{"n": n, "text": "x" * 50}})
    except JournalError as error:
        print("stopped at", n)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    kept = Journal(tmp_path / "j")
    assert done.stdout == f"stopped at {len(kept.entries)}\n"
    assert 40 < len(kept.entries) < 80
    assert not kept.damaged


# -------------------------------------------------------------------------------- the record
ABOUT = {"budget": 100, "seed": 0}
ANSWER = Generation("four", 4, "stop", (1, 2, 3, 4))


def records(path, *steps, **options):
    """A record after steps in one process, then as the next process finds it."""

    async def go():
        journal = Journal(path)
        record = Record(journal, ABOUT)
        await record.begin()
        for name, *arguments in steps:
            await getattr(record, name)(*arguments)
        journal.close()
        return record

    before = asyncio.run(go())
    journal = Journal(path)
    after = Record(journal, ABOUT, **options)
    journal.close()
    return before, after


def test_an_answer_is_found_again(tmp_path):
    before, after = records(
        tmp_path / "j",
        ("plan", "0", [10, 0]),
        ("sent", "0:0", 10),
        ("ended", "0:0", 1, Outcome("answered", ANSWER)),
        ("verdict", "0:0", {"score": 1.0}),
    )
    for record in (before, after):
        assert record.outcomes["0:0"].generation == ANSWER
        assert (record.spent["main"], record.lost["main"], record.unseen) == (4, 0, 0)
        assert record.plans["0"]["caps"] == [10, 0]
        assert record.verdicts == {"0:0": {"score": 1.0}}
    assert (before.resumed, after.resumed) == (False, True)


def test_a_request_without_outcome_is_charged_at_its_cap(tmp_path):
    steps = [
        ("sent", "0:0", 10),
        ("failed", "0:0", 1, None, "busy"),
        ("sent", "0:0", 10),
        ("failed", "0:0", 2, 10, "reset"),
        ("sent", "0:0", 10),
        ("sent", "0:1", 25),
    ]
    before, after = records(tmp_path / "j", *steps)
    assert (before.lost["main"], before.unseen) == (10, 1)
    assert (after.lost["main"], after.unseen) == (45, 3)
    assert after.attempts == {"0:0": 3, "0:1": 1}
    journal = Journal(tmp_path / "j")
    assert Record(journal, ABOUT, charge_lost=False).lost["main"] == 10  # as that one was noted
    journal.close()


def test_an_outcome_is_counted_once(tmp_path):
    _, after = records(
        tmp_path / "j",
        ("sent", "0:0", 10),
        ("ended", "0:0", 1, Outcome("answered", ANSWER)),
        ("ended", "0:0", 1, Outcome("answered", ANSWER)),
    )
    assert after.spent["main"] == 4


def test_the_journal_of_another_run_is_refused(tmp_path):
    records(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    with pytest.raises(co.DeclarationError, match=r"another run \(another budget\)"):
        Record(journal, ABOUT | {"budget": 7})
    journal.close()
    (tmp_path / "k").write_text(json.dumps({"no": "thing"}) + "\n")
    with pytest.raises(co.DeclarationError, match="not a journal of `clearopt run`"):
        Record(Journal(tmp_path / "k"), ABOUT)
