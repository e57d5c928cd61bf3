"""Tangents of utilities and cost curves within a box: what a linear relaxation knows of them.

    U(b) <= max_x [U(x) - p x]  +  p b        for any p >= 0

holds whatever the shape of U, and the best of these over all p is its concave envelope. A cost
curve is concave: it lies below its tangents and above its chord.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.validation import FloatArray

_TIGHT = 1e-8  # a tangent is added where one is passed by more, relative to the curve
_SLOPES = (1.0, 0.2)  # first tangents, as parts of the steepest useful one
_AROUND = (0.9, 1.0, 1.1)  # parts of a query's price at which tangents are added
_HALVINGS = 60  # of the logarithm of a slope: to the last digits
_FLATTEST = 1e-18  # relative to the steepest slope; below it a tangent is flat

BoolArray = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Point:
    """A point of the relaxation: tokens (n,), utility of the gaining, cost of the charged."""

    tokens: FloatArray
    gaining: Indices
    utility: FloatArray
    share: FloatArray  # to which each of the gaining is chosen
    price: FloatArray  # (n,) accuracy a token is worth to each query, 0 where there is none
    charged: Indices
    cost: FloatArray


@dataclass(eq=False)
class Allowed:
    """What the curves allow at a point, and where to add tangents: (queries, height, slope)."""

    utility: FloatArray
    cost: FloatArray
    tangents: list[tuple[Indices, FloatArray, FloatArray]]
    curve_tangents: list[tuple[Indices, FloatArray]]


class Box:
    """Bounds of all queries, and the tangents known so far of their curves between them.

    Args:
        program: the program; its own bounds are not looked at.
        lower, upper: (n,) tokens, `upper` may be infinite.
    """

    def __init__(self, program: Program, lower: FloatArray, upper: FloatArray) -> None:
        self.program, self.lower = program, lower
        room = 1e-7 * np.maximum(np.abs(lower), 1.0)  # as of rows: less is rounding
        self.gap = np.where(lower > upper + room, lower - upper, 0.0)  # tokens, where they cross
        self.upper = upper = np.maximum(upper, lower)
        n = program.n
        self.flat = np.zeros(n)  # U at the lower bound
        saturated, steepest = lower.copy(), np.zeros(n)
        for block in program.utilities:
            i, family = block.index, block.family
            with np.errstate(all="ignore"):
                # Past saturation tokens add nothing: a stand-in for an infinite bound.
                saturated[i] = np.ceil(family.origin + family.saturation_excess)
                steepest[i] = family.greatest_marginal * (1.0 + 1e-9)
                self.flat[i] = family.value(lower[i])
        enough = np.maximum(np.nan_to_num(saturated, posinf=1e300), lower)
        self.finite = np.where(np.isinf(upper), enough, upper)
        _, self.peak = self._purchase(np.zeros(n))
        rise = np.maximum(self.peak - self.flat, 0.0)
        width = self.finite - lower
        with np.errstate(all="ignore"):
            # A jump is infinitely steep. What happens within 1/1000 token is smoothed away, as
            # steeper tangents, still true, would lose their height to rounding.
            cap = np.where(width > 0, 1e3 * rise / np.minimum(width, 1.0), 0.0)
        self.steepest = np.where(rise > 0, np.minimum(steepest, cap), 0.0)
        self.query, self.slope, self.height = np.zeros(0, np.intp), np.zeros(0), np.zeros(0)
        self.curve_query, self.curve_slope = np.zeros(0, np.intp), np.zeros(0)
        self.curve_height = np.zeros(0)
        self._first_tangents()

    def _purchase(self, price: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Tokens bought at a price (n,), and max_b U(b) - price * b: the height of the tangent."""
        tokens, height = self.lower.copy(), np.zeros(self.program.n)
        for block in self.program.utilities:
            i = block.index
            with np.errstate(all="ignore"):
                best = block.family.best_response(
                    np.ones(i.size), price[i], self.lower[i], self.finite[i]
                )
            tokens[i], height[i] = best.tokens, best.gain
        return tokens, height

    def tangents(self, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(height, slope) at 0 tokens of the envelope's tangent at each query's amount, (n,)."""
        steep, flat = self.steepest.copy(), self.steepest * _FLATTEST
        for _ in range(_HALVINGS):
            middle = np.sqrt(steep * flat)
            if np.all((middle >= steep) | (middle <= flat)):
                break
            bought, _ = self._purchase(middle)
            flat = np.where(bought >= tokens, middle, flat)
            steep = np.where(bought >= tokens, steep, middle)
        slope, height = np.zeros_like(steep), self.peak.copy()
        for price in (flat, steep):
            _, gain = self._purchase(price)
            lower = gain + price * tokens < height + slope * tokens
            slope, height = np.where(lower, price, slope), np.where(lower, gain, height)
        return height, slope

    def _first_tangents(self) -> None:
        every = np.arange(self.program.n)
        # Hardly more than the lower bound: there the tangent is the steepest of use.
        _, start = self.tangents(self.lower + np.minimum(1e-6 * (self.finite - self.lower), 1e-3))
        self.scale = np.zeros(self.program.n)
        for part in _SLOPES:
            bought, height = self._purchase(part * start)
            self._add(every[start > 0], height, part * start)
            self.scale = np.where(start > 0, bought - self.lower, 0.0)
        # A query that is not chosen keeps U(lower): only with the flat tangent is that known.
        chosen = every[self.program.choice >= 0]
        self._add(chosen, self.peak, np.zeros(self.program.n))
        self.first = self.query.size
        if not self.program.curve_rows.nnz:
            return
        known = np.where(np.isinf(self.upper), self.lower + 1e4, self.upper)
        for part in (0.0, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0):
            self._add_curve(every, self.lower + part * (known - self.lower))

    def _add(self, query: Indices, height: FloatArray, slope: FloatArray) -> None:
        self.query = np.concatenate([self.query, query])
        self.slope = np.concatenate([self.slope, slope[query]])
        self.height = np.concatenate([self.height, height[query]])

    def _add_curve(self, query: Indices, tokens: FloatArray) -> None:
        slope = self.program.curve_marginal(tokens)
        height = self.program.curve_value(tokens) - slope * tokens
        self.curve_query = np.concatenate([self.curve_query, query])
        self.curve_slope = np.concatenate([self.curve_slope, slope[query]])
        self.curve_height = np.concatenate([self.curve_height, height[query]])

    def chords(self) -> tuple[FloatArray, FloatArray]:
        """(C(lower), slope) of the line from there that no cost curve falls below, (n,)."""
        start, width = self.program.curve_value(self.lower), self.upper - self.lower
        endless = np.isinf(self.upper)
        end = self.program.curve_value(np.where(endless, self.lower, self.upper))
        with np.errstate(all="ignore"):
            slope = np.where(width > 0, (end - start) / width, 0.0)
        if endless.any():
            slope = np.where(
                endless, self.program.curve_marginal(np.full_like(start, 1e300)), slope
            )
        return start, slope * (1.0 - 1e-12)

    def allowed(self, point: Point) -> Allowed:
        """The utility and cost that the curves allow at the point, and tangents that say so."""
        found = Allowed(point.utility, point.cost, [], [])
        i, z = point.gaining, point.share
        if i.size:
            # Of a query chosen to the share z, what counts is z times the curve at b / z.
            tokens = self.lower.copy()
            at = point.tokens[i] / np.maximum(z, 1e-9)
            tokens[i] = np.clip(at, self.lower[i], self.finite[i])
            height, slope = self.tangents(tokens)
            utility = self.flat[i] * (1.0 - z) + height[i] * z + slope[i] * point.tokens[i]
            new = i[point.utility - utility > _TIGHT * self.peak[i]]
            found.tangents.append((new, height, slope))
            # Prices settle long before points do: the tangents they lead to are the ones needed.
            new = new[point.price[new] > 0]
            for part in _AROUND if new.size else ():
                _, height = self._purchase(part * point.price)
                found.tangents.append((new, height, part * point.price))
            found.utility = np.minimum(utility, self.peak[i])
        i = point.charged
        if i.size:
            cost = self.program.curve_value(point.tokens)[i]
            new = i[point.cost - cost > _TIGHT * np.maximum(cost, 1e-3)]
            found.curve_tangents.append((new, point.tokens))
            found.cost = np.minimum(point.cost, cost)
        return found

    def refine(self, allowed: Allowed, idle: Indices) -> None:
        """Know these tangents from now on, and forget the idle of those added before."""
        kept = np.ones(self.query.size, dtype=bool)
        kept[idle[idle >= self.first]] = False
        self.query, self.slope = self.query[kept], self.slope[kept]
        self.height = self.height[kept]
        for tangents in allowed.tangents:
            self._add(*tangents)
        for at in allowed.curve_tangents:
            self._add_curve(*at)
