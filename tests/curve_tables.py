"""Utilities and cost curves of a program as tables, fine where they bend; read by the oracle."""

from __future__ import annotations

import numpy as np

import clearopt as co

_START = 49  # points to begin with
_BEND = 3e-3  # of the curve's range: halfway between two points it may be off by so much
_ROUNDS = 14


class Curves:
    """U, U', C and C' of any queries at any amounts; (k,) queries and amounts."""

    def __init__(self, program: co.Program) -> None:
        self.pieces = []
        for kind, blocks in enumerate((program.utilities, program.curves)):
            for block in blocks:
                member = np.full(program.n, -1)
                member[block.index] = np.arange(block.index.size)
                self.pieces.append((kind, block.family, member))

    def __call__(self, query: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """(4, k): utility, marginal utility, cost, marginal cost."""
        found = np.zeros((4, query.size))
        for kind, family, member in self.pieces:
            at = member[query]
            mine = np.flatnonzero(at >= 0)
            if mine.size:
                members, amounts = family.take(at[mine]), tokens[mine]
                found[2 * kind, mine] = members.value(amounts)
                found[2 * kind + 1, mine] = members.marginal(amounts)
        return found


class Table:
    """Amounts of every query, ascending in each row and padded with its last; (n, M) arrays."""

    def __init__(self, program: co.Program) -> None:
        self.curves = Curves(program)
        rows = [self._points(program, i) for i in range(program.n)]
        width = max(row.size for row in rows)
        self.tokens = np.stack([np.pad(row, (0, width - row.size), mode="edge") for row in rows])
        query = np.repeat(np.arange(program.n), width)
        self.values = self.curves(query, self.tokens.ravel()).reshape(4, program.n, width)
        self.breaks = [self._breaks(program, i) for i in range(program.n)]

    def _points(self, program: co.Program, i: int) -> np.ndarray:
        low, high = program.lower[i], program.upper[i]
        assert np.isfinite(high), "the oracle needs bounds"
        if program.integer[i]:
            points = np.arange(np.ceil(low), np.floor(high) + 1)
        else:
            breaks = np.concatenate(self._breaks(program, i))
            marks = np.concatenate([breaks, np.nextafter(breaks, -np.inf), _marks(program, i)])
            # Where a cost is charged the slopes of two curves nearly cancel: look more closely.
            finer = 8 if program.has_curves else 1
            points = np.concatenate([np.linspace(low, high, finer * _START), marks])
            points = np.unique(points[(points >= low) & (points <= high)])
            for _ in range(_ROUNDS):
                middle = 0.5 * (points[1:] + points[:-1])
                bent = np.zeros(middle.shape, bool)
                values = self.curves(np.full(points.size, i), points)
                between = self.curves(np.full(middle.size, i), middle)
                for row in (0, 2):
                    off = np.abs(between[row] - 0.5 * (values[row, 1:] + values[row, :-1]))
                    bent |= off > _BEND / finer**2 * np.ptp(values[row])
                bent &= np.diff(points) > 1e-9 * max(high, 1e-300)
                if not bent.any():
                    break
                points = np.sort(np.concatenate([points, middle[bent]]))
        if program.semicontinuous[i] and low > 0:
            points = np.concatenate([[0.0], points])
        return points

    @staticmethod
    def _breaks(program: co.Program, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Amounts at which a measured curve has its steps, and those at which it has corners."""
        none = np.zeros(0)
        for block in program.utilities:
            member = np.flatnonzero(block.index == i)
            if member.size and isinstance(block.family, co.Tabulated):
                grid = np.asarray(block.family.grid)[member[0]]
                return (grid, none) if block.family.interpolation == "step" else (none, grid)
        return none, none


def _marks(program: co.Program, i: int) -> np.ndarray:
    """Where something may happen to the curves of query i. Only hints: they are looked at too."""
    marks = [np.zeros(0)]
    for block in program.utilities:
        member = np.flatnonzero(block.index == i)
        if member.size:
            alone = block.family.take(member)
            start, bend, end = (
                np.asarray(x, dtype=float).ravel()
                for x in (alone.origin, alone.inflection_excess, alone.saturation_excess)
            )
            near = np.minimum(np.maximum(4 * bend, 1e-9 * (1 + start)), end)
            marks += [start, *(start + s * (bend + t * near) for s in (1,) for t in (0, 0.5, 1, 2))]
            marks += [start + end]
    for block in program.curves:
        member = np.flatnonzero(block.index == i)
        if member.size:
            marks.append(np.asarray(block.family.take(member).kinks, dtype=float).ravel())
    found = np.concatenate(marks)
    return found[np.isfinite(found)]
