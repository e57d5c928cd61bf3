"""What utilities and cost curves share: one parameter array a name, one member per query."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from types import FunctionType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError, ScaleWarning
from clearopt.validation import FloatArray, as_float_array, broadcast_to_length, require


class Family:
    """Members that differ in their parameters alone, so that one array line serves them all.

    Parameters are numbers or arrays whose first axis has one entry a query; the axes after it (a
    grid, a sample) belong to the member.
    """

    parameter_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _named(cls.__init__)  # type: ignore[method-assign]
        # An answer that a family gives in its own way means what it means in the others.
        for name, member in vars(cls).items():
            if isinstance(member, property | FunctionType) and member.__doc__ is None:
                inherited = (getattr(base, name, None) for base in cls.__mro__[1:])
                member.__doc__ = next((m.__doc__ for m in inherited if m and m.__doc__), None)

    @classmethod
    def from_parameters(cls, *parameters: Any) -> Self:
        """An instance around arrays known to be valid (traced JAX arrays included)."""
        instance = object.__new__(cls)
        for name, value in zip(cls.parameter_names, parameters, strict=True):
            object.__setattr__(instance, name, value)
        return instance

    @property
    def kind(self) -> Any:
        """What members must share to stand in one array: a hashable with `from_parameters`.

        The class itself, unless something else than arrays belongs to a family (a function).
        """
        return type(self)

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The parameter arrays, in the order of `parameter_names`."""
        return tuple(getattr(self, name) for name in self.parameter_names)

    def broadcast(self, length: int) -> Self:
        """The same family with every parameter of shape `(length,)`."""
        name = type(self).__name__
        return self.kind.from_parameters(
            *(
                broadcast_to_length(np.asarray(value), length, f"{name}({key}=...)")
                for key, value in zip(self.parameter_names, self.parameters, strict=True)
            )
        )

    def take(self, index: NDArray[np.intp] | slice) -> Self:
        """The members at `index`, for an instance whose parameters are arrays."""
        return self.kind.from_parameters(*(value[index] for value in self.parameters))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{key}={short(value)}"
            for key, value in zip(self.parameter_names, self.parameters, strict=True)
        )
        return f"{type(self).__name__}({shown})"


def _named(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, whose wrong arguments are told by the family's own name.

    Python would name the class that defines it, which may be one that no user has heard of.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def checked(self: Family, *args: Any, **options: Any) -> None:
        try:
            signature.bind(self, *args, **options)
        except TypeError as error:
            name = type(self).__name__
            _, *known = signature.parameters.values()
            unknown = [repr(key) for key in options if key not in signature.parameters]
            what = f"has no argument {' and '.join(unknown)}" if unknown else error
            shown = ", ".join(str(p.replace(annotation=p.empty)) for p in known)
            raise DeclarationError(f"{name}(...): {what}; write {name}({shown})") from None
        init(self, *args, **options)

    return checked


def short(value: Any) -> str:
    """A parameter array in a few characters."""
    array = np.asarray(value)
    if array.size == 0:
        return "[]"
    if array.ndim == 0 or array.size == 1 or (array == array.flat[0]).all():
        return f"{array.flat[0]:g}"
    return f"[{array.min():g} .. {array.max():g}]"


def concatenated(families: list[Family]) -> Any:
    """One family with the members of all, which must be of one `kind` and broadcast."""
    if len(families) == 1:
        return families[0]
    columns = zip(*(family.parameters for family in families), strict=True)
    return families[0].kind.from_parameters(
        *(np.concatenate([np.asarray(value) for value in column]) for column in columns)
    )


def checked_parameters(
    name: str, given: Mapping[str, ArrayLike], rules: Mapping[str, tuple[str, str]]
) -> dict[str, FloatArray]:
    """Read-only float64 parameters, finite, each obeying its rule, all of one length.

    Args:
        name: the family, for messages.
        given: parameter name -> number or (m,).
        rules: parameter name -> (how it compares with 0, ">=" or ">"; what it is, for the message).

    Raises:
        DeclarationError: naming the parameter, the first offending entry and its value.
    """
    checked = {
        key: as_float_array(value, f"{name}: {key}", share=True) for key, value in given.items()
    }
    for key, (sense, meaning) in rules.items():
        array = checked[key]
        holds = array >= 0 if sense == ">=" else array > 0
        rule = "must be at least 0" if sense == ">=" else "must be positive"
        require(array, holds, f"{name}: {key}", f"{rule} ({meaning})")
    same_length(name, checked)
    for array in checked.values():
        array.setflags(write=False)
    return checked


def same_length(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise unless all arrays that have a first axis agree on its length."""
    lengths = {key: array.shape[0] for key, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise DeclarationError(
            f"{name}: the lengths of its parameters differ ({shown}): give numbers, or arrays "
            "of one length"
        )


def warn_above_one(name: str, scale: FloatArray) -> None:
    """Say that a scale above 1 is no probability; called from a family's `__init__`."""
    above = np.flatnonzero(np.atleast_1d(scale) > 1)
    if above.size:
        first = np.atleast_1d(scale)[above[0]]
        place = f"[{above[0]}]" if scale.ndim else ""
        warnings.warn(
            f"{name}: scale{place} = {first:g} is above 1"
            + (f" (and {above.size - 1} more)" if above.size > 1 else "")
            + ": allowed, but such a utility is not a probability of a right answer",
            ScaleWarning,
            stacklevel=4,  # past the family's constructor, and what checks its arguments
        )
