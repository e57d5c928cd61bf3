"""How well fitted curves are calibrated, as a picture. Matplotlib is imported when it is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.calibration.diagnostics import Goodness
from clearopt.plots import require_matplotlib

_BLUE, _GREY, _BAND = "#004B87", "#8a8a8a", "#dddddd"  # Okabe and Ito's blue, darkened
_SIDES = 1.96  # standard errors: 95 %


def plot_goodness(fit: Goodness, path: str | Path) -> Path:
    """Draw lengths and chances against what they should be; see `FittedCurves.plot`.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _lengths(left, fit)
    _chances(right, fit)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    kind = "each answer left out in its turn" if fit.held_out else "of the very answers fitted"
    figure.suptitle(f"{fit.answers} answers, {kind}; grey: 95 % of what chance does",
                    fontsize=10, x=0.01, ha="left", color="#444444")  # fmt: skip
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    return target


def _lengths(axes: Any, fit: Goodness) -> None:
    """Where lengths fall in their predicted laws: a tenth in each tenth, if the laws hold."""
    bins = np.array(fit.length_bins)
    share = 1.0 / bins.size
    # Cut answers have no length: of the others as many as are counted beside the chances.
    count = max(sum(fit.chance_count), 1)
    error = _SIDES * math.sqrt(share * (1 - share) / count)
    axes.axhspan(100 * (share - error), 100 * (share + error), color=_BAND, zorder=0)
    axes.axhline(100 * share, color=_GREY, linewidth=1.2)
    places = 100 * (np.arange(bins.size) + 0.5) / bins.size
    axes.bar(places, 100 * bins, width=0.86 * 100 / bins.size, color=_BLUE, alpha=0.75)
    axes.set_xlim(0, 100)
    axes.set_xlabel("place in the predicted law of lengths (%)")
    axes.set_ylabel("answers (%)")
    axes.set_title(f"lengths: Kolmogorov-Smirnov {fit.ks:.3f}, p = {fit.ks_p_value:.2g}",
                   fontsize=10)  # fmt: skip


def _chances(axes: Any, fit: Goodness) -> None:
    """How many were right among answers with about the same predicted chance."""
    predicted, observed = np.array(fit.chance_predicted), np.array(fit.chance_observed)
    count = np.maximum(np.array(fit.chance_count), 1)
    error = _SIDES * np.sqrt(predicted * (1 - predicted) / count)
    order = np.argsort(predicted)
    low, high = (np.clip(predicted + sign * error, 0, 1)[order] for sign in (-1, 1))
    axes.fill_between(100 * predicted[order], 100 * low, 100 * high, color=_BAND)
    axes.plot([0, 100], [0, 100], color=_GREY, linewidth=1.2)
    axes.plot(100 * predicted, 100 * observed, "o", color=_BLUE, markersize=5, clip_on=False)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted chance of a right answer (%)")
    axes.set_ylabel("right (%)")
    axes.set_title(f"chances: Brier {fit.brier:.3f}, one for all {fit.brier_base:.3f}", fontsize=10)
