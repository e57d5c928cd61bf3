"""The whole replay on small files: rows, resuming, and files that leave something out."""

import json

import numpy as np
import pytest
from rollout_files import simulated, traces_of, write

import clearopt as co
from clearopt.confirmation.report import Row as ConfirmationRow
from clearopt.replay import Settings, replay
from clearopt.replay import run as run_module
from clearopt.replay.report import ROW_KEYS, Evaluated

FAST = {"repeats": 1, "fractions": (0.1, 0.4), "resamples": 200}


def strip_seconds(report):
    plain = report.to_dict()
    for row in plain["rows"]:
        del row["solver_seconds"]
    return plain


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    rows = simulated(model="small") + simulated(model="larger", scale=2.0, seed=1, solved=0.95)
    return traces_of(rows, tmp_path_factory.mktemp("r"))


@pytest.fixture(scope="module")
def report(traces):
    return replay(traces, Settings(predict_from="others", **FAST))


def test_rows_have_the_confirmations_keys_and_where_they_belong(report):
    theirs = set(ConfirmationRow.__dataclass_fields__)
    assert set(ROW_KEYS) == theirs | {"benchmark", "model", "accounting", "split"}
    json.dumps(report.to_dict(), allow_nan=False)
    assert {row.split for row in report.rows} == {"sample", "query"}
    assert {row.accounting for row in report.rows} == {"planned", "realised"}
    assert {row.model for row in report.rows} == {"small", "larger"}
    assert report.complete
    assert set(report.skipped) == {"tale-ep"}


def test_baselines_stand_beside_every_ratio(report):
    for row, standing in zip(report.rows, report.standings, strict=True):
        where = {"accounting": row.accounting, "split": row.split, "model": row.model}
        uniform = report.row("uniform", row.fraction, **where)
        time_share = report.row("time-share", row.fraction, **where)
        assert standing.uniform == pytest.approx(uniform.accuracy)
        assert standing.time_share == pytest.approx(time_share.accuracy)
        if uniform.accuracy > 0:
            assert row.ratio == pytest.approx(row.accuracy / uniform.accuracy)
            assert row.ratio_low <= row.ratio + 1e-9
        assert row.low - 1e-9 <= row.accuracy <= row.high + 1e-9


def test_the_oracle_tops_its_accounting_and_allocation_gains_here(report):
    for split in ("sample", "query"):
        for model in ("small", "larger"):
            where = {"split": split, "model": model, "accounting": "planned"}
            dual = report.row("dual", 0.1, **where)
            assert dual.accuracy > report.row("time-share", 0.1, **where).accuracy
            assert dual.accuracy <= report.row("oracle", 0.1, **where).accuracy + 1e-9


def test_budgets_of_planned_caps_are_met_to_the_token(report):
    for row in report.rows:
        if row.policy in ("uniform", "dual") and row.accounting == "planned":
            assert row.planned == row.budget
        assert row.generated <= row.planned


def test_summaries_are_over_the_models(report):
    wanted = ("sample", "planned", "dual", 0.1)
    (one,) = (
        s for s in report.summaries if (s.split, s.accounting, s.policy, s.fraction) == wanted
    )
    assert one.models == 2
    mine = [report.row("dual", 0.1, split="sample", accounting="planned", model=model)
            for model in ("small", "larger")]  # fmt: skip
    assert one.accuracy == pytest.approx(np.mean([row.accuracy for row in mine]))
    assert one.least_ratio == min(row.ratio for row in mine)


def test_results_survive_json(report, traces):
    result = Evaluated(report.runs[0], report.rows, report.standings, report.frontiers)
    assert Evaluated.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_equal_seeds_give_equal_reports_and_others_do_not(traces):
    settings = Settings(model="small", policies=("dual",), splits=("sample",), **FAST)
    first, second = (strip_seconds(replay(traces, settings)) for _ in range(2))
    assert first == second
    other = Settings(model="small", policies=("dual",), splits=("sample",), seed=1, **FAST)
    assert strip_seconds(replay(traces, other))["rows"] != first["rows"]


def test_an_interrupted_replay_is_taken_up(traces, tmp_path, monkeypatch):
    settings = Settings(splits=("sample",), policies=("dual",), **FAST)
    whole = replay(traces, settings)
    evaluate, calls = run_module.evaluate, []

    def interrupted(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr(run_module, "evaluate", interrupted)
    part = replay(traces, settings, out=tmp_path)
    assert not part.complete
    assert {row.model for row in part.rows} == {"small"}
    assert "interrupted: 1 of 2 runs and splits are here" in part.notes
    json.dumps(part.to_dict(), allow_nan=False)

    def only_the_second(run, *rest):
        assert run.model == "larger"
        return evaluate(run, *rest)

    monkeypatch.setattr(run_module, "evaluate", only_the_second)
    resumed = replay(traces, settings, out=tmp_path)
    assert strip_seconds(resumed) == strip_seconds(whole)


def test_a_changed_setting_is_not_given_old_results(traces, tmp_path):
    settings = {"splits": ("sample",), "policies": ("uniform",), "model": "small", **FAST}
    first = replay(traces, Settings(**settings), out=tmp_path)
    again = replay(traces, Settings(**{**settings, "fractions": (0.3,)}), out=tmp_path)
    assert {row.fraction for row in first.rows} == {0.1, 0.4}
    assert {row.fraction for row in again.rows} == {0.3}


def test_streams_weigh_queries_by_how_often_they_come(traces):
    settings = {"splits": ("sample",), "policies": ("dual",), "model": "small", **FAST}
    easy, hard = (
        replay(traces, Settings(stream=mix, length=60, **settings)).row(
            "uniform", 0.4, accounting="planned"
        )
        for mix in ("easy-heavy", "hard-heavy")
    )
    assert easy.accuracy > hard.accuracy


# -------------------------------------------------------------------------------- odd files
def noted(rows, tmp_path, **options):
    report = replay(traces_of(rows, tmp_path), Settings(**{**FAST, **options}))
    assert report.complete
    json.dumps(report.to_dict(), allow_nan=False)
    return report


def test_nothing_right_is_a_note(tmp_path):
    report = noted([row | {"correct": False} for row in simulated(n=4, samples=2)], tmp_path)
    assert not report.rows
    assert any("sums, small" in note and "is right" in note for note in report.notes)


def test_nothing_finished_is_a_note(tmp_path):
    report = noted([row | {"finished": False} for row in simulated(n=4, samples=2)], tmp_path)
    assert not report.rows


def test_all_right_is_evaluated(tmp_path):
    report = noted([row | {"correct": True} for row in simulated(n=8, samples=4)], tmp_path)
    assert report.row("oracle", 0.4, accounting="planned").accuracy > 0.5


def test_one_sample_a_query_leaves_the_query_split(tmp_path):
    rows = simulated(n=12, samples=1) + simulated(n=12, samples=1, model="larger", scale=2.0)
    report = noted(rows, tmp_path, predict_from="others")
    assert {row.split for row in report.rows} == {"query"}
    assert any("every query has one sample" in note for note in report.notes)


def test_one_query(tmp_path):
    report = noted(simulated(n=1, samples=6), tmp_path)
    assert {row.split for row in report.rows} <= {"sample"}
    rows = simulated(n=1, samples=6) + simulated(n=1, samples=6, model="larger")
    report = noted(rows, tmp_path, predict_from="larger", model="small")
    assert any("there is one query" in note for note in report.notes)


def test_all_lengths_equal(tmp_path):
    rows = [row | {"tokens": 50} for row in simulated(n=6, samples=4)]
    report = noted(rows, tmp_path)
    assert report.row("uniform", 0.4, accounting="planned").accuracy == 0.0
    assert report.row("time-share", 0.4, accounting="planned").accuracy > 0.0


def test_answers_without_tokens(tmp_path):
    report = noted([row | {"tokens": 0} for row in simulated(n=3, samples=2)], tmp_path)
    assert not report.rows
    assert any("no tokens" in note for note in report.notes)


def test_models_with_other_queries_predict_nothing(tmp_path):
    rows = simulated(n=6) + [
        row | {"query_id": "z" + row["query_id"]} for row in simulated(n=6, model="larger")
    ]
    report = noted(rows, tmp_path, predict_from="others", splits=("query",))
    assert not report.rows
    assert any("answered fewer than two of these queries" in note for note in report.notes)


def test_a_model_is_not_predicted_from_itself(tmp_path):
    report = noted(simulated(n=6), tmp_path, predict_from="small", splits=("query",))
    assert any("not predicted from itself" in note for note in report.notes)


# -------------------------------------------------------------------------------- features
def test_features_from_a_table(traces, tmp_path):
    run = traces.select(model="small")
    difficulty = np.random.default_rng(12345).normal(size=30)
    table = [
        {"query_id": query, "dataset": "x", "difficulty": difficulty[int(query[1:])]}
        for query in run.queries
    ]
    path = write(tmp_path / "features.csv", table)
    settings = Settings(features=str(path), splits=("query",), model="small", **FAST)
    report = replay(traces, settings)
    where = {"accounting": "planned", "split": "query"}
    dual, share = (report.row(name, 0.1, **where) for name in ("dual", "time-share"))
    assert dual.accuracy > share.accuracy
    twice = write(tmp_path / "twice.csv", [*table, table[0]])
    report = replay(traces, Settings(features=str(twice), splits=("query",), **FAST))
    assert any(
        "line 32, column 'query_id': query 'q0' stands already" in note for note in report.notes
    )


def test_what_settings_refuse():
    for options, said in (
        ({"fractions": ()}, "budgets: there is none"),
        ({"fractions": (0.0,)}, "must lie above 0"),
        ({"policies": ("magic",)}, "policies: 'magic' is unknown"),
        ({"repeats": 0}, "repeats = 0"),
        ({"stream": "calm"}, "stream 'calm'"),
        ({"predictor": "oracle"}, "predictor 'oracle'"),
        ({"time_limit": 0}, "time_limit = 0"),
    ):
        with pytest.raises(co.DeclarationError, match=said):
            Settings(**options)
    assert Settings(policies=("dual",)).policies == ("uniform", "time-share", "dual")


@pytest.mark.slow
def test_several_processes_give_the_same_report(traces):
    settings = Settings(splits=("sample",), policies=("dual",), **FAST)
    assert strip_seconds(replay(traces, settings, processes=2)) == strip_seconds(
        replay(traces, settings)
    )
