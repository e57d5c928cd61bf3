"""One budget row over very many queries: a few passes over blocks, then a certificate.

A *pass* asks every query once what it buys at a price. The prices to ask come from a sample first,
then from the demand of the whole batch (secants of log demand over log price); a pass at two
neighbouring prices at once then shows who jumps between them, and when these are few they are
settled exactly (see `core`). A last pass evaluates the bound at the crossing price and commits the
allocation: sides as decided, amounts at the price that spends the budget.

The bound is D(p) = sum_i max_b [w_i U_i(b) - (c_i + p a_i) b] + p r at one price p >= 0, valid
whatever the search did before. It is rounded upwards by the error of its sum (see `kernels`); the
price times the budget by one rounding error more.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearopt.deadline import NEVER, Deadline
from clearopt.solvers.dual.blocks import Block, Group, Source, padded
from clearopt.solvers.dual.core import Decision, Others, crossing, decide, followers, joined
from clearopt.solvers.dual.kernels import ROW, SUM_ERROR, compiled, in_numpy
from clearopt.solvers.dual.large_plan import (
    Committed,
    Infeasible,
    OutOfTime,
    Plan,
    Sink,
    Straddle,
    Taken,
)
from clearopt.solvers.dual.presolve import Point, logarithm, presolve, priced
from clearopt.validation import FloatArray

__all__ = ["CORE_LIMIT", "Infeasible", "LargeRow", "local"]

CORE_LIMIT = 2**14  # undecided queries that are settled one by one
_TRIES = 100  # passes at most before the search is given up
_TIED = 8e-15  # relative width of a bracket whose prices are one price
_WANTED = 32.0  # undecided queries to hope for: among more there are better combinations
_ELASTICITY_ERROR = 0.15  # of a sample's, relative
_WIDEST = 4e-3  # relative distance to both sides within which demand is next to linear
_SAMPLED_FROM, _SAMPLED = 2**19, 2**17  # queries from which so many are asked before all are
_DEVIATIONS = 3.0  # of a sample's demand, within which that of all is looked for
_WIDEST_SAMPLED = 2e-2  # the same where it is a sample's demand that is known
_SPREAD = 1e-4  # relative change of price that spends the budget, up to which it is not made
_MARGIN = 0.05  # logarithm of demand: what a price for want of time keeps below the budget
_IN_FLIGHT = 4  # blocks handed to JAX before the first answer is asked for
_SHORT = 1e-12  # of the budget: what may be left unspent by fractions of tokens
_KEEP = 1e-13  # of the budget: kept back where sums of fractions are only known to rounding


class LargeRow:
    """One run over a source; `solve` is called once.

    Args:
        source: the queries.
        budget: the row's right-hand side; infinite where there is no row.
        deadline: when to end the search; what was found is then allocated at.
        tell: called before every pass with a word for what it does.
        heard: called after a pass with the value of what it found to fit (-inf if it did not) and
            its bound.
    """

    def __init__(
        self,
        source: Source,
        budget: float,
        *,
        deadline: Deadline = NEVER,
        core_limit: int = CORE_LIMIT,
        tell: Callable[[str], None] = lambda what: None,
        heard: Callable[[float, float], None] | None = None,
    ) -> None:
        self.source, self.budget = source, budget
        self.deadline, self.core_limit, self.tell = deadline, core_limit, tell
        self.heard = heard
        self.passes = 0
        self._low: Point | None = None
        self._high: Point | None = None
        self._guess = (1.0, 1.0)  # a price, and how fast demand falls there
        self._searching = self._exact = False
        self._alone = len(source.gathered(0)) == 1

    def solve(self, sink: Sink, *, start: float | None = None, exact: bool = False) -> Committed:
        """Search, decide, commit; `sink` is given the tokens of every block, in order.

        With `exact` the sink is called once a block, and fractions of tokens spend the budget to
        `_SHORT`, by dry passes before; else the caller spends what is left, and may be given the
        tokens of a block again.

        Raises:
            Infeasible: the lower bounds alone cost more than the budget.
        """
        message = ""
        self._exact = exact
        try:
            self._searching = True
            plan = self._search(start)
        except OutOfTime as reason:
            message = f"stopped at the {reason}"
        self._searching = False
        if message:
            plan, sums = self._fitting(sink, once=exact)
            return self._committed(plan, sums, message)
        if exact or plan.ties is not None:
            plan = self._spend_exactly(plan)
        return self._committed(plan, self._commit(plan, sink), message)

    # ------------------------------------------------------------------ passes
    def _ask(
        self, question: str, *prices: float, taken: Callable[[int, Block], Any] | None = None
    ) -> Iterator[tuple[int, Block, FloatArray, Any]]:
        """(number, block, sums in rows, the rest) of every block, some in flight at a time."""
        import jax

        waiting: deque[tuple[int, Block, Any]] = deque()

        def landed() -> tuple[int, Block, FloatArray, Any]:
            number, block, answer = waiting.popleft()
            sums, rest = (answer, None) if question == "measure" else answer
            return number, block, np.asarray(sums), rest

        for number, block in enumerate(self.source.blocks()):
            # Alone, a search need not pass over everything before it ends.
            if self._searching and self._alone and self.deadline.over:
                raise OutOfTime(self.deadline.reason)
            ask = compiled(question, block.kind, self.source.sharding)
            extra = () if taken is None else (taken(number, block),)
            with jax.enable_x64(True):
                waiting.append((number, block, ask(block.columns, block.valid, *prices, *extra)))
            if len(waiting) >= _IN_FLIGHT:
                yield landed()
        while waiting:
            yield landed()

    def _begin(self, what: str, cost: int) -> None:
        reason = self._over()
        if reason:
            raise OutOfTime(reason)
        self.tell(what)
        self.passes += cost

    def _over(self) -> str:
        """Why to end, empty where there is time; the processes must agree on it."""
        reasons = self.source.gathered(self.deadline.reason if self.deadline.over else "")
        return next(filter(None, reasons), "")

    def _demand(self, price: float) -> Point:
        self._begin(f"demand at price {price:.6g}", 1)
        return self._measured(price)

    def _measured(self, price: float) -> Point:
        columns: tuple[list[FloatArray], ...] = ([], [], [])
        for _, _, sums, _ in self._ask("measure", price):
            for column, values in zip(columns, sums, strict=True):
                column.append(values.copy())  # a view would keep all sums of the block together
        gain, size, demand = (_exactly(column) for column in columns)
        self._hear(price, gain, size, demand, gain + price * demand)
        return self._seen(price, demand)

    def _seen(self, price: float, demand: float) -> Point:
        """Remember a point if it narrows the bracket."""
        point = Point(price, demand)
        if demand <= self.budget:
            if self._high is None or price < self._high.price:
                self._high = point
        elif self._low is None or price > self._low.price:
            self._low = point
        return point

    def _straddle(self, dear: float, cheap: float) -> Straddle:
        self._begin(f"demand between prices {cheap:.9g} and {dear:.9g}", 2)
        rows: list[list[FloatArray]] = [[], [], [], []]
        kept: list[tuple[int, NDArray[np.intp], Group]] = []
        stride, total, stored = 1, 0, 0
        for number, block, sums, mask in self._ask("straddle", dear, cheap):
            for column, values in zip(rows, sums, strict=True):
                column.append(values)
            members = np.flatnonzero(local(mask)[: block.count])
            total += members.size
            members = members[::stride]
            if members.size:
                columns = block.host.take(members).full(members.size)
                kept.append((number, members, Group(block.kind, columns)))
                stored += members.size
            while stored > self.core_limit:
                stride *= 2
                kept = [
                    (k, m[::2], Group(g.kind, g.columns.take(slice(None, None, 2))))
                    for k, m, g in kept
                ]
                stored = sum(m.size for _, m, _ in kept)
        everybody = self.source.gathered((_joined([g for _, _, g in kept]), stride, total))
        groups = _joined([group for part, _, _ in everybody for group in part])
        others = Others(dear, cheap, _exactly(rows[0]), _exactly(rows[1]))
        found = Straddle(
            others,
            _exactly(rows[2]),
            _exactly(rows[3]),
            groups,
            [(k, m) for k, m, _ in kept],
            max(s for _, s, _ in everybody),
            sum(t for _, _, t in everybody),
        )
        self._seen(dear, found.at_dear)
        self._seen(cheap, found.at_cheap)
        return found

    # ------------------------------------------------------------------ the search
    def _search(self, start: float | None) -> Plan:
        if math.isinf(self.budget):
            return Plan(0.0, 0.0)
        if start is not None and start > 0:
            self._guess = start, 1.0
            reason = self._over()
            if reason:  # a price at once rather than a better one
                raise OutOfTime(reason)
        sample = self.source.sample(2**14 if self.source.size >= 2**19 else 2**11)
        sample = [part for found in self.source.gathered(sample) for part in found]
        price, elasticity, ample = presolve(sample, self.budget, start)
        self._guess = price, elasticity
        if ample:
            free = self._demand(0.0)
            if free.demand <= self.budget:
                return Plan(0.0, 0.0)
        points, error = [Point(price, 0.0)], math.inf
        plain = self._alone and self.source.sharding is None and not self._exact
        if plain and self.source.size >= _SAMPLED_FROM:
            points[0], error = self._sampled(price)
            price = self._next(points, elasticity, 0)[0]
        # Too far off, or with too many undecided there: everybody is asked, at the better price.
        most = min(_WIDEST_SAMPLED, 0.5 * self.core_limit / self.source.size)
        if error > most * elasticity:
            points[0], error = self._demand(price), 0.0
        tries = 0
        while True:
            tries += 1
            price, width, elasticity = self._next(points, elasticity, tries)
            if len(points) == 1 and width > 1e-9:
                # How fast demand falls is known from the sample alone.
                width = 2.0 * width * (_ELASTICITY_ERROR + width) + _WANTED / self.source.size
                width += error / elasticity
            if len(points) == 1 and width > _WIDEST and error == 0:
                points.append(self._demand(price))
                continue
            dear, cheap = self._ends(price, width)
            found = self._straddle(dear, cheap)
            if found.at_dear <= self.budget < found.at_cheap:
                plan = self._settled(found)
                if plan is not None:
                    return plan
                points = [Point(dear, found.at_dear), Point(cheap, found.at_cheap)]
                continue
            points.append(
                Point(dear, found.at_dear)
                if found.at_dear > self.budget
                else Point(cheap, found.at_cheap)
            )
            if found.at_dear > self.budget and dear > 1e299:
                raise Infeasible
            if found.at_cheap <= self.budget and cheap < 1e-299:
                least = 0.0 if self._demand(0.0).demand <= self.budget else cheap
                return Plan(least, least, interval=(0.0, least))
            if tries >= _TRIES:
                raise OutOfTime("limit of passes")

    def _sampled(self, price: float) -> tuple[Point, float]:
        """Demand at a price by a sample, and how far it may be off, relative."""
        import jax

        self.tell(f"demand of a sample at price {price:.6g}")
        places = next(self.source.blocks()).valid.shape[0]
        total, variance = 0.0, 0.0
        for group, stands_for in self.source.sample(_SAMPLED):
            for start in range(0, group.size, places):
                columns = group.columns.take(slice(start, start + places))
                count = columns.weight.shape[0]
                columns, valid = padded(columns, count, places)
                with jax.enable_x64(True):
                    charges = compiled("measure", group.kind)(columns, valid, price)[2]
                charges = np.asarray(charges)[: -(-count // ROW)]
                total += stands_for * float(charges.sum())
                variance += stands_for**2 * charges.size * float(np.var(charges))
        error = _DEVIATIONS * math.sqrt(variance) / total if total > 0 else math.inf
        return Point(price, total), error

    def _next(
        self, points: list[Point], elasticity: float, tries: int
    ) -> tuple[float, float, float]:
        """The price where demand should meet the budget, how far it may be off, the elasticity."""
        last = points[-1]
        if len(points) > 1:
            before = points[-2]
            move = logarithm(last.price) - logarithm(before.price)
            change = logarithm(before.demand) - logarithm(last.demand)
            if abs(move) > 1e-13 and change / move > 0.05 * elasticity:
                elasticity = min(change / move, 20.0 * elasticity)
        step = (logarithm(last.demand) - logarithm(self.budget)) / elasticity
        step = min(max(step, -20.0), 20.0)
        if len(points) == 1:
            return priced(logarithm(last.price) + step), abs(step), elasticity
        previous = abs(logarithm(last.price) - logarithm(points[-2].price))
        noise = math.sqrt(abs(step) / (self.source.size * max(elasticity, 0.1)))
        width = 2.0 * (abs(step) * min(abs(step) + previous, 1.0) + noise)
        width = (width + _WANTED / self.source.size) * 4.0 ** max(tries - 3, 0)
        price = logarithm(last.price) + step
        # Inside the bracket as far as it is known, and in its middle when that is slow to close.
        low = -math.inf if self._low is None else logarithm(self._low.price)
        high = math.inf if self._high is None else logarithm(self._high.price)
        if high - low < math.inf and (tries > 5 or not low < price < high):
            price, width = 0.5 * (low + high), (high - low) / 6.0
        return priced(price), min(width, 3.0), elasticity

    def _ends(self, price: float, width: float) -> tuple[float, float]:
        """(dear, cheap): within the bracket, a relative `width` to both sides of a price."""
        width = max(width, _TIED / 4)
        dear, cheap = price * math.exp(width), price * math.exp(-width)
        if self._high is not None and self._high.price > cheap:
            dear = min(dear, self._high.price)
        if self._low is not None and self._low.price < dear:
            cheap = max(cheap, self._low.price)
        return (dear, cheap) if cheap < dear else (math.nextafter(cheap, math.inf), cheap)

    def _settled(self, found: Straddle) -> Plan | None:
        """The plan, once those who jump are few or all jump at one price; else None."""
        others = found.others
        while found.stride > 1 and others.dear - others.cheap > _TIED * others.dear:
            # Too many: those kept show where the crossing is.
            kept = sum(group.size for group in found.groups)
            dear, cheap = crossing(found.groups, found.count / kept, others, self.budget)
            width = (others.dear - others.cheap) / others.dear
            for margin in (_TIED / 4, 1e-3 * width, 0.1 * width):
                ends = self._ends(0.5 * (dear + cheap), margin)
                closer = self._straddle(*ends)
                if closer.at_dear <= self.budget < closer.at_cheap:
                    break
            else:
                return None
            found, others = closer, closer.others
        if found.stride > 1:
            spare = self.budget - found.at_dear
            price = others.dear
            return Plan(price, price, ties=(others.dear, others.cheap, spare),
                         interval=(others.cheap, price), core=found.count)  # fmt: skip
        decision = decide(found.groups, others, self.budget)
        return self._planned(found, decision)

    def _planned(self, found: Straddle, decision: Decision) -> Plan:
        """This process's part of a decision, by block."""
        mine = sum(len(m) for _, m in found.own)
        sizes = self.source.gathered(mine)
        offset = sum(sizes[: self.source.rank])
        # So little is left that the caller may spread it at a second-order cost: one price will do.
        near = abs(decision.spent_at - decision.price) <= _SPREAD * decision.price
        near = near and not self._exact
        spent_at = decision.price if near else decision.spent_at
        flat = np.concatenate([*(decision.amounts if near else decision.tokens), np.zeros(0)])
        taken: dict[int, list[tuple[NDArray[np.intp], FloatArray]]] = {}
        for number, members in found.own:
            part = flat[offset : offset + members.size]
            taken.setdefault(number, []).append((members, part))
            offset += members.size
        return Plan(
            decision.price,
            spent_at,
            {k: (np.concatenate([m for m, _ in v]), np.concatenate([t for _, t in v]))
             for k, v in taken.items()},
            interval=decision.flat,
            slope=found.others.slope,
            core=found.count,
        )  # fmt: skip

    # ------------------------------------------------------------------ committing
    def _commit(self, plan: Plan, sink: Sink | None) -> FloatArray:
        """(5,) sums of `kernels.commit`, the allocation handed on block by block."""
        self.tell("dry run" if sink is None else "allocating")
        if plan.ties is None and plan.spent_at == plan.price and not self._exact:
            return self._buy(plan.price, sink, plan.taken)
        self.passes += 2
        ties = self._tie_fill(plan) if plan.ties is not None else None

        def taken(number: int, block: Block) -> Any:
            if ties is not None:
                return ties(number, block)
            return self._placed(plan.taken, number, block)

        asked = self._ask("commit", plan.price, plan.spent_at, taken=taken)
        return self._handed_on(asked, plan.price, sink)

    def _tie_fill(self, plan: Plan) -> Callable[[int, Block], Any]:
        """Of those who jump at one price, as many in their order as the budget has room for."""
        import jax

        assert plan.ties is not None
        dear, cheap, spare = plan.ties
        own = self._own_ties(dear, cheap)
        before = self.source.gathered(own)[: self.source.rank]
        left = max(spare - math.fsum(before), 0.0)
        self.passes += 3

        def fill(number: int, block: Block) -> Any:
            nonlocal left
            none = self.source.nothing_taken(block)
            with jax.enable_x64(True):
                arguments = block.columns, block.valid
                ask = compiled("straddle", block.kind, self.source.sharding)
                jumps = local(ask(*arguments, dear, cheap)[1])[: block.count]
                ask = compiled("commit", block.kind, self.source.sharding)
                few = local(ask(*arguments, dear, dear, none)[1])[: block.count]
                many = local(ask(*arguments, cheap, cheap, none)[1])[: block.count]
            members = np.flatnonzero(jumps)
            if not members.size:
                return none
            group = Group(block.kind, block.host.take(members).full(members.size))
            many, few = many[members], few[members]
            step = group.columns.coefficient * (many - few)
            funded = np.cumsum(step) <= left
            left -= float(np.sum(step[funded]))
            if not funded.all():
                left = 0.0  # the first who does not fit is the last: the order is kept
            bought = np.where(followers(group, many, whole=True), np.inf, many)
            mask = np.full(block.count, np.nan)
            mask[members] = np.where(funded, bought, few)
            return self.source.placed(mask)

        return fill

    def _own_ties(self, dear: float, cheap: float) -> float:
        """What this process's tied queries would be charged more at the cheap price."""
        if len(self.source.gathered(0)) == 1:
            return 0.0
        total = []
        for _, block, _, mask in self._ask("straddle", dear, cheap):
            members = np.flatnonzero(local(mask)[: block.count])
            columns = block.host.take(members).full(members.size)
            if members.size:
                rows, _ = in_numpy("straddle", block.kind, columns, dear, cheap)
                total.append(float(rows[3].sum() - rows[2].sum()))
        return math.fsum(total)

    def _spend_exactly(self, plan: Plan) -> Plan:
        """The plan with amounts at the price that spends the budget, found by dry passes."""
        if not (0 < self.budget < math.inf) or plan.price == 0:
            return plan
        aim = self.budget * (1 - _KEEP)
        points: list[Point] = []
        best, price, slope = self._retreat(), plan.spent_at, plan.slope
        for _ in range(6):
            if price < 0 or self._over():
                break
            trial = replace(plan, spent_at=price)
            point = Point(price, float(self._commit(trial, None)[2]))
            points.append(point)
            fits = point.demand <= self.budget
            if fits:
                best = trial
            if fits and aim - point.demand <= _SHORT * self.budget:
                break
            if len(points) > 1 and points[-1].price != points[-2].price:
                rise = points[-1].demand - points[-2].demand
                slope = rise / (points[-1].price - points[-2].price)
            if len(points) == 1 and slope == 0:  # is there anybody who follows the price?
                left = (aim - point.demand) / self.budget
                price = plan.price * (1 - math.copysign(max(abs(left), 1e-6), left))
            elif slope < 0:
                price = max(price + (aim - 0.25 * _SHORT * self.budget - point.demand) / slope, 0)
            else:
                break
        return best

    def _placed(self, taken: Taken, number: int, block: Block) -> Any:
        """What is decided elsewhere of the queries of a block, as a kernel takes it."""
        if number not in taken:
            return self.source.nothing_taken(block)
        members, tokens = taken[number]
        mask = np.full(block.count, np.nan)
        mask[members] = tokens
        return self.source.placed(mask)

    def _buy(self, price: float, sink: Sink | None, decided: Taken | None = None) -> FloatArray:
        """The sums of `_commit` for everybody's best response to a price, but those `decided`."""
        self.passes += 1

        def taken(number: int, block: Block) -> Any:
            return self._placed(decided or {}, number, block)

        return self._handed_on(self._ask("buy", price, taken=taken), price, sink)

    def _handed_on(
        self, asked: Iterator[tuple[int, Block, FloatArray, Any]], price: float, sink: Sink | None
    ) -> FloatArray:
        """The sums of all blocks, each of whose allocations goes to `sink`."""
        columns: list[list[FloatArray]] = [[], [], [], [], []]
        for _, block, sums, tokens in asked:
            for column, values in zip(columns, sums, strict=True):
                column.append(values)
            if sink is not None:
                sink(block, local(tokens)[: block.count])
        sums = np.array([_exactly(column) for column in columns])
        gain, size, charge, value, _ = sums.tolist()
        self._hear(price, gain, size, charge, value)
        return sums

    def _fitting(self, sink: Sink, *, once: bool) -> tuple[Plan, FloatArray]:
        """For want of time: the purchases at the least price known to fit, or at the first one
        found that does.

        With `once` the sink is only called when they do.

        Raises:
            Infeasible: no price does.
        """
        price, elasticity = self._guess
        price = max(price, self._low.price if self._low is not None else 0.0)
        step = _MARGIN / elasticity
        while self._high is None:
            if price > 1e299:
                raise Infeasible
            price = priced(logarithm(price) + step)
            sums = self._buy(price, None if once else sink)
            point = self._seen(price, float(sums[2]))
            if not once and self._high is point:
                return self._retreat(), sums
            over = logarithm(point.demand) - logarithm(self.budget)
            step = max(2.0 * step, over / elasticity + _MARGIN / elasticity)
        plan = self._retreat()
        return plan, self._buy(plan.price, sink)

    def _retreat(self) -> Plan:
        """What fits whatever the plan overlooked: everybody's purchases at a price that is met."""
        high = self._high or Point(1e300, 0.0)
        return Plan(high.price, high.price, interval=(high.price, high.price))

    def retreat(self, sink: Sink) -> None:
        """Hand on purchases that fit, where those of `solve` do not and could not be mended."""
        self._commit(self._retreat(), sink)

    def _committed(self, plan: Plan, sums: FloatArray, message: str) -> Committed:
        gain, size, charge, value, value_size = sums.tolist()
        bound = self._bound(plan.price, gain, size)
        return Committed(
            bound, value, SUM_ERROR * value_size, charge, plan.price, plan.interval,
            self.passes, plan.core, message,
        )  # fmt: skip

    def _bound(self, price: float, gain: float, size: float) -> float:
        """The dual bound at a price, from the sum of the queries' gains, rounded upwards."""
        spent = 0.0 if price == 0 else price * self.budget
        bound = gain + SUM_ERROR * size
        return bound + spent + 4e-16 * (abs(spent) + abs(bound))

    def _hear(self, price: float, gain: float, size: float, charge: float, value: float) -> None:
        """Tell what a pass has come to: the gains at a price, and an allocation's charge, value."""
        if self.heard is not None:
            fits = charge <= self.budget
            self.heard(value if fits else -math.inf, self._bound(price, gain, size))


# -------------------------------------------------------------------------------- the sample
def local(array: Any) -> NDArray[Any]:
    """What this process holds of an array, in order, as NumPy."""
    if getattr(array, "sharding", None) is None or array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _joined(groups: list[Group]) -> list[Group]:
    """Neighbouring groups of one kind as one: the order of the queries stays."""
    runs = itertools.groupby(groups, key=lambda group: group.kind)
    return [joined(list(run)) for _, run in runs]


def _exactly(rows: list[FloatArray]) -> float:
    """The sum of all rows' sums, rounded once."""
    return math.fsum(itertools.chain.from_iterable(row.tolist() for row in rows))
