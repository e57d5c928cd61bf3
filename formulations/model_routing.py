"""Which of several models answers each query, and with how many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import clearopt as co
from clearopt.formulations.checks import check_utility

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class ModelOption:
    """One of the models that a query may be sent to.

    Attributes:
        utility: expected accuracy by tokens of this model, parameters numbers or of shape (n,).
        upper: the largest number of tokens for one query, number or (n,).
        price: of one token, in the unit of the budget, number or (n,).
        least: the fewest tokens of a query that is sent here, number or (n,).
    """

    utility: co.Utility
    upper: ArrayLike
    price: ArrayLike = 1.0
    least: ArrayLike = 0.0


def model_routing(
    models: Mapping[str, ModelOption], n: int, budget: float, *, integer: bool = True
) -> co.Problem:
    """Send each of n queries to one model, or to none, within a total price.

        maximise    sum_m sum_i U_mi(b_mi)
        subject to  sum_m sum_i price_mi b_mi <= budget                     "budget"
                    at most one of b_mi over the models m is positive       "one model"
                    b_mi = 0 or least_mi <= b_mi <= upper_mi, whole where `integer`

    The problem has one allocation for each model, of its name and in the order given:

        {model.name: problem.value_of(model, solution) for model in problem.allocations}

    Args:
        models: what each model offers, by its name; at least one.
        n: how many queries.
        budget: money (or whatever the prices are in) for all of them together, at least 0.
        integer: count tokens whole, as a server does.
    """
    options = models.values() if isinstance(models, Mapping) else ()
    if not options or not all(isinstance(option, ModelOption) for option in options):
        raise co.DeclarationError(
            "model_routing: models: expected a mapping from a name to a ModelOption, at least one, "
            f"got {models!r}"
        )
    for name, option in models.items():
        check_utility(f"model_routing: models[{name!r}]: utility", option.utility)
    tokens = {
        name: co.Allocation(
            n, lower=m.least, upper=m.upper, integer=integer, semicontinuous=True, name=name
        )
        for name, m in models.items()
    }
    accuracy = [co.sum(m.utility(tokens[name])) for name, m in models.items()]
    spent = [co.sum(m.price * tokens[name]) for name, m in models.items()]
    constraints: list[co.Constraint | co.Choice] = [(reduce(add, spent) <= budget).named("budget")]
    if len(models) > 1:
        constraints.append(co.at_most_one(*tokens.values()).named("one model"))
    return co.Problem(co.Maximize(reduce(add, accuracy)), constraints)
