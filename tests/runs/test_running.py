import json

import numpy as np
import pytest

import clearopt as co
from clearopt.runs import (
    Cheaper,
    ExactMatch,
    Fallback,
    Numeric,
    Query,
    Queue,
    Settings,
    Workload,
    run,
)
from clearopt.serving import EngineError, Reasoning, Server
from tests.runs.user_verifiers import odd
from tests.runs.workloads import VERIFIER, settings, table, workload
from tests.serving.stub import Running, Stub


def ran(stub, work, chosen, *, server=None, **options):
    with Running(stub) as url:
        return run(work, Server(url, "stub", **server or {}), chosen, **options)


@pytest.fixture(scope="module")
def clean():
    stub = Stub()
    report = ran(stub, workload(), settings(), verifier=VERIFIER)
    return report, stub


def test_the_budget_is_spent_and_never_exceeded(clean):
    report, stub = clean
    assert report.complete
    assert stub.generated == report.spending.spent <= 1600
    assert report.spending.unspent == 1600 - report.spending.spent
    assert sum(row.spent for row in report.rows) == report.spending.spent
    assert sum(r.spent for r in report.rounds) == report.spending.spent
    assert all(row.spent <= row.planned for row in report.rows)


def test_every_query_comes_to_an_end_that_is_told(clean):
    report, _ = clean
    assert sum(report.statuses.values()) == len(report.rows) == 40
    assert set(report.statuses) == {"answered", "cut", "skipped"}
    for row in report.rows:
        assert (row.status == "answered") == (row.finish_reason == "stop")
        assert (row.status == "skipped") == (row.spent == 0)
        right = row.status == "answered" and row.text.endswith(f"#### {row.key[1:]}")
        assert row.score == float(right)
    assert report.notes == ()


def test_what_early_finishers_leave_is_shared_out_again_and_the_gain_measured(clean):
    report, _ = clean
    without = ran(Stub(), workload(), settings(rounds=0), verifier=VERIFIER)
    assert len(report.rounds) > 1
    assert len(without.rounds) == 1
    assert without.gain == 0
    assert report.right_at_first == without.right
    assert report.right == without.right + report.gain
    assert report.gain > 0
    assert report.spending.spent > without.spending.spent
    continued = [row for row in report.rows if row.rounds > 1]
    assert continued
    for row in continued:  # the prefix was kept: no token was generated twice
        assert row.spent == len(row.text) + (row.status == "answered")


def test_the_same_arguments_give_the_same_table(clean):
    report, _ = clean
    again = ran(Stub(delay=0.0005), workload(), settings(), verifier=VERIFIER)
    assert table(again) == table(report)
    other = ran(Stub(), workload(), settings(seed=2), verifier=VERIFIER)
    assert [row.text for row in other.rows] != [row.text for row in report.rows]


def test_a_finished_run_asks_nothing_again(clean, tmp_path):
    report, _ = clean
    first, again = Stub(), Stub()
    assert table(ran(first, workload(), settings(), verifier=VERIFIER, out=tmp_path)) == table(
        report
    )
    resumed = ran(again, workload(), settings(), verifier=VERIFIER, out=tmp_path)
    assert table(resumed) == table(report)
    assert resumed.spending == report.spending
    assert not again.log


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    ran(Stub(), workload(4), settings(), out=tmp_path)
    for work, chosen, what in (
        (workload(4), settings(budget=99), "settings"),
        (workload(5), settings(), "queries, curves"),
    ):
        with pytest.raises(co.DeclarationError, match=rf"another run \(another {what}\)"):
            ran(Stub(), work, chosen, out=tmp_path)


def test_constraints_hold_for_all_tokens_together():
    tenant = np.arange(40) % 2
    limit = {0: 500.0, 1: 700.0}
    work = workload(constraints=lambda tokens, accuracy: [co.sum(tokens, by=tenant) <= limit])
    report = ran(Stub(), work, settings(), verifier=VERIFIER)
    for label, most in limit.items():
        rows = [row for row, own in zip(report.rows, tenant, strict=True) if own == label]
        assert 0.8 * most < sum(row.spent for row in rows) <= most
    assert len(report.rounds) > 1


def test_without_curves_tokens_are_shared_evenly():
    work = Workload([Query(f"q{i}", f"need={12 + i} say={i}\n", str(i)) for i in range(20)], 100)
    report = ran(Stub(), work, settings(budget=400), verifier=VERIFIER)
    assert report.rounds[0].planned == 400
    assert report.gain > 0
    assert report.spending.spent <= 400
    with pytest.raises(co.DeclarationError, match="none without utilities"):
        Workload(work.queries, 100, constraints=lambda t, a: [])


# -------------------------------------------------------------------------------- the unfunded
def test_unfunded_queries_get_a_short_answer_from_the_same_budget(clean):
    stub = Stub()
    choice = Fallback(9, instruction="")
    report = ran(stub, workload(), settings(), verifier=VERIFIER, abandonment=choice)
    assert report.statuses["fallback"] > 3
    assert "skipped" not in report.statuses
    assert stub.generated == report.spending.spent <= 1600
    assert {row.planned for row in report.rows if row.status == "fallback"} == {9}
    assert report.abandonment == {"choice": "fallback", "tokens": 9, "instruction": ""}


def test_unfunded_queries_go_to_another_engine(clean):
    report, _ = clean
    small = Stub()
    with Running(small) as url:
        choice = Cheaper(Server(url, "small"), tokens=30, budget=95)
        mixed = ran(Stub(), workload(), settings(), verifier=VERIFIER, abandonment=choice)
    assert mixed.statuses["cheaper"] == len(small.log) == 3
    assert mixed.statuses["skipped"] == report.statuses["skipped"] - 3
    assert mixed.spending.cheaper == small.generated <= 95
    assert mixed.spending.spent == report.spending.spent
    assert {entry["body"]["model"] for entry in small.log} == {"small"}


def test_another_engine_that_cannot_serve_costs_its_answers_alone(clean):
    report, _ = clean
    with Running(Stub(key="x")) as url:
        choice = Cheaper(Server(url, "small"), tokens=30)
        mixed = ran(Stub(), workload(), settings(), verifier=VERIFIER, abandonment=choice)
    assert mixed.complete
    assert "the other engine cannot serve" in mixed.notes[0]
    assert [row.score for row in mixed.rows] == [row.score for row in report.rows]


def test_unfunded_queries_are_queued(tmp_path, clean):
    report, _ = clean
    path = tmp_path / "later.jsonl"
    queued = ran(Stub(), workload(), settings(), verifier=VERIFIER, abandonment=Queue(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert queued.statuses["queued"] == report.statuses["skipped"] == len(lines)
    assert [line["id"] for line in lines] == [r.key for r in queued.rows if r.status == "queued"]
    assert lines[0]["prompt"].startswith("need=")


# -------------------------------------------------------------------------------- the audit
def test_a_server_that_ignores_caps_is_told(clean):
    report = ran(Stub("overrun:*"), workload(), settings(reserve=200), verifier=VERIFIER)
    assert report.spending.spent + report.spending.lost <= 1600
    assert any("max_tokens was ignored in" in note for note in report.notes)
    overran = [audit for audit in report.audits if audit["overran"]]
    assert overran
    assert all(audit["spent"] > audit["planned"] for audit in overran)


def test_a_server_with_a_limit_of_its_own_is_told():
    class Short(Stub):
        async def answer(self, request, body, entry, fault):
            body["max_tokens"] = min(body["max_tokens"], 20)
            return await super().answer(request, body, entry, fault)

    report = ran(Short(), workload(), settings(rounds=0))
    assert any("cut before their caps" in note for note in report.notes)


JUDGE = Numeric()  # is asked about what follows the thinking


def thinking(n=10):
    queries = [Query(f"q{i}", f"need=40 say={i} think=25\n", str(i)) for i in range(n)]
    return Workload(queries, 100)


def test_the_limit_of_the_thinking_keeps_tokens_for_the_answer():
    chosen = settings(budget=300, rounds=0, reasoning=Reasoning(18, start="\n", end="|"))
    stub = Stub()
    report = ran(stub, thinking(), chosen, verifier=JUDGE)
    assert {entry["body"]["max_tokens"] for entry in stub.log} == {30}
    assert {entry["body"]["thinking_token_budget"] for entry in stub.log} == {12}
    assert report.right == 10
    assert [audit["thinking_spent"] for audit in report.audits] == [12] * 10
    assert report.notes == ()


def test_a_limit_of_the_thinking_that_is_ignored_is_told():
    chosen = settings(budget=300, rounds=0, reasoning=Reasoning(18, start="\n", end="|"))
    report = ran(Stub(ignores_thinking=True), thinking(), chosen, verifier=JUDGE)
    assert report.right == 0
    assert any("thinking was ignored in 10 of 10 requests" in note for note in report.notes)
    blind = ran(Stub(ignores_thinking=True, ids=False), thinking(), chosen, verifier=JUDGE)
    assert any("thinking cannot be checked" in note for note in blind.notes)


# -------------------------------------------------------------------------------- the rest
def test_a_verifier_that_fails_costs_its_queries(clean):
    work = Workload(
        [Query(key, "need=12 say=1\n") for key in ("a", "raises", "hangs", "dies", "b")], 30
    )
    report = ran(Stub(), work, settings(verify_seconds=1.0), verifier=odd)
    assert [row.score for row in report.rows] == [1, 0, 0, 0, 1]
    assert [row.verdict for row in report.rows] == [
        "scored", "raised", "timed out", "died", "scored",
    ]  # fmt: skip
    assert report.complete


def test_cut_answers_count_if_asked_to():
    work = Workload([Query("q", "need=12 say=1\n", "1")], 11)  # cut one before the end
    for score_cut, score in ((False, 0), (True, 1)):
        report = ran(Stub(), work, settings(score_cut=score_cut), verifier=ExactMatch("####"))
        assert (report.rows[0].status, report.rows[0].score) == ("cut", score)


def test_the_time_limit_leaves_a_partial_report(tmp_path, clean):
    report, _ = clean
    chosen = {"verifier": VERIFIER, "out": tmp_path}
    part = ran(Stub(delay=0.02), workload(), settings(time_limit=1.0, reserve=0), **chosen)
    assert not part.complete
    assert part.statuses["interrupted"] > 0
    assert "time limit" in part.notes[-1]
    assert part.spending.spent + part.spending.lost <= 1600
    whole = ran(Stub(), workload(), settings(charge_lost=False), **chosen)
    assert table(whole) == table(report)


def test_an_engine_that_cannot_serve_raises_before_anything_is_answered(tmp_path):
    with pytest.raises(EngineError, match="answers 401"):
        ran(Stub(key="k"), workload(), settings(), out=tmp_path)
    assert ran(Stub(), workload(), settings(), out=tmp_path).complete


def test_refused_queries_are_told():
    refused = ran(Stub("400:0"), workload(), settings(), verifier=VERIFIER)
    (row,) = [row for row in refused.rows if row.status == "refused"]
    assert "answers 400: on order" in row.why
    assert row.score == 0


def test_the_report_is_written_and_read(tmp_path, clean):
    report, _ = clean
    written, answers = report.write(tmp_path)
    plain = json.loads(written.read_text())
    assert plain["right"] == report.right
    assert plain["statuses"] == report.statuses
    assert len(answers.read_text().splitlines()) == 40
    told = report.summary()
    assert f"{report.spending.spent:,} of 1,600 spent" in told
    assert f"{report.gain:+g} right answers" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget = 0: must be a whole number of at least 1"),
        ({"budget": 5, "reserve": 5}, "nothing is left of the budget"),
        ({"budget": 5, "rounds": -1}, "rounds = -1"),
        ({"budget": 5, "time_limit": 0}, "time_limit = 0"),
        ({"budget": 5, "temperature": float("inf")}, "temperature = inf"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(co.DeclarationError, match=message):
        Settings(**options)
    for tokens in (0, True, 1.5):
        with pytest.raises(co.DeclarationError, match="must be a whole number above 0"):
            Fallback(tokens)
