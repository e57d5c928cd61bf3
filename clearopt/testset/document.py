"""An `Instance` as a JSON document, and back, checked.

A file that loads holds an allocation that is feasible and worth what it says, and a bound on the
right side of it: all of it is recomputed. That the bound holds is what its evidence is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clearopt.certificate import check_feasibility, relative_gap
from clearopt.errors import DeclarationError
from clearopt.files.archive import Fields
from clearopt.program import Program
from clearopt.testset.instance import PROVEN, Evidence, Instance
from clearopt.testset.numbers import floats, written_floats
from clearopt.testset.program_object import parsed_program, program_object
from clearopt.validation import FloatArray

FORMAT = "clearopt test set"
VERSION = 1

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_STATUSES = ("optimal", "feasible", "infeasible", "unbounded")
_SAME = 1e-9  # relative: sums of the same terms, in another order or on another machine
_EVIDENCE_TEXTS = ("version", "status", "machine", "note")
_EVIDENCE_NUMBERS = ("value", "bound", "seconds", "tolerance")


def document(instance: Instance) -> dict[str, Any]:
    """The JSON document of an instance."""
    best: dict[str, Any] = {"status": instance.status}
    if instance.allocation is not None:
        best["value"] = instance.best_value
    if math.isfinite(instance.best_bound):
        best["bound"] = instance.best_bound
    if instance.allocation is not None:
        best["allocation"] = written_floats(np.asarray(instance.allocation, dtype=np.float64))
    for key in ("row_prices", "floor_prices"):
        prices = getattr(instance, key)
        if prices is not None:
            best[key] = written_floats(prices)
    written: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": instance.name,
        "description": instance.description,
        "why_hard": instance.why_hard,
        "tags": list(instance.tags),
        "seed": instance.seed,
        "program": program_object(instance.program),
        "best": best,
        "evidence": [_evidence(each) for each in instance.evidence],
    }
    return written


def _evidence(each: Evidence) -> dict[str, Any]:
    written: dict[str, Any] = {"solver": each.solver}
    for key in (*_EVIDENCE_TEXTS[:2], *_EVIDENCE_NUMBERS, *_EVIDENCE_TEXTS[2:]):
        value = getattr(each, key)
        if value != "" and not (isinstance(value, float) and not math.isfinite(value)):
            written[key] = value
    return written


def parsed(source: str, data: Any) -> Instance:
    """The instance in a JSON document.

    Args:
        source: what errors call it.
        data: as `json.loads` gives it.

    Raises:
        DeclarationError: naming the source, the place in it, and what is wrong.
    """
    entries = Fields(source, data, "document")
    if not entries.has("format") or entries.value("format") != FORMAT:
        entries.fail(f"format is not {FORMAT!r}: this is no instance of the test set")
    version = entries.count("version")
    if version > VERSION:
        entries.fail(f"written by a newer clearopt, in version {version} of the format; this one "
                     f"reads version {VERSION}")  # fmt: skip
    entries.only("format", "version", "name", "description", "why_hard", "tags", "seed", "program",
                 "best", "evidence")  # fmt: skip
    name = entries.text("name")
    if not _NAME.fullmatch(name):
        entries.fail(f"name = {name[:80]!r}: lower-case words and numbers, joined by hyphens")
    program = parsed_program(entries.nested("program"))
    tags = entries.items("tags") if entries.has("tags") else []
    if not all(isinstance(tag, str) for tag in tags):
        entries.fail("'tags' is not a list of texts")
    seed = None
    if entries.has("seed") and entries.value("seed") is not None:
        seed = entries.count("seed")
    best = entries.nested("best")
    return Instance(
        name=name,
        description=entries.text("description"),
        why_hard=entries.text("why_hard") if entries.has("why_hard") else "",
        program=program,
        tags=tuple(tags),
        seed=seed,
        evidence=_read_evidence(entries.objects("evidence") if entries.has("evidence") else []),
        **_read_best(best, program),
    )


def _read_evidence(written: Sequence[Fields]) -> tuple[Evidence, ...]:
    found = []
    for each in written:
        each.only("solver", *_EVIDENCE_TEXTS, *_EVIDENCE_NUMBERS)
        known: dict[str, Any] = {key: each.text(key) for key in _EVIDENCE_TEXTS if each.has(key)}
        known |= {key: each.number(key) for key in _EVIDENCE_NUMBERS if each.has(key)}
        found.append(Evidence(each.text("solver"), **known))
    return tuple(found)


def _read_best(best: Fields, program: Program) -> dict[str, Any]:
    """The fields of an `Instance` that say what is known, each checked against the others."""
    best.only("status", "value", "bound", "allocation", "row_prices", "floor_prices")
    status = best.one_of("status", _STATUSES)
    none = {"infeasible": -program.sign * math.inf, "unbounded": program.sign * math.inf}
    if status in none:
        if best.has("allocation") or best.has("bound") or best.has("value"):
            best.fail(f"status is {status!r}: there is no best value, bound or allocation")
        return {"status": status, "best_bound": none[status]}
    value, bound = best.number("value", finite=True), best.number("bound", finite=True)
    tokens = floats(best, "allocation", program.n)
    if tokens.shape != (program.n,):
        best.fail(f"allocation: must be {program.n} numbers")
    worth = _worth(best, program, tokens)
    if abs(worth - value) > _SAME * max(abs(value), abs(worth)) + 1e-12:
        best.fail(f"value = {value!r}: the allocation is worth {worth!r}")
    if program.sign * (value - bound) > 1e-12 * max(abs(value), abs(bound)):
        best.fail(f"bound = {bound!r}: the value {value!r} lies past it")
    gap = relative_gap(program.sign * value, program.sign * bound)
    if (gap <= PROVEN) != (status == "optimal"):
        best.fail(f"status is {status!r} with a relative gap of {gap:.3g}; up to {PROVEN:g} it is "
                  "'optimal', beyond 'feasible'")  # fmt: skip
    return {
        "status": status,
        "best_value": value,
        "best_bound": bound,
        "allocation": tokens,
        "row_prices": _prices(best, "row_prices", program.rows.shape[0]),
        "floor_prices": _prices(best, "floor_prices", program.floors.shape[0]),
    }


def _worth(best: Fields, program: Program, tokens: FloatArray) -> float:
    feasibility = check_feasibility(program, tokens)
    if not feasibility.ok:
        best.fail(f"allocation: is not feasible: it misses the {feasibility.where} by "
                  f"{feasibility.violation:.3g}, relatively")  # fmt: skip
    return program.sign * program.objective(tokens)


def _prices(best: Fields, key: str, count: int) -> FloatArray | None:
    if not best.has(key):
        return None
    prices = floats(best, key, count)
    if prices.shape != (count,) or not np.isfinite(prices).all():
        best.fail(f"{key}: must be {count} finite numbers")
    return prices


def checked(instance: Instance) -> dict[str, Any]:
    """The document of an instance, read back so that no file is made that would not load."""
    if not isinstance(instance, Instance):
        raise DeclarationError(
            f"write({type(instance).__name__}, ...): expected a clearopt.testset.Instance"
        )
    written = document(instance)
    parsed(f"instance {instance.name!r} cannot be written", written)
    return written
