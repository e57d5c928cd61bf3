"""What a cap of b tokens really costs: cost curves C(b) = E[min(T, b)], T the answer's length.

An answer that ends by itself leaves the rest of its cap unused. Over the random length T of a
query's answers the expected cost of a cap b is

    C(b) = E[min(T, b)] = integral from 0 to b of P(T > t) dt,

non-decreasing, concave, C(0) = 0 and C(b) <= b. A row that charges it is a budget on realised
tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError
from clearopt.utilities import lambertw
from clearopt.utilities.family import Family, checked_parameters
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import as_float_array, require

if TYPE_CHECKING:
    from clearopt.expressions import Expression

_SERIES_LIMIT = 0.5  # below this y, y - 2 + (2 + y) e^-y loses digits to cancellation
# y - 2 + (2 + y) e^-y = sum_{k >= 3} (-1)^(k + 1) (k - 2) y^k / k!
_SERIES = tuple((-1) ** (k + 1) * (k - 2) / math.factorial(k) for k in range(3, 18))
_EXPONENT_LIMIT = 745.0  # exp(-745) is the smallest positive double
_STEPS = 100  # Newton steps for an inverse; a few, but next to saturation


class CostCurve(Family, ABC):
    """A family of cost curves, one member per query; amounts and costs are tokens.

    Non-decreasing and concave from C(0) = 0, with slopes between 0 and 1.
    """

    def __call__(self, tokens: Expression) -> Expression:
        """Apply to an allocation, or to a part of it: the vector of its queries' costs."""
        apply: Callable[[CostCurve], Expression] | None = getattr(tokens, "apply_curve", None)
        if apply is None:
            name = type(self).__name__
            raise DeclarationError(
                f"{name}(...)(...): got {type(tokens).__name__}; a cost curve applies to an "
                "Allocation or a part of it; for the cost at given numbers write "
                f"{name}(...).value(tokens)"
            )
        return apply(self)

    @abstractmethod
    def value(self, tokens: ArrayLike) -> Any:
        """C(b): expected tokens used under a cap of b, elementwise."""

    @abstractmethod
    def marginal(self, tokens: ArrayLike) -> Any:
        """C'(b) = P(T > b): what one more token of cap is expected to cost, elementwise."""

    @abstractmethod
    def inverse(self, cost: ArrayLike) -> Any:
        """The smallest cap with this expected cost, elementwise; infinite where there is none."""

    @property
    @abstractmethod
    def kinks(self) -> Any:
        """(m, k) amounts at which the curve has a kink or a change of formula, ascending."""

    @abstractmethod
    def expression(self, tokens: Any, exp: Any, member: int) -> Any:
        """C of one member as an algebraic expression, as in `Utility.expression`."""


class ExpectedTokens(CostCurve):
    """E[min(T, b)] for answers of length T = threshold + Gamma(2, rate): the law behind the
    cumulative surge with the same threshold and rate, x = max(b - threshold, 0), y = rate x:

        C(b) = b - ends (y - 2 + (2 + y) e^-y) / rate

    Args:
        threshold: tau in tokens, at least 0: no answer is shorter.
        rate: beta in 1/tokens, positive: answers take 2/rate tokens past the threshold on average.
        ends: the share of answers that end by themselves, in [0, 1]; the others use any cap up.

    For lengths measured on the user's own model: `ExpectedTokens.from_lengths`.

    Raises:
        DeclarationError: a parameter is NaN, infinite, out of range, or of the wrong shape.
    """

    parameter_names = ("threshold", "rate", "ends")

    threshold: Any
    rate: Any
    ends: Any

    def __init__(self, threshold: ArrayLike, rate: ArrayLike, ends: ArrayLike = 1.0) -> None:
        checked = checked_parameters(
            "ExpectedTokens",
            {"threshold": threshold, "rate": rate, "ends": ends},
            {
                "threshold": (">=", "tokens that every answer takes"),
                "rate": (">", "1/tokens; answers take 2/rate tokens past the threshold"),
                "ends": (">=", "the share of answers that end by themselves"),
            },
        )
        require(checked["ends"], checked["ends"] <= 1, "ExpectedTokens: ends", "is a share, <= 1")
        for key, array in checked.items():
            object.__setattr__(self, key, array)

    @staticmethod
    def from_lengths(lengths: ArrayLike, cut: ArrayLike | None = None) -> SampledTokens:
        """The curve of measured answer lengths: the mean of min(length, b) over the samples.

        Args:
            lengths: tokens of each answer, (samples,) for one curve or (m, samples) for one a
                query.
            cut: where True the answer did not end by itself at its length: it is taken to go on
                without end. Like `lengths`; by default every answer ended.
        """
        return SampledTokens(lengths, cut)

    def value(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        xp = namespace_of(amount)
        endless = xp.isinf(amount)
        y = self.rate * xp.maximum(xp.where(endless, 0.0, amount) - self.threshold, 0.0)
        small = y < _SERIES_LIMIT
        z = xp.where(small, y, 0.0)
        series = z * 0.0 + _SERIES[-1]
        for coefficient in reversed(_SERIES[:-1]):
            series = series * z + coefficient
        decay = xp.exp(-xp.minimum(y, _EXPONENT_LIMIT))
        saved = xp.where(small, z * z * z * series, (y - 2.0) + (2.0 + y) * decay)
        near = amount - self.ends * saved / self.rate
        # For large y both b and what is saved are large: their difference is formed directly.
        past = self.ends * (2.0 - (2.0 + y) * decay) + (1.0 - self.ends) * y
        limit = xp.where(self.ends < 1.0, xp.inf, self.threshold + 2.0 / self.rate)
        return xp.where(endless, limit, xp.where(y > 2.0, self.threshold + past / self.rate, near))

    def marginal(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        xp = namespace_of(amount)
        y = self.rate * xp.maximum(amount - self.threshold, 0.0)
        y = xp.minimum(y, _EXPONENT_LIMIT)
        survives = (1.0 + y) * xp.exp(-y)
        return (1.0 - self.ends) + self.ends * survives

    def inverse(self, cost: ArrayLike) -> Any:
        wanted: Any = amounts(cost, "cost")
        limit = np.where(self.ends < 1.0, np.inf, self.threshold + 2.0 / self.rate)
        reached = wanted < limit
        goal = np.where(reached, wanted, 0.0)
        tokens = np.maximum(self._below(goal), goal)
        # C is concave: from below its root Newton climbs and never passes it.
        for turn in range(_STEPS):
            slope = np.maximum(self.marginal(tokens), 1e-300)
            step = (goal - self.value(tokens)) / slope
            # The first step may go down: the start may lie above the root by its own rounding.
            following = np.where((step > 0) | (turn == 0), np.maximum(tokens + step, goal), tokens)
            if np.array_equal(following, tokens):
                break
            tokens = following
        return np.where(reached, tokens, np.inf)

    def _below(self, cost: Any) -> Any:
        """An amount close to the root of C(b) = cost, and below it.

        With y = rate x, rate (C - threshold) = ends (2 - (2 + y) e^-y) + (1 - ends) y. Either part
        alone bounds y from above, what that leaves of the other bounds it from below.
        """
        ends, going_on = self.ends, 1.0 - self.ends
        endless = ends < 1.0
        with np.errstate(all="ignore"):
            u = self.rate * np.maximum(cost - self.threshold, 0.0)
            by_ending = np.where(u < 2.0, _when_all_end(np.minimum(u, 2.0)), np.inf)
            most = np.minimum(by_ending, np.where(endless, u / going_on, np.inf))
            part = (u - np.where(endless, going_on * most, 0.0)) / np.where(ends > 0, ends, 1.0)
            part = np.clip(part, 0.0, 2.0)
            y = np.where(part < 2.0, _when_all_end(part), 0.0) * (1 - 1e-12)
            y = np.maximum(y, u)
            y = np.maximum(y, np.where(endless, (u - 2.0 * ends) / going_on, 0.0))
            return np.where(cost > self.threshold, self.threshold + y / self.rate, cost)

    @property
    def kinks(self) -> Any:
        return np.asarray(self.threshold)[..., None]

    def expression(self, tokens: Any, exp: Any, member: int) -> Any:
        threshold, rate, ends = (float(parameter[member]) for parameter in self.parameters)
        over = tokens - threshold
        y = rate * 0.5 * (over + abs(over))
        return tokens - ends / rate * (y - 2 + (2 + y) * exp(-y))


class SampledTokens(CostCurve):
    """The mean of min(length, b) over measured answers: piecewise linear, concave.

    Made by `ExpectedTokens.from_lengths`, which describes the arguments.
    """

    parameter_names = ("lengths",)

    lengths: Any  # (m, samples), or (samples,) for one curve; ascending, infinite where cut

    def __init__(self, lengths: ArrayLike, cut: ArrayLike | None = None) -> None:
        name = "ExpectedTokens.from_lengths"
        try:
            array = np.array(lengths, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DeclarationError(
                f"{name}: lengths: expected numbers, (samples,) or (m, samples) ({error})"
            ) from error
        if array.ndim not in (1, 2) or array.size == 0:
            raise DeclarationError(
                f"{name}: lengths: expected (samples,) or (m, samples), got shape {array.shape}"
            )
        wrong = ~(np.isfinite(array) & (array >= 0))
        if wrong.any():
            place = ", ".join(str(int(i)) for i in np.argwhere(wrong)[0])
            raise DeclarationError(
                f"{name}: lengths[{place}] = {array[wrong][0].item()!r}: must be a finite number "
                "of tokens, at least 0"
            )
        if cut is not None:
            mask = np.asarray(cut)
            if mask.shape != array.shape or mask.dtype.kind != "b":
                raise DeclarationError(
                    f"{name}: cut must be a mask of shape {array.shape}, got {mask.dtype} of "
                    f"shape {mask.shape}"
                )
            array[mask] = np.inf
        array.sort(axis=-1)
        array.setflags(write=False)
        object.__setattr__(self, "lengths", array)

    @property
    def kind(self) -> Any:
        return _Samples(int(np.shape(self.lengths)[-1]))

    def broadcast(self, length: int) -> Self:
        lengths = np.asarray(self.lengths)
        if lengths.ndim == 2 and lengths.shape[0] != length:
            raise DeclarationError(
                f"ExpectedTokens.from_lengths(lengths=...) has {lengths.shape[0]} rows, but it "
                f"applies to {length} queries: give one row of samples, or one a query"
            )
        return self.from_parameters(np.broadcast_to(lengths, (length, lengths.shape[-1])))

    def __repr__(self) -> str:
        return f"ExpectedTokens.from_lengths(lengths=[{np.shape(self.lengths)[-1]} samples])"

    def value(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        # min first: an infinite length stands for an answer that never ends.
        return np.minimum(self.lengths, amount[..., None]).mean(axis=-1)

    def marginal(self, tokens: ArrayLike) -> Any:
        amount: Any = amounts(tokens, "tokens")
        return (self.lengths > amount[..., None]).mean(axis=-1)

    def inverse(self, cost: ArrayLike) -> Any:
        wanted: Any = amounts(cost, "cost")
        lengths = np.asarray(self.lengths)
        samples = lengths.shape[-1]
        at = self._at_lengths(lengths)  # C at each length, ascending
        below = (at < wanted[..., None]).sum(axis=-1)  # pieces passed before the wanted is reached
        inside = below < samples
        before = np.maximum(below - 1, 0)[..., None]
        lengths, at = np.broadcast_arrays(lengths, at)
        lengths = np.broadcast_to(lengths, (*below.shape, samples))
        at = np.broadcast_to(at, lengths.shape)
        first = below == 0
        start = np.where(first, 0.0, np.take_along_axis(lengths, before, -1)[..., 0])
        reached = np.where(first, 0.0, np.take_along_axis(at, before, -1)[..., 0])
        slope = (samples - below) / samples
        step = np.where(inside, (wanted - reached) / np.where(inside, slope, 1.0), np.inf)
        met = ~inside & (wanted <= reached)
        return np.where(met, start, start + step)

    @staticmethod
    def _at_lengths(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """C at each of the lengths themselves."""
        samples = lengths.shape[-1]
        with np.errstate(invalid="ignore"):
            step = np.diff(lengths, axis=-1, prepend=0.0)
        step = np.where(np.isnan(step), 0.0, step)
        weight = np.arange(samples, 0, -1) / samples
        return np.cumsum(step * weight, axis=-1)

    @property
    def kinks(self) -> Any:
        return np.asarray(self.lengths)

    def expression(self, tokens: Any, exp: Any, member: int) -> Any:
        lengths = np.asarray(self.lengths)[member]
        finite, total = lengths[np.isfinite(lengths)], lengths.size
        # min(L, b) = (L + b - |L - b|) / 2
        shared = (total - finite.size) / total * tokens
        values, counts = np.unique(finite, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            shared = shared + count / (2 * total) * (value + tokens - abs(value - tokens))
        return shared


@dataclass(frozen=True)
class _Samples:
    """The kind of sampled curves: as many samples a query."""

    samples: int

    def from_parameters(self, *parameters: Any) -> SampledTokens:
        return SampledTokens.from_parameters(*parameters)


def _when_all_end(u: Any) -> Any:
    """y with 2 - (2 + y) e^-y = u, 0 <= u < 2: t = y + 2 solves t e^-t = (2 - u) e^-2."""
    return -2.0 - lambertw.lower(-(2.0 - u) * math.exp(-2.0))


def amounts(value: ArrayLike, argument: str) -> Any:
    """Amounts as an array: a traced one as it is, anything else checked."""
    if hasattr(value, "__array_namespace__"):
        return value
    return as_float_array(value, argument, allow_infinite=True)
