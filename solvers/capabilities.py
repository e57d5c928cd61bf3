"""What a program asks of a back-end, and the words for refusing it before any work.

A `Feature` is a property of programs that some back-end cannot take. Every back-end declares those
that it can; `solve_program` looks for the others, and for these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from clearopt.program import Program
from clearopt.solvers.base import ALL_FEATURES, Feature
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.utilities.formulas import has_formula

MEANING: Mapping[Feature, str] = {
    "several rows": "more than one row",
    "negative coefficients": "a row that credits tokens, as a difference of two allocations does",
    "equality rows": "a row with ==",
    "at-least rows": "a row with >=, which asks for tokens",
    "accuracy floors": "utilities that must add up to so much",
    "fractional tokens": "amounts that need not be whole numbers, the default",
    "whole tokens": "amounts that are whole numbers",
    "semicontinuous tokens": "nothing, or at least so much",
    "choices": "queries of which at most one is served: a menu",
    "cost curves": "a row, or the objective, that charges a cost curve",
    "mixed charges": "a query that pays for its tokens and for its cost curve",
    "fractional mixed charges": "the same where tokens are not whole",
    "measured curves": "tabulated utilities, which need not be S-shaped",
    "functions without a formula": "functions that no algebraic expression can say",
    "no upper bound": "a query whose tokens neither its bound nor the rows nor saturation limit",
}


def features_of(program: Program) -> frozenset[Feature]:
    """What a back-end must support to take this program."""
    return missing_features(program, frozenset())


def missing_features(program: Program, supports: Collection[Feature]) -> frozenset[Feature]:
    """The features of the program that are not in `supports`; no others are looked for."""
    return frozenset(f for f in ALL_FEATURES if f not in supports and _HAS[f](program))


def advice(program: Program, missing: Collection[Feature]) -> str:
    """What to write instead, where that is known; empty where it is not."""
    if "fractional mixed charges" in missing:
        query = int(np.argmax(_mixed(program) & ~program.integer))
        return (
            f"query {query} is charged both its tokens and its cost curve, so its problem has no "
            "closed form; count its tokens whole, Allocation(..., integer=True), and it is solved "
            "on their grid"
        )
    if "mixed charges" in missing:
        query = int(np.argmax(_mixed(program)))
        return f"query {query} is charged both its tokens and its cost curve"
    if "fractional tokens" in missing:
        query = int(np.argmax(~program.integer))
        return f"query {query} has fractional tokens: give Allocation(..., integer=True)"
    if "no upper bound" in missing:
        query = int(np.argmax(np.isinf(implied_bounds(program)[1])))
        return (
            f"query {query} has no upper bound, and none follows from the rows: give "
            "Allocation(..., upper=...)"
        )
    return ""


def _negative(program: Program) -> bool:
    return any(m.nnz and m.data.min() < 0 for m in (program.rows, program.curve_rows))


def _mixed(program: Program) -> NDArray[np.bool_]:
    """(n,) queries that pay for their tokens and for their cost curve."""
    if not program.has_curves:
        return np.zeros(program.n, dtype=bool)
    curved, plain = program.curve_cost != 0, program.cost != 0
    curved[program.curve_rows.indices[program.curve_rows.data != 0]] = True
    plain[program.rows.indices[program.rows.data != 0]] = True
    return curved & plain


def _endless(program: Program) -> bool:
    """Where tokens can be had without end but not at a gain: those are unbounded programs."""
    endless = np.isinf(program.upper)
    if endless.any() and not _negative(program):
        # The usual case, without a second look: a row without credits limits what it charges.
        limits = np.flatnonzero(program.sense_array != ">=")
        limited = program.rows[limits]
        endless[limited.indices[limited.data > 0]] = False
    if not endless.any():
        return False
    return bool(np.isinf(implied_bounds(program)[1]).any()) and not is_unbounded_direction(program)


_HAS: Mapping[Feature, Callable[[Program], bool]] = {
    "several rows": lambda p: bool(p.rows.shape[0] > 1),
    "negative coefficients": _negative,
    "equality rows": lambda p: bool(np.any(p.sense_array == "==")),
    "at-least rows": lambda p: bool(np.any(p.sense_array == ">=")),
    "accuracy floors": lambda p: bool(p.floors.shape[0]),
    "fractional tokens": lambda p: not p.integer.all(),
    "whole tokens": lambda p: bool(p.integer.any()),
    "semicontinuous tokens": lambda p: bool(p.semicontinuous.any()),
    "choices": lambda p: bool(np.any(p.choice >= 0)),
    "cost curves": lambda p: p.has_curves,
    "mixed charges": lambda p: bool(_mixed(p).any()),
    "fractional mixed charges": lambda p: bool((_mixed(p) & ~p.integer).any()),
    "measured curves": lambda p: any(not block.family.s_shaped for block in p.utilities),
    "functions without a formula": lambda p: (
        any(block.family.s_shaped and not has_formula(block.family) for block in p.utilities)
        or any(not has_formula(block.family) for block in p.curves)
    ),
    "no upper bound": _endless,
}
