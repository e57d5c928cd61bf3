"""Conflicts that only an exact solver sees: they lie in the shape of the utilities.

A relaxation lets queries have parts of their jumps, and so may be met where no allocation is. Here
the constraints kept are handed, as a program of their own, to whoever can prove it empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clearopt.deadline import Deadline
from clearopt.program import Program
from clearopt.solvers.elastic import Selection
from clearopt.validation import FloatArray


class Exact(NamedTuple):
    """What an exact solver can say of a program until a deadline."""

    is_empty: Callable[[Program, Deadline], bool | None]  # None: not in the time
    bound: Callable[
        [Program, Deadline], float
    ]  # a rigorous bound on its objective; infinite if none


def restricted(
    program: Program, selection: Selection, lower: FloatArray, upper: FloatArray
) -> Program:
    """The program with some of its rows and floors, and other bounds.

    Its objective stays: with nothing to gain all prices are alike, and a search has no direction.
    """
    rows, floors = selection.rows, selection.floors
    # The bounds are those in force: where some amounts between nothing and them are not to be had,
    # the declared least amount stays.
    least = np.where(program.semicontinuous, np.maximum(program.lower, lower), lower)
    forced = program.semicontinuous & (lower > 0)
    return replace(
        program,
        lower=least,
        upper=upper,
        semicontinuous=program.semicontinuous & ~forced,
        rows=program.rows[rows],
        curve_rows=program.curve_rows[rows],
        senses=tuple(program.senses[k] for k in rows),
        right_hand_side=program.right_hand_side[rows],
        floors=program.floors[floors],
        floor_levels=program.floor_levels[floors],
        constraints=(),
        offset=0.0,
    )


def towards_row(rest: Program, program: Program, row: int) -> Program:
    """`rest`, with the objective to come as close as possible to one row of `program`."""
    sign = 1.0 if program.senses[row] == "<=" else -1.0
    return replace(
        rest,
        weight=np.zeros(rest.n),
        cost=sign * program.rows[[row]].toarray().ravel(),
        curve_cost=sign * program.curve_rows[[row]].toarray().ravel(),
    )


def towards_floor(rest: Program, program: Program, floor: int) -> Program:
    """`rest`, with the objective to come as close as possible to one floor of `program`."""
    nothing = np.zeros(rest.n)
    weight = program.floors[[floor]].toarray().ravel()
    return replace(rest, weight=weight, cost=nothing, curve_cost=nothing)
