"""The structural ablations of arXiv 2606.03092: a triangle and a parabola in place of the surge.

Notation: threshold tau (tokens), width w (tokens), scale a, x = max(b - tau, 0). Both are nothing
up to the threshold, concave over the width with their peak in the middle, and nothing after it.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from clearopt.utilities.base import Utility
from clearopt.utilities.family import checked_parameters, warn_above_one
from clearopt.utilities.lambertw import namespace_of

_LARGEST = 1e300  # stands for an overflown threshold / width


class _Hump(Utility):
    """What both ablations share: their parameters, checked, and the peak at half the width."""

    parameter_names = ("scale", "threshold", "width")

    scale: Any
    threshold: Any
    width: Any

    def __init__(self, scale: ArrayLike, threshold: ArrayLike, width: ArrayLike) -> None:
        name = type(self).__name__
        checked = checked_parameters(
            name,
            {"scale": scale, "threshold": threshold, "width": width},
            {
                "scale": (">=", "the accuracy at the peak"),
                "threshold": (">=", "tokens before the rise"),
                "width": (">", "tokens from the threshold to where nothing is left"),
            },
        )
        warn_above_one(name, checked["scale"])
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    @property
    def origin(self) -> Any:
        return self.threshold

    @property
    def inflection_excess(self) -> Any:
        return 0.0 * self.width

    @property
    def saturation_excess(self) -> Any:
        return 0.5 * self.width

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        return self.from_parameters(
            self.scale / accuracy, self.threshold / tokens, self.width / tokens
        )

    def _share(self, excess: Any) -> Any:
        """x / w, at most 1."""
        return namespace_of(excess).minimum(excess / self.width, 1.0)


class Triangular(_Hump):
    """A straight rise to the peak and an equal fall: a 2x/w up to w/2, a (2 - 2x/w) up to w.

    Args:
        scale: peak accuracy a, number or (m,); at least 0, usually at most 1.
        threshold: tau in tokens, at least 0.
        width: w in tokens, positive; the peak is at threshold + width/2.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    smooth = False

    def value_at(self, excess: Any) -> Any:
        share = self._share(excess)
        return 2.0 * self.scale * namespace_of(excess).minimum(share, 1.0 - share)

    def marginal_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        slope = self.greatest_marginal
        falling = xp.where(excess < self.width, -slope, 0.0)
        return xp.where(excess < 0.5 * self.width, slope, falling)

    def stationary_excess(self, price: Any) -> Any:
        # At every price between the two slopes, negative ones too; beyond them an end is best.
        return 0.5 * self.width + 0.0 * namespace_of(price).clip(price, -1.0, 1.0)

    @property
    def greatest_marginal(self) -> Any:
        return 2.0 * (self.scale / self.width)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        excess = 0.5 * self.width
        return excess, self.scale / (self.threshold + excess)

    @property
    def corners(self) -> Any:
        return np.asarray(0.5 * self.width)[..., None]

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, _, width = (float(parameter[member]) for parameter in self.parameters)
        # Slopes 2a/w, -2a/w and 0, each change of slope being half of one of |.|.
        return scale / width * (excess - 2 * abs(excess - 0.5 * width) + abs(excess - width))


class Quadratic(_Hump):
    """A parabola over the width: 4 a (x/w) (1 - x/w) up to w, nothing after it.

    Args:
        scale: peak accuracy a, number or (m,); at least 0, usually at most 1.
        threshold: tau in tokens, at least 0.
        width: w in tokens, positive; the peak is at threshold + width/2.

    Raises:
        DeclarationError: a parameter is NaN, infinite, negative, or of the wrong shape.
    """

    def value_at(self, excess: Any) -> Any:
        share = self._share(excess)
        return 4.0 * self.scale * share * (1.0 - share)

    def marginal_at(self, excess: Any) -> Any:
        xp = namespace_of(excess)
        slope = self.greatest_marginal * (1.0 - 2.0 * self._share(excess))
        return xp.where(excess < self.width, slope, 0.0)

    def stationary_excess(self, price: Any) -> Any:
        # U' = (4a/w) (1 - 2x/w). At a negative price past the peak; beyond w an end is best.
        xp = namespace_of(price)
        top = self.greatest_marginal
        ratio = xp.where(top > 0, price / xp.where(top > 0, top, 1.0), xp.sign(price))
        return 0.5 * self.width * (1.0 - xp.clip(ratio, -1.0, 1.0))

    @property
    def greatest_marginal(self) -> Any:
        return 4.0 * (self.scale / self.width)

    def tangent_from_zero(self) -> tuple[Any, Any]:
        # With z = x/w and s = tau/w: (s + z)(1 - 2z) = z(1 - z), i.e. z^2 + 2 s z - s = 0, in a
        # form that neither cancels nor overflows.
        with np.errstate(all="ignore"):
            s = np.minimum(self.threshold / self.width, _LARGEST)
            z = np.sqrt(s) / (np.sqrt(s) + np.sqrt(1.0 + s))
            chord = 4.0 * self.scale * z * (1.0 - z) / (self.threshold + z * self.width)
            return z * self.width, np.where(s > 0, chord, self.greatest_marginal)

    @property
    def has_cone_form(self) -> Any:
        return np.ones(np.shape(self.scale), dtype=np.bool_)

    def cone_form(self, excess: Any, cvxpy: Any) -> tuple[Any, list[Any]]:
        # A second-order cone a member: 4 a (x/w - (x/w)^2).
        share = cvxpy.multiply(1.0 / np.asarray(self.width), excess)
        return cvxpy.multiply(4.0 * np.asarray(self.scale), share - cvxpy.square(share)), []

    def expression_up_to(self, excess: Any, exp: Any, member: int, most: float) -> Any:
        # Without |.| where it is not needed: SCIP 10 has proven wrong optima of its square.
        scale, _, width = (float(parameter[member]) for parameter in self.parameters)
        if most > width:
            return self.expression(excess, exp, member)
        return 4 * scale * (excess / width) * (1 - excess / width)

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        scale, _, width = (float(parameter[member]) for parameter in self.parameters)
        share = 0.5 * (excess + width - abs(excess - width)) / width  # at most 1
        return 4 * scale * share * (1 - share)
