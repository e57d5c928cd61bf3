"""Constraints: an expression, a sense and a right-hand side; and choices between options."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.parameters import Parameter, parameters_of
from clearopt.program import Sense
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require

if TYPE_CHECKING:
    from clearopt.expressions import Expression


class Constraint:
    """What `<=`, `>=` and `==` on an expression make. Give it a name to find its price by."""

    def __init__(
        self,
        expression: Expression,
        sense: Sense,
        level: FloatArray,
        text: str,
        right: Any = None,
    ) -> None:
        self.expression = expression
        self.sense: Sense = sense
        self.level = level  # the expression's own constant is already on this side
        self.text = text
        self.right = right  # the right-hand side as given; None where it is an expression
        self.name: str | None = None
        self.parameters: frozenset[Parameter] = frozenset()
        self._recipe: Callable[[], Constraint] | None = None

    def named(self, name: str) -> Self:
        """Set the name under which prices and messages show this constraint; returns itself."""
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"named({name!r}): a name is a non-empty string")
        self.name = name
        return self

    def remembering(self, recipe: Callable[[], Constraint], *sources: Any) -> Self:
        """This constraint, rebuilt by `recipe` where one of `sources` depends on a parameter."""
        self.parameters = parameters_of(*sources)
        self._recipe = recipe if self.parameters else None
        return self

    def current(self) -> Constraint:
        """The constraint with the values that its parameters have now."""
        if self._recipe is None:
            return self
        constraint = self._recipe()
        constraint.name = self.name
        return constraint

    def with_right_hand_side(self, value: Any) -> Constraint:
        """The same constraint against another number, array or mapping."""
        if self.right is None:
            raise DeclarationError(
                f"{self.name or self.text}: `{self.text}` compares two expressions, so there is no "
                "number to change; write its level as a co.Parameter"
            )
        constraint = self.expression._compare(self.sense, value)
        constraint.name = self.name
        return constraint

    def __repr__(self) -> str:
        return f"<constraint{f' {self.name!r}' if self.name else ''}: {self.text}>"

    def __bool__(self) -> bool:
        raise DeclarationError(
            f"{self.text}: a constraint has no truth value. For a range write two constraints, "
            "`tokens >= a` and `tokens <= b`, not `a <= tokens <= b`"
        )

    def _logic(self, sign: str, instead: str) -> NoReturn:
        raise DeclarationError(f"{sign} with `{self.text}`: {instead}")

    def __and__(self, other: Any) -> NoReturn:
        self._logic(
            "&",
            "constraints that must both hold stand in one list, co.Problem(objective, "
            "[first, second])",
        )

    def __or__(self, other: Any) -> NoReturn:
        self._logic(
            "|",
            "either one or the other cannot be declared. For nothing or at least an amount there "
            "is co.Allocation(..., lower=least, semicontinuous=True), for one of several "
            "options co.at_most_one(...)",
        )

    def __xor__(self, other: Any) -> NoReturn:
        self.__or__(other)

    def __invert__(self) -> NoReturn:
        opposite = {"<=": ">=", ">=": "<="}.get(self.sense, "<= or >=")
        self._logic(
            "~",
            f"a constraint cannot be negated; write the comparison that is meant, with {opposite}",
        )

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__


class Choice:
    """At most one of several options for each query: what `co.at_most_one` makes."""

    def __init__(self, options: tuple[Expression, ...], text: str) -> None:
        self.options = options
        self.text = text
        self.name: str | None = None

    def named(self, name: str) -> Self:
        """Set the name under which messages show this choice; returns itself."""
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"named({name!r}): a name is a non-empty string")
        self.name = name
        return self

    def __repr__(self) -> str:
        return f"<choice{f' {self.name!r}' if self.name else ''}: {self.text}>"


def at_most_one(*options: Expression) -> Choice:
    """A menu: of the options of each query at most one gets tokens.

    Each option is an allocation (or a part of one) with a utility, bounds and costs of its own;
    entry i of every option belongs to query i.

        small, large = co.Allocation(n, upper=512), co.Allocation(n, upper=2048)
        co.at_most_one(small, large)

    Args:
        options: two or more allocations, or parts of them, of one length.

    Raises:
        DeclarationError: fewer than two options, different lengths, or a computed expression.
    """
    if len(options) < 2:
        raise DeclarationError(
            f"at_most_one: got {len(options)} option(s); a choice needs two or more, e.g. "
            "co.at_most_one(small, large)"
        )
    for position, option in enumerate(options):
        if not hasattr(option, "apply_utility"):
            raise DeclarationError(
                f"at_most_one: options[{position}] is {type(option).__name__}, not an Allocation "
                "or a part of one"
            )
        entries = next(iter(option.linear.values())) if len(option.linear) == 1 else None
        if (
            entries is None
            or option.utilities
            or option.curves
            or option.constant.any()
            or (np.diff(entries.indptr) != 1).any()
            or (entries.data != 1).any()
        ):
            raise DeclarationError(
                f"at_most_one: options[{position}] is `{option.text}`; an option is an Allocation "
                "or a part of one such as small[mask], not a computed expression"
            )
        if option.length != options[0].length:
            raise DeclarationError(
                f"at_most_one: options[{position}] has {option.length} entries, options[0] "
                f"{options[0].length}: entry i of every option belongs to query i"
            )
    return Choice(options, f"at most one of {', '.join(option.text for option in options)}")


def right_hand_side(value: Any, expression: Expression, sense: str) -> FloatArray:
    """The numbers `value` stands for, one an entry."""
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
    if level.ndim and expression.scalar:
        raise DeclarationError(
            f"{argument}: {expression.text} is one number, and this is a list of "
            f"{level.shape[0]}; give one number. For a limit on each group write "
            "co.sum(tokens, by=labels), for several rows A @ tokens"
        )
    return np.array(broadcast_to_length(level, expression.length, argument))


def _one_number(value: Any, argument: str) -> float:
    number = as_float_array(value, argument, allow_infinite=True)
    if number.ndim:
        raise DeclarationError(f"{argument}: expected one number, got shape {number.shape}")
    return float(number)


def _some(items: Iterable[Hashable]) -> str:
    items = list(items)
    shown = ", ".join(repr(item) for item in items[:3])
    return shown + (f" and {len(items) - 3} more" if len(items) > 3 else "")
