"""Do the curves describe the answers? Chances and lengths of answers left out, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.plots import require_matplotlib, saved

if TYPE_CHECKING:
    from clearopt.calibration.curves import FittedCurves
    from clearopt.calibration.diagnostics import Goodness

_COLOR, _EXPECTED = "#004B87", "#D55E00"
_NORMAL_95 = 1.96


def plot_calibration(curves: FittedCurves, path: str | Path) -> Path:
    """Draw right answers against their predicted chance, and where lengths fall in their law.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        DeclarationError: the curves have no law of lengths (tables), or were predicted.
    """
    require_matplotlib()
    fit = curves.goodness
    if fit is None or not fit.chance_count:
        why = (
            "tables have no law of lengths to compare with"
            if curves.family == "isotonic"
            else "no answer belongs to them; plot those that fit_curves returned"
        )
        raise DeclarationError(f"plot_calibration: {why}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    chances, lengths = figure.subplots(1, 2)
    _draw_chances(chances, fit)
    _draw_lengths(lengths, fit)
    for axes in (chances, lengths):
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    seen = "each answer left out of its own curve" if fit.held_out else "the answers fitted on"
    figure.suptitle(
        f"{curves.family}, {curves.pooling} pooling, {len(curves)} queries; {fit.answers} answers, "
        f"{fit.cut} of them cut; {seen}",
        fontsize=10, x=0.01, ha="left", color="#444444",
    )  # fmt: skip
    return saved(figure, path)


def _draw_chances(axes: Any, fit: Goodness) -> None:
    """Tenths of the answers by predicted chance, with Wilson's 95 % intervals (JASA 22, 1927)."""
    x, y, count = (
        np.asarray(a, dtype=np.float64)
        for a in (fit.chance_predicted, fit.chance_observed, fit.chance_count)
    )
    square = _NORMAL_95**2
    middle = (y + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_95 * np.sqrt(y * (1 - y) / count + square / (4 * count**2))
    half /= 1 + square / count
    axes.plot([0, 100], [0, 100], color=_EXPECTED, linewidth=1.2, label="as predicted")
    axes.errorbar(
        100 * x, 100 * y, yerr=100 * np.abs([y - (middle - half), (middle + half) - y]),
        color=_COLOR, marker="o", markersize=5, linestyle="", elinewidth=1.2,
        label="a tenth of the answers (95 %)",
    )  # fmt: skip
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 102)
    axes.set_xlabel("predicted chance of a right answer (%)")
    axes.set_ylabel("right answers (%)")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set_title(f"chances: Brier {fit.brier:.3f}, one for all {fit.brier_base:.3f}", fontsize=10)


def _draw_lengths(axes: Any, fit: Goodness) -> None:
    """How many whole answers end in each tenth of the law predicted for them."""
    share = 100 * np.asarray(fit.length_bins)
    whole = max(fit.answers - fit.cut, 1)
    tenth = 100.0 / share.size
    spread = _NORMAL_95 * np.sqrt(tenth * (100.0 - tenth) / whole)
    at = (np.arange(share.size) + 0.5) * tenth
    axes.bar(at, share, width=0.9 * tenth, color=_COLOR, alpha=0.8)
    axes.axhspan(tenth - spread, tenth + spread, color=_EXPECTED, alpha=0.2, linewidth=0)
    axes.axhline(tenth, color=_EXPECTED, linewidth=1.2, label="if the law holds (95 % for a bar)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1.25 * max(float(share.max()), tenth + spread))
    axes.set_xlabel("where in its predicted law an answer ended (%)")
    axes.set_ylabel("whole answers (%)")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set_title(
        f"lengths: Kolmogorov-Smirnov {fit.ks:.3f}, p = {fit.ks_p_value:.2g}", fontsize=10
    )
