"""Groups under a few linking rows: priced are these rows alone, each group is solved exactly.

With prices of the linking rows the program falls apart. The Lagrangian bound

    D(y) = sum_g max { gains of group g at these prices : its own rows and floors } + y . levels

is at most the one that prices every row, and closes the gaps that the groups' own rows leave
(Geoffrion 1974; Dantzig and Wolfe over groups). Each group is a small program and branch and bound
settles it within milliseconds. Only groups whose own gap matters are searched: what prices alone
leave of the others is less than their part of the tolerance.

The allocation follows from the groups' optima. Who is funded is kept, and all queries on their
concave parts are shared out anew under all rows: a concave program, whose prices of the linking
rows are the next ones to try. Where these fund the same queries again, bound and allocation meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits, Outcome
from clearopt.solvers.dual.coupling import Coupling
from clearopt.solvers.dual.interior import Box, Function, descend
from clearopt.solvers.dual.linking import Linking
from clearopt.solvers.dual.many_rows import ManyRows
from clearopt.solvers.dual.one_row import OneRow
from clearopt.solvers.dual.rounding import whole_tokens
from clearopt.solvers.dual.separable import ROUNDING, Effective, Separable
from clearopt.solvers.dual.several_rows import SeveralRows
from clearopt.solvers.progress import Silent, Ticker
from clearopt.validation import FloatArray

LEFT_BY_LINKING = "gap that prices of the linking rows leave"
_ROUNDS = 12  # of prices for the linking rows
_NODES = 400  # of one group in one round
_FEW = 64  # queries up to which a group with curves that are not S-shaped has kinks that matter
_PAIRED = 256  # queries of which any two may change sides
_LOOSE = 1e-7  # of its price: what a query may pay for its group's own rows and count as free
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Round:
    """What prices of the linking rows prove, and what the groups do there."""

    bound: float
    tokens: FloatArray | None  # (n,) each group's best known; None where one has none
    searched: int  # groups by branch and bound
    nodes: int


class Infeasible(Exception):
    """A group has no feasible allocation by itself."""


class Nested:
    """One run; `solve` is called once.

    Args:
        problem: the rows.
        linking: which of them link groups.
        limits: tolerance and deadline; nodes are each group's own.
        mend: makes whole tokens of an allocation that nearly meets the rows, moving it little.
    """

    def __init__(
        self,
        problem: SeveralRows,
        linking: Linking,
        limits: Limits,
        ticker: Ticker,
        mend: Callable[[FloatArray], FloatArray | None] | None = None,
    ) -> None:
        self.problem, self.linking, self.limits, self.ticker = problem, linking, limits, ticker
        self.queries = problem.queries
        self._mend = mend
        self.whole = ManyRows(problem, limits.deadline)
        self.value = -math.inf
        self.best: FloatArray | None = None
        self.bound = math.inf
        self.level = np.r_[problem.budgets, -problem.levels]
        group = linking.group
        self._order = np.argsort(group, kind="stable")
        self._starts = np.searchsorted(group[self._order], np.arange(linking.count + 1))
        self._columns = tuple(
            sparse.csc_array(sparse.csc_array(matrix)[:, self._order])
            for matrix in (problem.rows, problem.curve_rows, problem.floors)
        )
        own = np.flatnonzero(linking.owner >= 0)
        self._own = own[np.argsort(linking.owner[own], kind="stable")]
        self._own_starts = np.searchsorted(linking.owner[self._own], np.arange(linking.count + 1))
        self._groups: dict[int, SeveralRows] = {}
        self._known: FloatArray | None = None  # tokens that meet the groups' own rows

    # ------------------------------------------------------------------ the run
    def solve(self, start: Outcome) -> Outcome:
        """Go on from an outcome of all rows together, which may have no allocation."""
        self.bound, self.value, self.best = start.bound, start.value, start.tokens
        self._known = start.tokens
        prices, nodes, searched, rounds = np.asarray(start.root), start.nodes, 0, 0
        tried: list[FloatArray] = []
        stopped, root = "closed", prices
        try:
            while not self._enough():
                if self.limits.deadline.over:
                    stopped = self.limits.deadline.reason
                    break
                if rounds == _ROUNDS or any(np.allclose(prices, p, 1e-10, 0.0) for p in tried):
                    stopped = LEFT_BY_LINKING
                    break
                tried.append(np.where(self.linking.linking, prices, 0.0))
                found = self._round(prices)
                rounds, nodes = rounds + 1, nodes + found.nodes
                better = found.bound < self.bound
                if better or not searched:
                    root = prices
                self.bound = min(self.bound, found.bound)
                searched = max(searched, found.searched)
                self.ticker.tell(nodes, self.value, self.bound)
                if found.tokens is None:
                    stopped = self.limits.deadline.reason
                    break
                self._known = found.tokens
                following = self._allocate(found.tokens, prices)
                if following is None:
                    stopped = LEFT_BY_LINKING
                    break
                # Past the least bound the way back is halved.
                prices = following if better else 0.5 * (root + prices)
        except Infeasible:
            return Outcome(None, -math.inf, -math.inf, start.root, nodes, 0, "infeasible")
        bound = max(self.bound, self.value)
        return Outcome(self.best, self.value, bound, root, nodes, searched, stopped)

    def _enough(self) -> bool:
        size = max(abs(self.bound), abs(self.value))
        return (
            self.best is not None
            and self.bound - self.value <= max(self.limits.tolerance, self.whole.resolution) * size
        )

    # ------------------------------------------------------------------ the bound
    def _round(self, prices: FloatArray) -> Round:
        """D at these prices: (K + J,), of which the groups' own are where their search starts."""
        linking, group, count = self.linking, self.linking.group, self.linking.count
        link = np.where(linking.linking, prices, 0.0)
        k = self.problem.rows.shape[0]
        at = self.problem.effective(link[:k], link[k:])
        bound, offers = self._by_prices(prices, at)
        gains = np.full(count, -math.inf)
        tokens = np.zeros(self.queries.n)
        for offer in offers:
            gain = np.where(
                self._keeps_own_rows(offer),
                np.bincount(group, self.queries.gain(offer, at), minlength=count),
                -math.inf,
            )
            better = gain > gains
            gains = np.where(better, gain, gains)
            tokens = np.where(better[group], offer, tokens)
        # 0.3 of the tolerance is for what is left to prices, as much for what is searched.
        size = abs(self.value) if self.best is not None else abs(self.bound)
        part = 0.3 * max(self.limits.tolerance, 4 * self.whole.resolution) * size
        gap = bound - gains
        rising = np.argsort(gap, kind="stable")
        open_ = rising[np.cumsum(gap[rising]) > part][::-1]  # the widest first
        nodes = 0
        for done, g in enumerate(open_):
            if self.limits.deadline.over:
                break
            outcome = self._search(int(g), at, prices, part / (open_.size - done), float(bound[g]))
            nodes += outcome.nodes
            if outcome.stopped == "infeasible":
                raise Infeasible
            bound[g] = min(bound[g], outcome.bound)
            if outcome.tokens is not None and outcome.value > gains[g]:
                tokens[self._members(int(g))] = outcome.tokens
                gains[g] = outcome.value
            part -= min(max(bound[g] - gains[g], 0.0), part / (open_.size - done))
            self.ticker.tell(nodes, self.value, self.bound)
        terms = link * self.level
        total = math.fsum(bound) + math.fsum(terms) + 1e-15 * math.fsum(np.abs(terms))
        total += self._rounding_of(link)
        complete = bool(np.isfinite(gains).all())
        return Round(total, tokens if complete else None, int(open_.size), nodes)

    def _by_prices(self, prices: FloatArray, at: Effective) -> tuple[FloatArray, list[FloatArray]]:
        """Bounds of all groups, (count,), from prices of their own rows, and allocations to try."""
        problem, queries, group = self.problem, self.queries, self.linking.group
        count, k = self.linking.count, problem.rows.shape[0]
        whole = problem.effective(prices[:k], prices[k:])
        response = queries.respond(
            whole.price, queries.lower, queries.upper, whole.weight, whole.curve_price
        )
        paid = np.abs(prices[:k])
        size = np.abs(whole.weight * response.utility)
        size += (np.abs(queries.cost) + abs(problem.rows).T @ paid) * response.tokens
        if queries.grid is not None:
            curved = np.abs(queries.curve_cost) + abs(problem.curve_rows).T @ paid
            size += curved * queries.curve(response.tokens)
        bound: FloatArray = np.bincount(group, response.gain, minlength=count).astype(np.float64)
        members: FloatArray = np.bincount(group, minlength=count).astype(np.float64)
        own = self.linking.owner >= 0
        terms, owner = (prices * self.level)[own], self.linking.owner[own]
        bound = bound + np.bincount(owner, terms, minlength=count)
        # Sums of m terms in any order are off by m roundings of their sizes at most.
        sizes = np.bincount(group, size, minlength=count)
        sizes += np.bincount(owner, np.abs(terms), minlength=count)
        members = members + np.bincount(owner, minlength=count)
        bound = bound + (ROUNDING + _EPS * members) * sizes
        offers = [response.tokens]
        if self._known is not None:
            offers.append(self._known)
        return bound, offers

    def _keeps_own_rows(self, tokens: FloatArray) -> NDArray[np.bool_]:
        """(count,) whether each group's own rows and floors are met."""
        problem, queries = self.problem, self.queries
        curve = queries.curve(tokens)
        size = abs(problem.rows) @ np.abs(tokens) + abs(problem.curve_rows) @ curve
        size = np.maximum(np.abs(problem.budgets), size)
        excess = problem.activity(tokens) - problem.budgets
        excess = np.where(problem.equality, np.abs(excess), excess)
        short = problem.levels - problem.floors @ queries.utility(tokens)
        missed = np.r_[excess > 5e-10 * size, short > 5e-10 * np.abs(problem.levels)]
        missed &= self.linking.owner >= 0
        met = np.ones(self.linking.count, dtype=bool)
        met[self.linking.owner[missed]] = False
        return met

    def _rounding_of(self, link: FloatArray) -> float:
        """What rounding the groups' weights and prices may have taken from D, at most."""
        problem, queries, k = self.problem, self.queries, self.problem.rows.shape[0]
        paid = np.abs(link)
        terms = np.abs(queries.cost) + abs(problem.rows).T @ paid[:k]
        most = np.maximum(queries.upper, 0.0)
        total = float(terms @ most)
        if queries.grid is not None:
            curved = np.abs(queries.curve_cost) + abs(problem.curve_rows).T @ paid[:k]
            total += float(curved @ queries.curve(most))
        if paid[k:].any():
            peak = queries.utility(np.clip(queries.saturation, queries.lower, queries.upper))
            peak = np.maximum(np.abs(peak), np.abs(queries.utility(queries.lower)))
            total += float((np.abs(queries.weight) + problem.floors.T @ paid[k:]) @ peak)
        return (4 + int(self.linking.linking.sum())) * _EPS * total

    # ------------------------------------------------------------------ one group
    def _members(self, g: int) -> NDArray[np.intp]:
        return self._order[self._starts[g] : self._starts[g + 1]]

    def _rows_of(self, g: int) -> NDArray[np.intp]:
        return self._own[self._own_starts[g] : self._own_starts[g + 1]]

    def _group(self, g: int) -> SeveralRows:
        """The group's own rows and queries, at the declared weights and costs."""
        if g not in self._groups:
            problem, k = self.problem, self.problem.rows.shape[0]
            own, part = self._rows_of(g), slice(self._starts[g], self._starts[g + 1])
            rows, floors = own[own < k], own[own >= k] - k
            matrices = [
                sparse.csr_array(sparse.csr_array(matrix[:, part])[which])
                for matrix, which in zip(self._columns, (rows, rows, floors), strict=True)
            ]
            self._groups[g] = SeveralRows(
                queries=self.queries.part(self._members(g)),
                rows=matrices[0],
                curve_rows=matrices[1],
                budgets=problem.budgets[rows],
                equality=problem.equality[rows],
                floors=matrices[2],
                levels=problem.levels[floors],
            )
        return self._groups[g]

    def _search(
        self, g: int, at: Effective, prices: FloatArray, allowed: float, bound: float
    ) -> Outcome:
        """Branch and bound of one group, to an absolute gap."""
        group, members = self._group(g), self._members(g)
        queries = replace(
            group.queries,
            weight=at.weight[members],
            cost=at.price[members],
            curve_cost=at.curve_price[members],
        )
        problem = replace(group, queries=queries)
        first = prices[self._rows_of(g)]
        limits = Limits(
            tolerance=allowed / max(abs(bound), allowed, 1e-300),
            deadline=self.limits.deadline,
            nodes=_NODES,
            eager_nodes=0,
        )
        coupling: Coupling = ManyRows(problem, self.limits.deadline)
        start: FloatArray | float = first
        if _is_one_row(problem):
            row = problem.rows[[0]].toarray().ravel()
            budget, equality = float(problem.budgets[0]), bool(problem.equality[0])
            coupling = OneRow(queries, row, budget, equality, self.limits.deadline)
            start = float(first[0])
        return BranchAndBound(coupling, limits, start, Silent()).solve()

    # ------------------------------------------------------------------ allocations
    def _allocate(self, tokens: FloatArray, prices: FloatArray) -> FloatArray | None:
        """Allocations near the groups' optima, and the prices at which these are shared out.

        None where the funded cannot meet the linking rows.
        """
        problem, queries = self.problem, self.queries
        box = Box.of(problem, queries.lower, queries.upper)
        tokens = self._exchanged(tokens, prices, box)
        concave = tokens >= box.bend
        low, high = np.where(concave, box.bend, tokens), np.where(concave, box.upper, tokens)
        self._offer(tokens)
        if queries.integer is not None:
            self._offer(self._traded(tokens))
        if self.whole.holds_nothing(low, high):
            return None
        inside = descend(
            problem,
            Box.of(problem, low, high),
            prices,
            deadline=self.limits.deadline,
            precision=1e-12,
        )
        shared = inside.last.on.tokens
        if queries.integer is not None:
            self._offer(whole_tokens(problem, np.clip(shared, low, high)))
            if self._mend is not None and (problem.levels.size or problem.equality.any()):
                mended = self._mend(shared)
                if mended is not None:
                    self._offer(mended)
        else:
            self._offer(self.whole.pulled_back(shared, low))
        return np.where(np.isfinite(inside.prices), inside.prices, prices)

    def _exchanged(self, tokens: FloatArray, prices: FloatArray, box: Box) -> FloatArray:
        """One or two queries on the other side than prices say, where that fits the linking rows.

        What these rows have left, (m,), goes to everybody who follows their prices, M of them in
        all, at falling marginal utility: left' M^-1 left / 2 of what the bound promises. A query on
        its wrong side costs its edge. Only who pays for linking rows alone is asked: elsewhere the
        group's own rows hand on what is left.
        """
        problem, queries = self.problem, self.queries
        k, counts = problem.rows.shape[0], self.linking.linking
        active = np.flatnonzero(counts & (np.abs(prices * self.level) > 1e-12 * abs(self.bound)))
        function = Function(problem, box)
        sides = function.at(np.r_[prices, np.zeros(function.level.size - prices.size)])
        rows, floors = active[active < k], active[active >= k] - k
        own = np.where(counts, 0.0, prices)
        pays = abs(problem.rows).T @ np.abs(own[:k]) + abs(problem.curve_rows).T @ np.abs(own[:k])
        pays += problem.floors.T @ own[k:]
        loose = pays <= _LOOSE * np.abs(sides.effective.price)
        able = loose & function.jumping
        if queries.choice is not None:
            able &= ~queries.choice.membership
        if queries.grid is not None:
            able[queries.grid.members] = False
        nearest = np.flatnonzero(able)
        nearest = nearest[np.argsort(np.abs(sides.edge[nearest]), kind="stable")[:_PAIRED]]
        if not active.size or not nearest.size:
            return tokens
        kappa, one = function.curvature(sides, np.where(tokens >= box.bend, 1.0, 0.0))
        kappa = np.where(loose, kappa, 0.0)
        charge = sparse.csr_array(problem.rows[rows])
        gain = sparse.csr_array(problem.floors[floors])
        use = sparse.vstack([charge, -_times(gain, one["utility"])]).tocsr()
        stiff = np.asarray((_times(use, kappa) @ use.T).toarray())
        spent = np.r_[problem.activity(tokens)[rows], -(gain @ queries.utility(tokens))]
        left = self.level[active] - spent
        scale = 1.0 / np.maximum(np.abs(self.level[active]), 1e-300)
        scaled = stiff * scale[:, None] * scale[None, :]
        scaled += 1e-12 * max(float(np.trace(scaled)), 1e-300) * np.eye(active.size)
        jump = function.jump(sides)
        step = np.concatenate(
            [
                charge[:, nearest].toarray() * jump["tokens"][nearest],
                -gain[:, nearest].toarray() * jump["utility"][nearest],
            ]
        ).T
        on = (tokens > box.lower)[nearest]
        loss = np.r_[0.0, np.where(on, sides.edge[nearest], -sides.edge[nearest])]
        change = np.concatenate([np.zeros((1, active.size)), np.where(on[:, None], step, -step)])
        after = (left + change[:, None, :] + change[None, :, :]) * scale
        bent = np.linalg.solve(scaled, after.reshape(-1, active.size).T).T.reshape(after.shape)
        total = loss[:, None] + loss[None, :] + 0.5 * (after * bent).sum(axis=2)
        total[np.diag_indices(total.shape[0])] = np.where(
            np.arange(loss.size) > 0, np.inf, total[0, 0]
        )
        first, second = np.unravel_index(int(np.argmin(total)), total.shape)
        moved = tokens.copy()
        for chosen in (int(first), int(second)):
            if chosen:
                query = nearest[chosen - 1]
                funded = queries.rounded("whole_below", int(query), float(sides.on.tokens[query]))
                moved[query] = box.lower[query] if on[chosen - 1] else funded
        return moved if self._keeps_own_rows(moved).all() else tokens

    def _traded(self, tokens: FloatArray) -> FloatArray:
        """Whole tokens taken back where they are missed least, until the linking rows are met.

        What that leaves is given where it adds most.
        """
        problem, queries = self.problem, self.queries
        assert queries.integer is not None
        free = self.whole.free_disposal & queries.integer
        if problem.levels.size:
            free &= np.diff(sparse.csc_array(problem.floors).indptr) == 0
        tokens = tokens.copy()
        linking = np.flatnonzero(self.linking.linking[: problem.rows.shape[0]])
        for _ in range(64):
            excess = (problem.activity(tokens) - problem.budgets)[linking]
            if not (excess > 0).any():
                break
            worst = int(np.argmax(excess / np.maximum(np.abs(problem.budgets[linking]), 1e-300)))
            use = problem.rows[[int(linking[worst])]].toarray().ravel()
            fewer = np.maximum(queries.whole_below(np.nextafter(tokens, -np.inf)), queries.lower)
            if queries.least is not None:
                fewer = np.where(fewer < queries.least, 0.0, fewer)
            relief = use * (tokens - fewer)
            able = np.flatnonzero(free & (relief > 0) & (tokens > queries.lower))
            if not able.size:
                break
            missed = (problem.gains(tokens) - problem.gains(fewer))[able] / relief[able]
            able = able[np.argsort(missed, kind="stable")]
            reached = np.searchsorted(np.cumsum(relief[able]), excess[worst]) + 1
            taken = able[: min(int(reached), max(able.size // 4, 1))]
            tokens[taken] = fewer[taken]
        return whole_tokens(problem, tokens)

    def _offer(self, tokens: FloatArray) -> None:
        queries = self.queries
        tokens = np.clip(tokens, queries.lower, queries.upper)
        if queries.least is not None and ((tokens > 0) & (tokens < queries.least)).any():
            return
        if queries.integer is not None:
            near = queries.whole_below(tokens, 1e-9)
            if (np.abs(near - tokens) > 1e-9 * np.maximum(1.0, tokens)).any():
                return
            tokens = near
        if not self.problem.feasible(tokens):
            return
        value = self.problem.value(tokens)
        if value > self.value:
            self.value, self.best = value, tokens


def better_of(one: Outcome, other: Outcome) -> Outcome:
    """The better allocation and the lower bound of two searches of the same program."""
    if other.stopped == "infeasible" and one.tokens is None:
        return replace(other, nodes=one.nodes + other.nodes)
    found = other
    if other.value < one.value:
        found = replace(other, tokens=one.tokens, value=one.value)
    bound = max(min(one.bound, other.bound), found.value)
    root = one.root if one.bound < other.bound else other.root
    return replace(found, bound=bound, root=root, nodes=one.nodes + other.nodes)


def _is_one_row(problem: SeveralRows) -> bool:
    queries: Separable = problem.queries
    plain = queries.choice is None and queries.grid is None
    plain = plain and (queries.n > _FEW or bool(queries.convex_before.all()))
    return plain and problem.rows.shape[0] == 1 and problem.levels.size == 0


def _times(matrix: sparse.csr_array, columns: FloatArray) -> sparse.csr_array:
    """The matrix times diag(columns)."""
    data = matrix.data * columns[matrix.indices]
    return sparse.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)
