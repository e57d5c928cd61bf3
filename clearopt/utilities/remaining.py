"""What further tokens do for an answer that is under way: the rest of its query's utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.utilities.base import Utility
from clearopt.utilities.numeric import CompoundUtility
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

_SETTLED = 1e-9  # a share of answers still under way that is nothing


class Remaining(CompoundUtility):
    """U after s tokens, given that the answer did not end by then; made by `Remaining.of`.

    An answer cut at s tokens is not right as it stands. Answers that end up wrong are taken to be
    as long as right ones: of a utility with peak a, an answer is then still under way at s with
    probability 1 - U(s) / a, and x more tokens make it right with probability
    (U(s + x) - U(s)) / (1 - U(s) / a), up to a again.

    Its own arrays are the tokens had, the factor 1 / (1 - U(s) / a), and the most further tokens.
    """

    advice: ClassVar[str] = "the rest of an S-shaped utility is S-shaped; please report this"

    parts: tuple[Utility]

    @classmethod
    def of(cls, utility: Utility, spent: Any, most: Any = np.inf) -> Self:
        """The rest of a utility of m queries.

        Args:
            utility: S-shaped, of m queries.
            spent: tokens had, number or (m,).
            most: further tokens that are possible, number or (m,); where 0 there is no rest.

        Raises:
            DeclarationError: a measured curve, or a number below 0.
        """
        if not utility.s_shaped:
            raise DeclarationError(
                f"Remaining: {type(utility).__name__} has no shape to rely on; fit a family to it"
            )
        length = max((int(np.size(value)) for value in utility.parameters), default=1)
        utility = utility.broadcast(length)
        arrays = []
        for name, value in (("spent", spent), ("most", most)):
            array = as_float_array(value, f"Remaining: {name}", allow_infinite=name == "most")
            require(array, array >= 0, f"Remaining: {name}", "must be at least 0")
            arrays.append(np.array(broadcast_to_length(array, length, f"Remaining: {name}")))
        had, limit = arrays
        peak = np.asarray(utility.value_at(np.asarray(utility.saturation_excess)))
        with np.errstate(divide="ignore", invalid="ignore"):
            under_way = 1.0 - np.where(peak > 0, np.asarray(utility.value(had)) / peak, 1.0)
            useful = (under_way > _SETTLED) & (limit > 0)
            past = had - np.asarray(utility.origin) >= np.asarray(utility.saturation_excess)
            factor = np.where(useful & ~past, 1.0 / under_way, 0.0)
        return cls._around((utility,), (had, factor, limit))

    @property
    def _name(self) -> str:
        return f"the rest of {type(self.parts[0]).__name__}"

    @property
    def _begun(self) -> Any:
        """Excess of the whole utility that is had already."""
        return np.maximum(self.own[0] - self.parts[0].origin, 0.0)

    @property
    def origin(self) -> Any:
        return np.maximum(self.parts[0].origin - self.own[0], 0.0)

    def value_at(self, excess: Any) -> Any:
        whole, begun = self.parts[0], self._begun
        return self.own[1] * (whole.value_at(begun + excess) - whole.value_at(begun))

    def marginal_at(self, excess: Any) -> Any:
        return self.own[1] * self.parts[0].marginal_at(self._begun + excess)

    @property
    def reach_excess(self) -> Any:
        rest = np.maximum(self.parts[0].saturation_excess - self._begun, 0.0)
        rest = np.minimum(rest, np.maximum(self.own[2] - self.origin, 0.0))
        return np.where(self.own[1] > 0, rest, 0.0)

    @property
    def marks(self) -> FloatArray:
        whole, begun = self.parts[0], self._begun
        ends = (whole.inflection_excess, whole.saturation_excess)
        return np.column_stack([np.maximum(end - begun, 0.0) for end in ends])

    def in_units(self, tokens: Any, accuracy: float) -> Self:
        had, factor, limit = self.own
        parts: Sequence[Utility] = [self.parts[0].in_units(tokens, accuracy)]
        rest = self._around(parts, (had / tokens, factor, limit / tokens))
        return rest._with_shape(self._in_units(tokens, accuracy))

    def expression(self, excess: Any, exp: Any, member: int) -> Any:
        whole, begun = self.parts[0], float(np.asarray(self._begun)[member])
        had = float(np.asarray(whole.value_at(self._begun))[member])
        factor = float(self.own[1][member])
        return factor * (whole.expression(excess + begun, exp, member) - had)

    def __repr__(self) -> str:
        return f"Remaining({self.parts[0]!r})"
