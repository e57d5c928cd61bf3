"""S-curves in three parts, and the convex hull of "one of the three".

Between its bounds a query's amount is *idle* (up to the origin, where the utility is flat), in the
convex *middle*, or in the concave *upper* part past the inflection. With one binary variable for
each of the last two,

    tokens  = lower + idle share + (idle) partly + middle share + (idle + middle) funded + unit * d
    utility <= base (1 - funded) + peak m + level funded + peak v
    d <= width * funded,     v <= g(d),     m <= f(share of the middle)

where g is concave on all of its domain and g(0) = 0. So a tangent of g holds for the mixture too,

    v <= (g(t) - g'(t) t) funded + g'(t) d                                       (perspective)

and together they are the hull: no relaxation that treats queries one by one is tighter.

How many may be in the middle. With everything but the amounts in the middle fixed, the objective is
convex in these and the rows linear, so some optimum is a vertex of what the rows leave of their
box: at most as many of them as there are rows lie strictly inside. Valid where these amounts are
fractional, charged no cost curve, and no floor counts any utility (floors are not linear in them).
That is what is left of "nothing is bought below the break-even amount", which is false of the last
query that the budget does not quite reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.utilities import Quadratic, ShiftedSurge, Triangular, Utility
from clearopt.validation import FloatArray

# Families still concave past their peak, for as long as this share of it is left: whole tokens
# reach a fraction of a token further.
_CONCAVE_FALL = (ShiftedSurge, Triangular, Quadratic)
_SHARE_LEFT = 0.9
_NARROW = 1e-9  # a part narrower than this, relative to the bounds' width, is none


@dataclass(frozen=True, eq=False)
class Parts:
    """The queries modelled in parts, m of them; all arrays are (m,), tokens and accuracies.

    Attributes:
        query: which they are.
        lower: their lower bounds.
        idle, middle, upper: widths of the three parts; the last is positive.
        low, inflection: excesses at the lower bound and where the upper part starts.
        base, level, top: utility at the lower bound, at the start of the upper part, and the most
            it comes to there.
        unit: tokens that one unit of `d` stands for.
        peak: accuracy that one unit of `v` and `m` stands for.
        counted: whether the query counts in `most_partly`.
        most_partly: how many of those counted lie strictly in their middle in some optimum.
        families: (positions, their family) for every block that has some.
    """

    query: NDArray[np.intp]
    lower: FloatArray
    idle: FloatArray
    middle: FloatArray
    upper: FloatArray
    low: FloatArray
    inflection: FloatArray
    base: FloatArray
    level: FloatArray
    top: FloatArray
    unit: FloatArray
    peak: FloatArray
    counted: NDArray[np.bool_]
    most_partly: int
    families: tuple[tuple[NDArray[np.intp], Utility], ...]

    @property
    def width(self) -> FloatArray:
        """The most that `d` can be."""
        return self.upper / self.unit

    def curve(self, d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """g and g' at d, within [0, width]."""
        value, slope = np.zeros_like(d), np.zeros_like(d)
        with np.errstate(all="ignore"):
            for here, family in self.families:
                excess = self.inflection[here] + self.unit[here] * d[here]
                value[here] = family.value_at(excess)
                slope[here] = family.marginal_at(excess)
        return (value - self.level) / self.peak, slope * self.unit / self.peak

    def tangent(self, d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(height, slope) of the tangent of g at d; moved inside where the curve starts upright."""
        at = np.clip(d, 1e-9 * self.width, self.width)
        value, slope = self.curve(at)
        return value - slope * at, slope

    def at_slope(self, price: FloatArray) -> FloatArray:
        """Where g' corresponds to a price, accuracy per token, (m,); within [0, width]."""
        excess = np.zeros_like(price)
        with np.errstate(all="ignore"):
            for here, family in self.families:
                excess[here] = family.stationary_excess(price[here])
        return np.clip((excess - self.inflection) / self.unit, 0.0, self.width)

    def place(self, tokens: FloatArray, program: Program) -> dict[str, FloatArray]:
        """Values of the variables, by name, that stand for these tokens, (n,)."""
        above = tokens[self.query] - self.lower
        utility = program.utility(tokens)[self.query]
        funded = above >= self.idle + self.middle
        partly = ~funded & (above > self.idle) & (self.middle > 0)
        inside = np.where(partly, above - self.idle, 0.0)
        rest = np.where(~funded & ~partly, above, 0.0)
        d = np.where(funded, (above - self.idle - self.middle) / self.unit, 0.0)
        return {
            "funded": funded.astype(float),
            "partly": partly.astype(float),
            "idle": np.clip(rest / np.where(self.idle > 0, self.idle, 1.0), 0.0, 1.0),
            "middle": np.clip(inside / np.where(self.middle > 0, self.middle, 1.0), 0.0, 1.0),
            "upper": np.clip(d, 0.0, self.width),
            "middle_worth": np.where(partly, np.maximum(utility - self.base, 0.0), 0.0) / self.peak,
            "upper_worth": np.where(funded, np.maximum(utility - self.level, 0.0), 0.0) / self.peak,
        }


def parts_of(program: Program, lower: FloatArray, upper: FloatArray) -> Parts | None:
    """The queries that can be modelled in parts over [lower, upper], (n,) each; None if none can.

    Those whose family knows its shape in closed form, has a concave part within the bounds and
    does not fall within them by more than a hair (past a peak a curve need not be concave).
    """
    counts = (program.weight > 0) | (np.asarray(program.floors.sum(axis=0)).ravel() > 0)
    found: list[tuple[NDArray[np.intp], Utility, dict[str, FloatArray]]] = []
    for block in program.utilities:
        if not (block.family.s_shaped and block.family.traceable):
            continue
        with np.errstate(all="ignore"):
            shape = _shape(block.family, lower[block.index], upper[block.index])
        width = upper[block.index] - lower[block.index]
        fit = counts[block.index] & np.isfinite(upper[block.index]) & (shape["peak"] > 0)
        fit &= shape["upper"] > _NARROW * width
        fit &= shape.pop("rises") > 0
        here = np.flatnonzero(fit)
        if here.size:
            family = block.family.take(here)
            found.append((block.index[here], family, {k: v[here] for k, v in shape.items()}))
    if not found:
        return None
    query = np.concatenate([index for index, _, _ in found])
    arrays = {k: np.concatenate([shape[k] for _, _, shape in found]) for k in found[0][2]}
    starts = np.cumsum([0, *(index.size for index, _, _ in found)])
    families = tuple(
        (np.arange(start, start + index.size), family)
        for start, (index, family, _) in zip(starts, found, strict=False)
    )
    counted, most = _most_partly(program, query)
    return Parts(query=query, counted=counted, most_partly=most, families=families, **arrays)


def _shape(family: Utility, lower: FloatArray, upper: FloatArray) -> dict[str, FloatArray]:
    """Everything about each member's parts but who counts, (m,) each."""
    low, high = family.excess_of(lower), family.excess_of(upper)
    inflection = np.minimum(np.maximum(family.inflection_excess + 0.0 * low, low), high)
    idle = np.maximum(family.origin - lower, 0.0) + 0.0 * low
    base, level, top = (family.value_at(at) for at in (low, inflection, high))
    summit = family.value_at(np.minimum(high, np.maximum(family.saturation_excess, low)))
    least_left = _SHARE_LEFT if isinstance(family, _CONCAVE_FALL) else 1 - 1e-12
    peak = np.maximum(summit, 0.0)
    upper_part = high - inflection
    steep = family.marginal_at(inflection)
    natural = np.where((steep > 0) & np.isfinite(steep), peak / np.where(steep > 0, steep, 1), 0)
    unit = np.clip(natural, 1e-3 * upper_part, np.maximum(upper_part, 1e-300))
    return {
        "lower": lower, "idle": idle, "middle": inflection - low, "upper": upper_part, "low": low,
        "inflection": inflection, "base": base, "level": level, "top": peak, "unit": unit,
        "peak": peak, "rises": (top >= summit * least_left).astype(float),
    }  # fmt: skip


def _most_partly(program: Program, query: NDArray[np.intp]) -> tuple[NDArray[np.bool_], int]:
    """Who counts, (m,), and how many of them at most lie strictly in their middle."""
    curved = program.curve_cost != 0
    curved[program.curve_rows.indices] = True
    # A semicontinuous query's box may end inside its middle: there it is at a vertex as well.
    counted = ~(program.integer | curved | program.semicontinuous)[query]
    if program.floors.nnz:
        counted[:] = False
    rows = program.rows[:, query[counted]]
    return counted, int(np.count_nonzero(np.diff(rows.tocsr().indptr)))
