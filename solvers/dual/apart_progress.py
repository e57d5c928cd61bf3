"""How far a program has come whose independent groups are solved one after the other.

Its bound is the sum of the groups', its value the sum of theirs. A group not yet begun has the
bound of free tokens, and the value of the least that its queries may have where that is feasible.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.sums import accurate_sum
from clearopt.validation import FloatArray

_MISSED = 1e-9  # relative; a row short by more is not met


class Together:
    """Sums up what the groups tell.

    Args:
        program: the whole, whose own objective is maximised.
        count: of the groups.
        labels: (n + K + J,) the group of every query, row and floor.
        heard: told the (value, bound) of the whole, without the program's offset.
    """

    def __init__(
        self,
        program: Program,
        count: int,
        labels: NDArray[np.intp],
        heard: Callable[[float, float], None],
    ) -> None:
        self._heard = heard
        n = program.n
        self.bounds, self.values = np.zeros(count), np.zeros(count)
        np.add.at(self.bounds, labels[:n], _free_gains(program))
        np.add.at(self.values, labels[:n], _least_gains(program))
        self.values[labels[n:][_missed_by_least(program)]] = -math.inf
        self._tell()

    def part(
        self, group: int, sign: float, *, rest: bool = False
    ) -> Callable[[float, float, float], None]:
        """`on_progress` for a group; with `rest` for it and all that follow, as one.

        `sign` is its program's: what it tells is in the user's sense.
        """
        if rest:
            for sums in (self.bounds, self.values):
                sums[group] = sums[group:].sum()
                sums[group + 1 :] = 0.0

        def told(_: float, objective: float, bound: float) -> None:
            if not math.isnan(objective):
                self.values[group] = max(self.values[group], sign * objective)
            self.bounds[group] = min(self.bounds[group], sign * bound)
            self._tell()

        return told

    def _tell(self) -> None:
        self._heard(accurate_sum(self.values), accurate_sum(self.bounds))


def _free_gains(program: Program) -> FloatArray:
    """(n,) no less than any query can add to the objective; infinite where tokens pay for ever."""
    least, upper = program.least, program.upper
    with np.errstate(invalid="ignore"):
        gain = np.maximum(-program.cost * least, -program.cost * upper)
    gain = np.where(program.cost == 0, 0.0, gain)
    for block in program.utilities:
        i, family = block.index, block.family
        with np.errstate(all="ignore"):
            enough = np.maximum(least[i], np.ceil(family.origin + family.saturation_excess))
            most = np.where(np.isinf(upper[i]), enough, upper[i])
            free = np.zeros(i.size)
            gain[i] += family.best_response(program.weight[i], free, least[i], most).gain
    for curve in program.curves:
        i = curve.index
        cost = program.curve_cost[i]
        with np.errstate(invalid="ignore"):
            first, last = (-cost * curve.family.value(amount[i]) for amount in (least, upper))
        gain[i] += np.where(cost == 0, 0.0, np.maximum(first, last))
    return gain


def _least_gains(program: Program) -> FloatArray:
    """(n,) what every query adds with the least it may have."""
    least = program.least
    gain = program.weight * program.utility(least) - program.cost * least
    for curve in program.curves:
        i = curve.index
        gain[i] -= program.curve_cost[i] * curve.family.value(least[i])
    return np.asarray(gain)


def _missed_by_least(program: Program) -> NDArray[np.bool_]:
    """(K + J,) the rows and floors that are not met where every query has the least it may."""
    least, sense = program.least, program.sense_array
    over = program.activity(least) - program.right_hand_side
    slack = _MISSED * np.maximum(np.abs(program.right_hand_side), program.activity_size(least))
    rows = ((sense != ">=") & (over > slack)) | ((sense != "<=") & (over < -slack))
    reached = program.floors @ program.utility(least)
    short = program.floor_levels - reached > _MISSED * np.abs(program.floor_levels)
    return np.concatenate([rows, short])
