"""Every query's best response at given prices, by dense sampling and local refinement.

Nothing is taken from how a family answers `best_response`: only its values are asked for, at
amounts all over the interval, its ends and 0, and dense where a curve may begin or bend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.solvers.relaxation import implied_bounds
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

_EVEN = 129  # amounts spread evenly over the interval
_HALVINGS = 40  # amounts that close in on each landmark, from either side
_WHOLE = 512  # intervals of at most so many whole amounts are enumerated
_REFINED = 48  # steps of golden section, each of which shrinks the bracket by a third and more
_POINTS = 150_000  # evaluated at a time
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


@dataclass(frozen=True, eq=False)
class Responses:
    """What sampling found, (n,) each.

    Attributes:
        gain: the greatest W U(b) - P b - Q C(b): never above the true one, and below it by the
            error of the sampling alone. Infinite where endless tokens are paid for.
        fewest, most: the least and the greatest amount within `slack` of it.
        idle: the gain of 0 tokens, -inf where they are not to be had.
    """

    gain: FloatArray
    fewest: FloatArray
    most: FloatArray
    idle: FloatArray


def best_responses(
    program: Program, weight: FloatArray, price: FloatArray, curve_price: FloatArray, slack: float
) -> Responses:
    """Maximise W U(b) - P b - Q C(b) for every query over the bounds that the rows imply.

    Args:
        program: the program.
        weight, price, curve_price: W, P and Q, (n,).
        slack: amounts whose gain is within this of the best count as best.
    """
    lower, upper = implied_bounds(program)
    upper = np.minimum(program.upper, upper)
    found = Responses(*(np.zeros(program.n) for _ in range(4)))
    for part in _parts(program):
        at = part.queries
        asked = _Asked(part, program, weight[at], price[at], curve_price[at], lower[at], upper[at])
        gain, fewest, most, idle = asked.answer(slack)
        found.gain[at], found.fewest[at], found.most[at] = gain, fewest, most
        found.idle[at] = idle
    return found


@dataclass(frozen=True, eq=False)
class _Part:
    """Queries of one family, or of none, that are sampled together."""

    queries: NDArray[np.intp]  # (m,)
    family: Utility | None


def _parts(program: Program) -> Iterator[_Part]:
    size = max(_POINTS // (_EVEN + 4 * _HALVINGS + _WHOLE), 1)
    rest = np.ones(program.n, dtype=bool)
    for block in program.utilities:
        rest[block.index] = False
        for start in range(0, block.index.size, size):
            members = np.arange(start, min(start + size, block.index.size))
            yield _Part(block.index[members], block.family.take(members))
    alone = np.flatnonzero(rest)
    for start in range(0, alone.size, size):
        yield _Part(alone[start : start + size], None)


class _Asked:
    """One part, with what it is asked: all arrays (m,) or (m, points)."""

    def __init__(
        self, part: _Part, program: Program, weight: FloatArray, price: FloatArray,
        curve_price: FloatArray, lower: FloatArray, upper: FloatArray,
    ) -> None:  # fmt: skip
        at = part.queries
        self.part, self.program = part, program
        self.weight, self.price, self.curve_price = weight, price, curve_price
        self.whole, self.holes = program.integer[at], program.semicontinuous[at]
        self.low, self.least = lower, np.where(self.holes, program.lower[at], lower)
        self.endless = np.isinf(upper) & (price < 0)
        landmarks = [self.least]
        if part.family is not None:
            with np.errstate(all="ignore"):
                origin = part.family.origin + np.zeros(at.size)
                bend = origin + part.family.inflection_excess
                enough = origin + part.family.saturation_excess
            landmarks += [origin, bend, enough]
        finite = [np.where(np.isfinite(mark), mark, 0.0) for mark in landmarks]
        far = 2.0 * np.maximum.reduce(finite) + 1.0
        self.high = np.where(np.isinf(upper), far, upper)
        self.marks = [np.clip(mark, self.low, self.high) for mark in finite]

    def gains(self, tokens: FloatArray) -> FloatArray:
        """W U - P b - Q C at (m, points) tokens."""
        count = tokens.shape[1]
        gains = -self.price[:, None] * tokens
        if self.part.family is not None:
            repeated = self.part.family.take(np.repeat(np.arange(tokens.shape[0]), count))
            utility = np.asarray(repeated.value(tokens.ravel())).reshape(tokens.shape)
            gains = gains + self.weight[:, None] * utility
        if self.curve_price.any():
            gains = gains - self.curve_price[:, None] * self._costs(tokens)
        return gains

    def _costs(self, tokens: FloatArray) -> FloatArray:
        costs = np.zeros_like(tokens)
        position = np.full(self.program.n, -1, dtype=np.intp)
        for block in self.program.curves:
            position[:] = -1
            position[block.index] = np.arange(block.index.size)
            here = np.flatnonzero(position[self.part.queries] >= 0)
            if here.size:
                members = position[self.part.queries[here]]
                family = block.family.take(np.repeat(members, tokens.shape[1]))
                costs[here] = np.asarray(family.value(tokens[here].ravel())).reshape(here.size, -1)
        return costs

    def to_be_had(self, tokens: FloatArray) -> FloatArray:
        """The nearest amounts that the bounds, wholeness and holes allow."""
        tokens = np.clip(tokens, self.least[:, None], self.high[:, None])
        rounded = np.clip(np.rint(tokens), np.ceil(self.least)[:, None], self.high[:, None])
        return np.where(self.whole[:, None], rounded, tokens)

    def answer(self, slack: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        tokens = self.to_be_had(self._spread())
        tokens = np.sort(np.concatenate([tokens, self.low[:, None]], axis=1), axis=1)
        gains = self.gains(tokens)
        refined = self._refined(tokens, gains)
        order = np.argsort(tokens := np.concatenate([tokens, refined], axis=1), axis=1)
        tokens = np.take_along_axis(tokens, order, axis=1)
        gains = self.gains(tokens)
        best = gains.max(axis=1)
        fewest, most = self._extent(tokens, gains >= (best - slack)[:, None], best - slack)
        nothing = np.zeros((tokens.shape[0], 1))
        idle = np.where(self.low <= 0, self.gains(nothing)[:, 0], -np.inf)
        return np.where(self.endless, np.inf, best), fewest, most, idle

    def _spread(self) -> FloatArray:
        low, width = self.low[:, None], (self.high - self.low)[:, None]
        shrinking = 2.0 ** -np.arange(1.0, _HALVINGS + 1)[None, :]
        columns = [low + width * np.linspace(0.0, 1.0, _EVEN)[None, :]]
        columns += [low + width * shrinking, self.high[:, None] - width * shrinking]
        for mark in self.marks:
            columns += [mark[:, None] + width * shrinking, mark[:, None] - width * shrinking]
            columns.append(mark[:, None])
        if self.whole.any():
            columns.append(np.ceil(self.least)[:, None] + np.arange(_WHOLE + 1.0)[None, :])
        return np.concatenate(columns, axis=1)

    def _refined(self, tokens: FloatArray, gains: FloatArray) -> FloatArray:
        """Golden section around the best sample, and around the best other local maximum."""
        rows = np.arange(tokens.shape[0])
        last = tokens.shape[1] - 1
        first = gains.argmax(axis=1)
        padded = np.pad(gains, ((0, 0), (1, 1)), constant_values=-np.inf)
        peak = (gains >= padded[:, :-2]) & (gains >= padded[:, 2:])
        # By amount, not by index: an end or a landmark is sampled many times over.
        spacing = 1.01 * (self.high - self.low) / (_EVEN - 1)
        apart = np.abs(tokens - tokens[rows, first][:, None]) > spacing[:, None]
        second = np.where(peak & apart, gains, -np.inf).argmax(axis=1)
        alike = (1e-9 * (self.high - self.low))[:, None]
        found = []
        for centre in (first, second):
            # The next amounts that differ by more than rounding: two spreads may have the same.
            middle = tokens[rows, centre][:, None]
            before = (tokens < middle - alike).sum(axis=1) - 1
            after = (tokens <= middle + alike).sum(axis=1)
            left = tokens[rows, np.maximum(before, 0)][:, None]
            right = tokens[rows, np.minimum(after, last)][:, None]
            for _ in range(_REFINED):
                step = _GOLDEN * (right - left)
                a, b = right - step, left + step
                values = self.gains(np.concatenate([a, b], axis=1))
                keep_left = (values[:, 0] >= values[:, 1])[:, None]
                left, right = np.where(keep_left, left, a), np.where(keep_left, b, right)
            middle = 0.5 * (left + right)
            steps = np.array([[-1.0, 0.0, 1.0]]) * self.whole[:, None]
            found += [self.to_be_had(middle + steps)]
        return np.concatenate(found, axis=1)

    def _extent(
        self, tokens: FloatArray, near: NDArray[np.bool_], enough: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The least and the greatest amount near the best, to the last bit between two samples."""
        rows, last = np.arange(tokens.shape[0]), tokens.shape[1] - 1
        ends = []
        for turn in (1, -1):
            index = near.argmax(axis=1) if turn > 0 else last - near[:, ::-1].argmax(axis=1)
            inside = tokens[rows, index]
            outside = tokens[rows, np.clip(index - turn, 0, last)]
            fixed = self.whole | (self.holes & (np.minimum(inside, outside) < self.least))
            outside = np.where(fixed, inside, outside)
            for _ in range(_HALVINGS):
                middle = 0.5 * (inside + outside)
                good = self.gains(middle[:, None])[:, 0] >= enough
                inside, outside = np.where(good, middle, inside), np.where(good, outside, middle)
            ends.append(inside)
        return ends[0], ends[1]
