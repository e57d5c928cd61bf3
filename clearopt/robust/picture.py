"""The noise study as a picture. Matplotlib is imported when one is drawn, never before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clearopt.plots import require_matplotlib, saved

if TYPE_CHECKING:
    from clearopt.robust.noise import NoiseStudy

# Okabe and Ito's colours; baselines may coincide, and differ in width.
_STYLES = {
    "uniform": ("#8a8a8a", "-", "uniform: one cap for all"),
    "time-share": ("#D55E00", "--", "time-share: a random part, best cap"),
    "plain": ("#004B87", "-", "prediction believed"),
    "expected": ("#56B4E9", "-", "expected over the error"),
    "shrunk": ("#009E73", "-", "expected, thresholds shrunk"),
    "cautious": ("#CC79A7", "-", "threshold with a margin"),
}


def plot_noise(study: NoiseStudy, path: str | Path) -> Path:
    """Accuracy against noise, one panel a budget; see `NoiseStudy.plot`."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = list(dict.fromkeys(row.share for row in study.rows))
    figure = Figure(figsize=(3.4 * len(shares) + 0.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    for axes, share in zip(panels, shares, strict=True):
        for policy, (color, line, label) in _STYLES.items():
            rows = [r for r in study.rows if r.policy == policy and r.share == share]
            if not rows:
                continue
            x, y = [r.noise for r in rows], [100 * r.accuracy for r in rows]
            if policy in ("uniform", "time-share"):  # which no error touches
                width = 4.0 if policy == "uniform" else 1.6
                axes.plot(x, y, color=color, linestyle=line, label=label, linewidth=width)
                continue
            axes.errorbar(
                x, y, yerr=[100 * r.error for r in rows], color=color, linestyle=line, label=label,
                marker="o", markersize=4, linewidth=1.8, capsize=2,
            )  # fmt: skip
        axes.set_title(f"{100 * share:g} % of ample", fontsize=10)
        axes.set_xlabel("error of log threshold")
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)  # the panels share it; once all is drawn
    panels[0].set_ylabel("right answers (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return saved(figure, path)
