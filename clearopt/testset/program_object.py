"""A `Program` as the JSON object of a test-set file, and back.

The object says the same as the arrays of an .npz file, but a row at a time and readable without
clearopt; docs/testset.md describes it. It is taken apart into those arrays here, and checked by the
reader of .npz files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.errors import DeclarationError
from clearopt.files.archive import FORMAT, VERSION, Archive, Arrays, Fields, matrix_arrays
from clearopt.files.families import STORED, family_class, write_family
from clearopt.files.program import read_program
from clearopt.files.values import NotWritableError, encode
from clearopt.program import CurveBlock, Program, UtilityBlock
from clearopt.testset.numbers import flags, floats, written_flags, written_floats

_SENSES = ("<=", ">=", "==")
# What stands beside the numbers in the description of a family.
_WORDS = ("family", "interpolation", "limited")
_DEFAULTS: dict[str, float] = {"weight": 1.0, "token_cost": 0.0, "lower": 0.0, "curve_cost": 0.0}
_ARRAYS = {"weight": "weight", "token_cost": "cost", "lower": "lower", "curve_cost": "curve_cost"}
_KNOWN = ("sense", "n", "offset", *_DEFAULTS, "upper", "integer", "semicontinuous", "menus",
          "utilities", "cost_curves", "rows", "floors")  # fmt: skip


# -------------------------------------------------------------------------------- writing
def program_object(program: Program) -> dict[str, Any]:
    """The JSON object; `parsed_program` gives the same program back.

    Not kept: texts, names of allocations, and which constraints became bounds.

    Raises:
        DeclarationError: it holds a function, a family of the user's own or a label that is not
            plain data.
    """
    n = program.n
    written: dict[str, Any] = {"sense": "minimize" if program.minimize else "maximize", "n": n}
    if program.offset:
        written["offset"] = float(program.offset)
    for key, default in _DEFAULTS.items():
        values = np.asarray(getattr(program, _ARRAYS[key]), dtype=np.float64)
        if (values != default).any():
            written[key] = written_floats(values)
    written["upper"] = written_floats(program.upper)
    for key, mask in (("integer", program.integer), ("semicontinuous", program.semicontinuous)):
        if mask.any():
            written[key] = written_flags(mask)
    menus = [np.flatnonzero(program.choice == k) for k in np.unique(program.choice) if k >= 0]
    if menus:
        written["menus"] = [menu.tolist() for menu in menus]
    written["utilities"] = [_block(block, n) for block in program.utilities]
    if program.curves:
        written["cost_curves"] = [_block(block, n) for block in program.curves]
    written["rows"] = _rows(program)
    if program.floors.shape[0]:
        written["floors"] = _floors(program)
    return written


def _block(block: UtilityBlock | CurveBlock, n: int) -> dict[str, Any]:
    description, arrays = write_family(block.family, "")
    parts = description.pop("parts", [])
    own = {name.removeprefix("."): values for name, values in arrays.items()}
    written = description | {"queries": _queries(block.index, n)}
    written |= {
        k: written_floats(v) for k, v in own.items() if not k.startswith(("part.", "weight."))
    }
    if parts:
        written["parts"] = [
            part
            | {"weight": written_floats(own[f"weight.{k}"])}
            | {
                name.removeprefix(f"part.{k}."): written_floats(values)
                for name, values in own.items()
                if name.startswith(f"part.{k}.")
            }
            for k, part in enumerate(parts)
        ]
    return written


def _queries(index: NDArray[np.intp], n: int) -> Any:
    """All of them by that word, a stretch by its ends, others one by one."""
    if index.size and (index == np.arange(index[0], index[0] + index.size)).all():
        first = int(index[0])
        return "all" if index.size == n else {"from": first, "to": first + index.size}
    return index.tolist()


def _named(program: Program, kind: str, count: int) -> list[dict[str, Any]]:
    """Constraint and label of every row or floor."""
    found: list[dict[str, Any]] = [{"constraint": f"{kind} {k}"} for k in range(count)]
    for group in program.constraints:
        if group.kind != kind:
            continue
        for position in range(group.count):
            entry: dict[str, Any] = {"constraint": group.name}
            if group.labels is not None:
                try:
                    entry["label"] = encode(group.labels[position])
                except NotWritableError as error:
                    raise DeclarationError(
                        f"constraint {group.name!r}: a label cannot be written: {error}"
                    ) from error
            found[group.first + position] = entry
    return found


def _charges(matrix: sparse.csr_array, row: int) -> dict[str, Any]:
    part = slice(int(matrix.indptr[row]), int(matrix.indptr[row + 1]))
    order = np.argsort(matrix.indices[part], kind="stable")
    index, data = matrix.indices[part][order], matrix.data[part][order]
    return {
        "queries": _queries(index.astype(np.intp), matrix.shape[1]),
        "coefficients": written_floats(np.asarray(data)),
    }


def _rows(program: Program) -> list[dict[str, Any]]:
    written = _named(program, "row", program.rows.shape[0])
    for k, entry in enumerate(written):
        entry |= _charges(program.rows, k)
        curved = _charges(program.curve_rows, k)
        if curved["queries"]:
            entry["of_cost_curves"] = curved
        entry["sense"] = program.senses[k]
        entry["right_hand_side"] = written_floats(program.right_hand_side[k : k + 1])
    return written


def _floors(program: Program) -> list[dict[str, Any]]:
    written = _named(program, "floor", program.floors.shape[0])
    for j, entry in enumerate(written):
        entry |= _charges(program.floors, j)
        entry["level"] = written_floats(program.floor_levels[j : j + 1])
    return written


# -------------------------------------------------------------------------------- reading
def parsed_program(entries: Fields) -> Program:
    """The program that the object describes.

    Raises:
        DeclarationError: naming the file, the place in it, and what is wrong.
    """
    entries.only(*_KNOWN)
    n = entries.count("n")
    if n < 1:
        entries.fail("n = 0: a program has at least one query")
    arrays: Arrays = {}
    for key, default in _DEFAULTS.items():
        arrays[_ARRAYS[key]] = floats(entries, key, n, default)
    arrays["upper"] = floats(entries, "upper", n)
    for key in ("integer", "semicontinuous"):
        arrays[key] = flags(entries, key, n)
    arrays["choice"] = _choice(entries, n)
    for name in ("declared_lower", "declared_upper"):
        arrays[name] = np.zeros(0)
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "offset": entries.number("offset") if entries.has("offset") else 0.0,
        "minimize": entries.one_of("sense", ("maximize", "minimize")) == "minimize",
        "allocations": [],
        "objective_text": "",
    }
    for key, kind in (("utilities", "utilities"), ("cost_curves", "curves")):
        blocks = entries.objects(key) if key == "utilities" or entries.has(key) else []
        header[kind] = [
            _read_block(block, f"{kind}.{k}", n, arrays) for k, block in enumerate(blocks)
        ]
    rows = entries.objects("rows")
    floors = entries.objects("floors") if entries.has("floors") else []
    _read_rows(rows, n, arrays)
    _read_floors(floors, n, arrays)
    header["constraints"] = _read_names(entries, rows, "row") + _read_names(
        entries, floors, "floor"
    )
    return read_program(Archive(entries.source, header, arrays))


def _choice(entries: Fields, n: int) -> NDArray[np.int64]:
    choice = np.full(n, -1, dtype=np.int64)
    for k, menu in enumerate(entries.items("menus") if entries.has("menus") else []):
        index = _index(entries, f"menus[{k}]", menu, n)
        if (choice[index] >= 0).any():
            entries.fail(f"menus[{k}]: query {index[choice[index] >= 0][0]} is in a menu already")
        choice[index] = k
    return choice


def _index(entries: Fields, what: str, given: Any, n: int) -> NDArray[np.int64]:
    """Distinct queries of n, as `_queries` writes them."""
    if given == "all":
        return np.arange(n, dtype=np.int64)
    if isinstance(given, dict):
        stretch = Fields(entries.source, given, f"{entries.where}, {what}")
        stretch.only("from", "to")
        first, end = stretch.count("from"), stretch.count("to")
        if not first < end <= n:
            stretch.fail(f"from {first} to {end}: must be a stretch of the {n} queries")
        return np.arange(first, end, dtype=np.int64)
    if not isinstance(given, list):
        entries.fail(f'{what}: must be "all", {{"from": ..., "to": ...}} or a list of queries')
    for position, query in enumerate(given):
        if type(query) is not int or not 0 <= query < n:
            entries.fail(
                f"{what}: entry {position} is {str(query)[:40]}: must be a whole number of at "
                f"least 0 and below {n}"
            )
    index = np.asarray(given, dtype=np.int64)
    found, times = np.unique(index, return_counts=True)
    if (times > 1).any():
        entries.fail(f"{what}: query {found[times > 1][0]} stands there twice")
    return index


def _members(entries: Fields, n: int) -> NDArray[np.int64]:
    return _index(entries, "queries", entries.value("queries"), n)


def _read_block(entries: Fields, prefix: str, n: int, arrays: Arrays) -> dict[str, Any]:
    """The description of one block, as the header of an .npz file has it; its arrays are added."""
    index = _members(entries, n)
    arrays[f"{prefix}.index"] = index
    description = _read_family(entries, prefix, index.size, arrays, ("queries", "parts"))
    if entries.has("parts"):
        description["parts"] = []
        for k, part in enumerate(entries.objects("parts")):
            arrays[f"{prefix}.weight.{k}"] = floats(part, "weight", index.size)
            place = f"{prefix}.part.{k}"
            description["parts"].append(
                _read_family(part, place, index.size, arrays, ("weight", "parts"))
            )
    return description


def _read_family(
    entries: Fields, prefix: str, members: int, arrays: Arrays, others: Sequence[str]
) -> dict[str, Any]:
    description = {name: entries.value(name) for name in _WORDS if entries.has(name)}
    family = description.get("family")
    if isinstance(family, str) and family in STORED and family != "Total":
        entries.only(*_WORDS, *others, *family_class(family).parameter_names)
    for name in entries.names:
        if name not in _WORDS and name not in others:
            arrays[f"{prefix}.{name}"] = floats(entries, name, members)
    return description


def _read_charges(entries: Fields, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    index = _members(entries, n)
    return index, floats(entries, "coefficients", index.size)


def _stacked(
    charges: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], n: int
) -> sparse.csr_array:
    """(rows, n), sorted within each row."""
    start = np.cumsum([0, *(index.size for index, _ in charges)])
    indices = np.concatenate([np.zeros(0, np.int64), *(index for index, _ in charges)])
    data = np.concatenate([np.zeros(0), *(values for _, values in charges)])
    matrix = sparse.csr_array((data, indices, start), shape=(len(charges), n))
    matrix.sort_indices()
    return matrix


def _read_rows(rows: Sequence[Fields], n: int, arrays: Arrays) -> None:
    charges, curved, senses, levels = [], [], [], []
    nothing = (np.zeros(0, np.int64), np.zeros(0))
    for row in rows:
        row.only("constraint", "label", "queries", "coefficients", "of_cost_curves", "sense",
                 "right_hand_side")  # fmt: skip
        charges.append(_read_charges(row, n))
        if row.has("of_cost_curves"):
            of_curves = row.nested("of_cost_curves")
            of_curves.only("queries", "coefficients")
            curved.append(_read_charges(of_curves, n))
        else:
            curved.append(nothing)
        senses.append(_SENSES.index(row.one_of("sense", _SENSES)))
        levels.append(row.number("right_hand_side", finite=True))
    arrays |= matrix_arrays("rows", _stacked(charges, n))
    arrays |= matrix_arrays("curve_rows", _stacked(curved, n))
    arrays["senses"] = np.array(senses, dtype=np.uint8)
    arrays["right_hand_side"] = np.array(levels, dtype=np.float64)


def _read_floors(floors: Sequence[Fields], n: int, arrays: Arrays) -> None:
    for floor in floors:
        floor.only("constraint", "label", "queries", "coefficients", "level")
    matrix = _stacked([_read_charges(floor, n) for floor in floors], n)
    arrays |= matrix_arrays("floors", matrix)
    levels = [floor.number("level", finite=True) for floor in floors]
    arrays["floor_levels"] = np.array(levels, dtype=np.float64)


def _read_names(entries: Fields, members: Sequence[Fields], kind: str) -> list[dict[str, Any]]:
    """One constraint for every stretch of rows (or floors) that name the same one."""
    groups: list[dict[str, Any]] = []
    for position, member in enumerate(members):
        name, labelled = member.text("constraint"), member.has("label")
        if not groups or groups[-1]["name"] != name:
            groups.append({"name": name, "kind": kind, "first": position, "count": 0,
                           "labels": [], "scalar": False, "unlimited": [], "bounds": None,
                           "text": ""})  # fmt: skip
        group = groups[-1]
        if group["count"] and labelled != bool(group["labels"]):
            member.fail(f"of {name!r} some {kind}s have a label and some have none")
        group["count"] += 1
        if labelled:
            group["labels"].append(member.value("label"))
    for group in groups:
        group["labels"] = group["labels"] or None
        group["scalar"] = group["labels"] is None and group["count"] == 1
    names = [group["name"] for group in groups]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        entries.fail(f"the {kind}s of {twice!r} do not follow one another")
    return groups
