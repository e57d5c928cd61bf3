"""Every policy that ran is drawn, on the page and in the pictures, whatever the budgets."""

import re

import pytest
from rollout_files import simulated, traces_of

from clearopt.replay import Settings, estimates_of, replay
from clearopt.replay.html import page
from clearopt.replay.pictures import plot_replay
from clearopt.replay.policies import ABLATIONS, DEFAULT_POLICIES


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    rows = simulated(n=16, model="small") + simulated(n=16, model="other", seed=1)
    traces = traces_of(rows, folder)
    queries = next(traces.runs()).queries
    table = estimates_of(queries, [f"[[{k + 5}]]" for k in range(len(queries))])
    settings = Settings(
        model="small",
        predict_from="other",
        estimates=table.write(folder / "estimates.csv"),
        policies=(*DEFAULT_POLICIES, *ABLATIONS),
        fractions=(0.1, 0.3),
        accountings=("planned",),
        splits=("sample",),
        repeats=1,
        resamples=200,
    )
    return replay(traces, settings)


def test_no_policy_is_missing_from_the_picture(report, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    plot = Axes.plot

    def noted(self, *arguments, label=None, **style):
        drawn.append(label)
        return plot(self, *arguments, label=label, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    (path,) = plot_replay(report, tmp_path)
    assert path.name == "replay-sums-sample-planned.png"
    assert sorted(drawn) == sorted({row.policy for row in report.rows})
    assert set(drawn) == {*DEFAULT_POLICIES, *ABLATIONS}


def test_frontiers_use_the_width_that_they_have(report):
    text = page(report, "title")
    ticks = re.findall(r'text-anchor="middle">(\d+%)</text>', text)
    assert ticks == ["0%", "10%", "20%", "30%"]
    for policy in {row.policy for row in report.rows}:
        assert f"<title>{policy}: area" in text
