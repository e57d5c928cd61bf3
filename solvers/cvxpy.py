"""`cvxpy`: the concave-envelope relaxation as a linear program, and what rounding it gives.

Every utility is replaced by its concave envelope, written as the least of finitely many tangents.
Tangents are added where the solution lies until its bound stands still. The number reported as
the bound is not the linear solver's: its multipliers are put into the dual function, which is an
upper bound at any multipliers of the right sign.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.assemble import make_solution
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.choices import Choices
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.in_cost import InCost, in_cost
from clearopt.solvers.progress import listener
from clearopt.solvers.relaxation import (
    Envelope,
    concave_envelope,
    implied_bounds,
    is_unbounded_direction,
    lagrangian_bound,
)
from clearopt.solvers.repair import refill, repair, restricted
from clearopt.validation import FloatArray

_FIRST_SLOPES = (1.0, 0.5, 0.2, 0.05, 0.0)  # of the first tangents, relative to the straight part
_ROUNDS = 40
_LINE_STEPS = 16
_FLIPS = 4  # queries nearest to break-even whose decision is tried the other way round
_Prices: TypeAlias = tuple[FloatArray, FloatArray]
_TIME_OPTION = {"HIGHS": "time_limit", "CLARABEL": "time_limit", "SCIP": "limits/time"}


class Cvxpy(Backend):
    """The concave relaxation through CVXPY: a rigorous bound, and an allocation rounded from it."""

    name = "cvxpy"
    summary = "concave-envelope relaxation (LP), then rounding"
    supports = ALL_FEATURES - {"mixed charges", "fractional mixed charges"}
    certifies = "bound"
    modules = ("cvxpy",)
    extra = "cvxpy"
    own_options = frozenset({"cvxpy_solver"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        cvxpy_solver = _chosen_solver(options)  # imports CVXPY, which no time limit pays for
        started = time.perf_counter()
        deadline = math.inf if options.time_limit is None else started + options.time_limit
        if is_unbounded_direction(program):
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                allocation=None,
                unbounded=True,
                message="tokens can be added without end, and each one adds to the objective",
            )
        run = _Run(cvxpy_solver, options, deadline)
        seen = _in_cost(program)
        envelope = concave_envelope(seen.program, seen.lower, seen.upper)
        heard = listener(program, options, started)
        relaxed = _relax(seen.program, envelope, run, heard=heard)
        tokens = None
        if relaxed.tokens is not None and program.has_curves:
            tokens = repair(program, seen.tokens(relaxed.tokens), time_limit=_finite(run.left))
        elif relaxed.tokens is not None:
            tokens = _round(program, envelope, relaxed, run)
        message = relaxed.message
        if relaxed.infeasible:
            reason = infeasibility_message(program, REASONS_TIME_LIMIT)
            message = f"{message}: {reason}" if reason else message
        if tokens is None and relaxed.tokens is not None:
            message = "; ".join(
                filter(None, (message, "no rounding of the relaxation is feasible"))
            )
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=tokens,
            bound=relaxed.bound,
            row_prices=None if relaxed.infeasible else relaxed.row_prices,
            floor_prices=None if relaxed.infeasible else 0.0 - relaxed.floor_prices,
            tolerance=options.tolerance,
            infeasible=relaxed.infeasible,
            message=message,
            statistics={
                "cvxpy_solver": run.solver,
                "linear_programs": run.programs,
                "tangents": int(relaxed.cuts.query.size),
                "relaxed_objective": relaxed.value,
            },
        )


def _in_cost(program: Program) -> InCost:
    """The program without cost curves: queries charged one have that cost as their variable."""
    lower, upper = implied_bounds(program)
    if program.has_curves and np.isinf(upper).any():
        raise UnsupportedProblemError(
            f"query {int(np.argmax(np.isinf(upper)))} has no upper bound, and none follows from "
            "the rows; with cost curves 'cvxpy' needs one: give Allocation(..., upper=...)"
        )
    return in_cost(program, lower, upper)


def _chosen_solver(options: SolveOptions) -> str:
    import cvxpy

    installed = cvxpy.installed_solvers()
    wanted = options.extra.get("cvxpy_solver")
    if wanted is None:
        return next((name for name in ("CLARABEL", "HIGHS") if name in installed), installed[0])
    name = str(wanted).upper()
    if name not in installed:
        raise DeclarationError(
            f"cvxpy_solver = {wanted!r}: CVXPY has {', '.join(sorted(installed))} installed"
        )
    return name


@dataclass
class _Run:
    """What all the linear programs of one call share."""

    solver: str
    options: SolveOptions
    deadline: float
    programs: int = 0

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"solver": self.solver, "verbose": self.options.verbose}
        if self.solver == "HIGHS":
            # Its own `threads` may be set once a process and fails after: its simplex is serial.
            settings |= {"parallel": "off", "random_seed": self.options.seed % 2**31}
            settings |= {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
        if self.solver == "CLARABEL":
            settings["max_threads"] = self.options.threads
        if math.isfinite(self.left) and self.solver in _TIME_OPTION:
            settings[_TIME_OPTION[self.solver]] = max(self.left, 0.05)
        return settings


@dataclass
class _Tangents:
    """utility[query] <= height + slope * (tokens[query] - lower[query]); arrays of one length."""

    query: NDArray[np.intp]
    height: FloatArray
    slope: FloatArray

    @classmethod
    def at(cls, envelope: Envelope, excess: FloatArray, query: NDArray[np.intp]) -> _Tangents:
        height, slope = envelope.cuts(excess)
        return cls(query, height[query], slope[query])

    def __add__(self, other: _Tangents) -> _Tangents:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Tangents(*(np.concatenate(pair) for pair in pairs))


_NO_TANGENTS = (np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0))


class _Point(NamedTuple):
    """What one linear program returns, in the units of the program."""

    tokens: FloatArray
    utility: FloatArray
    row_prices: FloatArray
    floor_prices: FloatArray


@dataclass
class _Relaxed:
    """A solved relaxation: its best bound, the multipliers that prove it, and its last point."""

    bound: float
    row_prices: FloatArray
    floor_prices: FloatArray
    tokens: FloatArray | None = None
    value: float = math.nan
    infeasible: bool = False
    message: str = ""
    cuts: _Tangents = field(default_factory=lambda: _Tangents(*_NO_TANGENTS))

    def improve(
        self, program: Program, envelope: Envelope, row_prices: FloatArray, floor_prices: FloatArray
    ) -> None:
        """Take these multipliers if they prove as much as those known, but for rounding."""
        bound = _dual(program, envelope, row_prices, floor_prices)
        if bound <= self.bound + 1e-13 * abs(self.bound):
            self.bound, self.row_prices, self.floor_prices = bound, row_prices, floor_prices


# ---------------------------------------------------------------------------- the relaxation
def _relax(
    program: Program,
    envelope: Envelope,
    run: _Run,
    cuts: _Tangents | None = None,
    *,
    worth: float = -math.inf,
    heard: Callable[[float, float], None] | None = None,
) -> _Relaxed:
    """Cutting planes: solve, evaluate the dual function at the multipliers, cut, repeat.

    `cuts` are tangents known from an earlier relaxation and still valid in this one. A bound below
    `worth` ends it. `heard` is told every bound.
    """
    no_price = np.zeros(program.rows.shape[0]), np.zeros(program.floors.shape[0])
    best = _Relaxed(_dual(program, envelope, *no_price), *no_price)
    best.cuts = _first_tangents(envelope) if cuts is None else cuts
    scaled = _Scaled(program, envelope)
    aim = 0.1 * run.options.tolerance
    uses = program.weight + np.asarray(program.floors.sum(axis=0)).ravel()
    for turn in range(_ROUNDS):
        if run.left <= 0:
            best.message = "stopped at the time limit"
            break
        run.programs += 1
        status, point = scaled.solve(best.cuts, run)
        if status == "infeasible":
            best.infeasible = True
            best.message = "no allocation satisfies even the relaxed constraints"
            break
        if point is None:
            best.message = f"{run.solver} stopped: {status}"
            break
        last = best.row_prices, best.floor_prices
        best.improve(program, envelope, point.row_prices, point.floor_prices)
        if heard is not None:
            heard(-math.inf, best.bound)
        best.tokens = point.tokens
        reached = envelope.value(point.tokens)
        gains = program.weight * reached - program.cost * point.tokens
        best.value = program.offset + math.fsum(gains)
        size = max(abs(best.bound), abs(best.value))
        missed = program.floor_levels - program.floors @ reached
        met = np.all(missed <= aim * np.abs(program.floor_levels))
        if (met and best.bound - best.value <= aim * size) or best.bound <= worth:
            break
        # Where the point's utility is above the envelope: its tangent there.
        excess_utility = (point.utility - reached) * np.where(uses > 0, uses, 1.0)
        loose = np.flatnonzero(excess_utility > 0.1 * aim * size / program.n)
        if loose.size == 0:
            break
        best.cuts = best.cuts + _Tangents.at(envelope, envelope.excess(point.tokens), loose)
        # And around the prices of the lowest bound between the last ones and these, closer each
        # time. A linear program's multipliers are slopes of tangents it already has; these are
        # not, and the corners that two neighbouring tangents leave shrink tenfold a round.
        prices = _best_between(program, envelope, last, (point.row_prices, point.floor_prices))
        best.improve(program, envelope, *prices)
        weight, price = _effective(program, *prices)
        with np.errstate(all="ignore"):
            ratio = np.where(weight > 0, price / np.where(weight > 0, weight, 1.0), np.inf)
        width = 0.1 ** (turn + 1)
        for factor in (1.0 - width, 1.0, 1.0 + width):
            best.cuts = best.cuts + _Tangents.at(envelope, envelope.demand(factor * ratio), loose)
    return best


def _first_tangents(envelope: Envelope) -> _Tangents:
    """The straight part of every envelope, and a few tangents of those that have a curved one."""
    cuts = _Tangents.at(envelope, envelope.contact, np.arange(envelope.lower.size))
    curved = np.flatnonzero(envelope.contact < envelope.end)
    for share in _FIRST_SLOPES:
        cuts = cuts + _Tangents.at(envelope, envelope.demand(share * envelope.chord), curved)
    return cuts


def _best_between(program: Program, envelope: Envelope, first: _Prices, second: _Prices) -> _Prices:
    """The prices of the lowest dual bound between two, by golden section (the dual is convex)."""

    def at(share: float) -> _Prices:
        rows, floors = ((1 - share) * p + share * q for p, q in zip(first, second, strict=True))
        return rows, floors

    def bound(share: float) -> float:
        return _dual(program, envelope, *at(share))

    low, high, golden = 0.0, 1.0, 0.5 * (math.sqrt(5.0) - 1.0)
    left, right = high - golden, low + golden
    at_left, at_right = bound(left), bound(right)
    for _ in range(_LINE_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = bound(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = bound(right)
    return at(left if at_left <= at_right else right)


def _effective(
    program: Program, row_prices: FloatArray, floor_prices: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Effective weight and price of every query, (n,) each."""
    weight = program.weight + program.floors.T @ floor_prices
    return weight, program.cost + program.rows.T @ row_prices


def _dual(
    program: Program, envelope: Envelope, row_prices: FloatArray, floor_prices: FloatArray
) -> float:
    return lagrangian_bound(program, envelope.lower, envelope.upper, row_prices, floor_prices)


class _Scaled:
    """The linear program in units of its own: steps towards the contact, rows of size 1.

    Tokens come in thousands and prices in thousandths; the linear solver's tolerances are absolute.
    """

    def __init__(self, program: Program, envelope: Envelope) -> None:
        self.program, self.envelope = program, envelope
        width = envelope.upper - envelope.lower
        step = np.where(envelope.reach > 0, envelope.reach, np.minimum(width, 1e3))
        self.step = np.where(step > 0, step, 1.0)
        self.most = np.where(width > 0, width / self.step, 0.0)
        rows = sparse.csr_array(program.rows.multiply(self.step[None, :]))
        self.row_scale = _largest(rows)
        self.rows = sparse.csr_array(rows.multiply((1.0 / self.row_scale)[:, None]))
        free = program.right_hand_side - program.rows @ envelope.lower
        self.limit = free / self.row_scale
        self.floor_scale = _largest(program.floors)
        self.floors = sparse.csr_array(program.floors.multiply((1.0 / self.floor_scale)[:, None]))
        self.level = program.floor_levels / self.floor_scale
        cost = program.cost * self.step
        size = max(float(program.weight.max(initial=0.0)), float(np.abs(cost).max(initial=0.0)))
        self.objective_scale = size if size > 0 else 1.0
        self.weight, self.cost = program.weight / self.objective_scale, cost / self.objective_scale

    def solve(self, cuts: _Tangents, run: _Run) -> tuple[str, _Point | None]:
        """CVXPY's status, and the point if there is one."""
        import cvxpy

        program, n, m = self.program, self.program.n, cuts.query.size
        taken = cvxpy.Variable(n, bounds=[np.zeros(n), self.most])
        utility = cvxpy.Variable(n)
        slope = cuts.slope * self.step[cuts.query]
        position = np.arange(m)
        pick = sparse.csr_array((np.ones(m), (position, cuts.query)), shape=(m, n))
        rise = sparse.csr_array((slope, (position, cuts.query)), shape=(m, n))
        constraints = [pick @ utility - rise @ taken <= cuts.height]
        by_sense = {}
        for sense in ("<=", ">=", "=="):
            k = np.flatnonzero(program.sense_array == sense)
            if k.size:
                left, right = self.rows[k] @ taken, self.limit[k]
                row = (
                    left == right
                    if sense == "=="
                    else (left <= right if sense == "<=" else left >= right)
                )
                by_sense[sense] = (k, row)
                constraints.append(row)
        choices = Choices.of(program.choice)
        if choices is not None:
            # One option of each, relaxed: the shares of their upper bounds add up to one at most.
            share = np.where(self.most > 0, 1.0 / np.where(self.most > 0, self.most, 1.0), 0.0)
            constraints.append(choices.matrix().multiply(share[None, :]).tocsr() @ taken <= 1.0)
        floor = None
        if program.floors.shape[0]:
            floor = self.floors @ utility >= self.level
            constraints.append(floor)
        model = cvxpy.Problem(
            cvxpy.Maximize(self.weight @ utility - self.cost @ taken), constraints
        )
        try:
            model.solve(**run.settings())
        except cvxpy.error.SolverError as error:
            return str(error), None
        if model.status in ("infeasible", "infeasible_inaccurate"):
            return ("infeasible" if model.status == "infeasible" else model.status), None
        if taken.value is None or any(c.dual_value is None for c in constraints):
            return str(model.status), None
        # CVXPY's multipliers of inequalities are never negative; ours are d objective / d right
        # side, so that of a >= row is negative. An equality's comes with that sign already.
        row_prices = np.zeros(program.rows.shape[0])
        for sense, (k, row) in by_sense.items():
            dual = np.atleast_1d(row.dual_value)
            row_prices[k] = dual if sense == "==" else np.maximum(dual, 0.0)
            row_prices[k] *= -1.0 if sense == ">=" else 1.0
        row_prices = _without_noise(row_prices)
        row_prices *= self.objective_scale / self.row_scale
        floor_prices = np.zeros(program.floors.shape[0])
        if floor is not None:
            floor_prices = np.maximum(np.atleast_1d(floor.dual_value), 0.0)
            floor_prices = _without_noise(floor_prices)
            floor_prices = floor_prices * self.objective_scale / self.floor_scale
        tokens = self.envelope.lower + self.step * np.clip(taken.value, 0.0, self.most)
        tokens = np.clip(tokens, self.envelope.lower, self.envelope.upper)
        return str(model.status), _Point(
            tokens, np.asarray(utility.value), row_prices, floor_prices
        )


def _without_noise(prices: FloatArray) -> FloatArray:
    """An interior-point method leaves specks where a constraint does not bind."""
    return np.where(np.abs(prices) > 1e-8 * np.abs(prices).max(initial=0.0), prices, 0.0)


def _largest(matrix: sparse.csr_array) -> FloatArray:
    """The largest entry of each row in size, 1 for an empty row."""
    if matrix.shape[0] == 0:
        return np.ones(0)
    largest = abs(matrix).max(axis=1).toarray().ravel()
    return np.where(largest > 0, largest, 1.0)


# ---------------------------------------------------------------------------- rounding
def _round(program: Program, envelope: Envelope, relaxed: _Relaxed, run: _Run) -> FloatArray | None:
    """The best feasible allocation among a few roundings of the relaxed point.

    A query on the straight part of its envelope is decided: down to its lower bound, or up to the
    concave part. With everybody decided the problem is concave; solving that once more spends
    what the decision has freed.
    """
    assert relaxed.tokens is not None
    best, best_value = None, -math.inf
    up_amount = envelope.lower + envelope.reach
    up_amount = np.where(program.integer, np.ceil(up_amount - 1e-9), up_amount)
    up_amount = np.minimum(up_amount, envelope.upper)
    for up in _decisions(program, envelope, relaxed, up_amount):
        found = _solve_decided(
            program, envelope, up, up_amount, relaxed.cuts, run, worth=best_value
        )
        if found is not None and program.objective(found) > best_value:
            best, best_value = found, program.objective(found)
        close = relaxed.bound - best_value <= run.options.tolerance * abs(best_value)
        if close or (run.left <= 0 and best is not None):
            break
    if best is not None:
        return best
    return repair(program, relaxed.tokens, time_limit=_finite(run.left))


def _decisions(
    program: Program, envelope: Envelope, relaxed: _Relaxed, up_amount: FloatArray
) -> list[NDArray[np.bool_]]:
    """Who is on the concave part, (n,) bool each, the most promising first, none twice."""
    assert relaxed.tokens is not None
    straight = envelope.reach
    with np.errstate(all="ignore"):
        share = np.where(straight > 0, (relaxed.tokens - envelope.lower) / straight, 1.0)
        weight, price = _effective(program, relaxed.row_prices, relaxed.floor_prices)
        merit = np.where(price > 0, weight * envelope.chord / price, np.inf)
        ratio = np.where(weight > 0, price / weight, np.inf)
        doubt = np.where(straight > 0, np.abs(np.log(merit)), np.inf)
    # What everybody buys on the concave part at these prices, never less than where it begins.
    bought = envelope.lower + envelope.offset + envelope.demand(ratio)
    bought = np.clip(np.where(program.integer, np.floor(bought), bought), up_amount, envelope.upper)
    full = share >= 1.0 - 1e-6
    open_ = (share > 1e-6) & ~full
    order = np.lexsort((-merit, -share.round(6)))
    nobody = np.zeros(program.n, dtype=np.bool_)

    def filled(first: NDArray[np.bool_], never: NDArray[np.bool_] = nobody) -> NDArray[np.bool_]:
        return _while_it_fits(program, envelope, first, never, order, bought)

    least = _while_it_fits(program, envelope, nobody, nobody, order, up_amount)
    found = [filled(nobody), full, filled(open_), full | open_, least]
    doubtful = np.argsort(doubt, kind="stable")[:_FLIPS]
    for i in doubtful[np.isfinite(doubt[doubtful])]:
        flip = nobody.copy()
        flip[i] = True
        found += [filled(nobody, never=flip), filled(flip)]
    choices = Choices.of(program.choice)
    if choices is not None:
        liked = np.where(np.isfinite(merit), merit, np.finfo(float).max)
        found = [up & choices.best(np.where(up, liked, -1.0)) for up in found]
    distinct: list[NDArray[np.bool_]] = []
    for up in found:
        if not any(np.array_equal(up, other) for other in distinct):
            distinct.append(up)
    return distinct


def _while_it_fits(
    program: Program,
    envelope: Envelope,
    first: NDArray[np.bool_],
    never: NDArray[np.bool_],
    order: NDArray[np.intp],
    amount: FloatArray,
) -> NDArray[np.bool_]:
    """`first`, and then everybody in `order` whose `amount` overflows no row; `never` stay down."""
    up = first.copy()
    columns = sparse.csc_array(program.rows)
    capped = program.sense_array != ">="
    limit = np.where(capped, program.right_hand_side, np.inf)
    limit = limit + 1e-12 * np.where(capped, np.abs(program.right_hand_side), 0.0)
    activity = program.rows @ np.where(up, amount, envelope.lower)
    step = amount - envelope.lower
    for i in order:
        if up[i] or never[i]:
            continue
        part = slice(columns.indptr[i], columns.indptr[i + 1])
        rows = columns.indices[part]
        after = activity[rows] + columns.data[part] * step[i]
        if np.all((after <= limit[rows]) | (columns.data[part] <= 0)):
            up[i] = True
            activity[rows] = after
    return up


def _solve_decided(
    program: Program,
    envelope: Envelope,
    up: NDArray[np.bool_],
    up_amount: FloatArray,
    cuts: _Tangents,
    run: _Run,
    *,
    worth: float,
) -> FloatArray | None:
    """The concave problem left when `up` says who is on the concave part; a feasible allocation.

    None where there is none, or none better than `worth`.

    Where the envelope's chord ends at the upper bound, up means exactly there.
    """
    # Someone without a straight part is on the concave part already at the lower bound.
    upper = np.where(up | (envelope.reach <= 0), envelope.upper, envelope.lower)
    lower = np.where(up, up_amount, envelope.lower)
    decided = restricted(program, lower, upper)
    narrow = concave_envelope(decided, lower, upper)
    # Tangents of the curved part stay valid; they are only counted from another lower bound.
    shifted = cuts.height + cuts.slope * (lower - envelope.lower)[cuts.query]
    known = _Tangents(cuts.query, shifted, cuts.slope)
    solved = _relax(decided, narrow, run, _first_tangents(narrow) + known, worth=worth)
    if solved.tokens is None or solved.bound <= worth:
        return None
    tokens = np.where(program.integer, np.floor(solved.tokens + 1e-9), solved.tokens)
    found = repair(program, tokens, time_limit=_finite(run.left))
    return None if found is None else refill(program, found)


def _finite(seconds: float) -> float | None:
    return max(seconds, 0.01) if math.isfinite(seconds) else None
