"""The mixed-integer linear program over pieces, as HiGHS gets it.

Per piece: whether it is chosen, z, and how far into it the amount lies, y; the amount is
first * z + (last - first) * y with y <= z. This is the convex hull of "one of the pieces", so the
continuous relaxation is as strong as a model with these lines can be. Utilities are in units of
their query's peak and rows in units of their own size: HiGHS's tolerances are absolute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.program import Program
from clearopt.solvers.choices import Choices
from clearopt.solvers.pieces import Pieces
from clearopt.validation import FloatArray

_FEASIBILITY = 1e-9
_ALL = 1e-6  # shares this close to 1 are all of it
_CHOSEN = 1e-7  # shares below this are none

Indices = NDArray[np.intp]
Listener = Callable[[float, float, FloatArray | None], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """What HiGHS says of one model.

    Attributes:
        status: "optimal", "infeasible", "time limit", or HiGHS's own word.
        bound: an upper bound on the model's optimum, without the program's offset.
        whole: whether one piece a query is chosen.
        nodes: of its branch and bound.
        size: what the objective's terms may come to, the scale of HiGHS's errors.
        amount: (n,) amounts of its solution, or None.
        used, share, piece_amount, piece_utility: (m,) the pieces used, to what share, the amount
            in each and the utility the model counts there.
    """

    status: str
    bound: float
    whole: bool
    nodes: int
    size: float
    amount: FloatArray | None
    used: Indices
    share: FloatArray
    piece_amount: FloatArray
    piece_utility: FloatArray


class Model:
    """One linear program, built from arrays."""

    def __init__(self, pieces: Pieces, program: Program) -> None:
        self.pieces, self.program = pieces, program
        n, p = program.n, pieces.count
        point, query = pieces.is_point, pieces.query
        self.wide = np.flatnonzero(~point)
        width = pieces.last - pieces.first
        counts = (program.weight > 0) | (np.asarray(program.floors.sum(axis=0)).ravel() > 0)
        # Columns: z of every piece, then y of the wide ones, then v of the wide ones that count.
        self.valued = np.flatnonzero(~point & counts[query])
        self.y = np.full(p, -1, dtype=np.intp)
        self.y[self.wide] = p + np.arange(self.wide.size)
        self.v = np.full(p, -1, dtype=np.intp)
        self.v[self.valued] = p + self.wide.size + np.arange(self.valued.size)
        # And the amounts that are whole numbers.
        ranged = np.unique(query[self.wide])
        self.counted = ranged[_counts_whole(program)[ranged]]
        self.columns = p + self.wide.size + self.valued.size + self.counted.size
        # The lowest cap of a piece's own lines at its ends says how much it may be worth.
        top = np.maximum(pieces.cap(pieces.first), pieces.cap(pieces.last))
        peak = np.zeros(n)
        np.maximum.at(peak, query, np.where(np.isfinite(top), top, 0.0))
        self.unit = np.where(peak > 0, peak, 1.0)
        amounts = self._matrix(
            np.r_[query, query[self.wide]],
            np.r_[np.arange(p), self.y[self.wide]],
            np.r_[pieces.first, width[self.wide]],
        )
        known = np.flatnonzero(point)
        utilities = self._matrix(
            np.r_[query[known], query[self.valued]],
            np.r_[known, self.v[self.valued]],
            np.r_[pieces.cap(pieces.first)[known], self.unit[query[self.valued]]],
        )
        self.amounts, self.utilities = amounts, utilities
        costs = self._curve_costs(point, query)
        gain = program.weight @ utilities - program.cost @ amounts - program.curve_cost @ costs
        self.size = max(float(np.abs(gain).max(initial=0.0)), 1e-300)
        self.gain = gain / self.size
        self._rows(amounts, utilities, costs)

    def _matrix(self, query: Indices, column: Indices, value: FloatArray) -> sparse.csr_array:
        return sparse.csr_array((value, (query, column)), (self.program.n, self.columns))

    def _curve_costs(self, point: NDArray[np.bool_], query: Indices) -> sparse.csr_array:
        """C_i at the amounts of point pieces; queries charged a curve have no others."""
        known = np.flatnonzero(point)
        cost = np.zeros(known.size)
        member = np.full(self.program.n, -1, dtype=np.intp)
        for block in self.program.curves:
            member[:] = -1
            member[block.index] = np.arange(block.index.size)
            here = np.flatnonzero(member[query[known]] >= 0)
            if here.size:
                curve = block.family.take(member[query[known[here]]])
                cost[here] = curve.value(self.pieces.first[known[here]])
        return self._matrix(query[known], known, cost)

    def _rows(
        self, amounts: sparse.csr_array, utilities: sparse.csr_array, costs: sparse.csr_array
    ) -> None:
        program, pieces, infinity = self.program, self.pieces, highspy.kHighsInf
        p, query = pieces.count, pieces.query
        once = self._matrix(query, np.arange(p), np.ones(p))
        body = sparse.csr_array(program.rows @ amounts + program.curve_rows @ costs)
        sense, level = program.sense_array, program.right_hand_side
        bottom = np.where(sense == "<=", -infinity, level)
        top = np.where(sense == ">=", infinity, level)
        parts = [(once, np.ones(program.n), np.ones(program.n)), (body, bottom, top)]
        floors = sparse.csr_array(program.floors @ utilities)
        parts.append((floors, program.floor_levels, np.full(program.floor_levels.size, infinity)))
        choices = Choices.of(program.choice)
        if choices is not None:
            some = np.flatnonzero(pieces.last > 0)
            taken = self._matrix(query[some], some, np.ones(some.size))
            picked = sparse.csr_array(choices.matrix() @ taken)
            none = np.full(picked.shape[0], -infinity)
            parts.append((picked, none, np.ones(picked.shape[0])))
        within = sparse.csr_array(
            (
                np.r_[np.ones(self.wide.size), np.full(self.wide.size, -1.0)],
                (np.tile(np.arange(self.wide.size), 2), np.r_[self.y[self.wide], self.wide]),
            ),
            (self.wide.size, self.columns),
        )
        parts.append((within, np.full(self.wide.size, -infinity), np.zeros(self.wide.size)))
        parts.append(self._lines())
        own = sparse.csr_array(
            (
                np.ones(self.counted.size),
                (np.arange(self.counted.size), self.columns - self.counted.size
                 + np.arange(self.counted.size)),
            ),
            (self.counted.size, self.columns),
        )  # fmt: skip
        nothing = np.zeros(self.counted.size)
        parts.append((sparse.csr_array(own - amounts[self.counted]), nothing, nothing))
        scaled = [self._sized(*part) for part in parts[1:3]]
        parts[1:3] = scaled
        matrix = sparse.csr_array(sparse.vstack([part[0] for part in parts]))
        matrix.eliminate_zeros()
        self.matrix = matrix
        self.row_lower = np.concatenate([part[1] for part in parts])
        self.row_upper = np.concatenate([part[2] for part in parts])

    def _sized(
        self, body: sparse.csr_array, bottom: FloatArray, top: FloatArray
    ) -> tuple[sparse.csr_array, FloatArray, FloatArray]:
        """Rows divided by their largest entry."""
        if not body.shape[0]:
            return body, bottom, top
        size = np.asarray(abs(body).max(axis=1).toarray()).ravel()
        size = np.where(size > 0, size, 1.0)
        return sparse.csr_array(body.multiply((1.0 / size)[:, None])), bottom / size, top / size

    def _lines(self) -> tuple[sparse.csr_array, FloatArray, FloatArray]:
        """v - (height + slope first) z - slope width y <= 0, in units of the peak."""
        pieces = self.pieces
        here = np.flatnonzero(self.v[pieces.piece] >= 0)
        piece, slope, height = pieces.piece[here], pieces.slope[here], pieces.height[here]
        unit = self.unit[pieces.query[piece]]
        at_first = (height + slope * pieces.first[piece]) / unit
        along = slope * (pieces.last - pieces.first)[piece] / unit
        row = np.arange(here.size)
        matrix = sparse.csr_array(
            (
                np.r_[np.ones(here.size), -at_first, -along],
                (np.tile(row, 3), np.r_[self.v[piece], piece, self.y[piece]]),
            ),
            (here.size, self.columns),
        )
        return matrix, np.full(here.size, -highspy.kHighsInf), np.zeros(here.size)

    # ------------------------------------------------------------------ solving
    def solve(
        self,
        *,
        whole: bool,
        tolerance: float,
        time_limit: float,
        seed: int,
        verbose: bool,
        known: FloatArray | None,
        listen: Listener | None = None,
    ) -> Answer:
        """Solve it, or its continuous relaxation.

        Args:
            whole: whether one piece a query must be chosen.
            tolerance: relative gap at which branch and bound may stop.
            time_limit: seconds, may be infinite.
            seed: of its random choices.
            verbose: whether HiGHS writes its log.
            known: (n,) amounts of a feasible allocation, to start from.
            listen: called during branch and bound with the bound, the size of the objective, and
                the amounts (n,) of a new best solution or None.
        """
        model = quiet()
        model.setOptionValue("output_flag", verbose)
        for option, value in (
            ("mip_rel_gap", tolerance),
            ("mip_abs_gap", 0.0),
            ("random_seed", seed % 2**31),
            ("primal_feasibility_tolerance", _FEASIBILITY),
            ("dual_feasibility_tolerance", _FEASIBILITY),
            ("mip_feasibility_tolerance", _FEASIBILITY),
        ):
            model.setOptionValue(option, value)
        if math.isfinite(time_limit):
            model.setOptionValue("time_limit", max(time_limit, 0.01))
        model.passModel(self._linear_program(whole))
        if whole and known is not None:
            self._start(model, known)
        if whole and listen is not None:
            self._tell(model, listen)
        model.run()
        if whole and known is not None and not self._is_consistent(model):
            # Seen in HiGHS 1.16: the start's own columns beside a better objective.
            left = time_limit - model.getRunTime()
            return self.solve(whole=whole, tolerance=tolerance, time_limit=left, seed=seed,
                              verbose=verbose, known=None, listen=listen)  # fmt: skip
        return self._answer(model, whole)

    def _tell(self, model: highspy.Highs, listen: Listener) -> None:
        """Have HiGHS call `listen` at its log lines and at better solutions."""

        def called(kind: Any, message: str, data: Any, back: Any, user: Any) -> None:
            bound = -float(data.mip_dual_bound) * self.size
            if not math.isfinite(bound) or abs(bound) >= 1e29 * self.size:
                return
            value = np.asarray(data.mip_solution, dtype=np.float64)
            new = int(kind) == int(_IMPROVED) and value.shape == (self.columns,)
            amount = self._read(np.maximum(value, 0.0))[0] if new else None
            # Of a bound alone, the margin is taken of its own size.
            listen(bound, abs(bound), amount)

        model.setCallback(called, None)
        for kind in (_IMPROVED, highspy.cb.kCallbackMipLogging):
            model.startCallback(kind)

    def _is_consistent(self, model: highspy.Highs) -> bool:
        """Whether the solution returned is worth what HiGHS says it is."""
        value = np.asarray(model.getSolution().col_value)
        if model.getInfo().primal_solution_status != 2 or value.size != self.columns:
            return True
        said = -float(model.getInfo().objective_function_value)
        return abs(said - float(self.gain @ value)) <= 1e-7 * (1.0 + abs(said))

    def _linear_program(self, whole: bool) -> highspy.HighsLp:
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = self.columns, self.matrix.shape[0]
        program.col_cost_ = -self.gain
        program.col_lower_ = np.zeros(self.columns)
        upper = np.ones(self.columns)
        upper[self.v[self.valued]] = highspy.kHighsInf
        upper[self.columns - self.counted.size :] = highspy.kHighsInf
        program.col_upper_ = upper
        program.row_lower_, program.row_upper_ = self.row_lower, self.row_upper
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = self.matrix.indptr.astype(np.int32)
        program.a_matrix_.index_ = self.matrix.indices.astype(np.int32)
        program.a_matrix_.value_ = self.matrix.data
        # With one piece a query nothing is left to choose.
        alone = np.bincount(self.pieces.query, minlength=self.program.n)[self.pieces.query] == 1
        if whole and (self.counted.size or not alone.all()):
            kind = [highspy.HighsVarType.kContinuous] * self.columns
            for column in np.flatnonzero(~alone).tolist():
                kind[column] = highspy.HighsVarType.kInteger
            for column in range(self.columns - self.counted.size, self.columns):
                kind[column] = highspy.HighsVarType.kInteger
            program.integrality_ = kind
        return program

    def _start(self, model: highspy.Highs, known: FloatArray) -> None:
        """The pieces that hold a known allocation, and where in them it lies."""
        pieces = self.pieces
        inside = (known[pieces.query] >= pieces.first) & (known[pieces.query] <= pieces.last)
        held = np.flatnonzero(inside)
        query, first = np.unique(pieces.query[held], return_index=True)
        if query.size < self.program.n:
            return
        held = held[first]
        value = np.zeros(self.columns)
        value[held] = 1.0
        width = (pieces.last - pieces.first)[held]
        into = (known[query] - pieces.first[held]) / np.where(width > 0, width, 1.0)
        wide = self.y[held] >= 0
        value[self.y[held][wide]] = np.clip(into[wide], 0.0, 1.0)
        value[self.columns - self.counted.size :] = known[self.counted]
        valued = self.v[held] >= 0
        worth = pieces.value(held, known[query]) / self.unit[query]
        value[self.v[held][valued]] = worth[valued]
        solution = highspy.HighsSolution()
        solution.col_value = value.tolist()
        model.setSolution(solution)

    def _answer(self, model: highspy.Highs, whole: bool) -> Answer:
        status = _STATUS.get(model.getModelStatus())
        word = status or model.modelStatusToString(model.getModelStatus()).lower()
        info = model.getInfo()
        mip = bool(model.getLp().integrality_)
        value = np.asarray(model.getSolution().col_value)
        found = info.primal_solution_status == 2 and value.size == self.columns
        if mip:
            bound = -float(info.mip_dual_bound) * self.size
        else:
            optimal = status == "optimal"
            bound = -float(info.objective_function_value) * self.size if optimal else math.inf
        if not math.isfinite(bound) or abs(bound) >= 1e29 * self.size:
            bound = math.inf
        said = _Said(word, bound, whole, max(int(info.mip_node_count), 0) if mip else 0)
        if not found:
            nothing = np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0)
            return Answer(*said, self.size, None, *nothing)
        size = float(np.abs(self.gain * value).sum()) * self.size
        amount, used, *rest = self._read(np.maximum(value, 0.0))
        return Answer(*said, size, amount, used, *rest)

    def _read(
        self, value: FloatArray
    ) -> tuple[FloatArray, Indices, FloatArray, FloatArray, FloatArray]:
        """(amount of every query; the pieces used, their shares, amounts and utilities)."""
        pieces = self.pieces
        share = value[: pieces.count]
        used = np.flatnonzero(share > _CHOSEN)
        part, width = share[used], (pieces.last - pieces.first)[used]
        wide = self.y[used] >= 0
        into = np.zeros(used.size)
        into[wide] = np.clip(value[self.y[used][wide]] / part[wide], 0.0, 1.0)
        at = np.clip(pieces.first[used] + width * into, pieces.first[used], pieces.last[used])
        claimed = pieces.cap(pieces.first)[used]
        valued = self.v[used] >= 0
        unit = self.unit[pieces.query[used]]
        claimed[valued] = value[self.v[used][valued]] * unit[valued] / part[valued]
        amount = np.asarray(self.amounts @ value)
        # A piece that is chosen is chosen altogether: no rounding of shares is left in an amount.
        alone = np.abs(part - 1.0) <= _ALL
        amount[pieces.query[used[alone]]] = at[alone]
        return amount, used, part, at, claimed


class _Said(NamedTuple):
    """The first fields of an `Answer`."""

    status: str
    bound: float
    whole: bool
    nodes: int


def _counts_whole(program: Program) -> NDArray[np.bool_]:
    """(n,) whose amounts are whole numbers: of tokens, not of what these cost."""
    counts = program.integer.copy()
    for block in program.utilities:
        counts[block.index] &= block.family.counts_tokens
    return counts


_IMPROVED = highspy.cb.kCallbackMipImprovingSolution
_STATUS = {
    highspy.HighsModelStatus.kOptimal: "optimal",
    highspy.HighsModelStatus.kInfeasible: "infeasible",
    highspy.HighsModelStatus.kUnboundedOrInfeasible: "infeasible",
    highspy.HighsModelStatus.kTimeLimit: "time limit",
}


def quiet() -> highspy.Highs:
    """HiGHS without its banner, which the usual constructor prints before it can be silenced."""

    class Quiet(highspy.Highs):  # type: ignore[misc]  # comes without types
        def __init__(self) -> None:
            super(highspy.Highs, self).__init__()
            self.setOptionValue("output_flag", False)

    return Quiet()
