"""`scipy`: local NLP from several starts, or a global heuristic for few queries. Certifies nothing.

What one reaches for first, and what it gives on S-shaped utilities: a local solver started where
nobody is past a threshold sees no slope and stays there. The starts are what rules of thumb allot,
and random ones.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import Backend, Feature, SolveOptions
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.solvers.repair import repair
from clearopt.solvers.warm_start import known_allocation
from clearopt.validation import FloatArray

_LOCAL = ("SLSQP", "trust-constr")
_GLOBAL = ("differential_evolution", "direct")
_STARTS = 8
_MOST_LOCAL, _MOST_GLOBAL = 2_000, 60  # queries
_PENALTY = 10.0  # of what all utilities together may earn, for a row missed altogether


class OutOfTime(Exception):
    """Raised inside an objective: SciPy's methods take no time limit."""


class Scipy(Backend):
    """SciPy's general minimisers; tokens are fractional inside, and rounded at the end.

    Own options:
        method: "SLSQP" (default) or "trust-constr", local, from several starts; for few queries
            "differential_evolution" or "direct", global by sampling, rows as penalties.
        starts: how many starts a local method gets (default 8).
    """

    name = "scipy"
    summary = "local NLP from several starts, or sampling for few queries; proves nothing"
    supports: ClassVar[frozenset[Feature]] = frozenset(
        (
            "several rows",
            "negative coefficients",
            "equality rows",
            "at-least rows",
            "accuracy floors",
            "fractional tokens",
            "whole tokens",
            "semicontinuous tokens",
            "cost curves",
            "mixed charges",
            "fractional mixed charges",
            "measured curves",
            "functions without a formula",
        )
    )
    certifies = "nothing"
    modules = ("scipy",)
    own_options = frozenset({"method", "starts"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        method = options.extra.get("method", "SLSQP")
        starts = options.extra.get("starts", _STARTS)
        if method not in _LOCAL + _GLOBAL:
            raise DeclarationError(
                f"method = {method!r}: must be one of {', '.join(_LOCAL + _GLOBAL)}"
            )
        if not isinstance(starts, int) or starts < 1:
            raise DeclarationError(f"starts = {starts!r}: must be a whole number, at least 1")
        most = _MOST_LOCAL if method in _LOCAL else _MOST_GLOBAL
        if program.n > most:
            raise UnsupportedProblemError(
                f"method = {method!r} takes {most} queries at most, here are {program.n}: it "
                "builds dense matrices of their square, or samples all of them; take solver='dual'"
            )
        if is_unbounded_direction(program):
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                allocation=None,
                unbounded=True,
                certifies=False,
                message="tokens can be added without end, and each one adds to the objective",
            )
        search = _Search(program, started, options)
        known = known_allocation(program, options.warm_start)
        if known is not None:
            search.tokens, search.value = known, program.objective(known)
        try:
            if method in _LOCAL:
                search.local(method, starts)
            else:
                search.globally(method)
            message = ""
        except OutOfTime:
            message = "stopped at the time limit"
        if search.tokens is None and not message:
            message = "no start led to a feasible allocation"
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=search.tokens,
            tolerance=options.tolerance,
            certifies=False,
            message=message,
            statistics={"method": method, "evaluations": search.evaluations},
        )


class _Search:
    """The program in units of its bounds, and the best allocation found so far."""

    def __init__(self, program: Program, started: float, options: SolveOptions) -> None:
        self.program, self.options = program, options
        limit = math.inf if options.time_limit is None else options.time_limit
        self.deadline = started + limit
        lower, upper = implied_bounds(program)
        if np.isinf(upper).any():
            raise UnsupportedProblemError(
                f"query {int(np.argmax(np.isinf(upper)))} has no upper bound, and none follows "
                "from the rows; 'scipy' needs one: give Allocation(..., upper=...)"
            )
        self.lower, self.upper = lower, upper
        self.width = np.where(upper > lower, upper - lower, 1.0)
        self.size = max(float(program.weight.sum()), 1e-300)
        self.row_scale = np.maximum(
            np.abs(program.right_hand_side), program.activity_size(upper) * 1e-3 + 1e-300
        )
        self.tokens: FloatArray | None = None
        self.value = -math.inf
        self.evaluations = 0
        self.seen = np.zeros(program.n)  # the best point of a search by sampling

    # ------------------------------------------------------------------ the program, scaled
    def at(self, share: FloatArray) -> FloatArray:
        """Tokens of a point of the unit box."""
        return np.clip(self.lower + share * self.width, self.lower, self.upper)

    def loss(self, share: FloatArray) -> float:
        """The negative objective, per unit of weight."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        self.evaluations += 1
        return -self.program.objective(self.at(share)) / self.size

    def loss_slope(self, share: FloatArray) -> FloatArray:
        """Its gradient, (n,)."""
        program, tokens = self.program, self.at(share)
        slope = program.weight * program.marginal(tokens) - program.cost
        if program.has_curves:
            slope = slope - program.curve_cost * program.curve_marginal(tokens)
        return -slope * self.width / self.size

    def rows(self, share: FloatArray) -> FloatArray:
        """What rows and floors leave, (K + J,), at least 0 where met; == rows are to be 0."""
        program, tokens = self.program, self.at(share)
        left = (program.right_hand_side - program.activity(tokens)) / self.row_scale
        left = np.where(program.sense_array == ">=", -left, left)
        reached = program.floors @ program.utility(tokens) - program.floor_levels
        return np.r_[left, reached / np.maximum(np.abs(program.floor_levels), 1e-3)]

    def row_slopes(self, share: FloatArray) -> FloatArray:
        """Their gradients, (K + J, n)."""
        program, tokens = self.program, self.at(share)
        rows = program.rows.toarray()
        if program.curve_rows.nnz:
            rows = rows + program.curve_rows.toarray() * program.curve_marginal(tokens)[None, :]
        sign = np.where(program.sense_array == ">=", 1.0, -1.0)
        rows = sign[:, None] * rows / self.row_scale[:, None]
        floors = program.floors.toarray() * program.marginal(tokens)[None, :]
        floors = floors / np.maximum(np.abs(program.floor_levels), 1e-3)[:, None]
        return np.vstack([rows, floors]) * self.width[None, :]

    def keep(self, tokens: FloatArray) -> None:
        """Make a point feasible, and remember it if it is the best."""
        left = self.deadline - time.perf_counter()
        limit = None if math.isinf(left) else max(left, 0.05)
        found = repair(self.program, tokens, time_limit=limit)
        if found is not None and check_feasibility(self.program, found).ok:
            value = self.program.objective(found)
            if value > self.value:
                self.tokens, self.value = found, value

    # ------------------------------------------------------------------ the methods
    def starts(self, count: int) -> Iterator[FloatArray]:
        """Where to start, (n,) shares of the box: earlier solution, break-even, random."""
        rng = np.random.default_rng(self.options.seed)
        warm = self.options.warm_start
        held = None if warm is None else warm.allocation
        if held is not None and held.shape == (self.program.n,):
            yield np.clip((np.asarray(held) - self.lower) / self.width, 0.0, 1.0)
        wanted = np.zeros(self.program.n)
        for block in self.program.utilities:
            with np.errstate(all="ignore"):
                even = np.nan_to_num(block.family.break_even_tokens(), posinf=np.inf)
            wanted[block.index] = even
        even = np.clip((wanted - self.lower) / self.width, 0.0, 1.0)
        yield np.full(self.program.n, 0.5)
        yield even
        for _ in range(max(count - 2, 0)):
            # A random part of the queries past their thresholds, the others with nothing.
            served = rng.random(self.program.n) < rng.uniform(0.1, 1.0)
            yield np.where(served, np.clip(even * rng.uniform(1.0, 1.5), 0.0, 1.0), 0.0)

    def local(self, method: str, count: int) -> None:
        from scipy import optimize

        equal = np.r_[self.program.sense_array == "==",
                      np.zeros(self.program.floors.shape[0], dtype=bool)]  # fmt: skip
        settings: dict[str, Any] = {"maxiter": 200 if method == "SLSQP" else 500}
        constraints: Any
        if method == "SLSQP":
            constraints = [
                {"type": kind, "fun": lambda x, m=mask: self.rows(x)[m],
                 "jac": lambda x, m=mask: self.row_slopes(x)[m]}
                for kind, mask in (("eq", equal), ("ineq", ~equal)) if mask.any()
            ]  # fmt: skip
        else:
            top = np.where(equal, 0.0, np.inf)
            constraints = [optimize.NonlinearConstraint(self.rows, 0.0, top, jac=self.row_slopes)]
            constraints = constraints if equal.size else []
        for start in self.starts(count):
            with warnings.catch_warnings():
                # It tells whoever wrote the function that it looks linear somewhere.
                warnings.filterwarnings("ignore", "delta_grad == 0.0")
                answer = optimize.minimize(
                self.loss, start, jac=self.loss_slope, method=method,
                    bounds=[(0.0, 1.0)] * self.program.n, constraints=constraints,
                    options=settings,
                )  # fmt: skip
            self.keep(self.at(np.clip(answer.x, 0.0, 1.0)))

    def globally(self, method: str) -> None:
        from scipy import optimize

        equal = np.r_[self.program.sense_array == "==",
                      np.zeros(self.program.floors.shape[0], dtype=bool)]  # fmt: skip
        best = [math.inf]

        def penalised(share: FloatArray) -> float:
            left = self.rows(share)
            missed = np.where(equal, np.abs(left), np.maximum(-left, 0.0))
            value = self.loss(share) + _PENALTY * float(missed.sum())
            if value < best[0]:
                best[0], self.seen = value, share.copy()
            return value

        bounds = [(0.0, 1.0)] * self.program.n
        try:
            if method == "direct":
                answer = optimize.direct(penalised, bounds, maxfun=2_000 * self.program.n)
            else:
                answer = optimize.differential_evolution(
                    penalised, bounds, rng=self.options.seed, maxiter=1_000, polish=False
                )
            self.seen = answer.x
        finally:
            if math.isfinite(best[0]):
                self.keep(self.at(np.clip(self.seen, 0.0, 1.0)))
