"""Tangents of concave envelopes: all that a linear program knows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.solvers.relaxation import Envelope
from clearopt.validation import FloatArray

_FIRST_SLOPES = (1.0, 0.5, 0.2, 0.05, 0.0)  # of the first tangents, relative to the straight part
_MOST_CORNERS = 64  # of a piecewise-linear envelope whose pieces are all written down

Queries = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Tangents:
    """utility[query] <= height + slope * (tokens[query] - lower[query]); arrays of one length."""

    query: Queries
    height: FloatArray
    slope: FloatArray

    @classmethod
    def none(cls) -> Tangents:
        return cls(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0))

    @classmethod
    def at(cls, envelope: Envelope, excess: FloatArray, query: Queries) -> Tangents:
        """Those of the queries named at their excess; `excess` is (n,), `query` (m,)."""
        height, slope = envelope.cuts(excess)
        return cls(query, height[query], slope[query])

    def __add__(self, other: Tangents) -> Tangents:
        return Tangents(
            np.concatenate([self.query, other.query]),
            np.concatenate([self.height, other.height]),
            np.concatenate([self.slope, other.slope]),
        )

    def of(self, wanted: NDArray[np.bool_]) -> Tangents:
        """Those of the queries where `wanted`, (n,), holds."""
        keep = wanted[self.query]
        return Tangents(self.query[keep], self.height[keep], self.slope[keep])

    def moved(self, shift: FloatArray) -> Tangents:
        """The same lines counted from lower bounds that are `shift` tokens, (n,), higher."""
        return Tangents(self.query, self.height + self.slope * shift[self.query], self.slope)


def first_tangents(envelope: Envelope) -> Tangents:
    """The straight part of every envelope, all of a piecewise-linear one, some of a curved one."""
    everybody = np.arange(envelope.lower.size)
    cuts = Tangents.at(envelope, envelope.contact, everybody)
    curved = (envelope.contact < envelope.end) & ~is_piecewise_linear(envelope)
    for share in _FIRST_SLOPES:
        excess = envelope.demand(share * envelope.chord)
        cuts = cuts + Tangents.at(envelope, excess, np.flatnonzero(curved))
    # Flat from the peak on, where more can be had than is useful.
    width = envelope.upper - envelope.lower
    bent_there = (envelope.chord > 0) & (envelope.contact >= envelope.end)
    past = np.flatnonzero(bent_there & (envelope.reach < width))
    cuts = cuts + Tangents(past, envelope.peak[past], np.zeros(past.size))
    return cuts + _pieces(envelope)


def is_piecewise_linear(envelope: Envelope) -> NDArray[np.bool_]:
    """(n,) whether `first_tangents` has all of a query's envelope."""
    whole = envelope.contact >= envelope.end
    for block in envelope.blocks:
        corners = block.family.corners
        if corners is not None and corners.shape[-1] <= _MOST_CORNERS:
            whole[block.index] = True
    return whole


def _pieces(envelope: Envelope) -> Tangents:
    """The pieces after the first of every envelope whose concave part has corners."""
    found = Tangents.none()
    for block in envelope.blocks:
        corners = block.family.corners
        if corners is None or corners.shape[-1] > _MOST_CORNERS:
            continue
        i = block.index
        contact, end = envelope.contact[i], envelope.end[i]
        before = np.full(i.size, -np.inf)
        for corner in np.moveaxis(corners, -1, 0):
            at = np.maximum(corner, contact)
            new = (at > before) & (at <= end)
            before = np.where(new, at, before)
            excess = envelope.contact.copy()
            excess[i] = np.nextafter(before, np.inf)  # for the piece on its right
            found = found + Tangents.at(envelope, excess, i[new])
    return found
