"""A `Solution` as the header entries and arrays of a file; back, checked against its program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clearopt.assemble import FALSE_BOUND, ROUNDING_GAP
from clearopt.certificate import (
    FEASIBILITY_TOLERANCE,
    Feasibility,
    check_feasibility,
    relative_gap,
)
from clearopt.files.archive import Archive, Arrays, Fields
from clearopt.files.program import read_program, written_labels
from clearopt.files.values import NotWritableError, encode
from clearopt.prices import ByName, Price
from clearopt.program import Program
from clearopt.solution import STATUS_MEANING, Solution, counted

_UNSTATED = 1e-6  # the tolerance of files that do not say theirs: what `solve` takes unless told
_RECOMPUTED = 1e-9  # relative; another machine's exponential may differ in the last digits


@dataclass(frozen=True)
class _Vector:
    """An array of a solution that may be left out."""

    name: str
    mask: bool = False

    @property
    def member(self) -> str:
        return f"solution.{self.name}"


_OPTIONAL = (_Vector("allocation"), _Vector("utilities"), _Vector("funded", mask=True),
             _Vector("row_prices"), _Vector("floor_prices"))  # fmt: skip


def solution_parts(solution: Solution) -> tuple[dict[str, Any], Arrays]:
    """Header entries and arrays of a solution, without its program."""
    arrays: Arrays = {}
    for vector in _OPTIONAL:
        value = getattr(solution, vector.name)
        if value is not None:
            arrays[vector.member] = np.asarray(value, dtype=bool if vector.mask else np.float64)
    feasibility = solution.feasibility
    header: dict[str, Any] = {
        "status": solution.status,
        "objective": encode(float(solution.objective)),
        "bound": encode(float(solution.bound)),
        "solver": solution.solver,
        "seconds": encode(float(solution.seconds)),
        "tolerance": encode(float(solution.tolerance)),
        "message": solution.message,
        "arrays": [vector.name for vector in _OPTIONAL if vector.member in arrays],
        "feasibility": None
        if feasibility is None
        else {"violation": encode(float(feasibility.violation)), "where": feasibility.where},
    }
    for kind in ("prices", "marginal_values"):
        header[kind] = []
        named: Mapping[str, Price] = getattr(solution, kind)
        for position, (name, price) in enumerate(named.items()):
            entry: dict[str, Any] = {"name": name, "shape": "number", "labels": None}
            if isinstance(price, dict):
                entry |= {
                    "shape": "mapping",
                    "labels": written_labels(list(price), f"{kind} of {name!r}"),
                }
                price = np.array(list(price.values()), dtype=np.float64)
            elif np.ndim(price):
                entry["shape"] = "array"
            arrays[f"solution.{kind}.{position}"] = np.atleast_1d(
                np.asarray(price, dtype=np.float64)
            )
            header[kind].append(entry)
    header["statistics"] = encode(_plain(solution.statistics))
    return header, arrays


def _plain(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries that are plain data."""
    kept = {}
    for name, value in statistics.items():
        try:
            encode({name: value})
        except NotWritableError:
            continue
        if isinstance(name, str):
            kept[name] = value
    return kept


def read_solution(archive: Archive, program: Program | None = None) -> Solution:
    """The solution in a file, and its program, which the file may leave to `program`.

    Raises:
        DeclarationError: as `read_program`, and where the program contradicts the solution.
    """
    program = read_program(archive) if program is None else program
    entries = archive.nested("solution")
    status = entries.one_of("status", STATUS_MEANING)
    lengths = {"row_prices": program.rows.shape[0], "floor_prices": program.floors.shape[0]}
    listed = entries.items("arrays")
    found: dict[str, Any] = {}
    for vector in _OPTIONAL:
        shape = (lengths.get(vector.name, program.n),)
        if vector.name not in listed:
            found[vector.name] = None
        elif vector.mask:
            found[vector.name] = archive.mask(vector.member, shape)
        else:
            rule = "infinite" if vector.name in lengths else "finite"
            found[vector.name] = archive.floats(vector.member, shape, rule)
    found["allocation"] = counted(program, found["allocation"])
    written = entries.optional("feasibility")
    feasibility = None
    if written is not None:
        feasibility = Feasibility(written.number("violation"), written.text("where"))
    stated = entries.has("tolerance")
    tolerance = entries.number("tolerance", finite=True) if stated else _UNSTATED
    if tolerance < 0:
        entries.fail(f"tolerance = {tolerance:g}: must be at least 0")
    solution = Solution(
        status=status,
        program=program,
        objective=entries.number("objective"),
        bound=entries.number("bound"),
        feasibility=feasibility
        if found["allocation"] is None
        else check_feasibility(program, found["allocation"]),
        solver=entries.text("solver"),
        seconds=entries.number("seconds"),
        message=entries.text("message"),
        statistics=entries.mapping("statistics"),
        tolerance=tolerance,
        **found,
    ).stating(
        _read_prices(archive, entries, "prices"),
        _read_prices(archive, entries, "marginal_values"),
    )
    _check_solution(entries, solution)
    if status != "optimal" or solution.gap <= max(tolerance, ROUNDING_GAP) + _RECOMPUTED:
        return solution
    if stated:
        entries.fail(
            f"status 'optimal', but bound and objective are {solution.gap:.2g} apart, more than "
            f"the tolerance of {tolerance:g}"
        )
    # Written before the tolerance was: it may have been a wide one, so this is no contradiction.
    message = f"saved as optimal, without the tolerance; not within {tolerance:g}"
    return replace(
        solution,
        status="feasible",
        message="; ".join(filter(None, (solution.message, message))),
    )


def _read_prices(archive: Archive, entries: Fields, kind: str) -> dict[str, Price]:
    prices = ByName()
    for position, entry in enumerate(entries.objects(kind)):
        name, shape = entry.text("name"), entry.one_of("shape", ("number", "array", "mapping"))
        member, labels = f"solution.{kind}.{position}", entry.labels("labels")
        length = 1 if shape == "number" else None if labels is None else len(labels)
        values = archive.floats(member, (length,), "infinite")
        if name in prices or (shape == "mapping") != (labels is not None):
            entry.fail(f"{name!r} stands there twice, or without its labels")
        if labels is not None:
            prices[name] = dict(zip(labels, values.tolist(), strict=True))
        else:
            prices[name] = float(values[0]) if shape == "number" else values
    return prices


def _check_solution(entries: Fields, solution: Solution) -> None:
    """Refuse a solution that its own program contradicts."""
    program, found = solution.program, solution.allocation
    tokens = None if found is None else np.asarray(found, dtype=np.float64)
    served = solution.status in ("optimal", "feasible")
    parts = (tokens, solution.utilities, solution.funded)
    if any((part is not None) != served for part in parts):
        entries.fail(
            f"status {solution.status!r} goes "
            + ("with an allocation, its utilities and who is funded" if served
               else "without an allocation")
        )  # fmt: skip
    if tokens is None or solution.utilities is None or solution.funded is None:
        return
    assert solution.feasibility is not None
    # Found to hold to the tolerance itself where it was saved.
    if not solution.feasibility.violation <= (1 + 1e-3) * FEASIBILITY_TOLERANCE:
        entries.fail(
            f"the allocation misses {solution.feasibility.where} by "
            f"{solution.feasibility.violation:.2g} (relative): it is not feasible"
        )
    utility = program.utility(tokens)
    wrong = ~(np.abs(utility - solution.utilities) <= _RECOMPUTED * np.maximum(1.0, utility))
    if wrong.any():
        i = int(np.argmax(wrong))
        entries.fail(
            f"utilities[{i}] = {solution.utilities[i]:.10g}, but at {tokens[i]:g} tokens it is "
            f"{utility[i]:.10g}"
        )
    if not np.array_equal(solution.funded, (tokens > 0) & (solution.utilities > 0)):
        entries.fail("'funded' does not follow from the allocation and its utilities")
    objective = program.sign * program.objective(tokens)
    size = abs(program.offset) + float(np.abs(program.gains(tokens)).sum())
    if not abs(objective - solution.objective) <= _RECOMPUTED * size:
        entries.fail(
            f"objective = {solution.objective:.12g}, but the allocation is worth {objective:.12g}"
        )
    _check_bound(entries, solution)


def _check_bound(entries: Fields, solution: Solution) -> None:
    sign = solution.program.sign
    best, bound = sign * solution.objective, sign * solution.bound
    # An `optimal` may have been asked for with a wide tolerance; a wrong side has no excuse but
    # rounding, to the tolerances that solvers ordinarily have.
    beyond = relative_gap(bound, best)
    if np.isnan(bound) or beyond > 100 * FALSE_BOUND:
        entries.fail(
            f"bound = {solution.bound:.12g} is no bound: the allocation is worth "
            f"{solution.objective:.12g}"
        )
    if solution.status == "optimal" and not np.isfinite(bound):
        entries.fail("status 'optimal' goes with a finite bound")
