"""The table of a dynamic programme over whole tokens.

    V_k(c) = max { V_{k-1}(c - a b) + w U(b) - p b : b an amount that query k can have }

V_k(c) is the most that the first k queries earn within c units of every row. It looks at every
amount of every query and at nothing else: no shape, no price, no tolerance. What it costs is the
product of the rows' right-hand sides (in common units), the queries, and their amounts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solvers.amounts import whole_amounts
from clearopt.solvers.base import Feature
from clearopt.validation import FloatArray

TAKES: frozenset[Feature] = frozenset(
    (
        "several rows",
        "equality rows",
        "whole tokens",
        "semicontinuous tokens",
        "choices",
        "measured curves",
        "functions without a formula",
    )
)
MOST_STATES = 50_000_000  # of all queries together: what choices are remembered for
MOST_STEPS = 20_000_000_000  # states times amounts: a minute or two
_WHOLE = 1e-9  # a coefficient this close to a whole number of units is meant to be it
_ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(eq=False)
class Table:
    """What the programme runs over: per query its amounts, and what they earn and are charged.

    Attributes:
        amounts: per query, (A_i,) whole tokens.
        gains: per query, (A_i,) what they earn.
        units: (K, n) charge of a token in units of each row.
        budget: (K,) right-hand side in these units, whole.
        exact: (K,) bool, rows that must be used up.
        groups: queries of which at most one has more than nothing, each with its number.
    """

    amounts: list[FloatArray]
    gains: list[FloatArray]
    units: NDArray[np.intp]
    budget: NDArray[np.intp]
    exact: NDArray[np.bool_]
    groups: list[list[int]]

    @classmethod
    def of(cls, program: Program, most_amounts: int = MOST_STATES) -> Table:
        if (program.sense_array == ">=").any():
            raise UnsupportedProblemError(
                "solver 'dp' takes <= and == rows; for a >= row take solver='dual' or 'highs'"
            )
        query, tokens = whole_amounts(program, "dp", most_amounts)
        units, budget = _in_units(program)
        amounts = np.split(tokens, np.searchsorted(query, np.arange(1, program.n)))
        gains = []
        utilities = _utilities(program, amounts)
        for i in range(program.n):
            gains.append(program.weight[i] * utilities[i] - program.cost[i] * amounts[i])
        table = cls(amounts, gains, units, budget, program.sense_array == "==", _groups(program))
        table.check()
        return table

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple((np.maximum(self.budget, 0) + 1).tolist())

    @property
    def states(self) -> int:
        return math.prod(self.shape)

    @property
    def steps(self) -> int:
        return self.states * sum(a.size for a in self.amounts)

    @property
    def size(self) -> float:
        """What the terms of the objective may come to: the scale of its rounding."""
        return math.fsum(float(np.abs(g).max(initial=0.0)) for g in self.gains)

    def check(self) -> None:
        """Refuse what would take too long or not fit, before any work."""
        # In floating point: the states of a few hundred rows are more than any number can say.
        states = math.prod(map(float, self.shape))
        for count, most, what in (
            (states * len(self.amounts), MOST_STATES, "remembered choices"),
            (states * sum(a.size for a in self.amounts), MOST_STEPS, "steps"),
        ):
            if count > most:
                raise UnsupportedProblemError(
                    f"{count:.3g} {what} are too many for 'dp', which takes {most:.3g}: it is the "
                    "oracle of small cases; take solver='dual'"
                )

    def fill(self, over: Callable[[], bool]) -> float | None:
        """The optimum without the offset; -inf where nothing is feasible.

        None where `over`, which is asked between queries, says that time is up.
        """
        value = np.zeros(self.shape)
        if self.exact.any():
            # Only what is used up counts: from nothing used on.
            value[:] = -np.inf
            start = tuple(slice(0, 1) if e else slice(None) for e in self.exact)
            value[start] = 0.0
        self._taken: list[tuple[NDArray[np.int32], NDArray[np.int16]]] = []
        if (self.budget < 0).any():
            return -math.inf
        for group in self.groups:
            if over():
                return None
            value = self._step(value, group)
        return float(value[tuple(self.budget.tolist())])

    def bound(self, found: float) -> float:
        """A bound on what `fill` found that rounding cannot break, from above.

        Sums of terms that nowhere lose round by their own size, so that nothing stays nothing;
        where terms may lose, an optimum loses no more than it could win beyond `found`.
        """
        size = self.size
        if all(len(group) == 1 for group in self.groups) and math.isfinite(found):
            won = math.fsum(max(float(g.max(initial=0.0)), 0.0) for g in self.gains)
            losing = any(bool((g < 0).any()) for g in self.gains)
            size = min(size, 2 * won - found if losing else abs(found))
        return found + 4 * (len(self.amounts) + 2) * _ROUNDING * size

    def _step(self, value: FloatArray, group: list[int]) -> FloatArray:
        """One query, or the options of one choice of which all others have nothing."""
        after = np.full(self.shape, -np.inf)
        taken = np.zeros(self.shape, dtype=np.int32)
        who = np.zeros(self.shape, dtype=np.int16)
        # What the options are worth when they have nothing.
        idle = [float(self.gains[i][0]) if len(group) > 1 else 0.0 for i in group]
        for place, i in enumerate(group):
            others = math.fsum(idle) - idle[place]
            for k, (amount, gain) in enumerate(zip(self.amounts[i], self.gains[i], strict=True)):
                shift = self.units[:, i] * int(amount)
                if (shift > self.budget).any():
                    continue
                to = tuple(slice(s, None) for s in shift.tolist())
                back = tuple(slice(0, size - s) for s, size in zip(shift.tolist(), self.shape,
                                                                  strict=True))  # fmt: skip
                offered = value[back] + (gain + others)
                better = offered > after[to]
                after[to] = np.where(better, offered, after[to])
                taken[to] = np.where(better, k, taken[to])
                who[to] = np.where(better, place, who[to])
        self._taken.append((taken, who))
        return after

    def choice(self) -> FloatArray:
        """(n,) the amounts of the optimum, read back from the last query to the first."""
        tokens = np.zeros(len(self.amounts))
        state = self.budget.copy()
        for group, (taken, who) in zip(reversed(self.groups), reversed(self._taken), strict=True):
            at = tuple(state.tolist())
            i = group[int(who[at])]
            tokens[i] = self.amounts[i][int(taken[at])]
            state = state - self.units[:, i] * int(tokens[i])
        return tokens


def _in_units(program: Program) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Charges (K, n) and right-hand sides (K,) in each row's largest common unit, whole numbers."""
    rows = program.rows.toarray()
    units = np.zeros(rows.shape, dtype=np.intp)
    budget = np.zeros(rows.shape[0], dtype=np.intp)
    for k, row in enumerate(rows):
        used = row[row != 0]
        if (used < 0).any():
            raise UnsupportedProblemError(
                f"solver 'dp' takes coefficients of at least 0, but row {k} has {used.min():.6g}"
            )
        unit = _common_unit(used)
        if unit is None:
            raise UnsupportedProblemError(
                f"solver 'dp' needs coefficients that are whole multiples of a common unit; those "
                f"of row {k} are not (e.g. {used[0]:.17g}); take solver='dual' or 'highs'"
            )
        units[k] = np.rint(row / unit).astype(np.intp)
        level = float(program.right_hand_side[k]) / unit
        whole = round(level) if abs(level - round(level)) <= _WHOLE * max(1.0, abs(level)) else None
        if program.senses[k] == "==" and whole is None:
            whole = -1  # no sum of whole units comes to a fraction
        most = float(units[k] @ np.minimum(program.upper, 2.0**40))
        free = math.floor(level) if whole is None else whole
        budget[k] = min(free, most) if program.senses[k] == "<=" else free
    return units, budget


def _common_unit(values: FloatArray) -> float | None:
    """The largest number of which all are whole multiples, or None: up to 10^6 per unit of one."""
    if not values.size:
        return 1.0
    for scale in (1, 10, 100, 1000, 2, 4, 8, 16, 3, 6, 12, 7, 10**4, 10**6):
        scaled = values * scale
        if (np.abs(scaled - np.rint(scaled)) <= _WHOLE * np.maximum(scaled, 1.0)).all():
            whole = np.rint(scaled).astype(np.int64)
            if (whole > 0).all():
                return float(np.gcd.reduce(whole)) / scale
    return None


def _utilities(program: Program, amounts: list[FloatArray]) -> list[FloatArray]:
    """U at every amount of every query."""
    found = [np.zeros(a.size) for a in amounts]
    for block in program.utilities:
        for member, i in enumerate(block.index.tolist()):
            family = block.family.take(np.full(amounts[i].size, member))
            found[i] = np.asarray(family.value(amounts[i]))
    return found


def _groups(program: Program) -> list[list[int]]:
    """Queries one by one, and those of one choice together."""
    groups: list[list[int]] = []
    place: dict[int, int] = {}
    for i, choice in enumerate(program.choice.tolist()):
        if choice < 0:
            groups.append([i])
        elif choice in place:
            groups[place[choice]].append(i)
        else:
            place[choice] = len(groups)
            groups.append([i])
    return groups
