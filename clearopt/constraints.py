"""Constraints: an expression, a sense and a right-hand side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.program import Sense
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

if TYPE_CHECKING:
    from clearopt.expressions import Expression


class Constraint:
    """What `<=`, `>=` and `==` on an expression make. Give it a name to find its price by."""

    def __init__(self, expression: Expression, sense: Sense, level: FloatArray, text: str) -> None:
        self.expression = expression
        self.sense: Sense = sense
        self.level = level  # the expression's own constant is already on this side
        self.text = text
        self.name: str | None = None

    def named(self, name: str) -> Self:
        """Set the name under which prices and messages show this constraint; returns itself."""
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"named({name!r}): a name is a non-empty string")
        self.name = name
        return self

    def __repr__(self) -> str:
        return f"<constraint{f' {self.name!r}' if self.name else ''}: {self.text}>"

    def __bool__(self) -> bool:
        raise DeclarationError(
            f"{self.text}: a constraint has no truth value. For a range write two constraints, "
            "`tokens >= a` and `tokens <= b`, not `a <= tokens <= b`"
        )


def right_hand_side(value: Any, expression: Expression, sense: str) -> tuple[FloatArray, int]:
    """The numbers `value` stands for, one an entry, and how many entries the constraint has."""
    argument = f"right-hand side of `{expression.text} {sense} ...`"
    if expression.labels is not None and hasattr(value, "to_dict") and hasattr(value, "index"):
        value = value.to_dict()  # a pandas Series by group: matched by label, not by position
    if isinstance(value, Mapping):
        labels = expression.labels
        if labels is None:
            raise DeclarationError(
                f"{argument}: a mapping needs groups; write co.sum(..., by=labels) {sense} {{...}}"
            )
        known = set(labels)
        missing = [label for label in labels if label not in value]
        unknown = [label for label in value if label not in known]
        if missing:
            raise DeclarationError(
                f"{argument}: no value for {_some(missing)}; every group needs one "
                "(float('inf') where there is no limit)"
            )
        if unknown:
            raise DeclarationError(
                f"{argument}: {_some(unknown)} is not among the groups ({_some(labels)})"
            )
        value = [_one_number(value[label], f"{argument} for {label!r}") for label in labels]
    level = as_float_array(value, argument, allow_infinite=True)
    useless = np.isinf(level) & ((sense == "==") | (level > 0 if sense == ">=" else level < 0))
    require(level, ~useless, argument, "infinite, which nothing can satisfy")
    length = level.shape[0] if level.ndim == 1 and expression.scalar else expression.length
    return np.array(broadcast_to_length(level, length, argument)), length


def _one_number(value: Any, argument: str) -> float:
    number = as_float_array(value, argument, allow_infinite=True)
    if number.ndim:
        raise DeclarationError(f"{argument}: expected one number, got shape {number.shape}")
    return float(number)


def _some(items: Iterable[Hashable]) -> str:
    items = list(items)
    shown = ", ".join(repr(item) for item in items[:3])
    return shown + (f" and {len(items) - 3} more" if len(items) > 3 else "")
