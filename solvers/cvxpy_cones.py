"""Envelopes as cones: where a family's concave part is a concave expression of CVXPY.

The envelope of a query is a chord and then a curve whose slopes are lower. What is bought is
therefore split in two, `straight` along the chord and `bent` along the curve,

    utility <= U(lower) + chord * straight + U(contact + bent) - U(contact),
    straight + bent <= tokens - lower,    0 <= straight <= reach,    0 <= bent <= end - contact,

and no solution does better than to fill the chord first: the split is exact, without binaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.relaxation import Envelope
from clearopt.utilities import Utility
from clearopt.validation import FloatArray

_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class _Block:
    """The queries of one family that are written so; arrays of one length."""

    family: Utility
    query: NDArray[np.intp]
    unit: FloatArray  # tokens; over so many, half of the curve's rise is had


class Cones:
    """The cone forms of an envelope's queries, as far as their families have one."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.exact = np.zeros(envelope.lower.size, dtype=np.bool_)  # (n,) who is written so
        self.blocks: list[_Block] = []
        for block in envelope.blocks:
            i, family = block.index, block.family
            contact, end = envelope.contact[i], envelope.end[i]
            with np.errstate(all="ignore"):
                rise = family.value_at(end) - family.value_at(contact)
                usable = (
                    family.has_cone_form & (rise > 0) & np.isfinite(family.marginal_at(contact))
                )
                mine = np.flatnonzero(usable & (end > contact) & np.isfinite(end))
            if mine.size:
                members = family.take(mine)
                unit = _half_way(members, contact[mine], end[mine])
                self.blocks.append(_Block(members, i[mine], unit))
                self.exact[i[mine]] = True

    def constraints(self, cvxpy: Any, utility: Any, taken: Any, step: FloatArray) -> list[Any]:
        """What binds the variables `utility` and `taken` (tokens above lower, in `step`s)."""
        envelope = self.envelope
        found = []
        for block in self.blocks:
            i, unit = block.query, block.unit
            contact = envelope.contact[i]
            most = np.maximum(envelope.end[i] - contact, 0.0) / unit
            straight = cvxpy.Variable(
                i.size, bounds=[np.zeros(i.size), envelope.reach[i] / step[i]]
            )
            bent = cvxpy.Variable(i.size, bounds=[np.zeros(i.size), most])
            excess = contact + cvxpy.multiply(unit, bent)
            curve, beside = block.family.cone_form(excess, cvxpy)
            start = envelope.base[i] - block.family.value_at(contact)
            chord = cvxpy.multiply(envelope.chord[i] * step[i], straight)
            found += beside
            found.append(utility[i] <= start + chord + curve)
            found.append(straight + cvxpy.multiply(unit / step[i], bent) <= taken[i])
        return found


def _half_way(family: Utility, contact: FloatArray, end: FloatArray) -> FloatArray:
    """Tokens past the contact at which half of the rise to the end is had."""
    low, high = contact.copy(), end.copy()
    wanted = 0.5 * (family.value_at(contact) + family.value_at(end))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = family.value_at(middle) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(high - contact)
