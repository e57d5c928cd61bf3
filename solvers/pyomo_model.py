"""The very same `Program` as a Pyomo model, exact to the letter, for general MINLP solvers.

    maximise    offset + sum_i  w_i utility_i - c_i tokens_i
    subject to  the program's rows on `tokens` and floors on `utility`
                utility_i <= U_i(excess_i),     excess_i = max(tokens_i - origin_i, 0)

`utility_i` only bounds U_i from below: weights and floors are never negative, so at an optimum it
is U_i wherever it counts. The maximum in `excess` is modelled exactly, with one binary `started_i`
for each query whose bounds lie on both sides of its origin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program, UtilityBlock
from clearopt.solvers.relaxation import Envelope, concave_envelope, implied_bounds
from clearopt.validation import FloatArray

# Where the envelope's tangents are placed: slopes relative to its first, straight part.
_CUT_SLOPES = (1.0, 0.7, 0.4, 0.2, 0.05)


def build_model(program: Program) -> Any:
    """A `pyomo.environ.ConcreteModel` of the program.

    Returns:
        A model with variables `tokens[i]`, `utility[i]`, `excess[i]`, `started[i]` (the last
        three only where they are needed), constraints `rows[k]`, `floors[j]`, `is_utility[i]` and
        valid cuts `envelope[...]`, and the objective `total`.

    Raises:
        UnsupportedProblemError: a query with a utility has no finite upper bound, declared or
            implied; the model of its threshold needs one.
    """
    import pyomo.environ as pyo

    lower, upper = implied_bounds(program)
    model = pyo.ConcreteModel(name="clearopt")
    model.tokens = pyo.Var(
        range(program.n),
        domain=lambda _, i: pyo.Integers if program.integer[i] else pyo.Reals,
        bounds=lambda _, i: (_finite(float(lower[i])), _finite(float(upper[i]))),
    )
    _add_utilities(model, program, lower, upper)
    # An empty row still has to be a Pyomo relation: 0 tokens of nobody.
    model.nobody = pyo.Var(bounds=(0.0, 0.0))
    model.rows = pyo.Constraint(
        range(program.rows.shape[0]),
        rule=lambda m, k: _related(
            _weighted(m.nobody, m.tokens, program.rows, k),
            program.senses[k],
            float(program.right_hand_side[k]),
        ),
    )
    model.floors = pyo.Constraint(
        range(program.floors.shape[0]),
        rule=lambda m, j: (
            _weighted(m.nobody, m.utility, program.floors, j) >= float(program.floor_levels[j])
        ),
    )
    gains = [
        float(program.weight[i]) * model.utility[i] for i in model.utility if program.weight[i] > 0
    ]
    costs = [
        float(program.cost[i]) * model.tokens[i] for i in range(program.n) if program.cost[i] != 0
    ]
    model.total = pyo.Objective(
        expr=pyo.quicksum(gains) - pyo.quicksum(costs) + program.offset + model.nobody,
        sense=pyo.maximize,
    )
    return model


def _finite(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None


def _weighted(nobody: Any, variable: Any, matrix: sparse.csr_array, row: int) -> Any:
    """One row of `matrix @ variable`; entries without a variable (no utility) are 0."""
    import pyomo.environ as pyo

    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    pairs = zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True)
    terms = [coefficient * variable[i] for i, coefficient in pairs if i in variable]
    return pyo.quicksum(terms) if terms else nobody


def _related(expression: Any, sense: str, level: float) -> Any:
    if sense == "<=":
        return expression <= level
    return expression >= level if sense == ">=" else expression == level


def _add_utilities(model: Any, program: Program, lower: FloatArray, upper: FloatArray) -> None:
    """Variables `utility`, `excess`, `started` and what ties them to `tokens`."""
    import pyomo.environ as pyo

    counts = (program.weight > 0) | (program.floors.sum(axis=0) > 0)
    envelope = concave_envelope(program, lower, upper)
    blocks = [
        (block, member, int(query))
        for block in program.utilities
        for member, query in enumerate(block.index)
        if counts[query]
    ]
    for _, _, i in blocks:
        if not np.isfinite(upper[i]):
            raise UnsupportedProblemError(
                f"query {i} has no upper bound, and none follows from the rows; its threshold "
                "cannot be modelled without one: give Allocation(..., upper=...)"
            )
    queries = [i for _, _, i in blocks]
    # A threshold is modelled with a binary only where the bounds lie on both sides of it.
    crossing = [i for i in queries if lower[i] < lower[i] + envelope.offset[i] < upper[i]]
    model.utility = pyo.Var(queries, bounds=lambda _, i: (0.0, max(float(envelope.peak[i]), 0.0)))
    model.excess = pyo.Var(
        crossing, bounds=lambda _, i: (0.0, float(upper[i] - lower[i] - envelope.offset[i]))
    )
    model.started = pyo.Var(crossing, domain=pyo.Binary)
    model.at_least_excess = pyo.Constraint(
        crossing, rule=lambda m, i: m.excess[i] >= m.tokens[i] - _origin(envelope, i)
    )
    model.at_most_excess = pyo.Constraint(
        crossing,
        rule=lambda m, i: (
            m.excess[i]
            <= m.tokens[i] - _origin(envelope, i) + float(envelope.offset[i]) * (1 - m.started[i])
        ),
    )
    model.no_excess = pyo.Constraint(
        crossing, rule=lambda m, i: m.excess[i] <= m.excess[i].ub * m.started[i]
    )
    model.is_utility = pyo.Constraint(queries)
    model.envelope = pyo.Constraint(pyo.Any)
    for block, member, i in blocks:
        _tie_utility(model, block, member, i, envelope)
    _add_cuts(model, envelope, queries)


def _origin(envelope: Envelope, i: int) -> float:
    return float(envelope.lower[i] + envelope.offset[i])


def _tie_utility(model: Any, block: UtilityBlock, member: int, i: int, envelope: Envelope) -> None:
    """utility_i <= U_i, as a constant where the excess cannot vary."""
    import pyomo.environ as pyo

    lowest, highest = (envelope.excess(bound)[i] for bound in (envelope.lower, envelope.upper))
    if highest <= lowest:
        model.utility[i].setub(float(max(envelope.base[i], 0.0)))
        return
    excess = model.excess[i] if i in model.excess else model.tokens[i] - _origin(envelope, i)
    model.is_utility[i] = model.utility[i] <= block.family.expression(excess, pyo.exp, member)


def _add_cuts(model: Any, envelope: Envelope, queries: list[int]) -> None:
    """Tangents of the concave envelope: implied by the model, but SCIP is far better with them.

    Its own relaxation of the S-curve is loose where the binary is fractional; the first tangent,
    utility <= break-even price * tokens, is the one that says no to serving everybody a little.
    """
    for position, share in enumerate(_CUT_SLOPES):
        height, slope = envelope.cuts(envelope.demand(share * envelope.chord))
        for i in queries:
            if slope[i] > 0 and envelope.upper[i] > envelope.lower[i]:
                model.envelope[i, position] = model.utility[i] <= float(height[i]) + float(
                    slope[i]
                ) * (model.tokens[i] - float(envelope.lower[i]))
