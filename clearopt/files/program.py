"""A `Program` as the header entries and arrays of a file, and back, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.files.archive import Archive, Arrays, Fields, matrix_arrays
from clearopt.files.families import read_family, write_family
from clearopt.files.values import NotWritableError, encode
from clearopt.program import BoundEntries, ConstraintGroup, CurveBlock, Program, UtilityBlock

_SENSES = ("<=", ">=", "==")  # an array of senses holds positions in this
_VECTORS = ("weight", "cost", "lower", "upper", "curve_cost", "right_hand_side", "floor_levels",
            "declared_lower", "declared_upper")  # fmt: skip
_MATRICES = ("rows", "floors", "curve_rows")


def program_parts(program: Program) -> tuple[dict[str, Any], Arrays]:
    """Header entries and arrays of a program."""
    arrays: Arrays = {
        name: np.asarray(getattr(program, name), dtype=np.float64) for name in _VECTORS
    }
    for name in _MATRICES:
        arrays |= matrix_arrays(name, getattr(program, name))
    arrays["integer"] = np.asarray(program.integer, dtype=np.bool_)
    arrays["semicontinuous"] = np.asarray(program.semicontinuous, dtype=np.bool_)
    arrays["choice"] = np.asarray(program.choice, dtype=np.int64)
    for sense in program.senses:
        if sense not in _SENSES:
            raise DeclarationError(f"senses: {sense!r} is none of {', '.join(_SENSES)}")
    arrays["senses"] = np.array([_SENSES.index(sense) for sense in program.senses], dtype=np.uint8)
    header: dict[str, Any] = {
        "offset": encode(float(program.offset)),
        "minimize": bool(program.minimize),
        "allocations": [[name, int(length)] for name, length in program.allocations],
        "objective_text": program.objective_text,
    }
    blocks: dict[str, Sequence[UtilityBlock | CurveBlock]] = {
        "utilities": program.utilities,
        "curves": program.curves,
    }
    for kind, members in blocks.items():
        header[kind] = []
        for position, block in enumerate(members):
            prefix = f"{kind}.{position}"
            description, parameters = write_family(block.family, prefix)
            header[kind].append(description)
            arrays |= parameters
            arrays[f"{prefix}.index"] = np.asarray(block.index, dtype=np.int64)
    header["constraints"] = []
    for position, group in enumerate(program.constraints):
        description, entries = _constraint_parts(group, f"constraints.{position}")
        header["constraints"].append(description)
        arrays |= entries
    return header, arrays


def _constraint_parts(group: ConstraintGroup, prefix: str) -> tuple[dict[str, Any], Arrays]:
    where = f"constraint {group.name!r}"
    header: dict[str, Any] = {
        "name": group.name,
        "kind": group.kind,
        "first": int(group.first),
        "count": int(group.count),
        "labels": None if group.labels is None else written_labels(group.labels, where),
        "scalar": bool(group.scalar),
        "unlimited": written_labels(group.unlimited, where),
        "text": group.text,
        "bounds": None,
    }
    if group.bounds is None:
        return header, {}
    header["bounds"] = {"sense": group.bounds.sense}
    return header, {
        f"{prefix}.query": np.asarray(group.bounds.query, dtype=np.int64),
        f"{prefix}.factor": np.asarray(group.bounds.factor, dtype=np.float64),
        f"{prefix}.level": np.asarray(group.bounds.level, dtype=np.float64),
    }


def written_labels(labels: Sequence[Any], where: str) -> list[Any]:
    """Labels as JSON; `where` is what an error says they belong to."""
    written = []
    for label in labels:
        try:
            written.append(encode(label))
        except NotWritableError as error:
            raise DeclarationError(
                f"{where}: the label {_shown(label)} cannot be saved: {error}"
            ) from error
    return written


def _shown(label: Any) -> str:
    try:
        return repr(label)
    except ValueError:  # a whole number too long for Python to write
        return type(label).__name__


def read_program(archive: Archive) -> Program:
    """The program in a file.

    Raises:
        DeclarationError: naming the file, the array or the entry of its header, and what is wrong.
    """
    n = archive.array("weight", "f", (None,)).shape[0]
    if n < 1:
        archive.refuse("weight", "is empty: a program has at least one query")
    rows = archive.matrix("rows", n)
    floors = archive.matrix("floors", n)
    k, j = rows.shape[0], floors.shape[0]
    senses = archive.wholes("senses", (k,), 0, len(_SENSES))
    weight = archive.floats("weight", (n,))
    archive.require("weight", weight, weight >= 0, "must be at least 0")
    floor_data = floors.data
    archive.require("floors.data", floor_data, floor_data >= 0, "must be at least 0")
    constraints = tuple(
        _read_constraint(archive, entries, f"constraints.{position}", n, k, j)
        for position, entries in enumerate(archive.objects("constraints"))
    )
    names = [group.name for group in constraints]
    if len(set(names)) != len(names):
        archive.fail("two constraints have the same name")
    program = Program(
        weight=weight,
        cost=archive.floats("cost", (n,)),
        lower=archive.floats("lower", (n,)),
        upper=archive.floats("upper", (n,), "infinite"),
        integer=archive.mask("integer", (n,)),
        utilities=tuple(UtilityBlock(*b) for b in _read_blocks(archive, "utilities", n)),
        rows=rows,
        senses=tuple(_SENSES[sense] for sense in senses.tolist()),  # type: ignore[misc]
        right_hand_side=archive.floats("right_hand_side", (k,)),
        floors=floors,
        floor_levels=archive.floats("floor_levels", (j,)),
        constraints=constraints,
        offset=archive.number("offset", finite=True),
        semicontinuous=archive.mask("semicontinuous", (n,)),
        choice=archive.wholes("choice", (n,), -1, n),
        curves=tuple(CurveBlock(*b) for b in _read_blocks(archive, "curves", n)),
        curve_rows=archive.matrix("curve_rows", n, k),
        curve_cost=archive.floats("curve_cost", (n,)),
        minimize=archive.flag("minimize"),
        allocations=_read_allocations(archive, n),
        objective_text=archive.text("objective_text"),
        declared_lower=_read_declared(archive, "declared_lower", n),
        declared_upper=_read_declared(archive, "declared_upper", n),
    )
    _check_bounds(archive, program)
    for position, block in enumerate(program.utilities):
        most = getattr(block.family, "most", None)  # of a sum, which was looked at so far only
        if most is not None:
            enough = most * (1 + 1e-9) >= program.upper[block.index]
            archive.require(
                f"utilities.{position}.most", most, enough, "lies below its query's upper bound"
            )
    return program


def _read_declared(archive: Archive, name: str, n: int) -> Any:
    """(n,), or empty where unknown."""
    unknown = archive.array(name, "f", (None,)).shape[0] == 0
    return archive.floats(name, (0 if unknown else n,), "infinite")


def _read_allocations(archive: Archive, n: int) -> tuple[tuple[str, int], ...]:
    written = archive.items("allocations")
    if not all(
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)
        and type(item[1]) is int and item[1] > 0
        for item in written
    ):  # fmt: skip
        archive.fail("'allocations' is not a list of [name, length]")
    if written and sum(length for _, length in written) != n:
        archive.fail(f"the lengths of 'allocations' do not add up to the {n} queries")
    return tuple((name, length) for name, length in written)


def _read_blocks(archive: Archive, kind: str, n: int) -> list[tuple[Any, Any]]:
    """(family, index) of every block of utilities or curves; no query in two."""
    taken = np.zeros(n, dtype=np.intp)
    blocks = []
    for position, entries in enumerate(archive.objects(kind)):
        prefix = f"{kind}.{position}"
        index = archive.wholes(f"{prefix}.index", (None,), 0, n)
        if not index.size:
            archive.refuse(f"{prefix}.index", "is empty")
        np.add.at(taken, index, 1)
        archive.require(
            f"{prefix}.index", index, taken[index] == 1, "is a query that stands there already"
        )
        role = "utility" if kind == "utilities" else "cost curve"
        family = read_family(archive, entries, prefix, index.size, role)  # type: ignore[arg-type]
        blocks.append((family, index))
    return blocks


def _read_constraint(
    archive: Archive, entries: Fields, prefix: str, n: int, k: int, j: int
) -> ConstraintGroup:
    kind = entries.one_of("kind", ("row", "floor", "bound"))
    first, count = entries.count("first"), entries.count("count")
    labels, unlimited = entries.labels("labels"), entries.labels("unlimited") or ()
    scalar, written = entries.flag("scalar"), entries.optional("bounds")
    bounds, length = None, count
    if (kind == "bound") != (written is not None):
        entries.fail("'bounds' belongs to constraints of the kind 'bound', and to those alone")
    if written is not None:
        query = archive.wholes(f"{prefix}.query", (None,), 0, n)
        length = query.shape[0]
        factor = archive.floats(f"{prefix}.factor", (length,))
        archive.require(f"{prefix}.factor", factor, factor != 0, "must not be 0")
        level = archive.floats(f"{prefix}.level", (length,), "infinite")
        bounds = BoundEntries(query, factor, level, written.one_of("sense", _SENSES))
    if first + count > {"row": k, "floor": j, "bound": 0}[kind]:
        entries.fail(f"there are no {count} {kind}s from {first} on")
    if labels is not None:
        if len(labels) != length:
            entries.fail(f"{len(labels)} labels for {length} entries")
        if set(labels) & set(unlimited):
            entries.fail("a label is both limited and unlimited")
    elif not scalar:
        whole = all(type(place) is int for place in unlimited)
        if not whole or any(not 0 <= place < length + len(unlimited) for place in unlimited):  # type: ignore[operator]
            entries.fail("'unlimited' holds something that is not a position")
    return ConstraintGroup(
        name=entries.text("name"),
        kind=kind,
        first=first,
        count=count,
        labels=labels,
        scalar=scalar,
        unlimited=unlimited,
        bounds=bounds,
        text=entries.text("text"),
    )


def _check_bounds(archive: Archive, program: Program) -> None:
    lower, upper = program.lower, program.upper
    archive.require("lower", lower, lower >= 0, "must be at least 0 tokens")
    archive.require("upper", upper, lower <= upper, "lies below the lower bound of its query")
    for name, bound in (("lower", lower), ("upper", upper)):
        whole = np.isinf(bound) | (bound == np.round(bound)) | ~program.integer
        archive.require(name, bound, whole, "must be whole where tokens are")
    forced = (program.choice >= 0) & (program.least > 0)
    if np.bincount(program.choice[forced]).max(initial=0) > 1:
        archive.refuse("choice", "has two queries in one choice that must both have tokens")
