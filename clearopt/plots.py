"""Pictures. Matplotlib is imported when one is drawn, never before."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearopt.errors import DeclarationError, MissingExtraError

if TYPE_CHECKING:
    from clearopt.confirmation.report import Report, Row
    from clearopt.frontiers import Frontier


@dataclass(frozen=True)
class _Style:
    """How a policy is drawn. Lines may coincide: the wide ones lie below and stay visible."""

    color: str
    marker: str
    size: float
    line: Any
    width: float
    label: str
    opacity: float = 1.0


# Okabe and Ito's colours, told apart by colour-blind readers, and a marker each for print.
_STYLES: dict[str, _Style] = {
    "uniform": _Style("#8a8a8a", "s", 9, "-", 5.0, "uniform: one cap for all", 0.55),
    "time-share": _Style(
        "#D55E00", "D", 4, (0, (4, 2)), 1.6, "time-share: a random part, best cap"
    ),
    "price": _Style("#56B4E9", "^", 11, "-", 6.0, "price search alone", 0.6),
    "dual": _Style("#004B87", "o", 5, "-", 1.8, "exact (dual), x = times uniform"),
}


def plots_installed() -> bool:
    """Whether Matplotlib is there; looks without importing it."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise `MissingExtraError` unless Matplotlib is there."""
    if not plots_installed():
        raise MissingExtraError(
            "a picture needs matplotlib, which is not installed: pip install 'clearopt[plot]'"
        )


def saved(figure: Any, path: str | Path) -> Path:
    """Save a figure where the path says, its folder made if need be; returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    return target


def plot_accuracy(report: Report, path: str | Path) -> Path:
    """Draw accuracy against tokens, one line a policy with its 95 % band, and save it.

    Args:
        report: of a confirmation that generated something.
        path: where to; the ending chooses the format (.png, .svg, .pdf).

    Raises:
        MissingExtraError: Matplotlib is not installed; names the extra.
        DeclarationError: the report holds no measured accuracy.
    """
    require_matplotlib()
    measured = [row for row in report.rows if row.accuracy is not None]
    if not measured:
        raise DeclarationError("plot_accuracy: the report holds no measured accuracy to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no window, no backend to choose.
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for policy, style in _STYLES.items():
        rows = sorted((r for r in measured if r.policy == policy), key=lambda r: r.fraction)
        if rows:
            _draw_policy(axes, rows, report.queries, style)
    _draw_ample(axes, report)
    axes.set_xlabel("planned tokens per query")
    axes.set_ylabel("queries answered right (%)")
    figure.suptitle(
        f"{report.queries} queries, model “{Path(report.model).name}”; "
        "bands: 95 % intervals (bootstrap over queries)",
        fontsize=10, x=0.01, ha="left", color="#444444",
    )  # fmt: skip
    axes.set_xlim(0, 1.04 * report.ample_cap)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    # As the lines lie on the page, the best first; below the axes, where it hides nothing.
    figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    return saved(figure, path)


def _draw_policy(axes: Any, rows: list[Row], queries: int, style: _Style) -> None:
    x = [row.budget / queries for row in rows]
    y = [100 * (row.accuracy or 0.0) for row in rows]
    low, high = ([100 * (getattr(row, side) or 0.0) for row in rows] for side in ("low", "high"))
    axes.fill_between(x, low, high, color=style.color, alpha=0.10, linewidth=0)
    axes.plot(
        x, y, color=style.color, alpha=style.opacity, marker=style.marker, markersize=style.size,
        linestyle=style.line, linewidth=style.width, label=style.label, solid_capstyle="round",
    )  # fmt: skip
    if rows[0].policy != "dual":
        return
    for row, across, up in zip(rows, x, y, strict=True):
        if row.ratio is not None:
            axes.annotate(
                f"{row.ratio:.1f} x", (across, up),
                xytext=(-4, 6), textcoords="offset points", ha="right", fontsize=9,
                color=style.color, fontweight="bold",
            )  # fmt: skip


def _draw_ample(axes: Any, report: Report) -> None:
    """The common cap that is ample, and the budgets as shares of it on an upper axis."""
    cap = report.ample_cap
    axes.axvline(cap, color="#999999", linewidth=1, linestyle=":")
    axes.annotate(
        f"ample: {cap} tokens", (cap, 0), xytext=(-4, 6), textcoords="offset points",
        ha="right", va="bottom", rotation=90, color="#666666", fontsize=9,
    )  # fmt: skip
    scale = 100 / cap
    upper = axes.secondary_xaxis("top", functions=(lambda x: x * scale, lambda x: x / scale))
    upper.set_xlabel("share of ample (%)", color="#666666", fontsize=9)
    upper.tick_params(colors="#666666", labelsize=8)
    upper.spines["top"].set_visible(False)


# -------------------------------------------------------------------------------- frontiers
_VALUE, _BOUND, _MARGINAL = "#004B87", "#D55E00", "#56B4E9"


def plot_frontier(frontier: Frontier, path: str | Path) -> Path:
    """Draw value and bound, price, and funded share against a limit, one above the other.

    Args:
        frontier: of at least one allocation.
        path: where to; the ending chooses the format (.png, .svg, .pdf).

    Raises:
        MissingExtraError: Matplotlib is not installed; names the extra.
        DeclarationError: no solve found an allocation.
    """
    require_matplotlib()
    order = np.argsort(frontier.limit, kind="stable")
    order = order[np.isfinite(frontier.objective[order])]
    if not order.size:
        raise DeclarationError("plot_frontier: no solve found an allocation to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    worth, price, funded = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.4))
    x = frontier.limit[order]
    _draw_worth(worth, frontier, order)
    _draw_prices(price, frontier, order)
    funded.plot(x, 100 * frontier.funded_share[order], color=_VALUE, marker="o", markersize=4)
    funded.fill_between(
        x, 0, 100 * frontier.funded_share[order], color=_VALUE, alpha=0.10, linewidth=0
    )
    funded.set_ylim(0, 104)
    funded.set_ylabel("queries funded (%)")
    limited = f": {_shortened(frontier.limited)}" if frontier.limited else ""
    funded.set_xlabel(f"{frontier.name}{limited}")
    for axes in (worth, price, funded):
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
        axes.xaxis.set_major_formatter(_in_units(float(np.abs(x).max())))
    figure.align_ylabels()
    known = frontier.gap[np.isfinite(frontier.gap)]
    gap = f", gap at most {known.max():.1e}" if known.size else ""
    without = len(frontier) - order.size
    missing = f", {without} without an allocation" if without else ""
    figure.suptitle(
        f"{frontier.queries} queries, {len(frontier)} solves{missing}{gap}",
        fontsize=10, x=0.01, ha="left", color="#444444",
    )  # fmt: skip
    return saved(figure, path)


def _draw_worth(axes: Any, frontier: Frontier, order: Any) -> None:
    """The objective reached and the bound, which lies on it where the gap is closed."""
    x, reached, bound = frontier.limit[order], frontier.objective[order], frontier.bound[order]
    side = "lower" if frontier.minimize else "upper"
    axes.fill_between(x, reached, bound, color=_BOUND, alpha=0.15, linewidth=0)
    # Where the two coincide the bound is wide, to be seen; where they do not, the gap is.
    apart = bool(np.nanmax(frontier.gap[order], initial=0.0) > 1e-3)
    axes.plot(
        x, bound, color=_BOUND, alpha=0.9 if apart else 0.55, linewidth=1.6 if apart else 5.0,
        linestyle=(0, (4, 2)) if apart else "-", label=f"{side} bound (proven)",
    )  # fmt: skip
    axes.plot(
        x, reached, color=_VALUE, marker="o", markersize=4, linewidth=1.8, label="allocation found"
    )
    axes.set_ylabel(f"objective\n{_shortened(frontier.goal)}" if frontier.goal else "objective")
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.yaxis.set_major_formatter(_in_units(float(np.nanmax(np.abs(reached)))))


def _draw_prices(axes: Any, frontier: Frontier, order: Any) -> None:
    """The two notions of what one more unit of the limit is worth."""
    x, price, marginal = (
        getattr(frontier, name)[order] for name in ("limit", "price", "marginal_value")
    )
    axes.plot(
        x, marginal, color=_MARGINAL, marker="^", markersize=6, linewidth=4.0, alpha=0.7,
        label="marginal value (funded set as it is)",
    )  # fmt: skip
    axes.plot(
        x, price, color=_VALUE, marker="o", markersize=4, linewidth=1.8,
        label="shadow price (slope of the bound)",
    )  # fmt: skip
    values = np.r_[price, marginal]
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
    elif values.size and values.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(f"objective per unit\nof {_shortened(frontier.name)}")
    axes.legend(frameon=False, fontsize=9, loc="best")


def _shortened(text: str) -> str:
    return text if len(text) <= 48 else text[:45] + "..."


def _in_units(largest: float) -> Any:
    """A tick label for numbers up to `largest`, all of an axis in one unit: 5 k, 10 k, 15 k."""
    size, sign = next(
        ((size, sign) for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k"))
         if largest >= 5 * size),
        (1.0, ""),
    )  # fmt: skip
    return lambda value, _: f"{value / size:g}{sign if value else ''}"
