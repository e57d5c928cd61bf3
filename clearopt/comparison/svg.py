"""Plots as inline SVG: text that a browser draws, no library, colours from the page's style.

Series are told apart by colour (classes c0, c1, ...) and by a marker of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_FONT = 12
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)  # between ticks of shares
_MOST_TICKS = 6
_CHARACTER = 6.6  # its width, about
COLOURS = 8


@dataclass(frozen=True)
class Mark:
    """A point of a plot: where, of which series, and what hovering over it says."""

    x: float
    y: float
    series: int
    said: str


@dataclass(frozen=True)
class Line:
    """A line of a plot through (x, y), a staircase where `steps`."""

    points: Sequence[tuple[float, float]]
    series: int
    said: str
    dashed: bool = False
    steps: bool = True


@dataclass(frozen=True)
class _Scale:
    """From numbers to pixels, by their logarithm or as they are."""

    low: float
    high: float
    first: float
    last: float
    log: bool

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.log:
            step = next((s for s in _STEPS if self.high / s < _MOST_TICKS - 1e-9), self.high)
            count = math.floor(self.high / step + 1e-9)
            return [(k * step, f"{k * step:.0%}") for k in range(count + 1)]
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        step = max(1, math.ceil((last - first) / 6))
        return [(10.0**k, _power(k)) for k in range(first, last + 1, step)]


def _power(exponent: int) -> str:
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:g}"
    sign = "\N{MINUS SIGN}" if exponent < 0 else ""
    return f'10<tspan dy="-4" font-size="9">{sign}{abs(exponent)}</tspan>'


def decades(values: Sequence[float], *, floor: float, ceiling: float) -> tuple[float, float]:
    """Powers of ten around the positive values among these, within the two given."""
    inside = [min(max(v, floor), ceiling) for v in values if v > 0 and math.isfinite(v)]
    low = 10.0 ** math.floor(math.log10(min(inside, default=floor)) + 1e-9)
    high = 10.0 ** math.ceil(math.log10(max(inside, default=ceiling)) - 1e-9)
    return low, max(high, 10.0 * low)


def marker(x: float, y: float, series: int, said: str = "") -> str:
    """A small figure in the series' colour."""
    r = 4.5
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"',
        f'<rect x="{x - r + 0.5:.1f}" y="{y - r + 0.5:.1f}" width="{2 * r - 1}" '
        f'height="{2 * r - 1}"',
        f'<path d="M{x:.1f} {y - r - 0.5:.1f}l{r + 0.5} {2 * r}h-{2 * r + 1}z"',
        f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l-{r + 1} {r + 1}l-{r + 1} -{r + 1}z"',
        f'<path d="M{x:.1f} {y + r + 0.5:.1f}l{r + 0.5} -{2 * r}h-{2 * r + 1}z"',
    )
    title = f"<title>{escape(said)}</title>" if said else ""
    shape = shapes[series % len(shapes)]
    return f'{shape} class="mark c{series % COLOURS}">{title}{_closing(shape)}'


def _closing(shape: str) -> str:
    return f"</{shape[1:].split(' ', 1)[0]}>"


def dots(
    names: Sequence[str], marks: Sequence[Mark], x_range: tuple[float, float], x_label: str
) -> str:
    """One line a name; marks with y = its number, x on a logarithmic axis."""
    shown = [name if len(name) <= 28 else name[:27] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
    left = 14 + _CHARACTER * max((len(name) for name in shown), default=0)
    width, step, top = 760.0, 24.0, 8.0
    bottom = top + step * len(names)
    x = _Scale(*x_range, left, width - 20, True)
    parts = [_frame(x, bottom, top, x_label)]
    for number, name in enumerate(shown):
        y = top + step * (number + 0.5)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{width - 20}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{left - 8:.1f}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        )
    parts += [
        marker(x(each.x), top + step * (each.y + 0.5), each.series, each.said) for each in marks
    ]
    return _svg(width, bottom + 44, parts, x_label)


def lines(
    drawn: Sequence[Line],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_label: str,
    y_label: str,
    *,
    share: bool = False,
    x_share: bool = False,
    marks: Sequence[Mark] = (),
) -> str:
    """Lines; either axis is logarithmic, or linear for shares, from 0."""
    width, height, left, top = 560.0, 300.0, 64.0, 26.0
    bottom = height - 44
    x = _Scale(*x_range, left, width - 20, not x_share)
    y = _Scale(*y_range, bottom, top, not share)
    parts = [_frame(x, bottom, top, x_label)]
    for value, text in y.ticks():
        at = y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 20}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/>')  # fmt: skip
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text class="label" x="{left - 56}" y="14">{escape(y_label)}</text>')
    for line in drawn:
        parts.append(_drawn(line, x, y))
    parts += [marker(x(each.x), y(each.y), each.series, each.said) for each in marks]
    return _svg(width, height, parts, y_label)


def _drawn(line: Line, x: _Scale, y: _Scale) -> str:
    path, last = [], None
    for px, py in ((x(a), y(b)) for a, b in line.points):
        if last is None:
            path.append(f"M{px:.1f} {py:.1f}")
        elif line.steps:
            path.append(f"H{px:.1f}V{py:.1f}")
        else:
            path.append(f"L{px:.1f} {py:.1f}")
        last = px, py
    kind = " dashed" if line.dashed else ""
    return (
        f'<path class="line c{line.series % COLOURS}{kind}" d="{"".join(path)}">'
        f"<title>{escape(line.said)}</title></path>"
    )


def _frame(x: _Scale, bottom: float, top: float, label: str) -> str:
    parts = []
    for value, text in x.ticks():
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" '
                     f'y2="{bottom}"/>')  # fmt: skip
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    middle = 0.5 * (x.first + x.last)
    parts.append(f'<text class="label" x="{middle:.1f}" y="{bottom + 36}" text-anchor="middle">'
                 f"{escape(label)}</text>")  # fmt: skip
    return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(label)}" font-size="{_FONT}">{"".join(parts)}</svg>'
    )
