import json
from dataclasses import replace

import pytest
from rich.console import Console

import clearopt as co
from clearopt import plots
from clearopt.confirmation.report import Report, Row, headline, installed_versions, tables

PNG = b"\x89PNG\r\n\x1a\n"


def make_row(policy, fraction, accuracy, ratio):
    return Row(
        policy=policy, fraction=fraction, budget=int(20_000 * fraction), accuracy=accuracy,
        low=accuracy - 0.04, high=accuracy + 0.04, ratio=ratio, ratio_low=ratio * 0.8,
        ratio_high=ratio * 1.2, expected_accuracy=accuracy, planned=int(20_000 * fraction) - 3,
        generated=int(15_000 * fraction), price=4e-3 if policy == "dual" else None,
        gap=1e-7 if policy == "dual" else None, funded=0.6, solver_status="optimal", seconds=2.0,
        tokens_per_second=7000.0, solver_seconds=0.01,
    )  # fmt: skip


@pytest.fixture
def report():
    rows = tuple(
        make_row(policy, fraction, accuracy, accuracy / base)
        for fraction, base in ((0.1, 0.05), (0.2, 0.2), (0.4, 0.35), (0.8, 0.55))
        for policy, accuracy in (
            ("uniform", base), ("time-share", base + 0.02), ("price", base + 0.18),
            ("dual", base + 0.2),
        )
    )  # fmt: skip
    return Report(
        rows=rows, queries=100, seed=0, model="reasoner", ample=20_000, ample_cap=200,
        confirmed=True, complete=True, calibration={"summary": {"accuracy": 0.7}}, check=(),
        settings={},
    )  # fmt: skip


def printed(report, **options):
    console = Console(**{"width": 160} | options)
    with console.capture() as captured:
        for table in tables(report, width=console.width, plain=not options.get("force_terminal")):
            console.print(table)
    return captured.get()


def test_report_json_holds_every_row(report, tmp_path):
    found = json.loads(report.write(tmp_path / "new").read_text())
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["report.json"]
    assert len(found["rows"]) == 16
    wanted = {"policy", "fraction", "accuracy", "low", "high", "ratio", "ratio_low", "ratio_high",
              "planned", "generated", "gap", "price", "funded", "seconds", "tokens_per_second",
              "expected_accuracy"}  # fmt: skip
    assert wanted <= set(found["rows"][0])
    assert found["rows"][0]["gap"] is None
    assert {"queries", "seed", "model", "ample", "versions", "calibration"} <= set(found)
    assert set(found["versions"]) >= {"python", "clearopt", "vllm", "jax", "numpy", "torch"}


def test_a_value_json_cannot_hold_is_refused(report, tmp_path):
    bad = replace(report, rows=(replace(report.rows[0], ratio=float("inf")),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        bad.write(tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_the_table_is_plain_where_there_is_no_terminal(report):
    text = printed(report)
    assert text.isascii()
    assert "40.0 [36.0, 44.0]" in text
    assert "2.00 [1.60, 2.40]" in text
    assert "1,997" in text
    assert "\x1b[" not in text
    assert "\x1b[1m" in printed(report, force_terminal=True, color_system="truecolor")


@pytest.mark.parametrize("width", [80, 100, 129, 130, 200])
def test_nothing_is_cut_off_at_any_width(report, width):
    for options in ({}, {"force_terminal": True, "color_system": None}):
        text = printed(report, width=width, **options)
        assert "\N{HORIZONTAL ELLIPSIS}" not in text
        assert max(map(len, text.splitlines())) <= width
        for wanted in ("40.0 [36.0, 44.0]", "2.00 [1.60, 2.40]", "1,997", "tokens/s", "1e-07"):
            assert wanted in text


def test_plans_that_were_not_run_show_no_accuracy(report):
    rows = tuple(replace(r, accuracy=None, low=None, high=None) for r in report.rows)
    text = printed(replace(report, rows=rows, confirmed=False))
    assert "x uniform" not in text
    assert "expected" in text
    assert headline(replace(report, rows=rows)) == ""


def test_the_headline_says_what_was_gained(report):
    assert headline(report) == (
        "With 20 % of the tokens that are ample: 2.00 times as many right answers as uniform caps "
        "(95 %: [1.60, 2.40])."
    )
    open_above = tuple(replace(r, ratio=None, ratio_high=None) for r in report.rows)
    assert "uniform caps none" in headline(replace(report, rows=open_above))


def test_rows_are_found(report):
    assert report.row("dual", 0.2).accuracy == pytest.approx(0.4)
    with pytest.raises(KeyError):
        report.row("dual", 0.3)


def test_versions_name_what_is_installed():
    versions = installed_versions()
    assert versions["clearopt"] == co.__version__
    assert versions["numpy"]


def test_the_picture_is_a_png(report, tmp_path):
    path = plots.plot_accuracy(report, tmp_path / "new" / "accuracy.png")
    assert path.read_bytes()[:8] == PNG
    assert path.read_bytes() == plots.plot_accuracy(report, tmp_path / "again.png").read_bytes()


def test_a_picture_of_part_of_the_rows(report, tmp_path):
    part = replace(report, rows=report.rows[:2])
    assert plots.plot_accuracy(part, tmp_path / "part.png").is_file()
    with pytest.raises(co.DeclarationError, match="no measured accuracy"):
        plots.plot_accuracy(replace(report, rows=()), tmp_path / "none.png")


def test_without_matplotlib_the_extra_is_named(report, tmp_path, monkeypatch):
    monkeypatch.setitem(plots.importlib.import_module("sys").modules, "matplotlib", None)
    with pytest.raises(co.MissingExtraError, match=r"pip install 'clearopt\[plot\]'"):
        plots.plot_accuracy(report, tmp_path / "none.png")
