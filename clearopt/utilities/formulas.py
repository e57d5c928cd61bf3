"""Whether a family can be written as an algebraic expression, found out without any solver."""

from __future__ import annotations

from typing import Any

from clearopt.errors import UnsupportedProblemError
from clearopt.utilities.base import Utility
from clearopt.utilities.cost_curves import CostCurve


def has_formula(family: Utility | CostCurve) -> bool:
    """Whether `family.expression` gives one, asked of its first member."""
    try:
        family.expression(_Symbol(), exp, 0)
    except UnsupportedProblemError:
        return False
    return True


class _Symbol:
    """Stands for a modelling language's variable: whatever is done to it gives another."""

    def _operated(self, *_: Any) -> _Symbol:
        return _Symbol()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _operated
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __abs__ = _operated


def exp(_: Any) -> _Symbol:
    """The exponential of the language of symbols."""
    return _Symbol()


def log(_: Any) -> _Symbol:
    """Its logarithm, which `jaxpr_export` looks for beside the exponential."""
    return _Symbol()
