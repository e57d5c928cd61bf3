"""One large program under many budgets: the price as a function of the budget, then a pass each.

The demand at some prices (*anchors*) also says who buys at which of them; as dearer prices only
lose buyers, the queries are put into the order in which they give up. What demand jumps by when
they do follows from the prices at which they break even; the rest of it is smooth, and a cubic
spline in the log of the price takes it from one anchor to the next. So the price of any budget is
known to about one jump before anybody is asked, and one pass at it yields an allocation, whose last
missing or surplus tokens are spread over the funded, and the bound

    D(p) = sum_i max_b [w_i U_i(b) - (c_i + p a_i) b] + p r,

valid at whatever price it is taken, rounded upwards as in `large`. Half a jump is some 1/n of the
budget, and both the allocation and the bound lose its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from clearopt.assemble import make_solution
from clearopt.certificate import relative_gap
from clearopt.deadline import NEVER, Deadline
from clearopt.program import Program
from clearopt.solution import Solution
from clearopt.solvers.dual.blocks import ArraySource, Columns, Group, compact
from clearopt.solvers.dual.kernels import SUM_ERROR
from clearopt.solvers.dual.large_plan import OutOfTime
from clearopt.solvers.dual.large_program import budget_of, coefficient_of
from clearopt.solvers.dual.path_between import Between, Lane
from clearopt.solvers.dual.path_kernels import (
    CHUNK,
    Ready,
    compiled_answer,
    compiled_entry,
    compiled_past,
    idle_sums,
    make_ready,
)
from clearopt.solvers.dual.presolve import presolve
from clearopt.sweep_check import Checked, SweepCheck
from clearopt.validation import FloatArray

PATH_FROM = 12  # budgets
FINEST_TOLERANCE = 1e-9  # below it every budget is searched for
_ANCHORS = 48  # prices at most at which everybody is asked beforehand
_TRIES = 3  # passes for one budget
_FINE = 5e-8  # estimated gap up to which a first pass is good enough
_GOOD = 2.5e-7  # gap up to which an interpolation is: at thousands of queries jumps leave that
_WALK = 64  # queries that change sides to make up for what whole tokens were not foreseen to do
_STRETCH = 0.05  # of their amounts past the inflection: how far the funded are moved
_HELD = 2**23  # numbers that may be held for all anchors
_KEEP = 1e-13  # of the budget: kept back, as sums are only known to rounding
_SHORT = 1e-12  # of the budget: what may be left unspent by fractions of tokens


class NoPath(Exception):
    """The demand is not what a path can follow; every budget has to be searched for."""


@dataclass(eq=False)
class _Stretch:
    """The queries of one family, in the order in which dearer prices lose them."""

    kind: Any
    columns: Columns  # (m,) in that order
    index: NDArray[np.intp]  # where they stand in the program
    ready: Ready
    device: Any
    idle: FloatArray  # (3, chunks + 1), see `idle_sums`
    first: FloatArray = field(default_factory=lambda: np.zeros(0))  # tokens of a first purchase
    keys: FloatArray = field(default_factory=lambda: np.zeros(0))  # the price of it, falling
    held: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))  # buyers

    @classmethod
    def of(cls, kind: Any, columns: Columns, index: NDArray[np.intp]) -> _Stretch:
        import jax

        ready = make_ready(Group(kind, columns))
        with jax.enable_x64(True):
            device = ready.map(jax.device_put)
        return cls(kind, columns, index, ready, device, idle_sums(ready))

    @property
    def size(self) -> int:
        return int(self.index.size)

    @property
    def jumps(self) -> FloatArray:
        """(m,) what the row is charged more for a first purchase."""
        return self.columns.coefficient * (self.first - self.ready.least[: self.size])

    def ask(self, price: float, chunks: int, *, past: bool = False) -> Any:
        """The answer to a price, on its way: it is waited for where it is read."""
        import jax

        with jax.enable_x64(True):
            return compiled_answer(self.kind, past)(self.device, price, chunks)

    @property
    def chunks(self) -> int:
        return self.idle.shape[1] - 1

    def past(self, price: float) -> FloatArray:
        """(m,) what each would buy on its concave part, whether or not it buys at that price."""
        import jax

        with jax.enable_x64(True):
            return np.asarray(compiled_past(self.kind)(self.device, price))[: self.size]


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one pass found, stretch by stretch, and in all."""

    price: float
    tokens: list[FloatArray]  # of those asked, padded
    bargains: list[FloatArray | None]  # what their next whole tokens add, per charge
    gain: float
    size: float
    charge: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known of one budget."""

    checked: Checked
    bound: float  # the program's offset included
    price: float
    passes: int


class PricePath:
    """The allocations of a plain program under many budgets, one pass each.

    Args:
        programs: plain and with a row, the same but for its right-hand side.
        tolerance: the relative gap that is asked for.
        deadline: when what is done beforehand has to end.
        tell: called before every pass beforehand with a word for what it does.

    Raises:
        NoPath: the demand cannot be followed.
        OutOfTime: the deadline has passed.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        tolerance: float,
        deadline: Deadline = NEVER,
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        program = programs[0]
        self.program, self.tolerance = program, tolerance
        self.deadline, self.tell = deadline, tell
        coefficient = compact(coefficient_of(program))
        self.budgets = np.array([budget_of(p, coefficient) for p in programs])
        source = ArraySource(program, coefficient)
        self._whole = bool(program.integer.any())
        exact = program.integer.all() and bool((coefficient == np.round(coefficient)).all())
        self._keep = 0.0 if exact else _KEEP  # whole numbers add up without rounding
        self._sample = source.sample(2**11)
        smooth = not self._whole
        self._stretches = []
        for part in source.parts:
            everybody = np.arange(part.size)
            index = part.index_of(0, part.size)
            index = np.arange(index.start, index.stop) if isinstance(index, slice) else index
            columns = part.columns(everybody).full(part.size)
            smooth &= part.kind.from_parameters(*columns.parameters).smooth
            self._stretches.append(_Stretch.of(part.kind, columns, index))
        self._prices, self._demands = np.zeros(0), np.zeros(0)  # of the anchors, prices rising
        # What everybody would buy on its concave part at the anchors, where memory has room for it.
        self._smooth_kinds = smooth
        self._known: dict[float, list[FloatArray]] | None = (
            {} if smooth and program.n * _ANCHORS <= _HELD else None
        )
        self._free = self._sum(0.0, self._launch(0.0)).charge
        self._set_anchors()
        self._sort()
        self.prices = self._prices_of(self.budgets)
        self._between = self._interpolation()
        self._ample: _Pass | None = None  # everybody's purchases where tokens cost nothing
        self._check = SweepCheck(program, self._orders())

    # ------------------------------------------------------------------ passes
    def _launch(self, price: float) -> list[tuple[_Stretch, int, Any]]:
        """Ask all who may buy at a price."""
        below = int(np.searchsorted(self._prices, price, side="right")) - 1
        asked = []
        for stretch in self._stretches:
            chunks = stretch.chunks
            if below >= 0 and stretch.held.size:
                chunks = -(-int(stretch.held[below]) // CHUNK)
            asked.append((stretch, chunks, stretch.ask(price, chunks)))
        return asked

    def _sum(self, price: float, asked: list[tuple[_Stretch, int, Any]]) -> _Pass:
        tokens, bargains, totals = [], [], np.zeros((3, 0))
        for stretch, chunks, (found, sums, bargain) in asked:
            tokens.append(np.asarray(found)[: chunks * CHUNK])
            bargains.append(None if bargain is None else np.asarray(bargain)[: chunks * CHUNK])
            worth, size, charge = stretch.idle[:, chunks]
            rest = [[worth - price * charge], [size + price * charge], [charge]]
            totals = np.hstack([totals, np.asarray(sums), rest])
        gain, size, charge = (math.fsum(row) for row in totals.tolist())
        return _Pass(price, tokens, bargains, gain, size, charge)

    # ------------------------------------------------------------------ beforehand
    def _set_anchors(self) -> None:
        """Ask everybody at prices between those of the least and the largest budget.

        Between neighbours that have many budgets between them, and lie far apart, comes another.
        """
        scarce = self.budgets[(self.budgets > 0) & (self.budgets < self._free)]
        if not scarce.size:
            raise NoPath
        ends = [presolve(self._sample, float(b), None)[0] for b in (scarce.max(), scarce.min())]
        buyers = [np.zeros(s.size, dtype=np.intp) for s in self._stretches]
        found: list[tuple[float, float, list[int]]] = []

        def ask(price: float) -> float:
            if self.deadline.over:
                raise OutOfTime(self.deadline.reason)
            self.tell(f"demand at price {price:.6g}")
            known = self._known is not None
            asked = [(s, s.chunks, s.ask(price, s.chunks, past=known)) for s in self._stretches]
            seen = self._sum(price, asked)
            if self._known is not None:
                self._known[price] = [
                    past[: stretch.size]
                    for stretch, past in zip(self._stretches, seen.bargains, strict=True)
                    if past is not None
                ]
            counts = []
            for stretch, tokens, count in zip(self._stretches, seen.tokens, buyers, strict=True):
                ready, m = stretch.ready, stretch.size
                buys = (tokens > ready.least) | (ready.low <= ready.least)
                count += buys[:m]
                counts.append(int(np.count_nonzero(buys[:m])))
            found.append((price, seen.charge, counts))
            found.sort(key=lambda anchor: anchor[0])
            return seen.charge

        margin = 1.05
        for _ in range(8):
            ends[1] *= margin
            if ask(ends[1]) <= scarce.min():
                break
            margin *= margin
        margin = 1.05
        for _ in range(8):
            ends[0] /= margin
            if ask(ends[0]) >= scarce.max():
                break
            margin *= margin
        wanted = min(max(scarce.size // 2, 8), _ANCHORS)
        while len(found) < wanted:
            price = np.log([anchor[0] for anchor in found])
            demand = np.array([anchor[1] for anchor in found])
            ordered = np.sort(scarce)
            between = np.searchsorted(ordered, demand[:-1]) - np.searchsorted(ordered, demand[1:])
            widest = int(np.argmax((between + 0.1) * np.diff(price) ** 2))
            if not price[widest + 1] - price[widest] > 1e-9:
                break
            ask(math.exp(0.5 * (price[widest] + price[widest + 1])))
        self._prices = np.array([anchor[0] for anchor in found])
        self._demands = np.array([anchor[1] for anchor in found])
        if np.any(np.diff(self._prices) <= 0):
            raise NoPath
        self._buyers = buyers
        for k, count in enumerate(buyers):
            held = np.array([anchor[2][k] for anchor in found], dtype=np.intp)
            # Nobody buys at a dear price who does not at a cheaper one: else there is no order.
            of_count = np.bincount(count, minlength=held.size + 1)
            if not np.array_equal(np.cumsum(of_count[::-1])[::-1][1:], held):
                raise NoPath
            self._stretches[k].held = held

    def _sort(self) -> None:
        """Put those who buy at the dearest prices first, and learn what demand jumps by."""
        self._stretches, before = [], self._stretches
        for number, (stretch, count) in enumerate(zip(before, self._buyers, strict=True)):
            key, first = _first_purchases(stretch, count, self._prices)
            order = np.lexsort((-key, -count))
            moved = _Stretch.of(stretch.kind, stretch.columns.take(order), stretch.index[order])
            for tokens in (self._known or {}).values():
                tokens[number] = tokens[number][order]
            moved.keys, moved.first, moved.held = key[order], first[order], stretch.held
            self._stretches.append(moved)
        keys = np.concatenate([s.keys for s in self._stretches])
        jumps = np.concatenate([s.jumps for s in self._stretches])
        self._order = np.argsort(-keys, kind="stable")
        self._keys, self._jumps = -keys[self._order], jumps[self._order]
        self._jumped = np.r_[0.0, np.cumsum(self._jumps)]
        self._starts = np.cumsum([0, *(s.size for s in self._stretches)])
        smooth = self._demands - self._jumps_at(self._prices)
        self._smooth = CubicSpline(np.log(self._prices), smooth)

    def _jumps_at(self, price: FloatArray) -> FloatArray:
        """What the first purchases of all who buy at a price are charged."""
        return self._jumped[np.searchsorted(self._keys, -price, side="right")]

    def _predicted(self, log_price: FloatArray) -> FloatArray:
        return self._jumps_at(np.exp(log_price)) + self._smooth(log_price)

    def _prices_of(self, budgets: FloatArray) -> FloatArray:
        """The prices at which demand should be nearest to the budgets, (m,); 0 where ample."""
        low = np.full(budgets.shape, math.log(self._prices[0]))
        high = np.full(budgets.shape, math.log(self._prices[-1]))
        for _ in range(70):
            middle = 0.5 * (low + high)
            fits = self._predicted(middle) <= budgets
            low, high = np.where(fits, low, middle), np.where(fits, middle, high)
        # A jump lies between the two: the nearer side of it, where its rounding does not reach.
        low, high = low - 1e-10, high + 1e-10
        over, under = self._predicted(low) - budgets, budgets - self._predicted(high)
        nearer = np.where((over < under) & (not self._whole), low, high)
        return np.where(budgets >= self._free, 0.0, np.exp(nearer))

    def _interpolation(self) -> Between | None:
        """Best responses between the anchors; None where they are no smooth function of prices."""
        steps = np.diff(self.prices[self.prices > 0])
        rising = (steps <= 0).all() or (steps >= 0).all()
        if not self._smooth_kinds or (self._known is None and not rising):
            return None  # or else they would be worked out again and again
        lanes = [
            Lane(s.kind.from_parameters(*s.columns.parameters), s.ready, s.keys, s.idle, s.past)
            for s in self._stretches
        ]
        held = [stretch.held for stretch in self._stretches]
        return Between(lanes, self._prices, held, self._known or {})

    def _orders(self) -> list[NDArray[np.intp]]:
        """The members of each of the program's blocks in the order of the stretches."""
        orders, stretches = [], iter(self._stretches)
        for block in self.program.utilities:
            order = next(stretches).index if block.size else np.zeros(0, dtype=np.intp)
            place = np.empty(self.program.n, dtype=np.intp)
            place[block.where] = np.arange(block.size)
            orders.append(place[order])
        return orders

    def _walkable(self, price: float) -> float:
        """What the first purchases that `_walk` may change are charged."""
        near = int(np.searchsorted(self._keys, -price))
        return float(np.sum(self._jumps[max(near - _WALK, 0) : near]))

    # ------------------------------------------------------------------ one after the other
    def answers(self) -> Iterator[Answer | None]:
        """The allocation and bound of each program in turn; None where a search is needed.

        Where every price is asked, the next one is while the last answer is looked at.
        """
        waiting = None
        for k, budget in enumerate(self.budgets.tolist()):
            price = float(self.prices[k])
            if price == 0:
                self._ample = self._ample or self._sum(0.0, self._launch(0.0))
                yield self._answer(budget, self._ample)
                continue
            goal = min(self.tolerance, _GOOD)
            answer = self.interpolated(price, budget, goal) if self._between else None
            if answer is None:
                asked = waiting or self._launch(price)
                waiting = None
                if self._between is None and k + 1 < len(self.budgets):
                    waiting = self._launch(float(self.prices[k + 1]))
                answer = self._answer(budget, self._sum(price, asked))
            yield answer

    def solution(self, program: Program, answer: Answer, **known: Any) -> Solution:
        """The answer to one program, checked."""
        statistics = {
            "nodes": 1,
            "engine": "jax",
            "passes": answer.passes,
            "core": 0,
            "price_interval": (answer.price, answer.price),
        }
        claimed = {
            "bound": answer.bound, "row_prices": np.array([answer.price]),
            "statistics": statistics, "tolerance": self.tolerance, **known,
        }  # fmt: skip
        solution = self._check.solution(program, answer.checked, **claimed)
        if solution is None:
            allocation = answer.checked.allocation
            solution = make_solution(program, allocation=allocation, handed_over=True, **claimed)
        return solution

    def interpolated(self, price: float, budget: float, goal: float) -> Answer | None:
        """The answer without asking anybody; None where its gap would exceed the goal."""
        aim = budget * (1 - self._keep)
        found = self._between.tokens(price, aim) if self._between is not None else None
        if found is None or self._between is None:
            return None
        price, below, bought, counts = found
        checked = self._checked(bought, counts)
        utilities = checked.utilities + [
            np.zeros(0) for _ in range(len(self._stretches) - len(checked.utilities))
        ]
        gain, size = self._between.gains(price, below, bought, utilities)
        answer = Answer(checked, self._bound(price, budget, gain, size), price, 0)
        return None if relative_gap(checked.value, answer.bound) > goal else answer

    def _checked(self, bought: list[FloatArray], counts: list[int]) -> Checked:
        """The allocation in the program's order, and what it comes to."""
        allocation = self.program.lower + 0.0
        for stretch, tokens, count in zip(self._stretches, bought, counts, strict=True):
            allocation[stretch.index[:count]] = tokens[:count]
        named = iter(counts)
        return self._check.look(
            allocation, [next(named) if b.size else 0 for b in self.program.utilities]
        )

    def _bound(self, price: float, budget: float, gain: float, size: float) -> float:
        """The dual bound at a price, rounded upwards, the program's offset included."""
        bound = gain + SUM_ERROR * size
        spent = price * budget
        return self.program.offset + bound + spent + 4e-16 * (abs(spent) + abs(bound))

    def _answer(self, budget: float, seen: _Pass) -> Answer | None:
        goal = min(self.tolerance, _FINE)
        for tries in range(1, _TRIES + 1):
            close = self._whole and abs(seen.charge - budget) <= self._walkable(seen.price)
            close = close or self._loss(seen, budget) <= goal
            if seen.price == 0 or close or tries == _TRIES:
                break
            shift = 0.0
            if seen.price > 0:
                shift = seen.charge - float(self._predicted(np.log([seen.price]))[0])
            if abs(shift) < 0.25 * abs(seen.charge - budget):
                break  # a jump is in the way, no error of the spline
            price = float(self._prices_of(np.array([budget - shift]))[0])
            if price == seen.price or not price > 0:
                break
            seen = self._sum(price, self._launch(price))
        bought = self._spend(seen, budget)
        if bought is None:
            return None
        counts = [min(t.size, s.size) for t, s in zip(bought, self._stretches, strict=True)]
        bound = self._bound(seen.price, budget, seen.gain, seen.size)
        return Answer(self._checked(bought, counts), bound, seen.price, tries)

    def _loss(self, seen: _Pass, budget: float) -> float:
        """About what a pass leaves open, relative to its bound."""
        if seen.price == 0:
            return 0.0
        room = seen.charge - budget
        slope = -float(self._smooth(math.log(seen.price), 1)) / seen.price
        size = abs(seen.gain + seen.price * budget)
        if not slope > 0 or not size > 0:
            return abs(room) * seen.price / max(size, 1e-300)
        return min(2.0 * room * room / slope, abs(room) * seen.price) / size

    # ------------------------------------------------------------------ the allocation
    def _spend(self, seen: _Pass, budget: float) -> list[FloatArray] | None:
        """The purchases of a pass, moved to spend the budget; None where that is too far."""
        bought = [tokens.copy() for tokens in seen.tokens]
        aim = budget * (1 - self._keep)
        room = aim - seen.charge
        if self._whole and seen.price > 0:
            room = self._walk(seen, bought, room)
        if seen.price > 0 or room < 0:
            for _ in range(4):
                if abs(room) <= _SHORT * budget:
                    break
                spread, total = [], 0.0
                for stretch, tokens in zip(self._stretches, bought, strict=True):
                    ready = stretch.ready
                    m = tokens.size
                    able = np.maximum(tokens - ready.low[:m], 0.0)
                    able[tokens >= ready.high[:m]] = 0.0
                    if ready.integer is not None:
                        able[ready.integer[:m]] = 0.0
                    spread.append(able)
                    total += _dot(ready.coefficient[:m], able)
                if not abs(room) <= _STRETCH * total:
                    break
                for stretch, tokens, able in zip(self._stretches, bought, spread, strict=True):
                    tokens += (room / total) * able
                    np.minimum(tokens, stretch.ready.high[: tokens.size], out=tokens)
                room = aim - self._charge(bought)
        if room < -_KEEP * budget:
            return None
        if self._whole and room > 0 and seen.price > 0:
            self._next_tokens(seen, bought, room)
        return bought

    def _walk(self, seen: _Pass, bought: list[FloatArray], room: float) -> float:
        """Fund the next who would buy, or abandon the last who did, as far as `room` asks for it.

        Returns what is left; at least 0 if it can be.
        """
        near = int(np.searchsorted(self._keys, -seen.price))
        end = near - 2 * _WALK if room < 0 else near + 2 * _WALK
        for place in (
            range(near - 1, max(end, -1), -1)
            if room < 0
            else range(near, min(end, self._order.size))
        ):
            k = int(np.searchsorted(self._starts, self._order[place], side="right")) - 1
            stretch, member = self._stretches[k], int(self._order[place] - self._starts[k])
            if member >= bought[k].size:
                continue
            held, ready = float(bought[k][member]), stretch.ready
            least, first = float(ready.least[member]), float(stretch.first[member])
            price = float(ready.coefficient[member])
            if room < 0 and held > least:
                bought[k][member] = least
                room += price * (held - least)
                if room >= 0:
                    break
            elif room > 0 and held <= least < first and price * (first - least) <= room:
                bought[k][member] = first
                room -= price * (first - least)
        return room

    def _next_tokens(self, seen: _Pass, bought: list[FloatArray], room: float) -> None:
        """Spend what is left on one more whole token of those to whom it adds most."""
        bargain = np.concatenate(
            [np.full(t.size, -np.inf) if b is None else b
             for t, b in zip(bought, seen.bargains, strict=True)]
        )  # fmt: skip
        charge = np.concatenate(
            [s.ready.coefficient[: t.size] for s, t in zip(self._stretches, bought, strict=True)]
        )
        able = np.flatnonzero(bargain > 0)
        if not able.size:
            return
        most = int(min(2.0 * room / float(np.mean(charge[able])) + 8.0, able.size))
        if most < able.size:
            able = able[np.argpartition(-bargain[able], most - 1)[:most]]
        able = able[np.argsort(-bargain[able], kind="stable")]
        flat = np.concatenate(bought)
        for _ in range(2):  # once in order; then whatever still fits
            taken = able[np.cumsum(charge[able]) <= room]
            flat[taken] += 1.0
            room -= float(np.sum(charge[taken]))
            able = np.setdiff1d(able, taken, assume_unique=True)
            able = able[charge[able] <= room]
        ends = np.cumsum([t.size for t in bought])[:-1]
        for tokens, changed in zip(bought, np.split(flat, ends), strict=True):
            tokens[:] = changed

    def _charge(self, bought: list[FloatArray]) -> float:
        return math.fsum(
            _dot(s.ready.coefficient[: t.size], t) + float(s.idle[2, t.size // CHUNK])
            for s, t in zip(self._stretches, bought, strict=True)
        )


def _dot(left: FloatArray, right: FloatArray) -> float:
    """Summed in pairs: more accurate than BLAS, and no threads of its own for so little."""
    return float(np.sum(left * right))


def _first_purchases(
    stretch: _Stretch, count: NDArray[np.intp], prices: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(m,) the price at which each starts to buy, and its tokens then.

    `count` says at how many of the prices each buys; who buys at none, or at all, is not looked at.
    """
    import jax

    ends = np.r_[0.0, prices, np.inf]
    key, least = ends[count + (count == prices.size)], stretch.ready.least[: stretch.size]
    inside = (count > 0) & (count < prices.size)
    if not inside.any():
        return key, least
    places, m = stretch.ready.low.size, stretch.size
    bracket = np.ones((2, places))
    bracket[0, :m] = np.where(inside, ends[count], 1.0)
    bracket[1, :m] = np.where(inside, np.nextafter(ends[count + 1], 0.0), 1.0)
    with jax.enable_x64(True):
        found, first = compiled_entry(stretch.kind)(stretch.device, *bracket)
    return (
        np.where(inside, np.asarray(found)[:m], key),
        np.where(inside, np.asarray(first)[:m], least),
    )
