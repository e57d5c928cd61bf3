"""The amounts that queries of whole tokens can have, one by one: for back-ends that enumerate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program
from clearopt.solvers.relaxation import implied_bounds
from clearopt.validation import FloatArray

_NEAR = 1e-9  # a bound this close to a whole number is meant to be it


def whole_amounts(
    program: Program, solver: str, most: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """(query, tokens), (P,) each: every amount of every query, query by query, ascending.

    Raises:
        UnsupportedProblemError: a query has fractional tokens or no upper bound, or there are more
            than `most` amounts; `solver` is who says so.
    """
    fractional = ~program.integer
    if fractional.any():
        raise UnsupportedProblemError(
            f"solver {solver!r} counts whole tokens, but query {int(np.argmax(fractional))} has "
            "fractional ones; take Allocation(..., integer=True), or solver='dual'"
        )
    lower, upper = implied_bounds(program)
    if np.isinf(upper).any():
        raise UnsupportedProblemError(
            f"query {int(np.argmax(np.isinf(upper)))} has no upper bound, and none follows from "
            f"the rows; {solver!r} needs one: give Allocation(..., upper=...)"
        )
    # Semicontinuous: nothing, or from the least on.
    first = np.ceil(np.where(program.semicontinuous, program.lower, lower) - _NEAR)
    last = np.floor(upper + _NEAR)
    size = np.maximum(last - first + 1, 0)
    if float(size.sum()) > most:
        raise UnsupportedProblemError(
            f"{size.sum():.3g} amounts of all queries are too many for {solver!r}, which looks at "
            f"each of them and takes {most:.3g}: lower the upper bounds, or take solver='dual'"
        )
    count = size.astype(np.intp)
    query = np.repeat(np.arange(program.n), count)
    step = np.arange(query.size) - np.repeat(np.cumsum(count) - count, count)
    tokens = first[query] + step
    may_have_none = (program.semicontinuous & (first > 0)) | ((program.choice >= 0) & (first > 0))
    none = np.flatnonzero(may_have_none)
    query, tokens = np.r_[query, none], np.r_[tokens, np.zeros(none.size)]
    order = np.lexsort((tokens, query))
    return query[order], tokens[order]
