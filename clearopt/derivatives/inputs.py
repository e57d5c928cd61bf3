"""The numbers of a program that a derivative may be taken in, by name, and the way back.

A layer's inputs are a nested dictionary of arrays, which JAX sees as a pytree:

    right_hand_side  by constraint name: () or, for a grouped or vector constraint, (rows,)
    floor_levels     by constraint name, likewise (accuracy)
    weight           (n,) objective weight of each query's utility, at least 0
    cost             (n,) objective cost per token
    lower, upper     (n,) bounds in tokens; `upper` may be infinite
    utilities        by family, then by parameter name: (m,) for the m queries of that family
    curves           by cost curve, likewise

What is not among them stays as the program has it: coefficients of rows and floors, sums of two
utilities, measured tables, wholeness.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError, ScaleWarning
from clearopt.program import CurveBlock, Program, UtilityBlock
from clearopt.utilities import Sigmoidal
from clearopt.utilities.family import Family
from clearopt.validation import FloatArray, require

Inputs = dict[str, Any]

_VECTORS = ("weight", "cost", "lower", "upper")


class Names:
    """Which numbers of a program are inputs, and what they are called."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.utilities = _labels(program.utilities)
        self.curves = _labels(program.curves)
        self.queries = {
            label: block.index
            for label, block in zip(self.utilities, program.utilities, strict=True)
        }
        for label, curve in zip(self.curves, program.curves, strict=True):
            self.queries[label] = curve.index

    def current(self) -> Inputs:
        """The program's own numbers, as arrays that may be written to."""
        p = self.program
        levels: dict[str, dict[str, FloatArray]] = {"row": {}, "floor": {}}
        for group in p.constraints:
            if group.kind != "bound" and group.count:
                part = (p.right_hand_side if group.kind == "row" else p.floor_levels)[group.rows]
                levels[group.kind][group.name] = part[0].copy() if _is_one(group) else part.copy()
        return {
            "right_hand_side": levels["row"],
            "floor_levels": levels["floor"],
            **{name: getattr(p, name).copy() for name in _VECTORS},
            "utilities": _parameters(self.utilities, p.utilities),
            "curves": _parameters(self.curves, p.curves),
        }

    def program_with(self, inputs: Inputs) -> Program:
        """The program with other numbers.

        Raises:
            DeclarationError: a number is not one that it can take; names input and entry.
        """
        p = self.program
        right_hand_side, floor_levels = p.right_hand_side.copy(), p.floor_levels.copy()
        for key, levels in (("right_hand_side", right_hand_side), ("floor_levels", floor_levels)):
            for group in p.constraints:
                if group.name in inputs[key]:
                    given = np.asarray(inputs[key][group.name])
                    _require(given, np.isfinite(given), f"{key}[{group.name!r}]", "must be finite")
                    levels[group.rows] = given
        weight, cost, lower, upper = (np.array(inputs[name]) for name in _VECTORS)
        _require(weight, np.isfinite(weight) & (weight >= 0), "weight", "must be at least 0")
        _require(cost, np.isfinite(cost), "cost", "must be finite")
        _require(lower, np.isfinite(lower) & (lower >= 0), "lower", "must be at least 0 tokens")
        lower = np.where(p.integer, np.ceil(lower * (1 - 1e-12)), lower)
        upper = np.where(p.integer, np.floor(upper * (1 + 1e-12)), upper)
        _require(upper, upper >= lower, "upper", "lies below the lower bound of the same query")
        return replace(
            p,
            right_hand_side=right_hand_side,
            floor_levels=floor_levels,
            weight=weight,
            cost=cost,
            lower=lower,
            upper=upper,
            utilities=tuple(
                UtilityBlock(_with(block.family, inputs["utilities"][label], label), block.index)
                for label, block in zip(self.utilities, p.utilities, strict=True)
            ),
            curves=tuple(
                CurveBlock(_with(block.family, inputs["curves"][label], label), block.index)
                for label, block in zip(self.curves, p.curves, strict=True)
            ),
        )


def completed(given: Any, current: Inputs, path: str = "inputs") -> Inputs:
    """`given` with what it leaves out taken from `current`; names checked, values not touched."""
    if given is None:
        return current
    if not isinstance(given, Mapping):
        raise DeclarationError(f"{path}: expected a dictionary, got {type(given).__name__}")
    for name in given:
        if name not in current:
            known = ", ".join(repr(key) for key in current) or "nothing"
            raise DeclarationError(f"{path}: there is no {name!r}; there is {known}")
    return {
        name: completed(given.get(name), value, f"{path}[{name!r}]")
        if isinstance(value, dict)
        else given.get(name, value)
        for name, value in current.items()
    }


def open_names(family: Family) -> tuple[str, ...]:
    """The parameters that may be inputs: numbers the user gave, one a query."""
    if isinstance(family, Sigmoidal):
        return family.argument_names
    taken = inspect.signature(type(family)).parameters
    names = tuple(name for name in family.parameter_names if name in taken)
    one_each = all(np.ndim(getattr(family, name)) == 1 for name in names)
    return names if one_each else ()


def values_in_order(family: Family, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """All parameters of the family as `from_parameters` takes them, the open ones from `given`."""
    if isinstance(family, Sigmoidal):
        own = family.parameters[len(family.arguments) :]
        return (*(given[name] for name in family.argument_names), *own)
    if not given:
        return family.parameters
    return tuple(given.get(name, getattr(family, name)) for name in family.parameter_names)


def _with(family: Any, given: Mapping[str, Any], label: str) -> Any:
    """The family with other parameters, checked as if they were declared."""
    if not given:
        return family
    for name, array in given.items():
        _require(array, np.isfinite(array), f"{label}: {name}", "must be finite")
    if not isinstance(family, Sigmoidal):  # that one is checked by its shape, when it is used
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScaleWarning)  # once a solve would be too often
            type(family)(**given)
    return family.kind.from_parameters(*values_in_order(family, given))


def _parameters(labels: Iterable[str], blocks: Iterable[Any]) -> dict[str, dict[str, FloatArray]]:
    found = {}
    for label, block in zip(labels, blocks, strict=True):
        family = block.family
        every = dict(zip(_all_names(family), family.parameters, strict=False))
        found[label] = {name: np.array(every[name], dtype=float) for name in open_names(family)}
    return found


def _all_names(family: Family) -> tuple[str, ...]:
    return family.argument_names if isinstance(family, Sigmoidal) else family.parameter_names


def _labels(blocks: Iterable[UtilityBlock | CurveBlock]) -> tuple[str, ...]:
    """One name a block: its family's, numbered from 1 where several blocks have one family."""
    names = [_label(block.family) for block in blocks]
    count: dict[str, int] = {}
    labels = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        labels.append(f"{name} {count[name]}" if names.count(name) > 1 else name)
    return tuple(labels)


def _label(family: Any) -> str:
    parts = getattr(family, "parts", None)
    return " + ".join(_label(part) for part in parts) if parts else type(family).__name__


def _is_one(group: Any) -> bool:
    return bool(group.scalar and group.labels is None)


def _require(array: Any, holds: NDArray[np.bool_], name: str, rule: str) -> None:
    require(np.asarray(array), np.asarray(holds), f"derivatives: {name}", rule)
