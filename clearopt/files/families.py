"""Utilities and cost curves in files: by a name from a fixed list, and their parameter arrays.

A name that is not on the list is refused; nothing that a file names is ever imported.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clearopt.errors import DeclarationError, ScaleWarning
from clearopt.files.archive import Archive, Arrays, Fields
from clearopt.utilities.family import Family
from clearopt.validation import FloatArray

Role = Literal["utility", "cost curve"]
Written = tuple[dict[str, Any], Arrays]


@dataclass(frozen=True)
class Source:
    """Where one family of `members` members stands in a file."""

    archive: Archive
    entries: Fields
    prefix: str
    members: int

    def floats(self, name: str, *shape: int | None, rule: str = "finite") -> FloatArray:
        """One of its arrays; its first axis is the members."""
        return self.archive.floats(f"{self.prefix}.{name}", (self.members, *shape), rule)

    def refuse(self, name: str, what: str) -> None:
        """Raise a DeclarationError that names the array."""
        self.archive.refuse(f"{self.prefix}.{name}", what)


@dataclass(frozen=True)
class Stored:
    """How one family stands in a file.

    Attributes:
        home: the module that defines it.
        read: (class, where it stands) -> the family, checked.
        write: (family, prefix) -> entries of the header besides its name, and arrays.
        role: what it is.
    """

    home: str
    read: Callable[[Any, Source], Family]
    write: Callable[[Any, str], Written]
    role: Role = "utility"


# -------------------------------------------------------------------------------- numbers alone
def _write_parameters(family: Family, prefix: str) -> Written:
    return {}, {
        f"{prefix}.{name}": np.asarray(value, dtype=np.float64)
        for name, value in zip(family.parameter_names, family.parameters, strict=True)
    }


def _by_constructor(cls: Any, source: Source) -> Family:
    """One number a member: the family's own constructor says whether they are valid."""
    family: Family = cls(**{name: source.floats(name) for name in cls.parameter_names})
    return family


def _read_best_of_n(cls: Any, source: Source) -> Family:
    arrays = {name: source.floats(name) for name in cls.parameter_names}
    if (arrays["scale"] != 1).any():  # exists for solvers, which count in other units
        source.refuse("scale", "must be 1 throughout")
    family: Family = cls(arrays["success"], arrays["tokens_per_sample"])
    return family


def _read_sampled(cls: Any, source: Source) -> Family:
    lengths = source.floats("lengths", None, rule="infinite")
    ascending = bool((lengths[:, 1:] >= lengths[:, :-1]).all())
    if not lengths.shape[1] or not ascending or (lengths < 0).any():
        source.refuse("lengths", "must be ascending in each row, and at least 0")
    family: Family = cls.from_parameters(lengths)
    return family


# -------------------------------------------------------------------------------- more than numbers
def _write_tabulated(family: Any, prefix: str) -> Written:
    _, arrays = _write_parameters(family, prefix)
    return {"interpolation": family.interpolation}, arrays


def _read_tabulated(cls: Any, source: Source) -> Family:
    grid = source.floats("grid", None)
    values = source.floats("values", grid.shape[1])
    family: Family = cls(grid, values, source.entries.text("interpolation"))
    if family.parameters[0].shape != grid.shape:
        source.refuse("grid", "must start at 0 tokens in each row")
    return family


def _write_total(family: Any, prefix: str) -> Written:
    parts: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for k, (part, weight) in enumerate(zip(family.parts, family.weights, strict=True)):
        entries, own = write_family(part, f"{prefix}.part.{k}")
        parts.append(entries)
        arrays |= own
        arrays[f"{prefix}.weight.{k}"] = np.asarray(weight, dtype=np.float64)
    if np.isinf(family.most).all():
        return {"parts": parts}, arrays
    arrays[f"{prefix}.most"] = np.asarray(family.most, dtype=np.float64)
    return {"parts": parts, "limited": True}, arrays


def _read_total(cls: Any, source: Source) -> Family:
    parts, weights = [], []
    for k, entries in enumerate(source.entries.objects("parts")):
        if entries.text("family") == cls.__name__:
            entries.fail("a sum is no part of a sum")
        place = f"{source.prefix}.part.{k}"
        parts.append(read_family(source.archive, entries, place, source.members, "utility"))
        weights.append(source.floats(f"weight.{k}"))
    if not parts:
        source.entries.fail("a sum has parts")
    limited = source.entries.has("limited") and source.entries.flag("limited")
    most = source.floats("most", rule="infinite") if limited else np.inf
    family: Family = cls.of(parts, weights, most)
    return family


# -------------------------------------------------------------------------------- the list
_HOME = "clearopt.utilities"


def _numbers(module: str, role: Role = "utility") -> Stored:
    return Stored(f"{_HOME}.{module}", _by_constructor, _write_parameters, role)


STORED: Mapping[str, Stored] = {
    "CumulativeSurge": _numbers("surge"),
    "ShiftedSurge": _numbers("surge"),
    "Triangular": _numbers("ablations"),
    "Quadratic": _numbers("ablations"),
    "Logistic": _numbers("logistic"),
    "Hill": _numbers("logistic"),
    "Lognormal": _numbers("lognormal"),
    "SaturatingExponential": _numbers("saturating"),
    "BestOfN": Stored(f"{_HOME}.saturating", _read_best_of_n, _write_parameters),
    "Tabulated": Stored(f"{_HOME}.tabulated", _read_tabulated, _write_tabulated),
    "Total": Stored(f"{_HOME}.total", _read_total, _write_total),
    "ExpectedTokens": _numbers("cost_curves", "cost curve"),
    "LognormalTokens": _numbers("lognormal", "cost curve"),
    "SampledTokens": Stored(f"{_HOME}.cost_curves", _read_sampled, _write_parameters, "cost curve"),
}


def family_class(name: str) -> Any:
    """The class of that name, from the fixed list."""
    return getattr(importlib.import_module(STORED[name].home), name)


def write_family(family: Family, prefix: str) -> Written:
    """What the header says of a family, and its arrays under `prefix`.

    Raises:
        DeclarationError: it is not one of clearopt's own, or holds a function.
    """
    name = type(family).__name__
    if name == "Sigmoidal":
        raise DeclarationError(
            "Sigmoidal holds a Python function, which a file cannot: declare the problem again "
            "where it is needed, or tabulate the function with Tabulated(grid, values)"
        )
    if name not in STORED or family_class(name) is not type(family):
        raise DeclarationError(
            f"{name} is not one of clearopt's own families and cannot be saved; those that can "
            f"are {', '.join(STORED)}"
        )
    entries, arrays = STORED[name].write(family, prefix)
    return {"family": name, **entries}, arrays


def read_family(archive: Archive, entries: Fields, prefix: str, members: int, role: Role) -> Any:
    """The family that the header describes in `entries`, with `members` members, checked."""
    name = entries.one_of("family", [n for n, stored in STORED.items() if stored.role == role])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScaleWarning)  # whoever declared it has seen it
            return STORED[name].read(family_class(name), Source(archive, entries, prefix, members))
    except DeclarationError as error:
        if str(error).startswith(archive.source):
            raise
        raise DeclarationError(f"{archive.source}: {prefix}: {error}") from error
