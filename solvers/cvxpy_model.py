"""The relaxation as CVXPY states it: one solve, in units that suit the solver's tolerances."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from clearopt.errors import DeclarationError
from clearopt.program import Program
from clearopt.solvers.base import SolveOptions
from clearopt.solvers.choices import Choices
from clearopt.solvers.cvxpy_cones import Cones
from clearopt.solvers.cvxpy_cuts import Tangents
from clearopt.solvers.relaxation import Envelope
from clearopt.validation import FloatArray

_PREFERRED = ("CLARABEL", "HIGHS")
_TIME_OPTION = {"HIGHS": "time_limit", "CLARABEL": "time_limit", "SCIP": "limits/time"}
_SHORT = 1e-4  # of a query's width: a straight part that is no unit to count tokens in
_SPECK = 1e-8  # of the largest price: an interior point leaves such where nothing binds


def chosen_solver(wanted: object) -> str:
    """CVXPY's name of the solver asked for, of the first of ours where that is None.

    Raises:
        DeclarationError: CVXPY has no such solver installed.
    """
    import cvxpy

    installed = cvxpy.installed_solvers()
    if wanted is None:
        return next((name for name in _PREFERRED if name in installed), installed[0])
    name = str(wanted).upper()
    if name not in installed:
        raise DeclarationError(
            f"cvxpy_solver = {wanted!r}: CVXPY has {', '.join(sorted(installed))} installed"
        )
    return name


@dataclass
class Run:
    """What all the models of one call share."""

    solver: str
    options: SolveOptions
    deadline: float
    cones: bool = True  # cone forms are used where there are any; False once the solver refused
    models: int = 0

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.perf_counter()

    @property
    def limit(self) -> float | None:
        """Seconds, as a time limit for something small; None without one."""
        return max(self.left, 0.01) if math.isfinite(self.left) else None

    def settings(self) -> dict[str, Any]:
        """For `cvxpy.Problem.solve`."""
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


class Point(NamedTuple):
    """What one solve returns, in the units of the program."""

    tokens: FloatArray
    utility: FloatArray
    row_prices: FloatArray
    floor_prices: FloatArray


class Model:
    """The relaxation in units of its own: steps towards the contact, rows of size 1.

    Tokens come in thousands and prices in thousandths; the solvers' tolerances are absolute.

    Attributes:
        exact: (n,) whose envelopes are written as cones; the others need tangents.
    """

    def __init__(self, program: Program, envelope: Envelope, *, cones: bool) -> None:
        self.program, self.envelope = program, envelope
        self._cones = Cones(envelope) if cones else None
        self.exact = np.zeros(program.n, dtype=np.bool_)
        if self._cones is not None:
            self.exact = self._cones.exact
        width = envelope.upper - envelope.lower
        # Where the curve is infinitely steep at first, the straight part is next to nothing.
        ordinary = np.minimum(width, 1e3)
        step = np.where(envelope.reach > _SHORT * ordinary, envelope.reach, ordinary)
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

    def solve(self, cuts: Tangents, run: Run) -> tuple[str, Point | None]:
        """CVXPY's status, and the point if there is one."""
        import cvxpy

        program, n = self.program, self.program.n
        taken = cvxpy.Variable(n, bounds=[np.zeros(n), self.most])
        utility = cvxpy.Variable(n)
        constraints = [self._below(cuts, utility, taken)] if cuts.query.size else []
        if self._cones is not None:
            constraints += self._cones.constraints(cvxpy, utility, taken, self.step)
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
        choices = Choices.of(program.choice)
        if choices is not None:
            # One option of each, relaxed: the shares of their upper bounds add up to one at most.
            share = np.where(self.most > 0, 1.0 / np.where(self.most > 0, self.most, 1.0), 0.0)
            constraints.append(choices.matrix().multiply(share[None, :]).tocsr() @ taken <= 1.0)
        priced = [row for _, row in by_sense.values()]
        floor = self.floors @ utility >= self.level if program.floors.shape[0] else None
        priced += [] if floor is None else [floor]
        model = cvxpy.Problem(
            cvxpy.Maximize(self.weight @ utility - self.cost @ taken), constraints + priced
        )
        run.models += 1
        try:
            with warnings.catch_warnings():  # how good the point is, the dual function tells
                warnings.filterwarnings("ignore", message="Solution may be inaccurate")
                model.solve(**run.settings())
        except cvxpy.error.SolverError as error:
            return str(error), None
        if model.status in ("infeasible", "infeasible_inaccurate"):
            return str(model.status), None
        if taken.value is None or any(row.dual_value is None for row in priced):
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
        return str(model.status), Point(tokens, np.asarray(utility.value), row_prices, floor_prices)

    def _below(self, cuts: Tangents, utility: Any, taken: Any) -> Any:
        """The constraint that utilities lie below their tangents."""
        slope = cuts.slope * self.step[cuts.query]
        position, shape = np.arange(cuts.query.size), (cuts.query.size, self.program.n)
        pick = sparse.csr_array((np.ones(position.size), (position, cuts.query)), shape)
        rise = sparse.csr_array((slope, (position, cuts.query)), shape)
        return pick @ utility - rise @ taken <= cuts.height


def _without_noise(prices: FloatArray) -> FloatArray:
    return np.where(np.abs(prices) > _SPECK * np.abs(prices).max(initial=0.0), prices, 0.0)


def _largest(matrix: sparse.csr_array) -> FloatArray:
    """The largest entry of each row in size, 1 for an empty row."""
    if matrix.shape[0] == 0:
        return np.ones(0)
    largest = abs(matrix).max(axis=1).toarray().ravel()
    return np.where(largest > 0, largest, 1.0)
