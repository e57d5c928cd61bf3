import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import clearopt as co
from clearopt.confirmation.experiment import Speaker, rehearse, run_confirmation
from clearopt.confirmation.narrator import Narrator
from clearopt.confirmation.settings import Settings
from clearopt.confirmation.tasks import split_tasks
from clearopt.serving import models

SMALL = Settings(
    queries=60, calibration=60, samples=2, fractions=(0.2, 0.4), check_queries=3,
    check_seconds=2.0, resamples=500,
)  # fmt: skip
TIMINGS = ("seconds", "tokens_per_second", "solver_seconds")


def without_timings(report):
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in report.to_dict()["rows"]]


@pytest.fixture(scope="module")
def first(engine):
    return run_confirmation(SMALL, engine=engine)


@pytest.mark.vllm
def test_every_policy_is_measured_at_every_budget(first):
    assert [(r.fraction, r.policy) for r in first.rows] == [
        (fraction, policy)
        for fraction in (0.2, 0.4)
        for policy in ("uniform", "time-share", "price", "dual")
    ]
    assert first.complete
    assert first.confirmed
    assert first.ample == 60 * first.ample_cap
    for row in first.rows:
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert row.generated <= row.planned <= row.budget <= row.fraction * first.ample
        assert row.tokens_per_second > 0
    for fraction in (0.2, 0.4):
        uniform, exact = first.row("uniform", fraction), first.row("dual", fraction)
        assert (uniform.ratio, uniform.ratio_low, uniform.ratio_high) == (1, 1, 1)
        assert exact.gap is not None
        assert exact.gap <= 1e-6
        assert exact.expected_accuracy > uniform.expected_accuracy
        assert exact.accuracy > uniform.accuracy


@pytest.mark.vllm
def test_the_same_run_gives_the_same_table(first, engine):
    second = run_confirmation(SMALL, engine=engine)
    assert without_timings(second) == without_timings(first)
    assert second.calibration == first.calibration
    other = run_confirmation(replace(SMALL, seed=1, fractions=(0.2,)), engine=engine)
    assert without_timings(other) != without_timings(first)[:4]


@pytest.mark.vllm
def test_a_run_is_taken_up_where_it_was_interrupted(first, engine, tmp_path):
    class Impatient(Narrator):
        """Presses Ctrl-C when three batches are done."""

        @contextmanager
        def progress(self, what, steps):
            done = []

            def advance():
                done.append(1)
                if what == "generating" and len(done) == 3:
                    raise KeyboardInterrupt

            yield advance

    partial = run_confirmation(
        SMALL, engine=engine, out=tmp_path, narrator=Impatient(Console(quiet=True))
    )
    assert not partial.complete
    assert without_timings(partial) == without_timings(first)[:3]
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 4

    whole = run_confirmation(SMALL, engine=engine, out=tmp_path)
    assert whole.complete
    assert without_timings(whole) == without_timings(first)
    assert whole.rows[0].seconds == partial.rows[0].seconds  # kept, not generated again
    # With everything in the journal no engine is even loaded.
    again = run_confirmation(SMALL, out=tmp_path)
    assert without_timings(again) == without_timings(first)
    assert [r.seconds for r in again.rows] == [r.seconds for r in whole.rows]


@pytest.mark.vllm
def test_fewer_policies_leave_uniform_as_the_baseline(first, engine):
    settings = replace(SMALL, policies=("dual",), fractions=(0.4,), check_queries=0)
    report = run_confirmation(settings, engine=engine)
    assert [r.policy for r in report.rows] == ["uniform", "dual"]
    assert report.check == ()
    wanted = [r for r in without_timings(first) if r["fraction"] == 0.4]
    assert without_timings(report) == [wanted[0], wanted[3]]


@pytest.mark.vllm
def test_the_check_names_every_solver(first):
    assert [row["solver"] for row in first.check] == ["dual", "scip", "cvxpy", "uniform"]
    exact = first.check[0]
    assert exact["status"] == "optimal"
    for row in first.check:
        assert row["feasible"]
        assert row["objective"] <= exact["bound"] * (1 + 1e-9)


@pytest.mark.vllm
def test_a_larger_cap_never_makes_a_right_answer_wrong(engine):
    """What pairs the policies: the same seed gives the same answer, cut at different lengths."""
    _, tasks = split_tasks(0, 40, seed=9)
    speaker = Speaker(lambda: engine)
    seeds = np.arange(40)
    _, short, _ = speaker.answer(tasks, np.full(40, 40), seeds)
    answers, long, _ = speaker.answer(tasks, np.full(40, 400), seeds)
    assert np.all(long[short])
    needed = np.array([speaker.needed(a) for a in answers])
    assert np.array_equal(short, long & (needed <= 40))


def test_calibration_and_evaluation_share_no_prompt():
    calibration, evaluation = split_tasks(SMALL.calibration, SMALL.queries, SMALL.seed)
    assert not {t.prompt for t in calibration} & {t.prompt for t in evaluation}


def test_a_rehearsal_plans_without_a_model():
    report = rehearse(SMALL)
    assert not report.confirmed
    assert report.complete
    assert [r.accuracy for r in report.rows] == [None] * 8
    assert report.row("dual", 0.2).expected_accuracy > report.row("uniform", 0.2).expected_accuracy
    assert len(report.check) == 4
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.vllm
def test_the_rehearsal_is_near_what_calibration_finds(first):
    """The utilities shipped for machines without vLLM are those of the shipped reasoner."""
    planned = rehearse(SMALL)
    assert planned.ample_cap == pytest.approx(first.ample_cap, rel=0.4)
    for row in planned.rows:
        measured = first.row(row.policy, row.fraction)
        assert row.expected_accuracy == pytest.approx(measured.expected_accuracy, abs=0.12)


def test_an_unknown_model_is_an_error_before_any_work():
    with pytest.raises(models.ModelError, match="unknown model 'resoner'"):
        run_confirmation(replace(SMALL, model="resoner"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 1}, "queries = 1: must be a whole number of at least 2"),
        ({"calibration": 0}, "calibration = 0"),
        ({"samples": 0}, "samples = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"queries": 2.5}, "queries = 2.5"),
        ({"fractions": ()}, "fractions: there is none"),
        ({"fractions": (0.2, 1.5)}, "fractions: 1.5 must lie above 0 and be at most 1"),
        ({"fractions": (float("nan"),)}, "fractions: nan must lie above 0"),
        ({"policies": ("best",)}, "policies: 'best' is unknown; known are uniform"),
        ({"time_limit": 0.0}, "time_limit = 0.0: must be a positive number"),
        ({"check_seconds": -1.0}, "check_seconds = -1.0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(co.DeclarationError, match=message):
        replace(SMALL, **change)
