"""`ortools`: CP-SAT on whole tokens, every amount of every query a Boolean.

CP-SAT counts in whole numbers. Utilities and charges are scaled to 10^12, rounded so that nothing
feasible is lost and nothing is worth less than it is: gains up, what a <= row is charged down, what
a floor counts up. Its bound, proven in exact arithmetic for these numbers, is therefore a bound on
the program itself, and off by a few 1e-12; its allocation is repaired where the rounding let a hair
too much through.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.assemble import make_solution
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.amounts import whole_amounts
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.relaxation import is_unbounded_direction
from clearopt.solvers.repair import repair
from clearopt.solvers.warm_start import better, known_allocation

_MOST = 400_000  # Booleans
_EPSILON = float(np.finfo(np.float64).eps)
_UNITS = 1e12  # the largest term of an objective or a row, in whole units


class OrTools(Backend):
    """CP-SAT of Google's OR-Tools, over whole tokens. Certifies optimum and infeasibility."""

    name = "ortools"
    summary = "CP-SAT over whole tokens, every amount a Boolean"
    supports = ALL_FEATURES - {"fractional tokens", "fractional mixed charges", "no upper bound"}
    certifies = "optimum"
    modules = ("ortools",)
    extra = "ortools"

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        from ortools.sat.python import cp_model

        started = time.perf_counter()
        if is_unbounded_direction(program):
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                allocation=None,
                unbounded=True,
                message="tokens can be added without end, and each one adds to the objective",
            )
        amounts = _Amounts.of(program)
        model, taken = _model(program, amounts)
        _hint(model, taken, amounts, options.warm_start)
        solver = cp_model.CpSolver()
        # The presolving step that this limits proves wrong optima in CP-SAT 9.15, here too
        # (google/or-tools#5293); without it every optimum of our tests is right.
        solver.parameters.presolve_inclusion_work_limit = 0
        solver.parameters.num_workers = options.threads
        solver.parameters.random_seed = options.seed % 2**31
        solver.parameters.relative_gap_limit = 0.5 * options.tolerance
        solver.parameters.log_search_progress = options.verbose
        if options.time_limit is not None:
            left = options.time_limit - (time.perf_counter() - started)
            solver.parameters.max_time_in_seconds = max(left, 0.01)
        status = solver.solve(model)
        bound, tokens, message = math.inf, None, ""
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            chosen = np.array([solver.boolean_value(literal) for literal in taken])
            tokens = np.zeros(program.n)
            tokens[amounts.query[chosen]] = amounts.tokens[chosen]
            tokens = repair(program, tokens)
        tokens = better(program, tokens, known_allocation(program, options.warm_start))
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):  # else it may say 0, for none
            claimed = solver.best_objective_bound
            if math.isfinite(claimed) and abs(claimed) < 2.0**62:
                # Terms were rounded up, so it is a bound but for the rounding of this product.
                value = claimed * amounts.gain_unit
                bound = program.offset + value + 4 * _EPSILON * abs(value)
        infeasible = status == cp_model.INFEASIBLE
        if infeasible:
            reason = infeasibility_message(program, REASONS_TIME_LIMIT)
            message = "CP-SAT proved that no whole amounts satisfy every constraint"
            message = f"{message}: {reason}" if reason else message
        elif status != cp_model.OPTIMAL:
            message = "CP-SAT stopped at the time limit"
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=bound,
            tolerance=options.tolerance,
            infeasible=infeasible,
            message=message,
            statistics={"booleans": len(taken), "branches": int(solver.num_branches)},
        )


@dataclass(frozen=True, eq=False)
class _Amounts:
    """Every amount of every query, (P,), and what it earns and is charged, in whole units."""

    query: NDArray[np.intp]
    tokens: NDArray[np.float64]
    gain: NDArray[np.int64]
    gain_unit: float

    @classmethod
    def of(cls, program: Program) -> _Amounts:
        query, tokens = whole_amounts(program, "ortools", _MOST)
        gain = _at(program, "gains", query, tokens)
        unit = max(float(np.abs(gain).max(initial=0.0)), 1e-300) / _UNITS
        return cls(query, tokens, np.ceil(gain / unit).astype(np.int64), unit)


def _at(program: Program, what: str, query: NDArray[np.intp], tokens: Any) -> Any:
    """`gains`, `utility` or `curve_value` of single amounts, (P,), one of every query at a time."""
    found = np.zeros(query.size)
    turn = np.arange(query.size) - np.searchsorted(query, query)
    for k in range(int(turn.max(initial=-1)) + 1):
        here = turn == k
        everyone = program.least.copy()
        everyone[query[here]] = tokens[here]
        found[here] = getattr(program, what)(everyone)[query[here]]
    return found


def _model(program: Program, amounts: _Amounts) -> tuple[Any, list[Any]]:
    """The CP-SAT model and its Booleans, one an amount."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    taken = [model.new_bool_var("") for _ in range(amounts.query.size)]
    starts = np.searchsorted(amounts.query, np.arange(program.n + 1))
    for i in range(program.n):
        model.add_exactly_one(taken[starts[i] : starts[i + 1]])
    for k in np.unique(program.choice[program.choice >= 0]).tolist():
        some = np.flatnonzero((program.choice[amounts.query] == k) & (amounts.tokens > 0))
        model.add_at_most_one([taken[j] for j in some.tolist()])
    curve = _at(program, "curve_value", amounts.query, amounts.tokens)
    charged = [(program.rows, amounts.tokens), (program.curve_rows, curve)]
    for k, sense in enumerate(program.senses):
        index, terms = _terms(charged, k, amounts.query)
        level = float(program.right_hand_side[k])
        if sense != ">=":
            _add_at_most(model, taken, index, terms, level)
        if sense != "<=":
            _add_at_most(model, taken, index, -terms, -level)
    utility = _at(program, "utility", amounts.query, amounts.tokens)
    for j, level in enumerate(program.floor_levels.tolist()):
        index, terms = _terms([(program.floors, utility)], j, amounts.query)
        _add_at_most(model, taken, index, -terms, -level)
    model.maximize(cp_model.LinearExpr.weighted_sum(taken, amounts.gain.tolist()))
    return model, taken


def _terms(
    charged: list[tuple[sparse.csr_array, Any]], row: int, query: NDArray[np.intp]
) -> tuple[list[int], Any]:
    """(amounts that row counts, what each comes to)."""
    total = np.zeros(query.size)
    for matrix, per_amount in charged:
        coefficient = np.asarray(matrix[[row]].toarray()).ravel()
        total += coefficient[query] * per_amount
    index = np.flatnonzero(total)
    return index.tolist(), total[index]


def _add_at_most(model: Any, taken: list[Any], index: list[int], terms: Any, level: float) -> None:
    """sum of terms <= level, in whole units, rounded so that nothing feasible is lost."""
    from ortools.sat.python import cp_model

    if not index:
        if level < 0:
            model.add_bool_or([])  # 0 <= a negative level: never
        return
    if (terms == np.rint(terms)).all() and np.abs(terms).max() <= _UNITS:
        whole, most = np.rint(terms), math.floor(level + 1e-9 * max(abs(level), 1.0))
    else:
        unit = max(float(np.abs(terms).max()), abs(level)) / _UNITS
        # A level that is met up to rounding is met.
        whole = np.floor(terms / unit)
        most = math.ceil((level + 1e-11 * abs(level)) / unit)
    literals = [taken[j] for j in index]
    model.add(cp_model.LinearExpr.weighted_sum(literals, whole.astype(np.int64).tolist()) <= most)


def _hint(model: Any, taken: list[Any], amounts: _Amounts, warm: Solution | None) -> None:
    if warm is None or warm.allocation is None:
        return
    known = np.asarray(warm.allocation, dtype=np.float64)
    if known.size <= int(amounts.query.max(initial=-1)):
        return
    for literal, held in zip(taken, known[amounts.query] == amounts.tokens, strict=True):
        model.add_hint(literal, int(held))  # some releases refuse a bool
