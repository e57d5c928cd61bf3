"""Tiny problems of every kind, with the optimum that enumeration proves.

Each is declared in the public language when it is asked for. Whole tokens: three or four queries.
Fractional ones: two, whose utilities never fall, as `oracle` needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

import clearopt as co
from clearopt.program import Program
from clearopt.testing.oracle import enumerate_identical, enumerate_whole, search_two

Outcome = Literal["optimum", "infeasible", "unbounded"]


@dataclass(frozen=True)
class Instance:
    """A problem and what is known of it.

    Attributes:
        name: words for it.
        declare: makes its program, anew at every call.
        solve: the greatest value of the program's own objective, which is maximised.
        outcome: whether there is an optimum.
    """

    name: str
    declare: Callable[[], Program]
    solve: Callable[[Program], float] = enumerate_whole
    outcome: Outcome = "optimum"

    @property
    def best(self) -> float:
        """The optimum, found once."""
        return _best(self)


@cache
def _best(instance: Instance) -> float:
    if instance.outcome == "optimum":
        return instance.solve(instance.declare())
    return math.inf if instance.outcome == "unbounded" else -math.inf


def _surges(n: int, **changed: Any) -> Any:
    parameters = {
        "scale": np.array([0.9, 0.7, 0.8, 0.6, 0.5])[:n],
        "threshold": np.array([2.0, 4.0, 1.0, 3.0, 0.0])[:n],
        "rate": np.array([0.6, 0.9, 0.35, 0.5, 0.7])[:n],
    }
    return co.CumulativeSurge(**(parameters | changed))


def _program(tokens: Any, accuracy: Any, *rows: Any, cost: float = 0.0) -> Program:
    weights = np.linspace(1.0, 1.6, accuracy.length)
    gain = weights @ accuracy
    goal = gain - cost * co.sum(tokens) if cost else gain
    return co.Problem(co.Maximize(goal), list(rows)).program


def _three(**options: Any) -> tuple[Any, Any]:
    tokens = co.Allocation(3, upper=13, integer=True, **options)
    return tokens, _surges(3)(tokens)


def _two(**options: Any) -> tuple[Any, Any]:
    tokens = co.Allocation(2, **({"upper": [11.0, 12.5]} | options))
    return tokens, _surges(2)(tokens)


# ------------------------------------------------------------------------- whole tokens
def _whole_budget() -> Program:
    tokens, accuracy = _three()
    return _program(tokens, accuracy, (co.sum(tokens) <= 17).named("budget"))


def _whole_weights() -> Program:
    tokens, accuracy = _three()
    row = np.array([2.0, 1.0, 3.0]) @ tokens <= 25
    return _program(tokens, accuracy, row, (co.sum(tokens) <= 14).named("budget"))


def _decay() -> Program:
    tokens = co.Allocation(3, upper=13, integer=True)
    accuracy = co.ShiftedSurge([0.9, 0.6, 0.8], [2.0, 3.0, 1.0], [0.3, 0.5, 0.2])(tokens)
    return _program(tokens, accuracy, (co.sum(tokens) <= 14).named("budget"), cost=0.02)


def _difference() -> Program:
    tokens, accuracy = _three()
    gap = (tokens[2] - tokens[1] <= 1).named("gap")
    return _program(tokens, accuracy, (co.sum(tokens) <= 18).named("budget"), gap)


def _whole_equality() -> Program:
    tokens, accuracy = _three()
    exact = (tokens[0] + tokens[1] == 9).named("exactly")
    return _program(tokens, accuracy, (co.sum(tokens) <= 15).named("budget"), exact)


def _at_least() -> Program:
    tokens, accuracy = _three()
    row = np.array([1.0, 2.0, 1.0]) @ tokens >= 21
    return _program(tokens, accuracy, row.named("asked for"), cost=0.09)


def _whole_floor() -> Program:
    tokens, accuracy = _three()
    floor = (co.mean(accuracy[1:]) >= 0.45).named("floor")
    return _program(tokens, accuracy, (co.sum(tokens) <= 20).named("budget"), floor)


def _fewest() -> Program:
    tokens, accuracy = _three()
    floor = (co.mean(accuracy) >= 0.5).named("promise")
    return co.Problem(co.Minimize(co.sum(tokens)), [floor]).program


def _whole_holes() -> Program:
    tokens, accuracy = _three(lower=5, semicontinuous=True)
    return _program(tokens, accuracy, (co.sum(tokens) <= 14).named("budget"))


def _whole_menu() -> Program:
    tokens = co.Allocation(4, upper=9, integer=True)
    accuracy = _surges(4)(tokens)
    menu = co.at_most_one(tokens[:2], tokens[2:]).named("menu")
    return _program(tokens, accuracy, (co.sum(tokens) <= 12).named("budget"), menu)


def _expected(tokens: Any) -> Any:
    n = tokens.length
    return co.ExpectedTokens([2.0, 4.0, 1.0][:n], [0.6, 0.9, 0.35][:n], [0.9, 0.7, 0.8][:n])(tokens)


def _whole_realised() -> Program:
    tokens, accuracy = _three()
    return _program(tokens, accuracy, (co.sum(_expected(tokens)) <= 12.5).named("realised"))


def _both_charges() -> Program:
    tokens, accuracy = _three()
    realised = (co.sum(_expected(tokens)) <= 12.0).named("realised")
    return _program(tokens, accuracy, (co.sum(tokens) <= 19).named("budget"), realised)


def _steps() -> Program:
    tokens = co.Allocation(3, upper=13, integer=True)
    grid = [[0, 3, 6, 10], [0, 2, 5, 9], [0, 4, 7, 12]]
    reached = [[0.0, 0.2, 0.75, 0.8], [0.0, 0.4, 0.45, 0.9], [0.1, 0.3, 0.7, 0.72]]
    accuracy = co.Tabulated(grid, reached, "step")(tokens)
    return _program(tokens, accuracy, (co.sum(tokens) <= 15).named("budget"))


@cache  # one and the same function, so that JAX compiles it once
def _rising() -> Callable[..., Any]:
    from jax import numpy as jnp

    def rises(tokens: Any, scale: Any, middle: Any) -> Any:
        return scale * (jnp.arctan(tokens - middle) + jnp.arctan(middle)) / 3.2

    return rises


def _own_function() -> Program:
    tokens = co.Allocation(3, upper=13, integer=True)
    accuracy = co.Sigmoidal(_rising(), [0.9, 0.7, 0.8], [3.0, 5.0, 4.0], longest=13.0)(tokens)
    return _program(tokens, accuracy, (co.sum(tokens) <= 15).named("budget"))


def _everything() -> Program:
    tokens = co.Allocation(4, lower=3, upper=9, integer=True, semicontinuous=True)
    accuracy = _surges(4)(tokens)
    cost = co.ExpectedTokens([2.0, 4.0, 1.0, 3.0], 0.6, 0.9)(tokens)
    return _program(
        tokens,
        accuracy,
        (co.sum(tokens) <= 22).named("budget"),
        (co.sum(cost) <= 14.5).named("realised"),
        (tokens[0] - tokens[1] <= 4).named("gap"),
        (tokens[0] + tokens[2] >= 6).named("asked for"),
        (co.mean(accuracy) >= 0.2).named("floor"),
        co.at_most_one(tokens[:2], tokens[2:]).named("menu"),
        cost=0.01,
    )


def _ties() -> Program:
    tokens = co.Allocation(6, upper=9, integer=True)
    accuracy = co.CumulativeSurge(0.8, 3.0, 0.7)(tokens)
    budget = (co.sum(tokens) <= 20).named("budget")
    return co.Problem(co.Maximize(co.sum(accuracy)), [budget]).program


# ------------------------------------------------------------------------- fractional tokens
def _budget() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy, (co.sum(tokens) <= 12.3).named("budget"))


def _weights() -> Program:
    tokens, accuracy = _two()
    row = np.array([0.7, 1.9]) @ tokens <= 17.1
    return _program(tokens, accuracy, (co.sum(tokens) <= 13.1).named("budget"), row.named("memory"))


def _equality() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy, (np.array([1.3, 0.7]) @ tokens == 11.0).named("exactly"))


def _floor() -> Program:
    tokens, accuracy = _two()
    floor = (co.sum(accuracy[1:]) >= 0.55).named("floor")
    return _program(tokens, accuracy, (co.sum(tokens) <= 12.0).named("budget"), floor)


def _holes() -> Program:
    tokens, accuracy = _two(lower=[5.5, 7.0], semicontinuous=True)
    return _program(tokens, accuracy, (co.sum(tokens) <= 11.5).named("budget"))


def _menu() -> Program:
    tokens, accuracy = _two()
    menu = co.at_most_one(tokens[:1], tokens[1:]).named("menu")
    return _program(tokens, accuracy, (np.array([1.0, 0.8]) @ tokens <= 6.5).named("budget"), menu)


def _realised() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy, (co.sum(_expected(tokens)) <= 8.5).named("realised"))


def _fractional_both() -> Program:
    tokens, accuracy = _two()
    realised = (co.sum(_expected(tokens)) <= 8.5).named("realised")
    return _program(tokens, accuracy, (co.sum(tokens) <= 15.0).named("budget"), realised)


def _measured() -> Program:
    tokens = co.Allocation(2, upper=12.0)
    grid, reached = [[0, 3, 6, 10], [0, 2, 5, 9]], [[0.0, 0.1, 0.75, 0.8], [0.0, 0.35, 0.4, 0.9]]
    accuracy = co.Tabulated(grid, reached)(tokens)
    return _program(tokens, accuracy, (co.sum(tokens) <= 12.5).named("budget"))


# ------------------------------------------------------------------------- the edges
def _ample() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy, (co.sum(tokens) <= 400.0).named("budget"))


def _zero() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy, (co.sum(tokens) <= 0.0).named("budget"))


def _one() -> Program:
    tokens = co.Allocation(1, upper=30.0)
    return _program(tokens, _surges(1)(tokens), (3.0 * co.sum(tokens) <= 20.0).named("budget"))


def _at(tokens: Any) -> Callable[[Program], float]:
    """The optimum is known to be at these tokens."""
    return lambda program: program.objective(np.array(tokens, dtype=np.float64))


def _no_row() -> Program:
    tokens, accuracy = _two()
    return _program(tokens, accuracy)


def _long() -> Program:
    tokens = co.Allocation(2, upper=[1.1e6, 1.25e6])
    accuracy = _surges(2, threshold=np.array([2e5, 4e5]), rate=np.array([6e-6, 9e-6]))(tokens)
    return _program(tokens, accuracy, (co.sum(tokens) <= 1.23e6).named("budget"))


def _faint() -> Program:
    tokens = co.Allocation(2, upper=[11.0, 12.5])
    accuracy = _surges(2, scale=np.array([9e-6, 7e-6]))(tokens)
    return _program(tokens, accuracy, (1e4 * co.sum(tokens) <= 1.23e5).named("budget"))


def _below_the_lower_bounds() -> Program:
    tokens, accuracy = _two(lower=4.0)
    program = _program(tokens, accuracy, (co.sum(tokens) <= 12.3).named("budget"))
    return replace(program, right_hand_side=np.array([7.0]))


def _conflict() -> Program:
    tokens, accuracy = _two()
    floor = (co.sum(accuracy) >= 1.3).named("floor")
    return _program(tokens, accuracy, (co.sum(tokens) <= 9.0).named("budget"), floor)


def _whole_conflict() -> Program:
    tokens, accuracy = _three()
    even = (2 * tokens[0] + 4 * tokens[1] + 2 * tokens[2] == 15).named("odd")
    return _program(tokens, accuracy, (co.sum(tokens) <= 20).named("budget"), even)


def _endless_reward() -> Program:
    tokens = co.Allocation(2)
    accuracy = _surges(2)(tokens)
    return co.Problem(co.Maximize(co.sum(accuracy) + 0.1 * co.sum(tokens))).program


INSTANCES: tuple[Instance, ...] = (
    Instance("one budget, whole tokens", _whole_budget),
    Instance("two rows, whole tokens", _whole_weights),
    Instance("utilities that decay, tokens that cost", _decay),
    Instance("a difference of two queries", _difference),
    Instance("an equality, whole tokens", _whole_equality),
    Instance("a row that asks for tokens", _at_least),
    Instance("an accuracy floor, whole tokens", _whole_floor),
    Instance("fewest tokens for a promise", _fewest),
    Instance("nothing or at least so much, whole tokens", _whole_holes),
    Instance("a menu, whole tokens", _whole_menu),
    Instance("a cost curve, whole tokens", _whole_realised),
    Instance("tokens and a cost curve charged", _both_charges),
    Instance("measured steps", _steps),
    Instance("an own function without a formula", _own_function),
    Instance("everything at once", _everything),
    Instance("identical queries", _ties, enumerate_identical),
    Instance("one budget", _budget, search_two),
    Instance("two rows", _weights, search_two),
    Instance("an equality", _equality, search_two),
    Instance("an accuracy floor", _floor, search_two),
    Instance("nothing or at least so much", _holes, search_two),
    Instance("a menu", _menu, search_two),
    Instance("a cost curve", _realised, search_two),
    Instance("fractional tokens and a cost curve charged", _fractional_both, search_two),
    Instance("a measured curve", _measured, search_two),
    Instance("an ample budget", _ample, _at([11.0, 12.5])),
    Instance("no row at all", _no_row, _at([11.0, 12.5])),
    Instance("a budget of 0", _zero, _at([0.0, 0.0])),
    Instance("one query", _one, _at([20.0 / 3.0])),
    Instance("a million tokens", _long, search_two),
    Instance("faint utilities, large coefficients", _faint, search_two),
    Instance("lower bounds above the budget", _below_the_lower_bounds, outcome="infeasible"),
    Instance("a floor out of reach", _conflict, outcome="infeasible"),
    Instance("whole tokens that cannot add up", _whole_conflict, outcome="infeasible"),
    Instance("tokens that pay without end", _endless_reward, outcome="unbounded"),
)


def named(name: str) -> Instance:
    """The instance of that name."""
    return next(instance for instance in INSTANCES if instance.name == name)
