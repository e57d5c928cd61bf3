"""What prices prove: their signs, the dual bound by sampling, and no price where a row is slack."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.testing.sampling import Responses, best_responses
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.testing.checker import Findings

_NO_SIGN = 1e-12  # a price of the wrong sign but so small, relative to the largest, is 0
_ROUNDING = 1e-9
_NEAR = 1e-6  # relative: at least so much may a response fall short of the best
_MOST_QUERIES = 200_000  # sampling more would take minutes


def price_vectors(program: Program, solution: Solution) -> tuple[FloatArray, FloatArray]:
    """Prices of rows (K,) and floors (J,); zeros where there are none."""
    rows, floors = solution.row_prices, solution.floor_prices
    return (
        np.zeros(program.rows.shape[0]) if rows is None else rows,
        np.zeros(program.floors.shape[0]) if floors is None else floors,
    )


def check_prices(found: Findings, program: Program, solution: Solution, proof: str) -> None:
    """Add to `found` what is wrong about the prices and about the bound they are to prove."""
    rows, floors = price_vectors(program, solution)
    before = len(found.faults)
    _check_signs(found, program, rows, floors)
    if len(found.faults) > before or program.n > _MOST_QUERIES:
        return
    bound = program.sign * solution.bound
    weight = program.weight - program.floors.T @ floors
    price = program.cost + program.rows.T @ rows
    curve_price = program.curve_cost + program.curve_rows.T @ rows
    known = [abs(x) for x in (bound, solution.objective) if math.isfinite(x)]
    slack = max(solution.tolerance, _NEAR) * max([*known, 1e-300])
    response = best_responses(program, weight, price, curve_price, slack)
    best = _with_choices(program, response)
    fixed = [rows * program.right_hand_side, floors * program.floor_levels, [program.offset]]
    terms = np.concatenate([best, *fixed])
    found.price_bound = program.sign * (math.fsum(terms) if np.isfinite(terms).all() else math.inf)
    dual, size = program.sign * found.price_bound, float(np.abs(terms).sum())
    if solution.allocation is not None:
        found.complementarity = dual - program.sign * solution.objective
        if dual < program.sign * solution.objective - _ROUNDING * size:
            found.add("prices", f"prove {found.price_bound:.12g}, which the objective passes")
    finite = math.isfinite(dual)  # else endless tokens pay at these prices, and they prove nothing
    if proof == "prices" and not bound >= (dual - _ROUNDING * size if finite else math.inf):
        found.add(
            "bound",
            f"{solution.bound:.12g} is claimed, but at these prices the queries' best responses "
            f"give {found.price_bound:.12g}: the prices prove no more than that",
        )
    if solution.status == "optimal" and math.isfinite(dual):
        _check_slack(found, program, rows, floors, response, slack)


def _check_signs(found: Findings, program: Program, rows: FloatArray, floors: FloatArray) -> None:
    largest = float(np.abs(rows).max(initial=0.0))
    for k, sense in enumerate(program.senses):
        wrong = {"<=": -rows[k], ">=": rows[k], "==": 0.0}[sense]
        if wrong > _NO_SIGN * largest:
            found.add("prices", f"row {k} ({sense}) has the price {rows[k]:.6g}: the wrong sign")
    largest = float(np.abs(floors).max(initial=0.0))
    for j, price in enumerate(floors.tolist()):
        if price > _NO_SIGN * largest:
            found.add("prices", f"floor {j} (>=) has the price {price:.6g}: the wrong sign")


def _with_choices(program: Program, response: Responses) -> FloatArray:
    """The gains, (n,), where of each choice the best option alone is served."""
    gain = response.gain.copy()
    for choice in np.unique(program.choice[program.choice >= 0]).tolist():
        options = np.flatnonzero(program.choice == choice)
        extra = response.gain[options] - response.idle[options]
        gain[options] = response.idle[options]
        best = options[int(np.argmax(extra))]
        gain[best] = response.gain[best]
    return gain


def _check_slack(
    found: Findings,
    program: Program,
    rows: FloatArray,
    floors: FloatArray,
    response: Responses,
    slack: float,
) -> None:
    """At the best prices some mixture of best responses uses up every row that has a price.

    A necessary condition, which holds whatever the duality gap: what is left unused even by the
    most that best responses take has no price, and the least that they take fits.
    """
    sense = np.asarray(program.senses, dtype="<U2")
    for k in range(program.rows.shape[0]):
        one = program.rows[[k]].toarray().ravel()
        curved = program.curve_rows[[k]].toarray().ravel()
        low, high = np.zeros(program.n), np.zeros(program.n)
        ends = [one * response.fewest, one * response.most]
        low, high = low + np.minimum(*ends), high + np.maximum(*ends)
        if curved.any():
            ends = [curved * program.curve_value(t) for t in (response.fewest, response.most)]
            low, high = low + np.minimum(*ends), high + np.maximum(*ends)
        fewest, most = _range(program, response, low, high, slack)
        level = float(program.right_hand_side[k])
        size = max(abs(level), float(np.abs(low).sum()), float(np.abs(high).sum()), 1e-300)
        charged = abs(rows[k]) * size > slack
        unused, beyond = level - most > 1e-6 * size, fewest - level > 1e-6 * size
        if sense[k] == "<=":
            wrong = beyond or (charged and unused)
        elif sense[k] == ">=":
            wrong = unused or (charged and beyond)
        else:
            wrong = beyond or unused
        if wrong:
            found.add(
                "prices",
                f"row {k} has the price {rows[k]:.6g}, at which the best responses use between "
                f"{fewest:.6g} and {most:.6g} of {level:.6g}: not a best price",
            )
    utilities = [program.utility(t) for t in (response.fewest, response.most)]
    for j in range(program.floors.shape[0]):
        one = program.floors[[j]].toarray().ravel()
        ends = [one * utility for utility in utilities]
        fewest, most = _range(program, response, np.minimum(*ends), np.maximum(*ends), slack)
        level = float(program.floor_levels[j])
        size = max(abs(level), most, 1e-300)
        charged = abs(floors[j]) * size > slack
        if most < level - 1e-6 * size or (charged and fewest > level + 1e-6 * size):
            found.add(
                "prices",
                f"floor {j} has the price {floors[j]:.6g}, at which the best responses reach "
                f"between {fewest:.6g} and {most:.6g} of {level:.6g}: not a best price",
            )


def _range(
    program: Program, response: Responses, low: FloatArray, high: FloatArray, slack: float
) -> tuple[float, float]:
    """The least and the greatest sum over the queries, of each choice one option or none."""
    low, high = low.copy(), high.copy()
    for choice in np.unique(program.choice[program.choice >= 0]).tolist():
        options = np.flatnonzero(program.choice == choice)
        extra = response.gain[options] - response.idle[options]
        near = options[extra >= extra.max() - slack]
        ends = [*low[near], *high[near]] + ([0.0] if extra.max() <= slack else [])
        low[options] = high[options] = 0.0
        low[options[0]], high[options[0]] = min(ends), max(ends)
    return math.fsum(low), math.fsum(high)
