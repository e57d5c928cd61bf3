"""Pictures. Matplotlib is imported when one is drawn, never before."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearopt.errors import DeclarationError, MissingExtraError

if TYPE_CHECKING:
    from clearopt.confirmation.report import Report, Row


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


def plot_accuracy(report: Report, path: str | Path) -> Path:
    """Draw accuracy against tokens, one line a policy with its 95 % band, and save it.

    Args:
        report: of a confirmation that generated something.
        path: where to; the ending chooses the format (.png, .svg, .pdf).

    Raises:
        MissingExtraError: Matplotlib is not installed; names the extra.
        DeclarationError: the report holds no measured accuracy.
    """
    if not plots_installed():
        raise MissingExtraError(
            "a picture needs matplotlib, which is not installed: pip install 'clearopt[plot]'"
        )
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
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    return target


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
