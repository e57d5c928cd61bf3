"""Prices of many rows: a primal-dual interior-point method on the dual function.

The dual function D has a kink wherever a query *jumps*, from its lower bound ("off") to its best
amount on the concave part ("on"), which is a closed form of the prices. The relaxation mixes the
two: share p of the jump. With the prices y of rows and floors, the rows' slack s and the
multipliers of 0 <= p <= 1, what is solved are the optimality conditions

    gain on - gain off = zh - zl,   zl p = T,   zh (1 - p) = T      every query that can jump
    used(p, y) + s = right-hand side,   y s = T                     every row and floor

for T falling to 0. Eliminating shares and slacks leaves one symmetric system in the prices,

    H = E diag(p kappa) E' + J diag(w) J' + diag(s / y),

where E is what one more token of a query uses of every row and adds to every floor, J the same for
its whole jump, kappa = -1 / (W U'') its response to its own price, and w the stiffness of its
share: one sparse product over the queries, then a Cholesky or sparse factorisation. Independent
groups of rows, and groups nested under a common budget, factorise without fill-in.

Every evaluation is exact, so every iterate gives a valid bound; the last one's shares meet the
rows, and their value is a lower bound on the least D (Nocedal and Wright 2006, chapters 14, 19).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import splu

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.gram import Pairs
from clearopt.solvers.dual.separable import Effective
from clearopt.solvers.dual.several_rows import SeveralRows
from clearopt.utilities import BestResponse
from clearopt.validation import FloatArray

Matrix: TypeAlias = Any  # a sparse.csr_array, or where small a FloatArray

_DENSE = 400  # prices up to which H is factorised densely
_SMALL = 50_000  # entries up to which a matrix is kept dense: sparse ones take longer to call
_FULL = 0.05  # share of entries from which a product of matrices is quicker densely
_BLOCK = 16_384  # columns of one at a time
_SINGLE_THREAD = 2**18  # multiplications up to which OpenBLAS keeps to one thread
_LEAST_WIDTH = 64  # columns at a time, below which the calls take longer than the products
_BOUNDARY = 0.995  # of the way to the nearest bound
_REACH = 8.0  # a price grows or falls by this factor at most in one step


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of all queries, (n,), and where the concave part of each begins in them."""

    lower: FloatArray
    upper: FloatArray
    bend: FloatArray
    off_utility: FloatArray
    off_curve: FloatArray

    @classmethod
    def of(cls, problem: SeveralRows, lower: FloatArray, upper: FloatArray) -> Box:
        queries = problem.queries
        bend = np.clip(queries.inflection, lower, upper)
        bend = np.minimum(queries.whole_above(bend), upper)
        return cls(lower, upper, bend, queries.utility(lower), queries.curve(lower))

    @property
    def jumping(self) -> NDArray[np.bool_]:
        """(n,) whether a query has an off side at all; the others are concave throughout."""
        return self.bend > self.lower


@dataclass(frozen=True, eq=False)
class Sides:
    """Every query's two sides at some prices, and D there."""

    prices: FloatArray  # (K + J,)
    value: float  # D, up to rounding
    effective: Effective
    on: BestResponse
    edge: FloatArray  # gain on minus gain off


@dataclass(frozen=True, eq=False)
class Interior:
    """Where the method ended."""

    prices: FloatArray  # (K + J,) with the least D
    best: Sides  # at these
    last: Sides
    share: FloatArray  # of each jump at `last`: the mixture that meets the rows
    value: float  # of that mixture
    evaluations: int


class Function:
    """D over one box, and what a change of amounts means to rows, floors and choices.

    Prices are those of K rows and J floors, then one for each of G choices, whose row says that the
    shares of its options add up to 1 at most.
    """

    def __init__(self, problem: SeveralRows, box: Box) -> None:
        self.problem, self.box = problem, box
        queries = problem.queries
        self.counts = (problem.rows.shape[0], problem.floors.shape[0])
        self.level = np.r_[problem.budgets, -problem.levels]
        self.signed = np.r_[~problem.equality, np.ones(problem.levels.size, dtype=bool)]
        self.jumping = box.jumping
        # Each block of rows: matrices, the sign with which they count, and what they multiply.
        blocks: list[list[tuple[Matrix, float, str]]] = []
        if problem.rows.shape[0]:
            blocks.append([(_held(problem.rows), 1.0, "tokens")])
            if queries.grid is not None:
                blocks[0].append((_held(problem.curve_rows), 1.0, "cost"))
        if problem.floors.shape[0]:
            blocks.append([(_held(problem.floors), -1.0, "utility")])
        self.options: Matrix | None = None
        if queries.choice is not None:
            # Where one option must have tokens the others have none: nothing is left to choose.
            open_ = queries.choice.membership & (box.upper > box.lower) & (box.lower == 0)
            self.jumping = self.jumping | open_
            self.options = _held(_scaled(queries.choice.matrix(), open_.astype(np.float64)))
            blocks.append([(self.options, 1.0, "count")])
            self.level = np.r_[self.level, np.ones(self.options.shape[0])]
            self.signed = np.r_[self.signed, np.ones(self.options.shape[0], dtype=bool)]
        self.blocks = blocks
        self.kinds = {kind for block in blocks for _, _, kind in block}
        self._pairs: dict[tuple[int, int], Pairs | None] = {}

    def at(self, prices: FloatArray) -> Sides:
        """One evaluation."""
        problem, box, queries = self.problem, self.box, self.problem.queries
        rows, floors = self.counts
        effective = problem.effective(prices[:rows], prices[rows : rows + floors])
        on = queries.respond(
            effective.price,
            box.bend,
            box.upper,
            effective.weight,
            effective.curve_price,
            alone=True,
            fractions=True,
        )
        off = effective.weight * box.off_utility - effective.price * box.lower
        if queries.grid is not None:
            off = off - effective.curve_price * box.off_curve
        edge = on.gain - off
        if self.options is not None:
            edge = edge - self.options.T @ prices[rows + floors :]
        edge = np.where(self.jumping, edge, 0.0)
        gain = np.where(self.jumping, off + np.maximum(edge, 0.0), on.gain)
        return Sides(prices, float(gain.sum() + prices @ self.level), effective, on, edge)

    def mixture(self, at: Sides, share: FloatArray) -> tuple[FloatArray, float]:
        """What the mixture uses of every row, in the order of the prices, and its value."""
        box, queries = self.box, self.problem.queries
        jump = self.jump(at)
        tokens = box.lower + np.where(
            self.jumping, share * jump["tokens"], at.on.tokens - box.lower
        )
        rise = np.where(self.jumping, share * jump["utility"], at.on.utility - box.off_utility)
        utility = box.off_utility + rise
        change = {"tokens": tokens, "utility": utility, "count": share}
        value = queries.weight @ utility - queries.cost @ tokens
        if queries.grid is not None:
            rise = queries.curve(at.on.tokens) - box.off_curve
            change["cost"] = box.off_curve + share * rise
            value -= queries.curve_cost @ change["cost"]
        return self.uses(change), float(value)

    def curvature(self, at: Sides, share: FloatArray) -> tuple[FloatArray, dict[str, FloatArray]]:
        """(kappa * share, (n,); what one token more is): how amounts answer to their own price."""
        queries, box, tokens = self.problem.queries, self.box, at.on.tokens
        inside = (tokens > box.bend) & (tokens < box.upper) & (at.effective.weight > 0)
        if queries.grid is not None:
            inside[queries.grid.members] = False
        marginal, curvature = queries.slopes(tokens)
        with np.errstate(all="ignore"):
            kappa = -share / (at.effective.weight * curvature)
        kappa = np.where(inside & np.isfinite(kappa) & (kappa > 0), kappa, 0.0)
        nothing = np.zeros(kappa.size)
        marginal = np.where(kappa > 0, marginal, 0.0)
        one = {"tokens": np.ones(kappa.size), "utility": marginal, "cost": nothing}
        return kappa, one | {"count": nothing}

    def jump(self, at: Sides) -> dict[str, FloatArray]:
        """What each whole jump adds, (n,); 0 where a query has none."""
        box, queries = self.box, self.problem.queries
        jump = {
            "tokens": at.on.tokens - box.lower,
            "utility": at.on.utility - box.off_utility,
            "count": np.ones(box.lower.size),
        }
        if queries.grid is not None:
            jump["cost"] = queries.curve(at.on.tokens) - box.off_curve
        if self.jumping.all():
            return jump
        return {kind: np.where(self.jumping, change, 0.0) for kind, change in jump.items()}

    def uses(self, change: dict[str, FloatArray]) -> FloatArray:
        """What changes, (n,) each, use of every row, in the order of the prices."""
        parts = [
            sum((sign * (matrix @ change[kind]) for matrix, sign, kind in block), start=0.0)
            for block in self.blocks
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def charges(self, change: dict[str, FloatArray], prices: FloatArray) -> FloatArray:
        """(n,): what each query's change costs at these prices, the transpose of `uses`."""
        charged, first = np.zeros(self.box.lower.size), 0
        for block in self.blocks:
            part = prices[first : first + block[0][0].shape[0]]
            for matrix, sign, kind in block:
                charged += sign * change[kind] * (matrix.T @ part)
            first += part.size
        return charged

    def gram(
        self,
        kappa: FloatArray,
        one: dict[str, FloatArray],
        weight: FloatArray,
        jump: dict[str, FloatArray],
    ) -> Matrix:
        """E diag(kappa) E' + J diag(weight) J'."""
        dense = self.level.size <= _DENSE
        blocks: list[list[Any]] = [[None] * len(self.blocks) for _ in self.blocks]
        for i, above in enumerate(self.blocks):
            for j, below in enumerate(self.blocks[: i + 1]):
                total: Any = 0.0
                for left, left_sign, a in above:
                    for right, right_sign, b in below:
                        both = weight * jump[a]
                        both *= jump[b]
                        both += kappa if a == b == "tokens" else kappa * one[a] * one[b]
                        both *= left_sign * right_sign
                        pairs = None if dense else self._pairs_of(left, right)
                        if pairs is not None:
                            total = total + pairs(both)
                        else:
                            total = total + self._product(left, both, right, dense=dense)
                blocks[i][j], blocks[j][i] = total, total.T
        return np.block(blocks) if dense else sparse.csr_array(sparse.block_array(blocks))

    def _pairs_of(self, left: Matrix, right: Matrix) -> Pairs | None:
        key = (id(left), id(right))
        if key not in self._pairs:
            self._pairs[key] = Pairs.of(sparse.csr_array(left), sparse.csr_array(right))
        return self._pairs[key]

    @staticmethod
    def _product(left: Matrix, diagonal: FloatArray, right: Matrix, *, dense: bool) -> Matrix:
        """left diag(diagonal) right'."""
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            full = _alone(left, diagonal, right)
            return full if dense else sparse.csr_array(full)
        left, right = sparse.csr_array(left), sparse.csr_array(right)
        if not dense:
            return sparse.csr_array(_scaled(left, diagonal) @ right.T)
        if left.nnz + right.nnz < _FULL * (left.shape[0] + right.shape[0]) * diagonal.size:
            return (_scaled(left, diagonal) @ right.T).toarray()
        total = np.zeros((left.shape[0], right.shape[0]))
        for start in range(0, diagonal.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            a = left[:, part].toarray()
            b = a if right is left else right[:, part].toarray()
            total += (a * diagonal[part]) @ b.T
        return total


def _alone(left: FloatArray, diagonal: FloatArray, right: FloatArray) -> FloatArray:
    """left diag(diagonal) right', a few columns at a time where the rows are few.

    OpenBLAS sets several threads to larger products, which on busy cores wait for each other: a
    product of some milliseconds then takes a second.
    """
    width = _SINGLE_THREAD // (left.shape[0] * right.shape[0])
    if width < _LEAST_WIDTH:
        return np.asarray((left * diagonal) @ right.T)
    total = np.zeros((left.shape[0], right.shape[0]))
    for start in range(0, diagonal.size, width):
        part = slice(start, start + width)
        total += (left[:, part] * diagonal[part]) @ right[:, part].T
    return total


def _held(matrix: sparse.csr_array) -> Matrix:
    """Dense where it is small, or takes no more memory so."""
    size = matrix.shape[0] * matrix.shape[1]
    dense = size <= _SMALL or 1.5 * matrix.nnz >= size
    return np.asarray(matrix.toarray()) if dense else matrix


def _scaled(matrix: sparse.csr_array, columns: FloatArray) -> sparse.csr_array:
    """The matrix times diag(columns), its structure shared."""
    return sparse.csr_array(
        (matrix.data * columns[matrix.indices], matrix.indices, matrix.indptr), matrix.shape
    )


@dataclass(eq=False)
class _Iterate:
    """Prices, the shares of the jumps, and the multipliers and slacks, all strictly inside."""

    prices: FloatArray
    slack: FloatArray
    share: FloatArray
    rest: FloatArray  # 1 - share, kept beside it: the difference would lose its digits
    low: FloatArray
    high: FloatArray

    def complementarity(self, signed: NDArray[np.bool_], jumping: NDArray[np.bool_]) -> float:
        products = self.low * self.share + self.high * self.rest
        return float(products[jumping].sum() + (self.prices * self.slack)[signed].sum())

    def reach(self, step: _Iterate, signed: NDArray[np.bool_], jumping: NDArray[np.bool_]) -> float:
        """How much of a step, 1 at most, keeps everything from crossing 0."""
        fastest = 1.0
        for name in ("share", "rest", "low", "high", "prices", "slack"):
            among = signed if name in ("prices", "slack") else jumping
            falls = getattr(step, name) / getattr(self, name)
            fastest = max(fastest, -float(np.min(falls, where=among, initial=0.0)))
        return 1.0 / fastest

    def moved(self, length: float, step: _Iterate) -> _Iterate:
        names = ("prices", "slack", "share", "rest", "low", "high")
        return _Iterate(*(getattr(self, n) + length * getattr(step, n) for n in names))


def _first(
    function: Function, at: Sides, temperature: float, typical: float
) -> tuple[_Iterate, FloatArray]:
    """Shares by how good each jump looks, everything else to fit; and what the mixture uses."""
    jumping, signed = function.jumping, function.signed
    share = 1.0 / (1.0 + np.exp(-np.clip(at.edge / typical, -3.0, 3.0)))
    share = np.where(jumping, share, 0.5)
    used, _ = function.mixture(at, np.where(jumping, share, 1.0))
    safe = np.where(signed, at.prices, 1.0)
    slack = np.where(signed, np.maximum(function.level - used, temperature / safe), 1.0)
    rest = 1.0 - share
    return _Iterate(at.prices, slack, share, rest, temperature / share, temperature / rest), used


def descend(
    problem: SeveralRows,
    box: Box,
    first: FloatArray,
    *,
    deadline: Deadline = NEVER,
    cutoff: float = -math.inf,
    precision: float = 1e-11,
    limit: int = 120,
) -> Interior:
    """Descend D over the prices' signs.

    Args:
        problem: the program.
        box: the bounds to keep to.
        first: (K + J,) prices to start from.
        deadline: when to end, after two evaluations at least.
        cutoff: stop as soon as D falls below it.
        precision: of D against the mixture's value, relative.
        limit: evaluations at most.
    """
    with np.errstate(all="ignore"):  # what runs out of range ends the descent
        return _descend(problem, box, first, deadline, cutoff, precision, limit)


def _descend(
    problem: SeveralRows,
    box: Box,
    first: FloatArray,
    deadline: Deadline,
    cutoff: float,
    precision: float,
    limit: int,
) -> Interior:
    function = Function(problem, box)
    signed, jumping, known = function.signed, function.jumping, first.size
    prices = np.r_[np.where(np.isfinite(first), first, 0.0), np.zeros(signed.size - known)]
    at = function.at(np.where(signed, np.maximum(prices, 0.0), prices))
    if not signed.size:
        share = np.where(jumping, 1.0 * (at.edge >= 0), 1.0)
        return Interior(first, at, at, share, at.value, 1)
    size = max(abs(at.value), 1e-300)
    # The prices' own units: what the objective is worth per unit of each right-hand side.
    level = np.abs(function.level)
    unit = size / np.maximum(level, 1e-9 * level.max(initial=1e-300))
    at = best = function.at(np.where(signed, np.maximum(at.prices, 1e-3 * unit), at.prices))
    typical = size / max(int((box.upper > box.lower).sum()), 1)
    now, used = _first(function, at, 0.1 * typical, typical)
    share = np.where(jumping, now.share, 1.0)
    used, value = function.mixture(at, share)
    pairs = max(2 * int(jumping.sum()) + int(signed.sum()), 1)
    count, stalled = 2, 0
    while count < limit and not deadline.over:
        size = max(abs(best.value), 1e-300)
        complementarity = now.complementarity(signed, jumping)
        missed = (used - function.level) * now.prices
        missed = np.where(signed, np.maximum(missed, 0.0), np.abs(missed)).sum()
        if best.value < cutoff or stalled >= 6:
            break
        if max(complementarity, float(missed), abs(at.value - value)) <= precision * size:
            break
        newton = _Newton(function, at, now, used, unit, size)
        if newton.failed:
            break
        # Mehrotra: how far a step to T = 0 would come says how low T may be aimed.
        far = now.reach(newton.step(0.0), signed, jumping)
        aim = max((1.0 - far) ** 3, 1e-6) * complementarity / pairs
        step = newton.step(max(aim, 1e-3 * precision * size / pairs))
        length = min(1.0, _BOUNDARY * now.reach(step, signed, jumping))
        growth = np.abs(step.prices) / (_REACH * np.maximum(np.abs(now.prices), 1e-3 * unit))
        length = min(length, 1.0 / max(float(growth.max()), 1e-300))
        there = now.moved(length, step)
        if not (np.isfinite(there.prices).all() and length > 1e-12):
            break
        now, at = there, function.at(there.prices)
        share = np.where(jumping, now.share, 1.0)
        used, value = function.mixture(at, share)
        count += 1
        if at.value < best.value:
            stalled = 0 if best.value - at.value > 1e-14 * size else stalled + 1
            best = at
        elif length > 0.5 and complementarity < 1e-6 * size:
            stalled += 1
    return Interior(best.prices[:known], best, at, share, value, count)


class _Newton:
    """The linear system at an iterate, factorised once for both of its right-hand sides."""

    def __init__(
        self,
        function: Function,
        at: Sides,
        now: _Iterate,
        used: FloatArray,
        unit: FloatArray,
        size: float,
    ) -> None:
        self.function, self.at, self.now, self.used = function, at, now, used
        jumping, signed = function.jumping, function.signed
        self.jump = function.jump(at)
        kappa, one = function.curvature(at, np.where(jumping, now.share, 1.0))
        stiffness = now.low / now.share + now.high / now.rest
        self.weight = np.where(jumping, 1.0 / stiffness, 0.0)
        self.barrier = np.where(signed, now.slack / now.prices, 0.0)
        self.system = _System(
            function.gram(kappa, one, self.weight, self.jump), self.barrier, unit, size
        )

    @property
    def failed(self) -> bool:
        return self.system.failed

    def step(self, target: float) -> _Iterate:
        """The step towards products `target` of all pairs."""
        function, now, signed = self.function, self.now, self.function.signed
        push = self.weight * (self.at.edge + target / now.share - target / now.rest)
        aimed = np.where(signed, target / now.prices, 0.0)
        right = aimed - (function.level - self.used)
        right = right + function.uses({kind: self.jump[kind] * push for kind in function.kinds})
        prices = self.system.solve(right)
        share = push - self.weight * function.charges(self.jump, prices)
        return _Iterate(
            prices,
            np.where(signed, aimed - now.slack - self.barrier * prices, 0.0),
            share,
            -share,
            target / now.share - now.low - now.low / now.share * share,
            target / now.rest - now.high + now.high / now.rest * share,
        )


class _System:
    """H, factorised."""

    def __init__(
        self,
        matrix: Matrix,
        barrier: FloatArray,
        unit: FloatArray,
        size: float,
    ) -> None:
        self.unit, self.size = unit, size
        self.factor: Any = None
        diagonal = (matrix.diagonal() + barrier) * unit * unit / size
        ridge = barrier * unit * unit / size + 1e-13 * (diagonal + 1.0)
        self.dense = isinstance(matrix, np.ndarray)
        self.failed = not (np.isfinite(diagonal).all() and np.isfinite(ridge).all())
        if self.failed:
            return
        if isinstance(matrix, np.ndarray):
            full = matrix * (unit[:, None] * unit[None, :] / size)
            full[np.diag_indices(unit.size)] += ridge
            self.factor = _cholesky(full)
        else:
            scaler = sparse.dia_array((unit[None, :], [0]), shape=matrix.shape)
            scaled = sparse.csc_array(scaler @ matrix @ scaler) / size
            scaled = scaled + sparse.dia_array((ridge[None, :], [0]), shape=scaled.shape)
            # COLAMD sets rows that couple everybody aside; minimum degree orders them for ages.
            self.factor = splu(
                sparse.csc_matrix(scaled), permc_spec="COLAMD", diag_pivot_thresh=1e-3
            )

    def solve(self, right: FloatArray) -> FloatArray:
        scaled = right * self.unit / self.size
        if self.dense:
            found = linalg.cho_solve(self.factor, scaled, check_finite=False)
        else:
            found = self.factor.solve(scaled)
        return found * self.unit


def _cholesky(matrix: FloatArray) -> tuple[FloatArray, bool]:
    """Cholesky, with as much added to the diagonal as it takes."""
    added = 0.0
    while True:
        try:
            shifted = matrix + added * np.eye(matrix.shape[0]) if added else matrix
            return linalg.cho_factor(shifted, lower=True, check_finite=False)
        except linalg.LinAlgError:
            added = max(added * 100.0, 1e-13 * float(np.trace(matrix)) + 1e-300)
