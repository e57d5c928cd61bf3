"""Pictures of a replay, one a benchmark, split and accounting: accuracy against the budget, medians
over the models. Matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clearopt.plots import require_matplotlib
from clearopt.replay.policies import ABLATIONS
from clearopt.replay.report import Report, Summary
from clearopt.replay.text import ACCOUNTINGS

# Okabe and Ito's colours; lines that may coincide differ in width, so that both are seen.
_STYLES: dict[str, dict[str, Any]] = {
    "oracle": {"color": "#555555", "linestyle": (0, (2, 2)), "linewidth": 1.4, "marker": None},
    "price": {"color": "#56B4E9", "linewidth": 5.0, "alpha": 0.6, "marker": None},
    "dual": {"color": "#004B87", "linewidth": 2.0, "marker": "o", "markersize": 5},
    "dual-informed": {"color": "#F0A500", "linewidth": 1.4, "linestyle": (0, (1, 1)),
                      "marker": None},
    "dual-unpooled": {"color": "#009E73", "linewidth": 1.4, "marker": "v", "markersize": 5},
    "proportional": {"color": "#CC79A7", "linewidth": 1.4, "marker": "^", "markersize": 5},
    "tale-ep": {"color": "#7A5195", "linewidth": 1.4, "marker": "P", "markersize": 6},
    "time-share": {"color": "#D55E00", "linestyle": (0, (4, 2)), "linewidth": 1.6, "marker": "D",
                   "markersize": 4},
    "uniform": {"color": "#8a8a8a", "linewidth": 3.0, "alpha": 0.7, "marker": "s",
                "markersize": 5},
}  # fmt: skip
_SHADES = ("#C44E52", "#8C564B", "#BCBD22", "#17BECF")  # of the ablations


def plot_replay(report: Report, folder: Path) -> list[Path]:
    """Draw the report into the folder, `replay-BENCHMARK-SPLIT-ACCOUNTING.png`.

    Raises:
        MissingExtraError: Matplotlib is not installed; names the extra.
    """
    require_matplotlib()
    groups: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in report.summaries:
        key = (summary.benchmark, summary.split, summary.accounting)
        groups.setdefault(key, []).append(summary)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _drawn(key, own, folder / f"replay-{'-'.join(map(_plain, key))}.png")
        for key, own in groups.items()
    ]


def _drawn(key: tuple[str, str, str], summaries: list[Summary], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    benchmark, split, accounting = key
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    others = [name for name in ABLATIONS if any(s.policy == name for s in summaries)]
    shades = {name: {"color": color, "linewidth": 1.2, "marker": "x", "markersize": 5}
              for name, color in zip(ABLATIONS, _SHADES, strict=True)}  # fmt: skip
    for policy, style in (_STYLES | {name: shades[name] for name in others}).items():
        own = sorted((s for s in summaries if s.policy == policy), key=lambda s: s.fraction)
        if own:
            x = [100 * s.fraction for s in own]
            y = [100 * s.accuracy for s in own]
            axes.plot(x, y, label=policy, **style)
            if policy == "dual":
                _annotate(axes, own, style["color"])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"budget, % of ample ({ACCOUNTINGS[accounting]})")
    axes.set_ylabel("right (%)")
    models = summaries[0].models
    over = "one model" if models == 1 else f"medians over {models} models"
    figure.suptitle(f"{benchmark}: {over}, {split} split; x: times uniform, on dual's line",
                    fontsize=10, x=0.01, ha="left", color="#444444")  # fmt: skip
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    return path


def _annotate(axes: Any, summaries: list[Summary], color: str) -> None:
    for s in summaries:
        if s.ratio is not None:
            axes.annotate(f"{s.ratio:.2f} x", (100 * s.fraction, 100 * s.accuracy),
                          xytext=(-5, 6), textcoords="offset points", fontsize=9, color=color,
                          fontweight="bold", ha="right")  # fmt: skip


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
