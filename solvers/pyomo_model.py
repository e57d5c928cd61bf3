"""The very same `Program` as a Pyomo model for general solvers, exact to the letter but where told.

    maximise    offset + sum_i  w_i utility_i - c_i tokens_i - d_i charge_i
    subject to  the program's rows on `tokens` and `charge`, and floors on `utility`
                utility_i <= U_i(excess_i),     excess_i = max(tokens_i - origin_i, 0)
                charge_i = C_i(tokens_i)
                least_i served_i <= tokens_i <= upper_i served_i     (semicontinuous, or a choice)
                sum of served_i over a choice <= 1

`utility_i` only bounds U_i from below: weights and floors are never negative, so at an optimum it
is U_i wherever it counts. The maximum in `excess`, where a query's bounds lie on both sides of its
origin, is modelled as the caller asks:

- "binary": exactly, with one binary `started_i` and big-M constraints from the bounds;
- "gdp": exactly, as a disjunction of before and after the origin, for `pyomo.gdp`;
- "smooth": excess = (t + sqrt(t^2 + eps_i^2)) / 2 with t = tokens_i - origin_i, and whole tokens
  relaxed: no binaries at all. This is too large by eps_i / 2 at most, at the origin itself; eps_i
  is `smoothing` times (peak / greatest marginal utility), so that the utility is too large by
  smoothing / 2 of its peak at most.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import sparse

from clearopt.errors import UnsupportedProblemError
from clearopt.program import Program, UtilityBlock
from clearopt.solvers.parts import Parts
from clearopt.solvers.relaxation import Envelope, concave_envelope, implied_bounds
from clearopt.utilities import Tabulated
from clearopt.validation import FloatArray

# Where the envelope's tangents are placed: slopes relative to its first, straight part.
_CUT_SLOPES = (1.0, 0.7, 0.4, 0.2, 0.05)
_STEP_SLACK = 1e-7  # relative: a step missed by so little was meant to be reached


Thresholds = Literal["binary", "gdp", "smooth"]


def build_model(
    program: Program,
    parts: Parts | None = None,
    *,
    thresholds: Thresholds = "binary",
    smoothing: float = 1e-3,
) -> Any:
    """A `pyomo.environ.ConcreteModel` of the program.

    Args:
        program: the program.
        thresholds: how the excess over an origin is modelled (module docstring).
        smoothing: of "smooth", relative to the tokens that a curve takes to rise.
        parts: the queries to model in parts (`parts`): by their hull instead of one big-M binary,
            and without their concave part's function, which a solver then has to bring.

    Returns:
        A model with variables `tokens[i]`, `utility[i]`, `excess[i]`, `started[i]`, `served[i]`,
        `charge[i]` (all but the first only where they are needed), constraints `rows[k]`,
        `floors[j]`, `is_utility[i]`, `is_charge[i]` and valid cuts `envelope[...]`, and the
        objective `total`; of queries in parts `funded[p]`, `partly[p]`, `idle[p]`, `middle[p]`,
        `upper[p]`, `middle_worth[p]`, `upper_worth[p]` by their position in `parts`.

    Raises:
        UnsupportedProblemError: a query with a utility has no finite upper bound, declared or
            implied; the model of its threshold needs one. Or "smooth" is asked for, and something
        else needs a binary: steps, semicontinuous tokens, choices.
    """
    import pyomo.environ as pyo

    smooth = smoothing if thresholds == "smooth" else None
    if smooth is not None:
        _refuse_binaries(program)

    lower, upper = implied_bounds(program)
    model = pyo.ConcreteModel(name="clearopt")
    model.tokens = pyo.Var(
        range(program.n),
        domain=lambda _, i: pyo.Integers if program.integer[i] and smooth is None else pyo.Reals,
        bounds=lambda _, i: (_finite(float(lower[i])), _finite(float(upper[i]))),
    )
    model.relaxed = smooth is not None
    model.positive, model.negative = (pyo.VarList(bounds=(0.0, None)) for _ in range(2))
    model.side = pyo.VarList(domain=pyo.Binary)
    model.sizes = (model.positive, model.negative, model.side)
    model.size_of = {}
    model.is_size = pyo.ConstraintList()
    _add_served(model, program, upper)
    _add_charges(model, program, upper)
    _add_utilities(model, program, lower, upper, parts, thresholds, smooth)
    # An empty row still has to be a Pyomo relation: 0 tokens of nobody.
    model.nobody = pyo.Var(bounds=(0.0, 0.0))
    model.rows = pyo.Constraint(
        range(program.rows.shape[0]),
        rule=lambda m, k: _related(
            _weighted(m.nobody, m.tokens, program.rows, k)
            + _weighted(m.nobody, m.charge, program.curve_rows, k),
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
    costs += [
        float(program.curve_cost[i]) * model.charge[i]
        for i in range(program.n)
        if program.curve_cost[i] != 0
    ]
    model.total = pyo.Objective(
        expr=pyo.quicksum(gains) - pyo.quicksum(costs) + program.offset + model.nobody,
        sense=pyo.maximize,
    )
    return model


def set_point(model: Any, program: Program, tokens: FloatArray, parts: Parts | None = None) -> None:
    """Give every variable of a model built from `program` its value at an allocation, (n,)."""
    import pyomo.environ as pyo

    model.nobody.set_value(0.0)
    utility, charge = program.utility(tokens), program.curve_value(tokens)
    origin = np.zeros(program.n)
    for block in program.utilities:
        origin[block.index] = block.family.origin
    for i, variable in model.tokens.items():
        variable.set_value(float(tokens[i]), skip_validation=True)
    for name, values in (
        ("utility", utility),
        ("charge", charge),
        ("served", tokens > 0),
        ("excess", np.maximum(tokens - origin, 0.0)),
        ("started", tokens > origin),
    ):
        for i, variable in getattr(model, name).items():
            variable.set_value(float(values[i]), skip_validation=True)
    if hasattr(model, "threshold"):
        for i in model.before:
            model.before[i].binary_indicator_var.set_value(int(tokens[i] <= origin[i]))
            model.after[i].binary_indicator_var.set_value(int(tokens[i] > origin[i]))
    for i, steps in model.steps_of.items():
        last = max((k for k, (first, _) in enumerate(steps) if first <= tokens[i]), default=0)
        for k, (_, binary) in enumerate(steps):
            binary.set_value(float(k == last), skip_validation=True)
    if parts is not None:
        for name, values in parts.place(tokens, program).items():
            for p, variable in getattr(model, name).items():
                variable.set_value(float(values[p]), skip_validation=True)
    for inside, positive, negative, side in model.size_of.values():
        size = float(pyo.value(inside))
        positive.set_value(max(size, 0.0), skip_validation=True)
        negative.set_value(max(-size, 0.0), skip_validation=True)
        side.set_value(float(size > 0), skip_validation=True)


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


def _add_served(model: Any, program: Program, upper: FloatArray) -> None:
    """Who has tokens at all, where that is a decision of its own."""
    import pyomo.environ as pyo

    least = np.where(program.semicontinuous, program.lower, 0.0)
    deciding = np.flatnonzero(program.semicontinuous | (program.choice >= 0)).tolist()
    for i in deciding:
        if not np.isfinite(upper[i]):
            raise UnsupportedProblemError(
                f"query {i} has no upper bound, and none follows from the rows; nothing or at "
                "least so much cannot be modelled without one: give Allocation(..., upper=...)"
            )
    model.served = pyo.Var(deciding, domain=pyo.Binary)
    model.at_least = pyo.Constraint(
        [i for i in deciding if least[i] > 0],
        rule=lambda m, i: m.tokens[i] >= float(least[i]) * m.served[i],
    )
    model.only_served = pyo.Constraint(
        deciding, rule=lambda m, i: m.tokens[i] <= float(upper[i]) * m.served[i]
    )
    options: dict[int, list[int]] = {}
    for i in np.flatnonzero(program.choice >= 0).tolist():
        options.setdefault(int(program.choice[i]), []).append(i)
    model.choice = pyo.Constraint(
        list(options), rule=lambda m, k: pyo.quicksum(m.served[i] for i in options[k]) <= 1
    )


def _add_charges(model: Any, program: Program, upper: FloatArray) -> None:
    """What each query is charged where rows charge its cost curve."""
    import pyomo.environ as pyo

    charged = program.curve_cost != 0
    charged[program.curve_rows.indices] = True
    members = [
        (block, member, int(query))
        for block in program.curves
        for member, query in enumerate(block.index)
        if charged[query]
    ]
    for _, _, i in members:
        if not np.isfinite(upper[i]):
            raise UnsupportedProblemError(
                f"query {i} has no upper bound, and none follows from the rows; its cost curve "
                "cannot be modelled without one: give Allocation(..., upper=...)"
            )
    most = program.curve_value(np.where(np.isfinite(upper), upper, 0.0))
    model.charge = pyo.Var([i for _, _, i in members], bounds=lambda _, i: (0.0, float(most[i])))
    model.is_charge = pyo.Constraint([i for _, _, i in members])
    for block, member, i in members:
        curve = block.family.expression(model.tokens[i], pyo.exp, member)
        model.is_charge[i] = model.charge[i] == _without_abs(model, curve)


def _add_utilities(
    model: Any,
    program: Program,
    lower: FloatArray,
    upper: FloatArray,
    parts: Parts | None,
    thresholds: Thresholds,
    smooth: float | None,
) -> None:
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
    split = {} if parts is None else {i: p for p, i in enumerate(parts.query.tolist())}
    # A threshold is modelled with a binary only where the bounds lie on both sides of it.
    crossing = [
        i for i in queries if lower[i] < lower[i] + envelope.offset[i] < upper[i] and i not in split
    ]
    model.utility = pyo.Var(queries, bounds=lambda _, i: (0.0, max(float(envelope.peak[i]), 0.0)))
    model.excess = pyo.Var(
        [] if smooth is not None else crossing,
        bounds=lambda _, i: (0.0, float(upper[i] - lower[i] - envelope.offset[i])),
    )
    model.started = pyo.Var(crossing if thresholds == "binary" else [], domain=pyo.Binary)
    if thresholds == "binary":
        _excess_by_binary(model, envelope, crossing)
    elif thresholds == "gdp":
        _excess_by_disjunction(model, envelope, crossing)
    model.rounding = dict.fromkeys(crossing, 0.0) if smooth is not None else {}
    for block, member, i in blocks if smooth is not None else ():
        steepest = float(np.max(block.family.take(slice(member, member + 1)).greatest_marginal))
        if i in model.rounding and 0 < steepest < np.inf:
            model.rounding[i] = smoothing_width(float(envelope.peak[i]), steepest, smooth)
    model.is_utility = pyo.Constraint(queries)
    model.chosen_step = pyo.VarList(domain=pyo.Binary)
    model.steps_of = {}
    model.steps = pyo.ConstraintList()
    model.envelope = pyo.Constraint(pyo.Any)
    for block, member, i in blocks:
        if i not in split:
            _tie_utility(model, block, member, i, envelope)
    if parts is not None:
        _add_parts(model, parts, envelope)
        for block, member, i in blocks:
            if i in split:
                _tie_middle(model, parts, split[i], block, member)
    if smooth is None:  # a local solver has no use for them
        _add_cuts(model, envelope, [i for i in queries if i not in split])


def _refuse_binaries(program: Program) -> None:
    steps = any(
        isinstance(block.family, Tabulated) and block.family.interpolation == "step"
        for block in program.utilities
    )
    if steps or program.semicontinuous.any() or (program.choice >= 0).any():
        what = "a step curve" if steps else "tokens that are nothing or at least so much, a choice"
        raise UnsupportedProblemError(
            f"thresholds = 'smooth' has no binaries, which {what} cannot do without; "
            "take thresholds='binary' and a solver of mixed-integer programs"
        )


def smoothing_width(peak: float, steepest: float, smoothing: float | None) -> float:
    """eps, tokens: `smoothing` of what a curve takes to rise to its peak at its steepest."""
    return (smoothing or 0.0) * peak / steepest


def _excess_by_binary(model: Any, envelope: Envelope, crossing: list[int]) -> None:
    import pyomo.environ as pyo

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


def _excess_by_disjunction(model: Any, envelope: Envelope, crossing: list[int]) -> None:
    import pyomo.environ as pyo
    from pyomo.gdp import Disjunct, Disjunction

    model.before, model.after = Disjunct(crossing), Disjunct(crossing)
    for i in crossing:
        origin, before, after = _origin(envelope, i), model.before[i], model.after[i]
        before.nothing = pyo.Constraint(expr=model.excess[i] <= 0.0)
        before.short = pyo.Constraint(expr=model.tokens[i] <= origin)
        after.is_excess = pyo.Constraint(expr=model.excess[i] == model.tokens[i] - origin)
    model.threshold = Disjunction(crossing, rule=lambda m, i: [m.before[i], m.after[i]])


def _smooth_excess(model: Any, i: int, origin: float) -> tuple[Any, float]:
    """The smoothed excess, and the most it is larger than the true one."""
    above, width = model.tokens[i] - origin, model.rounding[i]
    # A hair of eps keeps the root's derivative finite where it would have none.
    return 0.5 * (above + (above**2 + max(width, 1e-9) ** 2) ** 0.5), 0.5 * max(width, 1e-9)


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
    if i in model.rounding:
        excess, more = _smooth_excess(model, i, _origin(envelope, i))
        highest = highest + more
    if isinstance(block.family, Tabulated) and block.family.interpolation == "step":
        _tie_steps(model, block.family.take(slice(member, member + 1)), i)
        return
    formula = block.family.expression_up_to(excess, pyo.exp, member, float(highest))
    model.is_utility[i] = model.utility[i] <= _without_abs(model, formula)


def _add_parts(model: Any, parts: Parts, envelope: Envelope) -> None:
    """The linear constraints of `parts`, and a first few of its tangents."""
    import pyomo.environ as pyo

    m = range(parts.query.size)
    within = [p for p in m if parts.middle[p] > 0]
    before = [p for p in m if parts.idle[p] > 0]
    deciding = {p for p in m if parts.middle[p] > 0 or parts.idle[p] > 0}
    model.funded = pyo.Var(m, domain=pyo.Binary)
    for p in m:
        if p not in deciding:
            model.funded[p].setlb(1.0)
    model.partly = pyo.Var(within, domain=pyo.Binary)
    model.idle = pyo.Var(before, bounds=(0.0, 1.0))
    model.middle = pyo.Var(within, bounds=(0.0, 1.0))
    model.upper = pyo.Var(m, bounds=lambda _, p: (0.0, float(parts.width[p])))
    rise = (parts.level - parts.base) / parts.peak
    more = np.maximum(parts.top - parts.level, 0.0) / parts.peak
    model.middle_worth = pyo.Var(within, bounds=lambda _, p: (0.0, max(float(rise[p]), 0.0)))
    model.upper_worth = pyo.Var(m, bounds=lambda _, p: (0.0, float(more[p])))
    model.parts = pyo.ConstraintList()
    model.is_middle = pyo.Constraint(within)
    for p in m:
        i = int(parts.query[p])
        idle, middle, unit = (float(a[p]) for a in (parts.idle, parts.middle, parts.unit))
        base, level, peak = (float(a[p]) for a in (parts.base, parts.level, parts.peak))
        funded = model.funded[p]
        amount = float(parts.lower[p]) + (idle + middle) * funded + unit * model.upper[p]
        worth = base * (1 - funded) + level * funded + peak * model.upper_worth[p]
        chosen = funded
        if p in model.partly:
            chosen = funded + model.partly[p]
            amount += idle * model.partly[p] + middle * model.middle[p]
            worth += peak * model.middle_worth[p]
            model.parts.add(model.middle[p] <= model.partly[p])
            model.parts.add(chosen <= 1)
            model.parts.add(model.middle_worth[p] <= float(rise[p]) * model.middle[p])
        if p in model.idle:
            amount += idle * model.idle[p]
            model.parts.add(model.idle[p] <= 1 - chosen)
        model.parts.add(model.tokens[i] == amount)
        model.parts.add(model.utility[i] <= worth)
        model.parts.add(model.upper[p] <= float(parts.width[p]) * funded)
        model.parts.add(model.upper_worth[p] <= float(more[p]) * funded)
    few = [model.partly[p] for p in within if parts.counted[p]]
    if len(few) > parts.most_partly:
        model.parts.add(pyo.quicksum(few) <= parts.most_partly)
    for share in _CUT_SLOPES:
        height, slope = parts.tangent(parts.at_slope(share * envelope.chord[parts.query]))
        for p in np.flatnonzero(np.isfinite(height) & np.isfinite(slope)).tolist():
            model.parts.add(
                model.upper_worth[p]
                <= float(height[p]) * model.funded[p] + float(slope[p]) * model.upper[p]
            )


def _tie_middle(model: Any, parts: Parts, p: int, block: UtilityBlock, member: int) -> None:
    """middle_worth <= what the convex middle is worth at its share, exactly."""
    import pyomo.environ as pyo

    if p not in model.partly:
        return
    excess = float(parts.low[p]) + float(parts.middle[p]) * model.middle[p]
    formula = block.family.expression_up_to(excess, pyo.exp, member, float(parts.inflection[p]))
    above = (_without_abs(model, formula) - float(parts.base[p])) / float(parts.peak[p])
    model.is_middle[p] = model.middle_worth[p] <= above


def steps_meant(program: Program, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds, (n,) each, around the steps that a solver's `tokens` stand for.

    Its tolerance takes 99.99999999 tokens for 100, a step curve does not: between two the higher
    one was meant, from its first amount on or up to its last one. Elsewhere, and for whole tokens,
    they are the program's own bounds.
    """
    lower, upper = program.lower.copy(), program.upper.copy()
    for block in program.utilities:
        if not (isinstance(block.family, Tabulated) and block.family.interpolation == "step"):
            continue
        i = block.index
        grid, values = block.family.grid, block.family.values
        room = _STEP_SLACK * np.maximum(np.abs(tokens[i]), 1.0)
        last = (grid <= (tokens[i] + room)[:, None]).sum(axis=1)[:, None] - 1
        start, reached = (np.take_along_axis(table, last, 1)[:, 0] for table in (grid, values))
        before = np.take_along_axis(values, np.maximum(last - 1, 0), 1)[:, 0]
        fallen = (start > tokens[i] - room) & (before > reached)
        free = ~program.integer[i]
        first = np.where(free & ~fallen, start, lower[i])
        end = np.where(free & fallen, np.nextafter(start, -np.inf), upper[i])
        lower[i] = np.maximum(lower[i], np.minimum(first, upper[i]))
        upper[i] = np.minimum(upper[i], np.maximum(end, lower[i]))
    return lower, upper


def _without_abs(model: Any, expression: Any) -> Any:
    """The same expression with |x| as p + q, where x = p - q and one binary says which is not 0.

    Gurobi's writer knows no abs, and SCIP, which does, has proven bounds 1 % below the optimum with
    it. Expressions that are one and the same share their p and q. In a model without binaries |x|
    stays.
    """
    from pyomo.contrib.fbbt.expression_bounds_walker import ExpressionBoundsVisitor
    from pyomo.core.expr.numeric_expr import AbsExpression
    from pyomo.core.expr.visitor import ExpressionReplacementVisitor

    if model.relaxed:
        return expression
    limits = ExpressionBoundsVisitor()

    class Split(ExpressionReplacementVisitor):  # type: ignore[misc]  # Pyomo carries no types
        def exitNode(self, node: Any, data: Any) -> Any:
            node = super().exitNode(node, data)
            if not isinstance(node, AbsExpression):
                return node
            (inside,) = node.args
            low, high = limits.walk_expression(inside)
            if low >= 0 or high <= 0:
                return inside if low >= 0 else -inside
            key = str(inside)
            if key not in model.size_of:
                positive, negative, side = (group.add() for group in model.sizes)
                positive.setub(float(high))
                negative.setub(float(-low))
                model.is_size.add(inside == positive - negative)
                model.is_size.add(positive <= float(high) * side)
                model.is_size.add(negative <= float(-low) * (1 - side))
                model.size_of[key] = (inside, positive, negative, side)
            _, positive, negative, _ = model.size_of[key]
            return positive + negative

    return Split().walk_expression(expression)


def _tie_steps(model: Any, table: Tabulated, i: int) -> None:
    """utility_i <= the value of the one step chosen, on which tokens_i must lie.

    A step is closed at both ends here: where the curve jumps down, the larger value counts at the
    jump itself (whole tokens stay below it).
    """
    grid, values = table.grid[0], table.values[0]
    tokens = model.tokens[i]
    lowest, highest = tokens.bounds
    first, last = grid, np.append(grid[1:], np.inf)
    if tokens.is_integer():
        first, last = np.ceil(first), np.ceil(last) - 1.0
    first, last = np.maximum(first, lowest), np.minimum(last, highest)
    open_ = np.flatnonzero(first <= last).tolist()
    chosen = [model.chosen_step.add() for _ in open_]
    pairs = list(zip(open_, chosen, strict=True))
    model.steps_of[i] = [(float(first[k]), binary) for k, binary in pairs]
    model.steps.add(sum(chosen) == 1)
    model.steps.add(tokens >= sum(float(first[k]) * binary for k, binary in pairs))
    if (np.diff(values[open_]) < 0).any():  # otherwise more tokens never harm
        model.steps.add(tokens <= sum(float(last[k]) * binary for k, binary in pairs))
    reached = sum(float(values[k]) * binary for k, binary in pairs)
    model.is_utility[i] = model.utility[i] <= reached


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
