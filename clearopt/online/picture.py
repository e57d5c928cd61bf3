"""A stream as a picture. Matplotlib is imported when one is drawn, never before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.plots import require_matplotlib, saved

# Okabe and Ito's colours.
_COLORS = ("#004B87", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#8a8a8a")


def plot_stream(
    prices: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    regret: Mapping[str, Any],
    path: str | Path,
    *,
    offline_price: float | None = None,
) -> Path:
    """Draw prices, accuracy and regret as a stream goes by, and save the picture.

    Args:
        prices: label -> (n,) posted prices, accuracy per token.
        accuracy: label -> (n,) right or expected answers; drawn as their mean so far.
        regret: label -> (n,) what the offline optimum is ahead by, query by query; summed.
        path: where to; the ending chooses the format (.png, .svg, .pdf).
        offline_price: of the offline optimum, drawn as a line.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    price, mean, behind = figure.subplots(3, 1, sharex=True)
    labels = list(dict.fromkeys([*prices, *accuracy, *regret]))
    color = {label: _COLORS[k % len(_COLORS)] for k, label in enumerate(labels)}
    for label, values in prices.items():
        price.plot(np.asarray(values), color=color[label], linewidth=1.2, label=label)
    if offline_price is not None:
        price.axhline(
            offline_price, color="#444444", linewidth=1.2, linestyle=(0, (4, 2)), zorder=5,
            label="offline optimum",
        )  # fmt: skip
    price.set_yscale("log")
    price.set_ylabel("price (accuracy per token)")
    for label, values in accuracy.items():
        known = np.asarray(values, dtype=np.float64)
        so_far = 100 * np.cumsum(known) / np.arange(1, known.size + 1)
        mean.plot(so_far, color=color[label], linewidth=1.6, label=label)
    mean.set_ylabel("right answers so far (%)")
    mean.set_ylim(bottom=0)
    for label, values in regret.items():
        behind.plot(np.cumsum(np.asarray(values)), color=color[label], linewidth=1.6, label=label)
    behind.axhline(0, color="#444444", linewidth=0.8)
    behind.set_ylabel("right answers behind\nthe offline optimum")
    behind.set_xlabel("queries")
    for axes in (price, mean, behind):
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    handles: dict[str, Any] = {}
    for axes in (price, mean, behind):
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return saved(figure, path)
