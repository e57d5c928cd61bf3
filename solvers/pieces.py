"""Utilities as pieces with linear caps: a mixed-integer linear model that is never below the truth.

A query's amounts are split into *pieces*, intervals of which one is chosen. Within a piece lines
lie above the curve: for any slope p,

    U(b) <= h(p) + p b,    h(p) = max { U(x) - p x : x in the piece },

and the lowest of them all is the curve's concave envelope over the piece, whatever the curve's
shape. h is the utility's own best response to the price p, so every family is modelled alike and
nothing is sampled. Where a solution of the model lies above the curve, either a line is missing
there or the piece is too wide and is cut in two: the model comes down to the curve exactly where it
matters, and its optimum is an upper bound at every stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.solvers.in_cost import InCost
from clearopt.solvers.relaxation import concave_envelope
from clearopt.utilities import Tabulated, Utility
from clearopt.utilities.on_grid import OnGrid
from clearopt.validation import FloatArray

Indices = NDArray[np.intp]

_WHOLE_NEAR = 1e-6  # HiGHS's whole numbers are so to a tolerance
_FIRST_SLOPES = (1.0, 0.5, 0.2, 0.05, 0.0)  # of the first lines, relative to the break-even price
_CHORDS = 60  # a handful is enough, but where the curve bends sharply
_WHOLE_SLACK = 1e-9  # a bound this close to a whole number is meant to be it
_SAFETY = 4e-16  # a line is raised by a rounding error of its terms


@dataclass(eq=False)
class Pieces:
    """Pieces of all queries, and the lines over them.

    Attributes:
        program: the program, without cost curves on the queries that have pieces of any width.
        query: (P,) whose piece it is.
        first, last: (P,) its ends, amounts; both belong to it.
        piece, slope, height: (L,) lines: utility <= height + slope * b over that piece.
    """

    program: Program
    query: Indices
    first: FloatArray
    last: FloatArray
    piece: Indices
    slope: FloatArray
    height: FloatArray

    @classmethod
    def over(cls, program: Program, query: Indices, first: FloatArray, last: FloatArray) -> Pieces:
        """The pieces with a first few lines each."""
        empty = np.zeros(0)
        made = cls(program, query, first, last, np.zeros(0, np.intp), empty, empty)
        made.draw(np.arange(query.size))
        return made

    @property
    def count(self) -> int:
        return int(self.query.size)

    @property
    def is_point(self) -> NDArray[np.bool_]:
        """(P,) pieces of one amount."""
        return self.last <= self.first

    def best(self, piece: Indices, price: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(amount, h) where U(b) - price * b is greatest over each piece, (m,)."""
        query, low, high = self.query[piece], self.first[piece], self.last[piece]
        amount, gain = low.copy(), -price * low
        for here, family, i in members(self.program, query):
            with np.errstate(all="ignore"):
                whole = self.program.integer[i]
                found = family.best_response(
                    np.ones(i.size), price[here], low[here], high[here],
                    whole if whole.any() else None,
                )  # fmt: skip
            amount[here], gain[here] = found.tokens, found.gain
        return amount, gain

    def value(self, piece: Indices, amount: FloatArray) -> FloatArray:
        """U at an amount of each piece, (m,)."""
        return utility_of(self.program, self.query[piece], amount)

    def cap(self, amount: FloatArray) -> FloatArray:
        """(P,) the lowest line of each piece at an amount of it; 0 or more."""
        lines = self.height + self.slope * amount[self.piece]
        lowest = np.full(self.count, np.inf)
        np.minimum.at(lowest, self.piece, lines)
        return np.maximum(lowest, 0.0)

    def cap_at(self, piece: Indices, amount: FloatArray) -> FloatArray:
        """The lowest line of some pieces at an amount of each, (m,)."""
        at = self.first.copy()
        at[piece] = amount
        return self.cap(at)[piece]

    def is_had(self, piece: Indices, amount: FloatArray) -> NDArray[np.bool_]:
        """(m,) whether each amount is one that its query can have: whole where it must be."""
        query = self.query[piece]
        had = np.ones(piece.size, dtype=bool)
        for here, family, i in members(self.program, query):
            with np.errstate(all="ignore"):
                below = family.whole_below(amount[here])
                off = np.minimum(amount[here] - below, family.whole_after(below) - amount[here])
            near = np.abs(off) <= _WHOLE_NEAR * (1.0 + np.abs(amount[here]))
            had[here] = near | ~self.program.integer[i]
        return had

    # ------------------------------------------------------------------ lines
    def add(self, piece: Indices, slope: FloatArray) -> None:
        """The line of each slope over each piece, (m,)."""
        amount, height = self.best(piece, slope)
        height = height + _SAFETY * (np.abs(height) + np.abs(slope * amount))
        self.piece = np.r_[self.piece, piece]
        self.slope, self.height = np.r_[self.slope, slope], np.r_[self.height, height]

    def draw(self, piece: Indices) -> None:
        """First lines: at the ends, and around the price from which anything is worth buying."""
        point = self.is_point[piece]
        self.add(piece[point], np.zeros(int(point.sum())))
        wide = piece[~point]
        if not wide.size:
            return
        low, high = self.first[wide], self.last[wide]
        at_low = self.value(wide, low)
        # The steepest line of use leads from the start of the piece to where it touches the curve.
        steepest = self._slope_at(wide, low + 1e-6 * (high - low))
        for part in _FIRST_SLOPES:
            self.add(wide, part * steepest)
        chord = (self.value(wide, high) - at_low) / (high - low)
        self.add(wide, chord)

    def touch(self, piece: Indices, amount: FloatArray) -> None:
        """The tangent of each piece's envelope at an amount, (m,)."""
        self.add(piece, self._slope_at(piece, amount))

    def _slope_at(self, piece: Indices, amount: FloatArray) -> FloatArray:
        """The slope of each piece's concave envelope at an amount, (m,).

        The curve's own slope, where its line passes nowhere below the curve; else a chord's.
        """
        slope = np.zeros(piece.size)
        for here, family, _ in members(self.program, self.query[piece]):
            with np.errstate(all="ignore"):
                slope[here] = family.marginal(amount[here])
        slope = np.where(np.isfinite(slope), slope, 0.0)
        _, height = self.best(piece, slope)
        truth = self.value(piece, amount)
        rest = np.flatnonzero(height + slope * amount > truth + 1e-12 * np.abs(truth))
        if rest.size:
            slope[rest] = self._chords(piece[rest], amount[rest])
        return slope

    def _chords(self, piece: Indices, amount: FloatArray) -> FloatArray:
        """Slope of the chord of the upper hull that spans each amount (Eisner and Severance 1976).

        Two points of the hull on both sides of the amount; what is bought at the price of their
        chord lies on the hull too, and takes the place of one of them until none lies above.
        """
        left, right = self.first[piece], self.last[piece]
        at_left, at_right = self.value(piece, left), self.value(piece, right)
        slope = np.zeros(piece.size)
        for _ in range(_CHORDS):
            width = right - left
            slope = np.where(
                width > 0, (at_right - at_left) / np.where(width > 0, width, 1.0), slope
            )
            bought, height = self.best(piece, slope)
            excess = height - (at_left - slope * left)
            above = (excess > 1e-12 * np.abs(height)) & (bought > left) & (bought < right)
            if not above.any():
                break
            value = height + slope * bought
            lower, higher = above & (bought <= amount), above & (bought > amount)
            left, at_left = np.where(lower, bought, left), np.where(lower, value, at_left)
            right, at_right = np.where(higher, bought, right), np.where(higher, value, at_right)
        return slope

    # ------------------------------------------------------------------ cutting in two
    def split(self, piece: Indices, amount: FloatArray) -> None:
        """Cut pieces at an amount inside them, (m,); what cannot be cut stays as it is.

        Fractional tokens: both parts hold the amount itself, but where the curve jumps there.
        Whole ones: it is the last of the first part, or the first of the second.
        """
        query, low, high = self.query[piece], self.first[piece], self.last[piece]
        whole = self.program.integer[query]
        before, after = amount.copy(), amount.copy()
        for here, family, _ in members(self.program, query):
            with np.errstate(all="ignore"):
                below = family.whole_below(amount[here])
                next_ = family.whole_after(below)
            before[here] = np.where(whole[here], below, before[here])
            after[here] = np.where(whole[here], next_, after[here])
        # A step is reached at its first amount: the part before ends just short of it.
        short = np.nextafter(amount, -np.inf)
        jumps = ~whole & (self.value(piece, amount) > self.value(piece, short) + 1e-9)
        before = np.where(jumps, short, before)
        inside = np.where(whole, (before >= low) & (after <= high), (before > low) & (after < high))
        # A jump at the very start or end of a piece leaves one part.
        piece, before, after = piece[inside], before[inside], after[inside]
        if not piece.size:
            return
        new = self.count + np.arange(piece.size)
        self.query = np.r_[self.query, self.query[piece]]
        self.first, ends = np.r_[self.first, after], self.last[piece]
        self.last = np.r_[self.last, ends]
        self.last[piece] = before
        stays = ~np.isin(self.piece, piece)
        self.piece, self.slope = self.piece[stays], self.slope[stays]
        self.height = self.height[stays]
        self.draw(np.r_[piece, new])


# -------------------------------------------------------------------------------- first pieces
def first_pieces(seen: InCost, enumerated: NDArray[np.bool_]) -> Pieces:
    """Few pieces: up to where the envelope leaves its straight part, and from there on.

    Measured curves are cut at their grid points, and nothing is a piece of its own where a query
    may have nothing or at least so much. Queries `enumerated`, (n,), have all their whole amounts.
    """
    program, lower, upper = seen.program, seen.lower, seen.upper
    envelope = concave_envelope(program, lower, upper)
    deciding = (program.semicontinuous | (program.choice >= 0)) & (lower == 0)
    bottom = np.where(program.semicontinuous, np.maximum(program.lower, lower), lower)
    contact = lower + envelope.offset + envelope.contact
    every = np.flatnonzero(~enumerated)
    cuts = [(every, contact[every])]
    for block in program.utilities:
        if isinstance(block.family, Tabulated) and not isinstance(block.family, OnGrid):
            here = ~enumerated[block.index]
            points = block.family.grid[here].shape[-1]
            cuts.append((np.repeat(block.index[here], points), block.family.grid[here].ravel()))
    some = every[(bottom[every] <= upper[every]) & (~deciding[every] | (upper[every] > 0))]
    nothing = every[deciding[every]]
    query = np.r_[nothing, some]
    first = np.r_[np.zeros(nothing.size), bottom[some]]
    last = np.r_[np.zeros(nothing.size), upper[some]]
    whole = amounts_of(seen, enumerated)
    pieces = Pieces.over(
        program, np.r_[query, whole[0]], np.r_[first, whole[1]], np.r_[last, whole[1]]
    )
    for who, at in cuts:
        _cut_at(pieces, who, at)
    return pieces


def _cut_at(pieces: Pieces, query: Indices, amount: FloatArray) -> None:
    """Cut at these amounts, several a query, one of each query at a time."""
    order = np.argsort(query, kind="stable")
    query, amount = query[order], amount[order]
    turn = np.arange(query.size) - np.searchsorted(query, query)
    for k in range(int(turn.max(initial=-1)) + 1):
        who, at = query[turn == k], amount[turn == k]
        wanted = np.full(pieces.program.n, np.nan)
        wanted[who] = at
        here = wanted[pieces.query]
        inside = np.flatnonzero((here > pieces.first) & (here < pieces.last))
        pieces.split(inside, here[inside])


def multiple_choice(seen: InCost) -> Pieces:
    """Every whole amount of every query a piece of its own."""
    query, amount = amounts_of(seen, np.ones(seen.program.n, dtype=bool))
    return Pieces.over(seen.program, query, amount, amount)


def count_of(seen: InCost) -> FloatArray:
    """(n,) how many amounts each query can have; infinite where they are fractions."""
    width = np.floor(seen.most + _WHOLE_SLACK) - np.ceil(seen.least - _WHOLE_SLACK) + 2.0
    return np.where(seen.program.integer, width, np.inf)


def amounts_of(seen: InCost, wanted: NDArray[np.bool_]) -> tuple[Indices, FloatArray]:
    """(query, amount) of every whole amount of the queries `wanted`, (n,)."""
    program = seen.program
    # Bounds in tokens; of the semicontinuous the least that is not nothing.
    some = np.maximum(seen.least, program.lower)
    least = seen.least if seen.moved else np.where(program.semicontinuous, some, seen.least)
    least = np.ceil(least - _WHOLE_SLACK)
    most = np.floor(seen.most + _WHOLE_SLACK)
    who = np.flatnonzero(wanted)
    size = np.maximum(most[who] - least[who] + 1, 0).astype(np.intp)
    query = np.repeat(who, size)
    step = np.arange(query.size) - np.repeat(np.cumsum(size) - size, size)
    tokens = least[query] + step
    # Nothing at all is had by those who may have nothing.
    idle = who[program.semicontinuous[who] | (least[who] > 0) & (seen.lower[who] <= 0)]
    query, tokens = np.r_[query, idle], np.r_[tokens, np.zeros(idle.size)]
    amount = tokens.copy()
    member = np.full(program.n, -1, dtype=np.intp)
    for curve, index in seen.curves:
        member[:] = -1
        member[index] = np.arange(index.size)
        here = np.flatnonzero(member[query] >= 0)
        if here.size:
            amount[here] = curve.take(member[query[here]]).value(tokens[here])
    pairs = np.unique(np.stack([query.astype(float), amount]), axis=1)
    return pairs[0].astype(np.intp), pairs[1]


def members(program: Program, query: Indices) -> list[tuple[Indices, Utility, Indices]]:
    """(positions in `query`, family of these queries, the queries) for every block that has some.

    Queries without a utility are in none.
    """
    found = []
    member = np.full(program.n, -1, dtype=np.intp)
    for block in program.utilities:
        member[:] = -1
        member[block.index] = np.arange(block.index.size)
        here = np.flatnonzero(member[query] >= 0)
        if here.size:
            found.append((here, block.family.take(member[query[here]]), query[here]))
    return found


def utility_of(program: Program, query: Indices, amount: FloatArray) -> FloatArray:
    """U of the queries named, (m,), each at its own amount."""
    values = np.zeros(query.size)
    for here, family, _ in members(program, query):
        with np.errstate(all="ignore"):
            values[here] = family.value(amount[here])
    return values
