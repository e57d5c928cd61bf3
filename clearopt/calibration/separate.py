"""Maximum likelihood, query by query, with nothing borrowed from other queries.

Each query's likelihood, its chance p profiled out, is searched over a grid of locations and shapes
that closes in on the best point: no derivative is needed, no start, and all queries go at once.
With a handful of answers the estimates overfit: they are here to be compared with, and for many
answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from clearopt.calibration.diagnostics import named
from clearopt.calibration.laws import LAWS
from clearopt.calibration.likelihood import Answers
from clearopt.calibration.rollouts import Rollouts
from clearopt.validation import FloatArray

Slope = Callable[[FloatArray], FloatArray]

NARROWEST = math.log(0.05)  # the least shape, in units of the law's own; a spread of 5 %
_WIDEST = math.log(5.0)
_POINTS = 7  # a side of the grid
_TURNS = 22  # each halves the window: from e^10 to 1e-6
_HALVINGS = 40  # of the interval that a chance lies in
_STEP = 1e-3  # of the differences that give the observed information
_STRETCH_DEVIATION = 0.5  # of the prior of log(stretch)


class Estimates(NamedTuple):
    """(n,) arrays: location, shape and chance, with standard errors; and log(stretch).

    An infinite standard error means that nothing is known; `narrow` is where the shape is the least
    one allowed.
    """

    u: FloatArray
    v: FloatArray
    chance: FloatArray
    u_error: FloatArray
    v_error: FloatArray
    chance_error: FloatArray
    narrow: NDArray[np.bool_]
    stretch: float

    def take(self, rows: NDArray[np.intp]) -> Estimates:
        """The estimates at these positions."""
        return Estimates(
            self.u[rows], self.v[rows], self.chance[rows], self.u_error[rows], self.v_error[rows],
            self.chance_error[rows], self.narrow[rows], self.stretch,
        )  # fmt: skip

    def completed(self, known: NDArray[np.bool_], other: Estimates) -> Estimates:
        """These where `known`, the others elsewhere."""

        def both(mine: FloatArray, theirs: FloatArray) -> FloatArray:
            return np.where(known, mine, theirs)

        return Estimates(
            both(self.u, other.u), both(self.v, other.v), both(self.chance, other.chance),
            both(self.u_error, other.u_error), both(self.v_error, other.v_error),
            both(self.chance_error, other.chance_error), self.narrow & known, self.stretch,
        )  # fmt: skip


def separate_estimates(law: str, rollouts: Rollouts, queries: int, shared: bool) -> Estimates:
    """The maximum-likelihood estimates of each query.

    Args:
        law: name of the law.
        rollouts: of queries 0, 1, ..., `queries` - 1.
        queries: how many there are; those without answers get numbers that mean nothing.
        shared: whether shape and chance are one for all.
    """
    answers = Answers.arranged(LAWS[law], rollouts, queries, None)
    stretch = within_stretch(answers)
    search = _Search(answers, stretch)
    if not shared:
        u, v = search.best()
        chance = search.chance(u, v)
        return _with_errors(search, u, v, chance, shared)
    # The shape that all share is searched for last; the chance settles within a few turns.
    chance = np.full(queries, (answers.rights.sum() + 0.5) / (len(rollouts) + 1.0))
    for _ in range(3 if answers.mixed.size else 1):

        def loss(shape: float, chance: FloatArray = chance) -> float:
            u, v = search.best(np.full(queries, shape), chance)
            return -float(search.value(u, v, chance).sum())

        low, high = float(search.bottom.min()), float(search.top.max())
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
        u, v = search.best(np.full(queries, float(found.x)), chance)
        chance = np.full(queries, search.shared_chance(u, v))
    return _with_errors(search, u, v, chance, shared)


def within_stretch(answers: Answers) -> float:
    """log(stretch): how much longer a query's wrong answers are than its right ones, shrunk.

    Least squares with a mean a query, and the weight that a prior N(0, 0.5^2) has.
    """
    count = np.maximum(answers.lengths, 1)
    means = [
        np.bincount(answers.query, x, minlength=answers.queries) / count
        for x in (answers.y, answers.wrong)
    ]
    y, wrong = answers.y - means[0][answers.query], answers.wrong - means[1][answers.query]
    size = float(wrong @ wrong)
    if size == 0.0:
        return 0.0
    slope = float(wrong @ y) / size
    noise = float(np.mean((y - slope * wrong) ** 2))
    return slope * size / (size + noise / _STRETCH_DEVIATION**2)


class _Search:
    def __init__(self, answers: Answers, stretch: float) -> None:
        self.answers, self.stretch = answers, stretch
        lognormal = answers.law.name == "lognormal"
        low, high = answers.range()
        typical = 0.0 * low if lognormal else 0.5 * (low + high)
        self.bottom, self.top = typical + NARROWEST, typical + _WIDEST
        self.locations = (low - (1.0 if lognormal else 7.0), high + 3.0)

    # ---------------------------------------------------------------- likelihood
    def value(self, u: FloatArray, v: FloatArray, chance: FloatArray | None) -> FloatArray:
        """log likelihood at u, v, (n,) or (n, K, L); the best chance where none is given."""
        u, v = (x[:, None, None] if x.ndim == 1 else x for x in (u, v))
        u, v = np.broadcast_arrays(u, v)
        total = self.answers.log_lengths(u, v, self.stretch)
        if chance is None:
            chance_at = self._best_chance(u, v)
        else:
            chance_at = np.broadcast_to(chance[:, None, None], u.shape)
        with np.errstate(divide="ignore"):
            inner = np.clip(np.log(chance_at) - np.log1p(-chance_at), -700.0, 700.0)
        return total + self.answers.log_chance(u, v, self.stretch, inner)

    def chance(self, u: FloatArray, v: FloatArray) -> FloatArray:
        """(n,) the best chances at (n,) locations and shapes."""
        return self._best_chance(u[:, None, None], v[:, None, None])[:, 0, 0]

    def shared_chance(self, u: FloatArray, v: FloatArray) -> float:
        """The one best chance for all."""
        slope = self._chance_slope(u[:, None, None], v[:, None, None])
        return float(_root(lambda p: slope(p).sum(keepdims=True), np.full((1, 1, 1), 0.5))[0, 0, 0])

    def known_outcomes(self, u: FloatArray, v: FloatArray, chance: FloatArray) -> FloatArray:
        """(n,) how many outcomes are as good as known: whole answers, and what cut ones tell.

        A cut answer that is right with probability r tells of p what 1 - r (1 - r) / (p (1 - p))
        whole ones do (Louis, Journal of the Royal Statistical Society B 44, 1982).
        """
        answers, mixed = self.answers, self.answers.mixed
        count = answers.rights + answers.wrongs
        if not mixed.size:
            return count
        p = np.clip(chance[mixed], 1e-9, 1 - 1e-9)[:, None, None]
        for y, counts in self._mixed_columns():
            a, b = answers.mixed_terms(y, u[mixed, None, None], v[mixed, None, None], self.stretch)
            r = expit(np.log(p) - np.log1p(-p) + a - b)
            told = np.clip(1 - r * (1 - r) / (p * (1 - p)), 0.0, 1.0)
            count[mixed] += counts * told[:, 0, 0]
        return count

    def _mixed_columns(self) -> list[tuple[FloatArray, FloatArray]]:
        """Log-lengths of cut answers, (r,), and how many of each query have that one."""
        answers = self.answers
        others = zip(answers.rest_y.T, answers.rest.T.astype(np.float64), strict=True)
        return [(answers.tie_y, answers.ties), *others]

    def _best_chance(self, u: FloatArray, v: FloatArray) -> FloatArray:
        answers = self.answers
        whole = answers.rights + answers.wrongs
        plain = np.where(whole > 0, answers.rights / np.maximum(whole, 1.0), 0.5)
        at = np.array(np.broadcast_to(plain[:, None, None], u.shape))
        if answers.mixed.size:
            at[answers.mixed] = _root(self._chance_slope(u, v), at)[answers.mixed]
        return at

    def _chance_slope(self, u: FloatArray, v: FloatArray) -> Slope:
        """The derivative in p of the log likelihood, which is concave in p."""
        answers, mixed = self.answers, self.answers.mixed
        columns = []
        if mixed.size:
            for y, counts in self._mixed_columns():
                a, b = answers.mixed_terms(y, u[mixed], v[mixed], self.stretch)
                top = np.maximum(a, b)
                columns.append((np.exp(a - top), np.exp(b - top), counts[:, None, None]))

        def slope(p: FloatArray) -> FloatArray:
            k, w = answers.rights[:, None, None], answers.wrongs[:, None, None]
            shape = np.broadcast_shapes(p.shape, u.shape)
            total = np.array(np.broadcast_to(k / p - w / (1 - p), shape))
            own = np.broadcast_to(p, total.shape)[mixed] if mixed.size else p
            for a, b, counts in columns:
                total[mixed] += counts * (a - b) / np.maximum(own * a + (1 - own) * b, 1e-300)
            return total

        return slope

    # ---------------------------------------------------------------- where it is greatest
    def best(
        self, shape: FloatArray | None = None, chance: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """(n,) location and shape of greatest likelihood; the shape may be given."""
        n = self.answers.queries
        grid = np.linspace(-1.0, 1.0, _POINTS)
        low, high = self.locations
        u, reach_u = 0.5 * (low + high), 0.5 * (high - low)[:, None, None]
        bottom, top = (x[:, None, None] for x in (self.bottom, self.top))
        v, reach_v, shapes = 0.5 * (self.bottom + self.top), 0.5 * (top - bottom), grid
        if shape is not None:
            v, bottom, top, shapes = shape, shape[:, None, None], shape[:, None, None], grid[:1]
        for _ in range(_TURNS):
            at_u = u[:, None, None] + reach_u * grid[:, None]
            at_v = np.clip(v[:, None, None] + reach_v * shapes, bottom, top)
            at_u, at_v = np.broadcast_arrays(at_u, at_v)
            flat = self.value(at_u, at_v, chance).reshape(n, -1)
            pick = (np.arange(n), flat.argmax(axis=1))
            u, v = at_u.reshape(n, -1)[pick], at_v.reshape(n, -1)[pick]
            reach_u, reach_v = 0.5 * reach_u, 0.5 * reach_v
        return u, v


def _root(slope: Slope, start: FloatArray) -> FloatArray:
    """Where a decreasing function of p in (0, 1) is 0, or the end that it points to."""
    low, high = np.zeros_like(start), np.ones_like(start)
    with np.errstate(divide="ignore"):
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rises = slope(middle) > 0
            low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return 0.5 * (low + high)


def _with_errors(
    search: _Search, u: FloatArray, v: FloatArray, chance: FloatArray, shared: bool
) -> Estimates:
    """Standard errors from the observed information of the profile likelihood."""
    fixed = chance if shared else None

    def value(du: float, dv: float) -> FloatArray:
        return search.value(u + du, v + dv, fixed)[:, 0, 0]

    h, middle = _STEP, value(0.0, 0.0)
    uu = -(value(h, 0) + value(-h, 0) - 2 * middle) / h**2
    vv = -(value(0, h) + value(0, -h) - 2 * middle) / h**2
    uv = -(value(h, h) - value(h, -h) - value(-h, h) + value(-h, -h)) / (4 * h * h)
    with np.errstate(all="ignore"):
        if shared:
            # One shape for all: what the locations leave of its information.
            u_part = np.where(uu > 0, uv**2 / uu, 0.0)
            v_variance = 1.0 / max(float((vv - u_part).sum()), 1e-12)
            u_variance = 1.0 / uu + (uv / uu) ** 2 * v_variance
            v_error = np.full(u.size, math.sqrt(v_variance))
        else:
            determinant = uu * vv - uv * uv
            u_variance, v_variance_each = vv / determinant, uu / determinant
            v_error = _error(v_variance_each)
        u_error = _error(u_variance)
    count = search.known_outcomes(u, v, chance)
    if shared:
        count = np.full(count.size, count.sum())
    # Half an answer of either kind keeps the error of 0 and 1 above 0 (Agresti and Coull, 1998).
    middle_chance = (chance * count + 0.5) / (count + 1.0)
    chance_error = np.sqrt(middle_chance * (1 - middle_chance) / (count + 1.0))
    narrow = v <= search.bottom + 1e-6
    if search.answers.law.name == "shifted-surge":
        # Its likelihood ends at the shortest answer, where it is greatest: the slope there counts.
        with np.errstate(divide="ignore"):
            slope = np.abs(middle - value(-h, 0.0)) / h
            u_error = np.maximum(np.where(np.isfinite(u_error), u_error, 0.0), 1.0 / slope)
    return Estimates(u, v, chance, u_error, v_error, chance_error, narrow, search.stretch)


def _error(variance: FloatArray) -> FloatArray:
    known = np.isfinite(variance) & (variance > 0)
    return np.where(known, np.sqrt(np.where(known, variance, 1.0)), np.inf)


def at_bound(found: Estimates, answered: NDArray[np.bool_], members: NDArray[np.intp]) -> list[str]:
    """A sentence where the likelihood would have a query's lengths all the same."""
    flat = answered & found.narrow
    if not flat.any():
        return []
    return [
        f"{named(members[np.flatnonzero(flat)])} with lengths that hardly differ: their spread is "
        "held at the least one allowed"
    ]
