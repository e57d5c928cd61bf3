"""What there is to say about the families of utilities and cost curves in a `Program`.

A family that the package does not know shows its own repr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clearopt.explain.facts import Layout, Spread, spread
from clearopt.program import CurveBlock, UtilityBlock

MOST_BLOCKS = 6  # described one by one; more are put together by family

_PAST = (
    ",  y = rate · max(b - threshold, 0)",
    r",\quad y=\mathrm{rate}\cdot\max(b-\mathrm{threshold},0)",
)
# By class: the value at b tokens, in the family's own parameters, as text and as LaTeX.
FORMULAS: dict[str, tuple[str, str]] = {
    "CumulativeSurge": (
        "scale (1 - (1 + y) e^-y)" + _PAST[0],
        r"\mathrm{scale}\,\bigl(1-(1+y)\,e^{-y}\bigr)" + _PAST[1],
    ),
    "ShiftedSurge": (
        "scale y e^(1 - y)" + _PAST[0],
        r"\mathrm{scale}\;y\,e^{1-y}" + _PAST[1],
    ),
    "SaturatingExponential": (
        "scale (1 - e^-y)" + _PAST[0],
        r"\mathrm{scale}\,\bigl(1-e^{-y}\bigr)" + _PAST[1],
    ),
    "Logistic": (
        "scale / (1 + e^(-rate (b - midpoint)))",
        r"\frac{\mathrm{scale}}{1+e^{-\mathrm{rate}\,(b-\mathrm{midpoint})}}",
    ),
    "Hill": (
        "scale b^power / (half^power + b^power)",
        r"\mathrm{scale}\,\frac{b^{\mathrm{power}}}{\mathrm{half}^{\mathrm{power}}+b^{\mathrm{power}}}",
    ),
    "Lognormal": (
        "scale Phi(log(b / median) / spread)",
        r"\mathrm{scale}\;\Phi\!\left(\frac{\log(b/\mathrm{median})}{\mathrm{spread}}\right)",
    ),
    "BestOfN": (
        "1 - (1 - success)^(b / tokens_per_sample)",
        r"1-(1-\mathrm{success})^{b/\mathrm{tokens\_per\_sample}}",
    ),
    "Triangular": (
        "scale max(1 - |2 x / width - 1|, 0),  x = max(b - threshold, 0)",
        r"\mathrm{scale}\,\max(1-|2x/\mathrm{width}-1|,0),\quad x=\max(b-\mathrm{threshold},0)",
    ),
    "Quadratic": (
        "4 scale z (1 - z),  z = min(max(b - threshold, 0) / width, 1)",
        r"4\,\mathrm{scale}\;z\,(1-z),"
        r"\quad z=\min(\max(b-\mathrm{threshold},0)/\mathrm{width},1)",
    ),
    "Tabulated": (
        "measured at the budgets of the grid",
        r"\text{measured at the budgets of the grid}",
    ),
    "Sigmoidal": ("fn(b, ...)", r"\mathrm{fn}(b,\ldots)"),
    "ExpectedTokens": (
        "E[min(T, b)] = b - ends (y - 2 + (2 + y) e^-y) / rate" + _PAST[0],
        r"\mathrm{E}[\min(T,b)]=b-\mathrm{ends}\,\frac{y-2+(2+y)\,e^{-y}}{\mathrm{rate}}"
        + _PAST[1],
    ),
    "LognormalTokens": (
        "E[min(T, b)] = ends (mean Phi(z - spread) + b Phi(-z)) + (1 - ends) b,  "
        "mean = median e^(spread^2 / 2),  z = log(b / median) / spread",
        r"\mathrm{E}[\min(T,b)]=\mathrm{ends}\,\bigl(\mathrm{median}\,e^{\mathrm{spread}^2/2}\,"
        r"\Phi(z-\mathrm{spread})+b\,\Phi(-z)\bigr)+(1-\mathrm{ends})\,b,"
        r"\quad z=\frac{\log(b/\mathrm{median})}{\mathrm{spread}}",
    ),
    "SampledTokens": (
        "E[min(T, b)], T one of the measured lengths",
        r"\mathrm{E}[\min(T,b)],\quad T\text{ one of the measured lengths}",
    ),
}
# Not made of parameters alone: the repr says what they are.
_SHOWN_BY_REPR = {"Sigmoidal"}
# What is 1 in every program that a user declares is neither in the formula nor shown.
_UNSAID = {"BestOfN": "scale"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a family; `columns` where every query has that many numbers of it."""

    name: str
    values: Spread
    columns: int | None = None


@dataclass(frozen=True)
class FamilyFacts:
    """One family on `size` queries; `shown` stands for it where it has no `parameters`.

    A sum has `terms` instead: what each part is multiplied by, and the part.
    """

    quantity: Literal["utility", "curve"]
    name: str
    size: int
    part: int | None
    parameters: tuple[Parameter, ...] | None
    shown: str
    known: bool
    interpolation: str = ""  # between measured points
    blocks: int = 1
    terms: tuple[tuple[Spread, FamilyFacts], ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for families that can be told together."""
        names = tuple((p.name, p.columns) for p in self.parameters or ())
        parts = tuple(part.key for _, part in self.terms)
        return (self.name, self.shown, self.interpolation, names, parts)


def families(
    blocks: Sequence[UtilityBlock | CurveBlock],
    layout: Layout,
    quantity: Literal["utility", "curve"],
) -> tuple[list[FamilyFacts], int]:
    """The families in order, put together by class if they are many; how many are left out."""
    found = [
        _facts(block.family, block.index.size, layout.common(block.index), quantity)
        for block in blocks
        if block.index.size
    ]
    if len(found) > MOST_BLOCKS:
        merged: dict[Any, FamilyFacts] = {}
        for facts in found:
            known = merged.get(facts.key)
            merged[facts.key] = facts if known is None else _together(known, facts)
        found = list(merged.values())
    return found[:MOST_BLOCKS], len(found[MOST_BLOCKS:])


def _facts(
    family: Any, size: int, part: int | None, quantity: Literal["utility", "curve"]
) -> FamilyFacts:
    name = type(family).__name__
    known = type(family).__module__.split(".")[0] == "clearopt"
    if known and name == "Total":
        terms = [
            (spread(np.asarray(weight)), _facts(member, size, part, quantity))
            for member, weight in zip(family.parts, family.weights, strict=True)
        ]
        counting = [term for term in terms if term[0] != Spread(0.0, 0.0)] or terms
        if len(counting) == 1 and counting[0][0] == Spread(1.0, 1.0):
            return counting[0][1]
        return FamilyFacts(
            quantity=quantity,
            name=name,
            size=size,
            part=part,
            parameters=None,
            shown="",
            known=True,
            terms=tuple(counting),
        )
    parameters = _parameters(family) if known and name not in _SHOWN_BY_REPR else None
    for parameter in parameters or ():
        if parameter.name == _UNSAID.get(name):
            if parameter.values == Spread(1.0, 1.0):
                parameters = tuple(p for p in parameters or () if p is not parameter)
            else:
                known = False
    return FamilyFacts(
        quantity=quantity,
        name="ExpectedTokens.from_lengths" if name == "SampledTokens" else name,
        size=int(size),
        part=part,
        parameters=parameters,
        shown=repr(family) if parameters is None else "",
        known=known and name in FORMULAS,
        interpolation=str(getattr(family, "interpolation", "")) if known else "",
    )


def _parameters(family: Any) -> tuple[Parameter, ...] | None:
    """None where they are not numbers, or where a family is made of others."""
    found = []
    for name, given in zip(family.parameter_names, family.parameters, strict=True):
        try:
            array = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        numbers = array[~np.isnan(array)]  # a table may be padded
        if not numbers.size:
            return None
        columns = int(array.shape[-1]) if array.ndim > 1 else None
        found.append(Parameter(name, spread(numbers), columns))
    return tuple(found) or None


def _together(first: FamilyFacts, second: FamilyFacts) -> FamilyFacts:
    parameters = first.parameters
    if parameters is not None and second.parameters is not None:
        parameters = tuple(
            replace(
                one,
                values=_both(one.values, other.values),
            )
            for one, other in zip(parameters, second.parameters, strict=True)
        )
    return replace(
        first,
        size=first.size + second.size,
        part=first.part if first.part == second.part else None,
        parameters=parameters,
        blocks=first.blocks + second.blocks,
        terms=tuple(
            (_both(mine, theirs), _together(one, other))
            for (mine, one), (theirs, other) in zip(first.terms, second.terms, strict=True)
        ),
    )


def _both(first: Spread, second: Spread) -> Spread:
    return Spread(min(first.low, second.low), max(first.high, second.high))
