"""An independent check of a `Solution`: everything it claims, recomputed in NumPy.

It shares nothing with what makes solutions (`assemble`, `certificate`) but the definition of a
program: the families' values, and the matrices of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from clearopt.errors import WrongSolutionError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.testing.optimality import check_prices, price_vectors
from clearopt.validation import FloatArray

FEASIBLE = 1e-9  # relative: rows to their size, amounts to the larger of themselves and 1
ROUNDING = 1e-9  # relative: two sums of the same terms
_TIGHT = 1e-10  # a gap that counts as closed, whatever tolerance was asked for
_STATUSES = ("optimal", "feasible", "infeasible", "unbounded", "unknown")

Proof = Literal["prices", "search"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what it concerns, and how."""

    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


@dataclass(eq=False)
class Findings:
    """What the check recomputed.

    Attributes:
        faults: everything that is wrong, empty where nothing is.
        objective: at the allocation, in the user's sense; NaN without one.
        violation: of bounds, rows, floors, wholeness and choices, relative, the worst.
        price_bound: what the prices prove, by sampling every query's best response: an estimate
            from below, exact to its rounding but in contrived cases. NaN without prices.
        complementarity: sum of price * slack over rows and floors, and what the queries' purchases
            fall short of their best responses: it is `price_bound` - objective, and 0 where there
            is no duality gap. NaN without prices or allocation.
    """

    faults: list[Fault] = field(default_factory=list)
    objective: float = math.nan
    violation: float = 0.0
    price_bound: float = math.nan
    complementarity: float = math.nan

    def add(self, about: str, text: str) -> None:
        self.faults.append(Fault(about, text))


def check_solution(problem: Any, solution: Solution, *, proof: Proof | None = None) -> Findings:
    """Recompute what a solution claims; NumPy alone, nothing of the solver's or of the assembly's.

    Status and numbers that fit together, shapes and types, feasibility (rows, floors, bounds, whole
    tokens, nothing-or-at-least, choices), objective, bound on the right side of it, signs of the
    prices, prices by name, no price where a row is slack, and the bound that the prices prove, for
    which the best response of every query is found by sampling.

    Args:
        problem: the `Problem`, or its `Program`.
        solution: what a back-end returned for it.
        proof: whether the bound rests on the prices alone ("prices": no lower bound can be true)
            or on a search too ("search"). By default what the registered back-end certifies says:
            "bound" means prices.

    Returns:
        What was recomputed.

    Raises:
        WrongSolutionError: something is wrong; it lists all of it.
    """
    findings = inspect_solution(problem, solution, proof=proof)
    if findings.faults:
        lines = "\n".join(f"  {fault}" for fault in findings.faults)
        raise WrongSolutionError(f"a {solution.status!r} of {solution.solver!r} is wrong:\n{lines}")
    return findings


def inspect_solution(problem: Any, solution: Solution, *, proof: Proof | None = None) -> Findings:
    """As `check_solution`, but faults are returned, not raised."""
    program: Program = getattr(problem, "program", problem)
    found = Findings()
    _check_shapes(found, program, solution)
    if found.faults:
        return found  # the rest would trip over them
    _check_status(found, program, solution)
    if solution.allocation is not None:
        tokens = np.asarray(solution.allocation, dtype=np.float64)
        _check_feasible(found, program, tokens)
        _check_numbers(found, program, solution, tokens)
    _check_names(found, program, solution)
    if solution.row_prices is not None or solution.floor_prices is not None:
        check_prices(found, program, solution, proof or _proof_of(solution.solver))
    return found


def _proof_of(name: str) -> Proof:
    from clearopt.solvers import available_solvers

    table = available_solvers()
    return "prices" if name in table and table[name].certifies == "bound" else "search"


# ------------------------------------------------------------------------- shapes, types
def _check_shapes(found: Findings, program: Program, solution: Solution) -> None:
    wanted: dict[str, tuple[Any, tuple[int, ...], tuple[Any, ...]]] = {
        "allocation": (solution.allocation, (program.n,), (np.float64, np.int64)),
        "utilities": (solution.utilities, (program.n,), (np.float64,)),
        "funded": (solution.funded, (program.n,), (np.bool_,)),
        "row_prices": (solution.row_prices, (program.rows.shape[0],), (np.float64,)),
        "floor_prices": (solution.floor_prices, (program.floors.shape[0],), (np.float64,)),
    }
    for name, (array, shape, types) in wanted.items():
        if array is None:
            continue
        if not isinstance(array, np.ndarray):
            found.add(name, f"is a {type(array).__name__}, not a NumPy array")
        elif array.shape != shape or array.dtype not in types:
            allowed = " or ".join(np.dtype(kind).name for kind in types)
            found.add(name, f"is {array.dtype}{array.shape}; expected {allowed}{shape}")
        elif array.dtype == np.float64 and not np.isfinite(array).all():
            at = int(np.argmin(np.isfinite(array)))
            found.add(name, f"entry {at} is {array[at]}")
    for name in ("objective", "bound", "seconds"):
        if not isinstance(getattr(solution, name), float | int):
            found.add(name, f"is a {type(getattr(solution, name)).__name__}, not a number")
    if found.faults:
        return
    if solution.allocation is not None:
        counted = bool(program.integer.all())
        if (solution.allocation.dtype == np.int64) != counted:
            found.add("allocation", f"is {solution.allocation.dtype}; all tokens whole: {counted}")
        _check_owned(found, program, solution.allocation)
    if not (math.isfinite(solution.seconds) and solution.seconds >= 0):
        found.add("seconds", f"are {solution.seconds}")
    if not solution.solver:
        found.add("solver", "has no name")


def _check_owned(found: Findings, program: Program, allocation: np.ndarray[Any, Any]) -> None:
    """A solution that shares memory with its program changes when either is written to."""
    for name, value in vars(program).items():
        if isinstance(value, np.ndarray) and np.shares_memory(value, allocation):
            found.add("allocation", f"shares memory with the program's {name!r}")


# ------------------------------------------------------------------------- status
def _check_status(found: Findings, program: Program, solution: Solution) -> None:
    status, bound = solution.status, program.sign * solution.bound
    if status not in _STATUSES:
        found.add("status", f"{status!r} is none of {', '.join(_STATUSES)}")
        return
    has = solution.allocation is not None
    if has != (status in ("optimal", "feasible")):
        found.add("status", f"{status!r} {'with' if has else 'without'} an allocation")
    if has != (solution.utilities is not None) or has != (solution.funded is not None):
        found.add("status", "allocation, utilities and funded come together or not at all")
    if not has and not math.isnan(solution.objective):
        found.add("objective", f"is {solution.objective} without an allocation")
    if math.isnan(bound):
        found.add("bound", "is not a number")
    if status == "infeasible":
        if bound != -math.inf:
            found.add("bound", f"of an infeasible problem is {solution.bound}")
        _check_infeasible(found, program)
    elif status == "unbounded" and bound != math.inf:
        found.add("bound", f"of an unbounded problem is {solution.bound}")
    elif bound == -math.inf:
        found.add("bound", "says that nothing is feasible, the status does not")
    if status == "optimal":
        gap = _gap(program.sign * solution.objective, bound)
        if not gap <= max(solution.tolerance, _TIGHT) * (1 + 1e-6):
            found.add("status", f"'optimal' with a gap of {gap:.3g} > {solution.tolerance:.3g}")
    if has and not math.isclose(
        solution.gap, _gap(program.sign * solution.objective, bound), rel_tol=1e-6, abs_tol=1e-12
    ):
        found.add("gap", f"is {solution.gap:.6g}, which is not that of objective and bound")


def _gap(objective: float, bound: float) -> float:
    """The relative gap, where more is better."""
    if math.isinf(bound):
        return math.inf
    size = max(abs(objective), abs(bound))
    return max(bound - objective, 0.0) / size if size else 0.0


def _check_infeasible(found: Findings, program: Program) -> None:
    """The plainest counter-examples: nothing, the least, the most."""
    candidates = {"the least of everything": np.array(program.least)}
    if not program.semicontinuous.any() and np.isfinite(program.upper).all():
        whole = np.where(program.integer, np.floor(program.upper), program.upper)
        candidates["the most of everything"] = whole
    for what, tokens in candidates.items():
        trial = Findings()
        _check_feasible(trial, program, tokens)
        if not trial.faults:
            found.add("status", f"'infeasible', but {what} satisfies every constraint")


# ------------------------------------------------------------------------- feasibility
def _check_feasible(found: Findings, program: Program, tokens: FloatArray) -> None:
    size = np.maximum(1.0, np.abs(tokens))
    nothing = program.semicontinuous & (tokens == 0.0)
    _miss(found, "lower bound", np.where(nothing, 0.0, program.lower - tokens) / size)
    _miss(found, "upper bound", (tokens - program.upper) / size)
    part = np.abs(tokens - np.rint(tokens))
    _miss(found, "whole tokens", np.where(program.integer, part, 0.0) / size)
    terms = np.abs(program.rows) @ np.abs(tokens)
    activity = program.rows @ tokens
    if program.curve_rows.nnz:
        costs = _costs(program, tokens)
        activity = activity + program.curve_rows @ costs
        terms = terms + np.abs(program.curve_rows) @ costs
    level, sense = program.right_hand_side, np.asarray(program.senses, dtype="<U2")
    over = activity - level
    missed = np.where(sense == "<=", over, np.where(sense == ">=", -over, np.abs(over)))
    _miss(found, "row", missed / np.maximum(np.maximum(np.abs(level), terms), 1e-300))
    reached = program.floors @ _utilities(program, tokens)
    short = (program.floor_levels - reached) / np.maximum(np.abs(program.floor_levels), 1e-300)
    _miss(found, "floor", short)
    for choice in np.unique(program.choice[program.choice >= 0]).tolist():
        served = np.flatnonzero((program.choice == choice) & (tokens > 0))
        if served.size > 1:
            found.violation = math.inf
            found.add("choice", f"{choice}: queries {served.tolist()} are all served")


def _miss(found: Findings, what: str, missed: FloatArray) -> None:
    if not missed.size:
        return
    worst = int(np.argmax(missed))
    found.violation = max(found.violation, float(missed[worst]))
    if not missed[worst] <= FEASIBLE:
        found.add(what, f"{worst} is missed by {missed[worst]:.3g}, relative")


def _utilities(program: Program, tokens: FloatArray) -> FloatArray:
    values = np.zeros(program.n)
    for block in program.utilities:
        values[block.index] = block.family.value(tokens[block.index])
    return values


def _costs(program: Program, tokens: FloatArray) -> FloatArray:
    values = np.zeros(program.n)
    for block in program.curves:
        values[block.index] = block.family.value(tokens[block.index])
    return values


# ------------------------------------------------------------------------- numbers
def _check_numbers(
    found: Findings, program: Program, solution: Solution, tokens: FloatArray
) -> None:
    utilities = _utilities(program, tokens)
    terms = [program.weight * utilities, -program.cost * tokens]
    if program.curve_cost.any():
        terms.append(-program.curve_cost * _costs(program, tokens))
    every = np.concatenate([*terms, [program.offset]])
    objective, size = math.fsum(every.tolist()), float(np.abs(every).sum())
    found.objective = program.sign * objective
    claimed, bound = program.sign * solution.objective, program.sign * solution.bound
    if not abs(claimed - objective) <= ROUNDING * size:
        found.add("objective", f"is {solution.objective:.12g}, recomputed {found.objective:.12g}")
    if not bound >= max(claimed, objective) - 1e-12 * size:
        found.add("bound", f"{solution.bound:.12g} is passed by the objective itself")
    if solution.utilities is not None:
        off = np.abs(solution.utilities - utilities)
        if not np.all(off <= 1e-9 * np.maximum(np.abs(utilities), 1e-300)):
            at = int(np.argmax(off))
            found.add(
                "utilities", f"of query {at} is {solution.utilities[at]}, not {utilities[at]}"
            )
    if solution.funded is not None:
        wrong = solution.funded != ((tokens > 0) & (utilities > 0))
        if wrong.any():
            found.add("funded", f"is wrong for query {int(np.argmax(wrong))}")


# ------------------------------------------------------------------------- prices by name
def _check_names(found: Findings, program: Program, solution: Solution) -> None:
    names = [group.name for group in program.constraints]
    for what, given in (("prices", solution.prices), ("marginal_values", solution.marginal_values)):
        if given and sorted(given) != sorted(set(names)):
            found.add(what, f"are of {sorted(given)}; the constraints are {sorted(set(names))}")
            return
        for name, price in given.items():
            listed = _listed(price)
            # NaN says that working a marginal value out would have taken too long.
            unknown = np.isnan(listed) if what == "marginal_values" else np.zeros(1, dtype=bool)
            if not (np.isfinite(listed) | unknown).all():
                found.add(what, f"of {name!r} are not finite")
    if solution.row_prices is None and solution.floor_prices is None:
        return
    rows, floors = price_vectors(program, solution)
    for group in program.constraints:
        if group.kind == "bound" or names.count(group.name) > 1:
            continue
        of_rows = (rows if group.kind == "row" else floors)[group.rows]
        named = _listed(solution.prices.get(group.name, math.nan))
        if not math.isclose(named.sum(), of_rows.sum(), rel_tol=1e-9, abs_tol=1e-300):
            found.add("prices", f"of {group.name!r} are not those of its rows")


def _listed(price: Any) -> FloatArray:
    values = list(price.values()) if isinstance(price, Mapping) else price
    return np.atleast_1d(np.asarray(values, dtype=np.float64))
