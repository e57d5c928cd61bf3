"""`highs`: a piecewise-linear mixed-integer program that never lies below the curves, by HiGHS.

Pieces and lines (`pieces`) are added where the last solution lies above the curve, so its optimum
is an upper bound at every stage and the error of the approximation shrinks where it counts. Where
every query has only whole amounts or steps, and few enough, each of them is a piece of its own: the
multiple-choice problem, which is exact at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from clearopt.assemble import make_solution
from clearopt.certificate import check_feasibility, relative_gap
from clearopt.errors import DeclarationError, UnsupportedProblemError
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.base import ALL_FEATURES, Backend, SolveOptions
from clearopt.solvers.conflict import REASONS_TIME_LIMIT, infeasibility_message
from clearopt.solvers.in_cost import InCost, in_cost
from clearopt.solvers.pieces import Pieces, count_of, first_pieces, multiple_choice
from clearopt.solvers.progress import listener
from clearopt.solvers.relaxation import implied_bounds, is_unbounded_direction
from clearopt.solvers.repair import repair
from clearopt.solvers.warm_start import known_allocation
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.solvers.highs_model import Answer

_FORMULATIONS = ("auto", "piecewise", "multiple-choice")
_FEW_POINTS = 5_000  # amounts of all queries that are better enumerated than approximated
_MOST_POINTS = 2_000_000
_ROUNDS = 100
_LINEAR_ROUNDS = 20  # of the continuous relaxation, before the first integer program
# HiGHS works to tolerances (see `highs_model`): so much is added to its bound, relatively.
_BOUND_MARGIN = 1e-7


class Highs(Backend):
    """HiGHS on a piecewise-linear outer approximation, refined until the gap is closed.

    Own options:
        formulation: "piecewise" (lines and pieces added where they are missing),
            "multiple-choice" (every whole amount a binary variable: exact, whole tokens only), or
            "auto": multiple choice where the amounts are few.
    """

    name = "highs"
    summary = "piecewise-linear MILP, refined until its error is below the tolerance"
    supports = ALL_FEATURES - {"fractional mixed charges", "no upper bound"}
    certifies = "optimum"
    modules = ("highspy",)
    own_options = frozenset({"formulation"})

    def solve(self, program: Program, options: SolveOptions) -> Solution:
        started = time.perf_counter()
        wanted = options.extra.get("formulation", "auto")
        if wanted not in _FORMULATIONS:
            raise DeclarationError(
                f"formulation = {wanted!r}: must be 'auto', 'piecewise' or 'multiple-choice'"
            )
        if is_unbounded_direction(program):
            return make_solution(
                program,
                solver=self.name,
                seconds=time.perf_counter() - started,
                allocation=None,
                unbounded=True,
                message="tokens can be added without end, and each one adds to the objective",
            )
        seen = _in_cost(program)
        deadline = math.inf if options.time_limit is None else started + options.time_limit
        pieces, formulation = _formulated(seen, wanted)
        run = _Run(program, seen, pieces, options, deadline, listener(program, options, started))
        run.offer(program.least)
        run.offer(known_allocation(program, options.warm_start))
        run.refine()
        if run.infeasible:
            reason = infeasibility_message(program, REASONS_TIME_LIMIT)
            run.message = f"{run.message}: {reason}" if reason else run.message
        return make_solution(
            program,
            solver=self.name,
            seconds=time.perf_counter() - started,
            allocation=run.tokens,
            bound=run.bound,
            tolerance=options.tolerance,
            infeasible=run.infeasible,
            message=run.message,
            statistics={
                "formulation": formulation,
                "rounds": run.rounds,
                "pieces": run.pieces.count,
                "lines": int(run.pieces.piece.size),
                "nodes": run.nodes,
                "approximation_error": run.error,
            },
        )


def _in_cost(program: Program) -> InCost:
    lower, upper = implied_bounds(program)
    if np.isinf(upper).any():
        raise UnsupportedProblemError(
            f"query {int(np.argmax(np.isinf(upper)))} has no upper bound, and none follows from "
            "the rows; 'highs' needs one: give Allocation(..., upper=...)"
        )
    return in_cost(program, lower, upper)


def _formulated(seen: InCost, wanted: str) -> tuple[Pieces, str]:
    """The first pieces, and the formulation they are of."""
    count = count_of(seen)
    total = float(count.sum())
    if wanted == "multiple-choice" and not np.isfinite(total):
        raise UnsupportedProblemError(
            f"formulation = 'multiple-choice': query {int(np.argmax(np.isinf(count)))} has "
            "fractional tokens; take Allocation(..., integer=True), or formulation='piecewise'"
        )
    # What is charged both its tokens and its cost curve is not one straight line: enumerated.
    both = np.zeros(seen.program.n, dtype=bool)
    both[seen.program.curve_rows.indices] = True
    both |= seen.program.curve_cost != 0
    chosen = wanted == "multiple-choice" or (wanted == "auto" and total <= _FEW_POINTS)
    enumerated = np.ones_like(both) if chosen else both
    if float(np.where(enumerated, count, 0.0).sum()) > _MOST_POINTS:
        raise UnsupportedProblemError(
            f"{total:.3g} whole amounts in all are too many to enumerate; {_MOST_POINTS} are the "
            "most: lower the upper bounds, or take solver='dual'"
        )
    if chosen:
        return multiple_choice(seen), "multiple-choice"
    return first_pieces(seen, enumerated), "piecewise"


@dataclass
class _Run:
    """The rounds of one solve: the model, the best allocation and the best bound so far."""

    program: Program
    seen: InCost
    pieces: Pieces
    options: SolveOptions
    deadline: float
    heard: Callable[[float, float], None] | None = None
    tokens: FloatArray | None = None
    value: float = -math.inf
    bound: float = math.inf
    error: float = math.nan  # of the last model at its own solution: utility counted too much
    rounds: int = 0
    nodes: int = 0
    infeasible: bool = False
    rounded: bool = False
    message: str = ""

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()

    @property
    def gap(self) -> float:
        return relative_gap(self.value, self.bound)

    def offer(self, tokens: ArrayLike | None) -> None:
        """Take an allocation if it is feasible and better than the best."""
        if tokens is None or np.shape(tokens) != (self.program.n,):
            return
        given = np.asarray(tokens, dtype=np.float64)
        if not check_feasibility(self.program, given).ok:
            return
        value = self.program.objective(given)
        if value > self.value:
            self.tokens, self.value = given, value

    def refine(self) -> None:
        """Linear programs until their lines are found, then integer ones until the gap closes."""
        for whole, most in ((False, _LINEAR_ROUNDS), (True, _ROUNDS)):
            for _ in range(most):
                if self.left <= 0:
                    self.message = "stopped at the time limit"
                    return
                self.rounds += 1
                answer = self._solve(whole)
                if not self._heard(answer) or self.gap <= self.options.tolerance:
                    return
                if answer.amount is None or not self._closer(answer, whole):
                    break
        if self.gap > self.options.tolerance:
            self.message = "the approximation could not be refined further"

    def _solve(self, whole: bool) -> Answer:
        # HiGHS is imported when it solves, not when solvers are listed.
        from clearopt.solvers.highs_model import Model

        model = Model(self.pieces, self.seen.program)
        tolerance = max(0.25 * (self.options.tolerance - _BOUND_MARGIN), 0.0)
        known = None if self.tokens is None else self.seen.amounts(self.tokens)
        return model.solve(
            whole=whole, tolerance=tolerance, time_limit=self.left, seed=self.options.seed,
            verbose=self.options.verbose, known=known,
            listen=None if self.heard is None else self._listen,
        )  # fmt: skip

    def _listen(self, bound: float, size: float, amount: FloatArray | None) -> None:
        """What HiGHS has come to in the middle of a program: told, and not otherwise used."""
        if self.heard is None:
            return
        value = self.value
        if amount is not None:
            tokens = self.seen.tokens(amount)
            if check_feasibility(self.program, tokens).ok:
                value = max(value, self.program.objective(tokens))
        self.heard(value, min(self.bound, self._raised(bound, size)))

    def _raised(self, bound: float, size: float) -> float:
        """HiGHS's bound as one of the program's, with a margin for its tolerances."""
        return self.program.offset + bound + _BOUND_MARGIN * (abs(bound) + size)

    def _heard(self, answer: Answer) -> bool:
        """Take over a bound and an allocation; False where there is nothing to go on with."""
        self.nodes += answer.nodes
        if answer.status == "infeasible":
            self.infeasible = self.tokens is None
            self.message = "HiGHS proved that no allocation satisfies every constraint"
            return False
        if math.isfinite(answer.bound):
            self.bound = min(self.bound, self._raised(answer.bound, answer.size))
        if answer.amount is not None:
            self.error = math.fsum(self._excess(answer)[1])
        if answer.amount is not None and (answer.whole or not self.rounded):
            self.rounded = True  # one linear solution is enough: integer ones follow
            # Two thirds of the time are HiGHS's, whatever a repair may take.
            left = None if math.isinf(self.left) else max(0.3 * self.left, 0.05)
            self.offer(repair(self.program, self.seen.tokens(answer.amount), time_limit=left))
        if self.heard is not None:
            self.heard(self.value, self.bound)
        if answer.status == "time limit":
            self.message = "HiGHS stopped at the time limit"
            return False
        if answer.status != "optimal":
            self.message = f"HiGHS stopped: {answer.status}"
            return False
        return True

    def _closer(self, answer: Answer, whole: bool) -> bool:
        """Add the lines, and cut the pieces, that the solution asks for; False if it asks none."""
        used, amount, claimed = answer.used, answer.piece_amount, answer.piece_utility
        truth, excess = self._excess(answer)
        size = max(abs(self.value) if math.isfinite(self.value) else 0.0, abs(answer.bound), 1e-300)
        loose = excess > 0.05 * max(self.options.tolerance, 1e-9) * size / self.program.n
        # Between two amounts that are to be had the line over both lies above either.
        between = ~self.pieces.is_had(used, amount) if whole else np.zeros_like(loose)
        if not (loose | between).any():
            return False
        self.pieces.split(used[between], amount[between])
        loose &= ~between
        used, amount = used[loose], amount[loose]
        claimed, truth = claimed[loose], truth[loose]
        before = self.pieces.piece.size, self.pieces.count
        self.pieces.touch(used, amount)
        if whole:
            # With its own tangent there, what is left above the curve is the piece's width.
            wide = self.pieces.cap_at(used, amount) - truth > 0.5 * (claimed - truth)
            self.pieces.split(used[wide], amount[wide])
        return (self.pieces.piece.size, self.pieces.count) != before

    def _excess(self, answer: Answer) -> tuple[FloatArray, FloatArray]:
        """Of the pieces used: their true utilities, and what the model counts too much, weighted.

        Queries that only floors count are weighted by these: what they gain is not objective.
        """
        program = self.seen.program
        truth = self.pieces.value(answer.used, answer.piece_amount)
        counts = program.weight + np.asarray(program.floors.sum(axis=0)).ravel()
        share = answer.share * counts[self.pieces.query[answer.used]]
        return truth, np.maximum(share * (answer.piece_utility - truth), 0.0)
