"""The optimum over continuous (or any) tokens by branch and price; for the tests' oracle.

Every query stands for a linear program's columns: amounts of it, each with what it gains and uses.
The linear program mixes columns; its prices say which amount of each query would improve the mix
(found on a fine table and polished by bisection, the one-dimensional problem being small), until
none does: the mix's value, which the Lagrangian bound at these prices meets, is the optimum over
the curves' concave envelopes within the node's boxes. Where a query's mix is better than its mean,
its box is split. A node is closed when its bound meets the best allocation to 1.5e-10.

All of it is generic: shapes, integers, holes and choices are only columns and boxes.
"""

from __future__ import annotations

import heapq
import itertools

import highspy
import numpy as np
from curve_tables import Table
from exhaustive import Limits, TooLargeError

import clearopt as co

CLOSED = 1.5e-10  # relative to the best objective
_MET = 3e-13  # of a row's size: what a feasible allocation may miss it by
_LARGE = 1e3  # the size of a row to HiGHS, whose tolerance is 1e-10
_EDGE = 1.2 * _MET * _LARGE  # what the linear program may miss such a row by, unpaid
_NODES = 4000
_ROUNDS = 80


def continuous_optimum(program: co.Program) -> float:
    """The greatest objective, to about 1e-10; -inf if nothing is feasible."""
    return BranchAndPrice(program).run()


class BranchAndPrice:
    def __init__(self, program: co.Program) -> None:
        self.program, self.table = program, Table(program)
        limits = Limits.of(program)
        tokens, values = self.table.tokens, self.table.values
        n = program.n
        self.everyone = np.arange(n)
        uses = (
            limits.tokens[:, :, None] * tokens
            + limits.curve[:, :, None] * values[2]
            + limits.utility[:, :, None] * values[0]
        )
        self.unit = np.maximum(
            np.abs(limits.level), np.abs(uses).max(axis=2, initial=0).sum(axis=1)
        )
        self.unit = np.maximum(self.unit, 1e-300)
        self.limits = Limits(
            *(part / self.unit[:, None] for part in (limits.tokens, limits.curve, limits.utility)),
            limits.level / self.unit,
            limits.exact,
        )
        gains = self.gain(self.everyone[:, None], tokens, values)
        self.size = max(float(np.abs(gains).max(axis=1).sum()), 1e-300)
        # HiGHS works to 1e-10: gains are handed over so large that this is nothing.
        self.large = 1e4 / self.size
        zero = np.zeros(n)
        self.idle = self._column(self.everyone, zero, self.table.curves(self.everyone, zero))
        self.group = self._groups()
        self.best, self.best_tokens, self.nodes = -np.inf, None, 0
        self.master = _Master(self.group.max() + 1, self.limits)
        self.pool_query, self.pool_tokens, self.pool_key = [], [], set()

    def _groups(self) -> np.ndarray:
        """(n,) number of the convexity row: each query its own, those of one choice share."""
        choice = self.program.choice
        label = np.where(choice >= 0, choice + self.program.n, self.everyone)
        return np.unique(label, return_inverse=True)[1]

    @property
    def allowance(self) -> float:
        """What the bound may lie above the best by; next to nothing is small beside both."""
        known = abs(self.best) if np.isfinite(self.best) else self.size
        return CLOSED * min(max(known, 1e-4 * self.size), self.size)

    # ---------------------------------------------------------------- columns
    def gain(self, query, tokens, values):
        p = self.program
        return (
            p.weight[query] * values[0] - p.cost[query] * tokens - p.curve_cost[query] * values[2]
        )

    def _column(self, query, tokens, values):
        """Gains (k,) and uses (R, k)."""
        li = self.limits
        use = (
            li.tokens[:, query] * tokens
            + li.curve[:, query] * values[2]
            + li.utility[:, query] * values[0]
        )
        return self.gain(query, tokens, values), use

    def _pool(self, query: np.ndarray, tokens: np.ndarray) -> int:
        """Add columns that are new; of a choice, the other members have nothing."""
        new = [
            k
            for k, key in enumerate(zip(query.tolist(), tokens.tolist(), strict=True))
            if key not in self.pool_key and not self.pool_key.add(key)
        ]
        if not new:
            return 0
        query, tokens = query[new], tokens[new]
        gain, use = self._column(query, tokens, self.table.curves(query, tokens))
        idle_gain, idle_use = self.idle
        total_gain = np.bincount(self.group, idle_gain)
        total_use = (
            np.stack([np.bincount(self.group, row) for row in idle_use])
            if len(idle_use)
            else np.zeros((0, total_gain.size))
        )
        group = self.group[query]
        gain = gain + (total_gain[group] - idle_gain[query])
        use = use + (total_use[:, group] - idle_use[:, query])
        self.master.add(group, gain * self.large, use)
        self.pool_query += query.tolist()
        self.pool_tokens += tokens.tolist()
        return len(new)

    # ---------------------------------------------------------------- prices
    def price(self, node, prices: np.ndarray, phase: int):
        """Each query's best amounts in its box at `prices`, and the Lagrangian bound."""
        low, high, hole = node
        p, li = self.program, self.limits
        weight = phase * p.weight - prices @ li.utility
        price = phase * p.cost + prices @ li.tokens
        curve = phase * p.curve_cost + prices @ li.curve

        def worth(query, tokens, values):
            return weight[query] * values[0] - price[query] * tokens - curve[query] * values[2]

        tokens, values = self.table.tokens, self.table.values
        inside = (tokens >= low[:, None]) & (tokens <= high[:, None])
        at_table = np.where(inside, worth(self.everyone[:, None], tokens, values), -np.inf)
        # Ends of the boxes, which need not be in the table.
        ends = np.concatenate([low, high])
        twice = np.concatenate([self.everyone, self.everyone])
        at_ends = worth(twice, ends, self.end_values)
        query, amount, value = [twice], [ends], [at_ends]
        # Inside, wherever the slope changes from up to down between two points of the table.
        with np.errstate(invalid="ignore"):  # steps may be infinitely steep
            slope = weight[:, None] * values[1] - price[:, None] - curve[:, None] * values[3]
        start, stop = tokens[:, :-1], tokens[:, 1:]
        left, right = np.maximum(start, low[:, None]), np.minimum(stop, high[:, None])
        # The slope where the box begins; and left of a kink it is another one, so a best point of
        # the table counts, too.
        with np.errstate(invalid="ignore"):
            at_low = (weight * self.end_values[1, : p.n] - price) - curve * self.end_values[
                3, : p.n
            ]
        rising = np.where(start < low[:, None], at_low[:, None], slope[:, :-1]) > 0
        falling = (at_table[:, 1:] <= at_table[:, :-1]) | (slope[:, 1:] <= 0) | (right < stop)
        peak = rising & falling & (left < right) & ~p.integer[:, None]
        who, where = np.nonzero(peak)
        if who.size:
            a, c = left[who, where], right[who, where]
            found = self._climb(who, a, c, weight, price, curve)
            query.append(who)
            amount.append(found)
            value.append(worth(who, found, self.table.curves(who, found)))
        best = np.argmax(at_table, axis=1)
        query.append(self.everyone)
        amount.append(tokens[self.everyone, best])
        value.append(at_table[self.everyone, best])
        nothing = hole & (low > 0)
        query.append(np.flatnonzero(nothing))
        amount.append(np.zeros(int(nothing.sum())))
        at_nothing = worth(self.everyone, np.zeros(p.n), self.idle_values)
        value.append(at_nothing[nothing])
        query, amount, value = (np.concatenate(x) for x in (query, amount, value))
        # The best of each query, and of each group.
        order = np.lexsort([value, query])
        last = order[np.concatenate([query[order][1:] != query[order][:-1], [True]])]
        top = value[last]
        rest = np.bincount(self.group, at_nothing)
        each = rest[self.group] - at_nothing + top
        forced = (low > 0) & ~hole
        open_ = forced | ~(np.bincount(self.group, forced) > 0)[self.group]
        of_group = np.full(rest.size, -np.inf)
        np.maximum.at(of_group, self.group[open_], each[open_])
        bound = float(of_group.sum() + prices @ li.level)
        last = last[open_]
        return query[last], amount[last], bound, worth

    def _climb(self, who, a, c, weight, price, curve):
        """The best amounts within [a, c], by bisection on the slope."""
        for _ in range(200):
            middle = 0.5 * (a + c)
            slope = self._slope(who, middle, weight, price, curve)
            a, c = np.where(slope > 0, middle, a), np.where(slope > 0, c, middle)
            if (c - a <= 2e-16 * c).all() or (np.abs(slope) * (c - a) <= 1e-15 * self.scale).all():
                break
        return middle

    def _slope(self, who, tokens, weight, price, curve):
        values = self.table.curves(who, tokens)
        return weight[who] * values[1] - price[who] - curve[who] * values[3]

    # ---------------------------------------------------------------- nodes
    def run(self) -> float:
        p = self.program
        self.idle_values = self.table.curves(self.everyone, np.zeros(p.n))
        root = (p.lower.copy(), p.upper.copy(), p.semicontinuous & (p.lower > 0))
        counter = itertools.count()
        queue = [(-np.inf, next(counter), root)]
        while queue:
            above, _, node = heapq.heappop(queue)
            if -above <= self.best + self.allowance:
                break
            self.nodes += 1
            if self.nodes > _NODES:
                raise TooLargeError(f"{p.n} queries, more than {_NODES} nodes")
            bound, children = self.process(node, -above)
            if bound > self.best + self.allowance:
                for child in children:
                    heapq.heappush(queue, (-bound, next(counter), child))
        return self.best + p.offset

    def process(self, node, above):
        """The node's bound, and its children where it has to be split."""
        low, high, hole = node
        twice = np.concatenate([self.everyone, self.everyone])
        self.end_values = self.table.curves(twice, np.concatenate([low, high]))
        self._pool(twice, np.concatenate([low, high]))
        self._pool(np.flatnonzero(hole), np.zeros(int(hole.sum())))
        query, tokens = np.array(self.pool_query), np.array(self.pool_tokens)
        self.master.show(self._inside(node, query, tokens))
        self.scale = 1.0
        if not self._feasible(node):
            return -np.inf, []
        self.scale = self.size
        bound = above
        for _ in range(_ROUNDS):
            value, prices = self.master.solve(phase=2)
            who, amount, found, worth = self.price(node, prices / self.large, 1)
            bound = min(bound, found)
            if bound <= self.best + self.allowance:
                return bound, []
            added = self._pool(who, amount)
            if not added or found <= value / self.large + 0.1 * self.allowance:
                break
        return bound, self._split(node, worth, bound)

    def _feasible(self, node) -> bool:
        """Whether the linear program has a mix at all; columns are priced until it has."""
        for _ in range(_ROUNDS):
            missed, prices = self.master.solve(phase=1)
            if missed >= -1e-13:
                return True
            who, amount, found, _ = self.price(node, prices, 0)
            if found < -_MET:
                return False
            added = self._pool(who, amount)
            if not added:
                return missed >= -_MET
        raise TooLargeError("phase one does not end")

    def _inside(self, node, query, tokens):
        """Which columns belong to the node's boxes."""
        low, high, hole = node
        inside = (tokens >= low[query]) & (tokens <= high[query])
        inside |= (tokens == 0) & hole[query]
        # Of a choice with a member that must have tokens, the columns of that member alone.
        forced = (low > 0) & ~hole
        return inside & (forced | ~(np.bincount(self.group, forced) > 0)[self.group])[query]

    def _split(self, node, worth, bound):
        low, high, _ = node
        p, share = self.program, self.master.shares()
        used = np.flatnonzero(share > 1e-13)
        query, tokens = np.array(self.pool_query)[used], np.array(self.pool_tokens)[used]
        share = share[used]
        mean = np.bincount(self.group[query], share)[self.group]
        mean = np.bincount(query, share * tokens, minlength=p.n) / np.maximum(mean, 1e-300)
        self._offer(node, mean)
        if bound <= self.best + self.allowance:
            return []
        # How much better than its mean each query's mix is.
        ours = np.bincount(query, share, minlength=p.n)
        mix = np.bincount(
            query, share * worth(query, tokens, self.table.curves(query, tokens)), minlength=p.n
        )
        mix = mix + (1 - ours) * worth(self.everyone, np.zeros(p.n), self.idle_values)
        at_mean = worth(self.everyone, mean, self.table.curves(self.everyone, mean))
        spoiled = (mean < low) & (mean > 0)
        if p.integer.any():
            spoiled |= p.integer & (np.abs(mean - np.round(mean)) > 1e-9)
        off = np.where(spoiled, np.maximum(mix - at_mean, 0) + 1e-6 * self.size, mix - at_mean)
        # Choices: a mix of two members.
        served = np.bincount(self.group, (ours > 1e-12) & (mean > 0))
        if (served > 1).any():
            group = int(np.argmax(served))
            members = np.flatnonzero(self.group == group)
            chosen = members[np.argmax((mean * (high > 0))[members])]
            others = members[members != chosen]
            return [
                closed
                for closed in (_closed(node, others), _closed(node, np.array([chosen])))
                if closed is not None
            ]
        # A mix may also be worth its mean and yet hide that a limit is missed: any mix is split.
        least, most = np.where(ours < 1 - 1e-12, 0.0, np.inf), np.zeros(p.n)
        np.minimum.at(least, query, tokens)
        np.maximum.at(most, query, tokens)
        spread = np.maximum(most - least, 0.0) / np.maximum(p.upper, 1e-300)
        off = np.where(spread > 1e-12, off + 1e-12 * self.size * spread, -np.inf)
        i = int(np.argmax(off))
        if off[i] == -np.inf:
            # Nothing is mixed: what is left to close is a miss by rounding, on the edge of a box.
            if bound <= self.best + 5 * self.allowance:
                return []
            width = np.where(p.integer, 0.0, (high - low) / np.maximum(high, 1e-300))
            i = int(np.argmax(width))
            if width[i] > 1e-13:
                middle = 0.5 * (low[i] + high[i])
                return self._halves(node, i, middle, middle, middle)
            raise TooLargeError(f"a mix that cannot be split: {bound} and {self.best}")
        return self._halves(node, i, mean[i], least[i], most[i])

    def _halves(self, node, i, at, least, most):
        low, high, hole = node
        left_end = right_start = at
        if hole[i] and 0 < at < low[i]:
            children = [self._boxed(node, i, 0.0, 0.0), self._boxed(node, i, low[i], high[i])]
            return [c for c in children if c is not None]
        if self.program.integer[i]:
            left_end = np.floor(at)
            right_start = left_end + 1
        else:
            # A measured curve is split at a step between the mixed amounts, or else at a corner.
            steps, corners = self.table.breaks[i]
            steps = steps[(steps > least) & (steps <= most)]
            corners = corners[(corners > least) & (corners < most)]
            if steps.size:
                right_start = steps[np.argmin(np.abs(steps - at))]
                left_end = np.nextafter(right_start, -np.inf)
            elif corners.size:
                left_end = right_start = corners[np.argmin(np.abs(corners - at))]
        children = []
        if hole[i]:
            children.append(self._boxed(node, i, 0.0, 0.0))
        children.append(self._boxed(node, i, low[i], left_end))
        children.append(self._boxed(node, i, right_start, high[i]))
        return [c for c in children if c is not None]

    def _boxed(self, node, i, low, high):
        """The node with query i in [low, high]; None where that cannot be."""
        if low > high:
            return None
        lows, highs, holes = (array.copy() for array in node)
        lows[i], highs[i], holes[i] = low, high, False
        others = np.flatnonzero((self.group == self.group[i]) & (self.everyone != i))
        # Of a choice, one that must have tokens leaves the others none.
        return _closed((lows, highs, holes), others) if low > 0 else (lows, highs, holes)

    # ---------------------------------------------------------------- allocations
    def _offer(self, node, tokens) -> None:
        """Take an allocation, moved onto the limits it misses by a little, if it is the best."""
        low, high, hole = node
        p = self.program
        bottom = np.where(hole & (tokens < 0.5 * low), 0.0, low)
        top = np.where(hole & (tokens < 0.5 * low), 0.0, high)
        tokens = np.clip(np.where(p.integer, np.round(tokens), tokens), bottom, top)
        for _ in range(12):
            values = self.table.curves(self.everyone, tokens)
            gain, use = self._column(self.everyone, tokens, values)
            excess = use.sum(axis=1) - self.limits.level
            missed = np.where(self.limits.exact, np.abs(excess), np.maximum(excess, 0.0))
            served = np.bincount(self.group, tokens > 0)
            if (served[np.bincount(self.group) > 1] > 1).any():
                return
            if (missed <= _MET).all():
                total = float(gain.sum())
                if total > self.best:
                    self.best, self.best_tokens = total, tokens
                return
            free = (tokens > bottom) & (tokens < top) & ~p.integer
            li = self.limits
            jacobian = li.tokens + li.curve * values[3] + li.utility * values[1]
            near = li.exact | (excess > -1e-6)
            wanted = -np.where(li.exact, excess, np.maximum(excess, 0.0))[near]
            if not free.any():
                return
            step = np.linalg.lstsq(jacobian[np.ix_(near, free)], wanted, rcond=1e-12)[0]
            tokens = tokens.copy()
            tokens[free] += step
            tokens = np.clip(tokens, bottom, top)


def _closed(node, queries):
    """The node in which these have nothing; None where they must have something."""
    low, high, hole = (array.copy() for array in node)
    if ((low[queries] > 0) & ~hole[queries]).any():
        return None
    low[queries], high[queries], hole[queries] = 0.0, 0.0, False
    return low, high, hole


class _Master:
    """The linear program over the pool of columns, kept warm in HiGHS."""

    def __init__(self, groups: int, limits: Limits) -> None:
        self.rows, self.groups, self.exact = limits.level.size, groups, limits.exact
        h = self.solver = highspy.Highs()
        for option, value in (
            ("output_flag", False),
            ("presolve", "off"),
            ("solver", "simplex"),
            # Not by `threads`: HiGHS keeps one number of threads for the whole process.
            ("parallel", "off"),
            ("primal_feasibility_tolerance", 1e-10),
            ("dual_feasibility_tolerance", 1e-10),
        ):
            h.setOptionValue(option, value)
        nothing = np.zeros(0, dtype=np.int32), np.zeros(0)
        for level, exact in zip(limits.level, limits.exact, strict=True):
            level = _LARGE * level
            h.addRow(level if exact else -highspy.kHighsInf, level, 0, *nothing)
        for _ in range(groups):
            h.addRow(1.0, 1.0, 0, *nothing)
        # What a limit is missed by: paid for in phase one, next to nothing in phase two.
        self.missing = 0
        for row in range(self.rows):
            for sign in (-1.0, 1.0) if limits.exact[row] else (-1.0,):
                h.addCol(
                    1.0, 0.0, highspy.kHighsInf, 1, np.array([row], np.int32), np.array([sign])
                )
                self.missing += 1
        # A group's convexity row can always be met in phase one.
        self.gains, self.phase = [], 1

    def add(self, group, gain, use) -> None:
        for k in range(group.size):
            rows = np.flatnonzero(use[:, k])
            index = np.append(rows, self.rows + group[k]).astype(np.int32)
            value = np.append(_LARGE * use[rows, k], 1.0)
            cost = -float(gain[k]) if self.phase == 2 else 0.0
            self.solver.addCol(cost, 0.0, highspy.kHighsInf, index.size, index, value)
        self.gains += gain.tolist()

    def show(self, visible: np.ndarray) -> None:
        """Let only these columns be used."""
        index = np.arange(visible.size, dtype=np.int32) + self.missing
        top = np.where(visible, highspy.kHighsInf, 0.0)
        self.solver.changeColsBounds(index.size, index, np.zeros(index.size), top)

    def solve(self, phase: int):
        """The value (the miss, negative, in phase one), the limits' prices."""
        if phase != self.phase:
            count = len(self.gains) + self.missing
            index = np.arange(count, dtype=np.int32)
            pay = np.ones(self.missing), np.zeros(len(self.gains))
            earn = np.zeros(self.missing), -np.array(self.gains)
            self.solver.changeColsCost(count, index, np.concatenate(pay if phase == 1 else earn))
            self._may_miss(highspy.kHighsInf if phase == 1 else _EDGE)
            self.phase = phase
        self.solver.run()
        if self.solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            self.solver.clearSolver()
            self.solver.run()
            status = self.solver.getModelStatus()
            if status != highspy.HighsModelStatus.kOptimal:
                raise TooLargeError(f"HiGHS: {status} in phase {phase}")
        solution = self.solver.getSolution()
        dual = -np.array(solution.row_dual)
        self.columns = np.array(solution.col_value)
        prices = dual[: self.rows]
        prices = np.where(self.exact, prices, np.maximum(prices, 0.0))
        value = -self.solver.getInfo().objective_function_value
        if phase == 1:
            return value / _LARGE, prices
        return value, _LARGE * prices

    def _may_miss(self, most: float) -> None:
        index = np.arange(self.missing, dtype=np.int32)
        top = np.full(self.missing, most)
        self.solver.changeColsBounds(self.missing, index, np.zeros(self.missing), top)

    def shares(self) -> np.ndarray:
        share = np.zeros(len(self.gains))
        found = self.columns[self.missing :]
        share[: found.size] = found
        return share
