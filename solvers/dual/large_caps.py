"""Very many queries under caps on groups, with or without a budget over all: passes over chunks.

With the budget's price fixed the caps fall apart, and under a cap that binds nobody's purchases
depend on that price: each query pays the dearer of the two. So every cap is settled once by itself
(see `cap_prices`); whoever is under no cap, or under one that the budget's price keeps anyway,
shares what the others leave of the budget, as one row (see `large`).

What is proven is the dual function at these prices: p_g of the caps that bind, q of the budget, of
which what cap g counts as one uses a_g,

    D = sum_g [ best gains of group g at p_g + level_g (p_g - a_g q) ]
        + best gains of all others at q + budget q.

Caps whose own gaps matter are searched by branch and bound at the budget's price: the bound is then
the one that keeps their rows, and prices the budget alone (see `nested`).

In memory stand the allocation and a few numbers a cap; the rest is one chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.deadline import Deadline
from clearopt.program import Program, UtilityBlock
from clearopt.solvers.dual.blocks import SMALL_BLOCK, Block
from clearopt.solvers.dual.branch_and_bound import BranchAndBound, Limits, Outcome
from clearopt.solvers.dual.cap_prices import bounds, settle
from clearopt.solvers.dual.caps import Caps, Chosen, Chunk, Queries, find_caps
from clearopt.solvers.dual.large import LargeRow
from clearopt.solvers.dual.large_plan import Infeasible
from clearopt.solvers.dual.large_program import charged, spend_the_rest
from clearopt.solvers.dual.one_row import OneRow
from clearopt.solvers.dual.presolve import presolve
from clearopt.solvers.dual.separable import separate, view
from clearopt.solvers.progress import Silent, Ticker
from clearopt.validation import FloatArray

_ROUNDS = 12  # of who is kept by the budget's price
_NODES = 400  # of branch and bound, under one cap
_PART = 0.8  # of the tolerance: what the gaps may add up to
_SAMPLE = 2**13  # queries
_OVER = 1e-10  # of a cap: what counts as broken
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Pool:
    """Those whose caps do not bind, at the price of the budget.

    Attributes:
        bound: on their gains, plus `price` times what is `left` for them.
        value: what they add to the objective.
    """

    price: float
    bound: float
    value: float
    left: float
    message: str = ""


class LargeCaps:
    """One run; `solve` is called once.

    Args:
        caps: the structure.
        tolerance: the relative gap wanted.
        nodes: of branch and bound, at most, under each cap.
        places: queries of a chunk.
    """

    def __init__(
        self,
        caps: Caps,
        *,
        tolerance: float,
        deadline: Deadline,
        ticker: Ticker,
        nodes: int = _NODES,
        places: int = SMALL_BLOCK,
    ) -> None:
        self.node_limit = nodes
        self.caps, self.tolerance, self.deadline = caps, tolerance, deadline
        self.ticker, self.places = ticker, places
        self.program = caps.program
        self.queries = Queries(self.program, caps.charge, places)
        self.tokens = np.zeros(self.program.n)
        self.price = np.zeros(caps.count)  # of every cap by itself
        self.own_bound = np.zeros(caps.count)  # at that price
        self.value = np.zeros(caps.count)
        self.used = np.zeros(caps.count)  # as the cap counts
        self.binds = np.zeros(caps.count, dtype=bool)  # at the budget's price
        self.nodes, self.searched = 0, 0

    def solve(self, start: float | None) -> dict[str, Any]:
        """What `make_solution` needs.

        Raises:
            Infeasible: lower bounds alone exceed a row.
        """
        self._settle(np.arange(self.caps.count))
        price = 0.0
        if self.caps.budget_row is not None:
            price = start if start is not None else self._guess()
        pool = self._share(price)
        own = self._own(pool.price)
        bound = self._bound(pool, own)
        found = self._search(pool, own)
        if found:
            bound = min(bound, self._bound(pool, own))
            if not self.deadline.over:
                self._take(found)
                pool = replace(self._share(pool.price), message=pool.message)
        message = pool.message
        if not message and self.deadline.over:
            message = f"stopped at the {self.deadline.reason}"
        return {
            "allocation": self.tokens,
            "handed_over": True,
            "bound": self.program.offset + bound,
            "row_prices": self._prices(pool.price),
            "message": message,
            "statistics": {
                "nodes": max(self.nodes, 1),
                "engine": "jax",
                "groups": self.caps.count,
                "linking": int(self.caps.budget_row is not None),
                "searched": self.searched,
            },
        }

    def _settle(self, numbers: NDArray[np.intp]) -> None:
        """These caps by themselves."""
        for which in self.caps.chunks(numbers, self.places):
            self.ticker.say(f"cap {int(which[0])} of {self.caps.count}")
            chunk = Chunk(self.caps, self.queries, which, self.places)
            found = settle(chunk, self.caps.levels[which], self.deadline)
            self.tokens[chunk.index] = found.tokens
            self.price[which], self.own_bound[which] = found.price, found.bound
            self.value[which], self.used[which] = found.value, found.used

    # ------------------------------------------------------------------ the budget
    @property
    def _until(self) -> FloatArray:
        """(G,) the budget's price up to which each cap binds."""
        with np.errstate(all="ignore"):
            until = self.price / self.caps.ratio
        return np.where(self.caps.ratio > 0, until, np.where(self.price > 0, np.inf, 0.0))

    def _guess(self) -> float:
        """A first price of the budget, from the demand of a sample at the dearer of two prices."""
        everybody = self._chosen(np.ones(self.caps.count, dtype=bool))
        sample = everybody.sample_of_parts(_SAMPLE)
        least = np.r_[np.where(np.isfinite(self._until), self._until, 0.0), 0.0]
        return presolve(
            [(group, stands_for) for group, stands_for, _ in sample],
            self.caps.budget,
            None,
            [least[part] for _, _, part in sample],
        )[0]

    def _chosen(self, which: NDArray[np.bool_]) -> Chosen:
        """The queries under some caps, (G,), one array a cap; last those under none."""
        index = [self.caps.members(g) for g in np.flatnonzero(which).tolist()]
        index += [self.caps.rest] if self.caps.rest.size else []
        return Chosen(self.queries, index, self.places)

    def _share(self, price: float) -> Pool:
        """Tokens of all whose caps do not bind, at the price that spends what is left for them.

        From a first price on, until those who are kept by the price that comes out are those who
        were taken to be.
        """
        caps, pool = self.caps, None
        shared, forced, over = np.zeros((3, caps.count), dtype=bool)
        for tries in range(_ROUNDS):
            binds = (self._until > price) | forced
            self._settle_again(np.flatnonzero(shared & binds))
            shared = ~binds
            pool = self._share_among(binds, price)
            if pool is None:  # what is left does not go round: fewer caps bind
                there = np.sort(self._until[binds & ~forced])
                if not there.size or not math.isfinite(there[0]):
                    raise Infeasible
                price = float(there[there.size // 10]) * (1 + _EPS)
                continue
            over = shared & (caps.used(self.tokens) > caps.levels * (1 + _OVER))
            moved = ((self._until > pool.price) | forced) != binds
            if self.deadline.over:
                break
            if over.any():
                forced |= over
            elif not moved.any() or tries == _ROUNDS - 1:
                break
            # Where it goes back and forth the way is halved.
            price = pool.price if tries < 4 else 0.5 * (price + pool.price)
        if pool is None:
            raise Infeasible
        # The last try's: what they may buy is bounded as part of the pool all the same.
        self._settle_again(np.flatnonzero(over))
        self.binds = binds
        return pool

    def _settle_again(self, numbers: NDArray[np.intp]) -> None:
        """Caps whose queries have been given tokens as if they did not bind."""
        if numbers.size:
            self._settle(numbers)

    def _share_among(self, binds: NDArray[np.bool_], price: float) -> Pool | None:
        """The same for some who are taken to bind; None where they leave too little."""
        caps = self.caps
        left = caps.budget
        if math.isfinite(left):
            left -= math.fsum((caps.ratio * self.used)[binds])
        source = self._chosen(~binds)
        if not source.size or left < 0:
            return Pool(0.0, 0.0, 0.0, left) if left >= 0 else None

        def keep(block: Block, found: FloatArray) -> None:
            self.tokens[block.index] = found

        run = LargeRow(source, left, deadline=self.deadline, tell=self.ticker.say)
        try:
            found = run.solve(keep, start=price if price > 0 else None)
        except Infeasible:
            return None
        if math.isfinite(left):
            if not found.message:  # else there is no time for it
                spend_the_rest(
                    source, caps.charge, self.tokens, caps.budget, priced=found.price > 0
                )
            if charged(caps.charge, self.tokens) > caps.budget * (1 + 1e-10):
                run.retreat(keep)
        return Pool(found.price, found.bound, found.value, left, found.message)

    # ------------------------------------------------------------------ the bound
    def _own(self, price: float) -> FloatArray:
        """(G,) bounds on what those whose caps bind add, net of their tokens' worth to the budget.

        A cap that was only taken to bind is worth nothing at the budget's price.
        """
        caps = self.caps
        worth = price * caps.ratio
        own = np.where(self.binds, self.own_bound, 0.0)
        for which in caps.chunks(np.flatnonzero(self.binds & (self.price < worth)), self.places):
            chunk, levels = Chunk(caps, self.queries, which, self.places), caps.levels[which]
            gain, size = chunk.ask("sides", worth[which][chunk.label])[:2]
            own[which] = bounds(chunk, levels, worth[which], gain, size)
        paid = np.where(self.binds, worth * caps.levels, 0.0)
        return own - paid + 4 * _EPS * (np.abs(own) + paid)

    def _bound(self, pool: Pool, own: FloatArray) -> float:
        """D, rounded upwards."""
        terms = [pool.bound, *own[self.binds].tolist()]
        if math.isfinite(self.caps.budget) and pool.price > 0:
            terms.append(pool.price * (self.caps.budget - pool.left))
        return math.fsum(terms) + 4 * _EPS * math.fsum(abs(term) for term in terms)

    # ------------------------------------------------------------------ single caps
    def _search(self, pool: Pool, own: FloatArray) -> dict[int, FloatArray]:
        """Search the caps whose gaps are widest, until the others' are within the tolerance.

        Lowers `own`; returns better allocations of single caps.
        """
        caps, better = self.caps, dict[int, FloatArray]()
        gains = np.where(self.binds, self.value - pool.price * caps.ratio * self.used, 0.0)
        gap = np.where(self.binds, own - gains, 0.0)
        allowed = self.tolerance * abs(math.fsum(self.value[self.binds]) + pool.value)
        # Half of it for the caps that are left to prices, the rest for those that are searched.
        part = 0.5 * max(_PART * allowed - (pool.bound - pool.value), 0.2 * allowed)
        rising = np.argsort(gap, kind="stable")
        open_ = rising[np.cumsum(gap[rising]) > part][::-1]  # the widest first
        for done, g in enumerate(open_.tolist()):
            if self.deadline.over:
                break
            share = part / (open_.size - done)
            found, tokens, slack = self._search_one(g, pool.price, share, float(own[g]))
            self.nodes, self.searched = self.nodes + found.nodes, self.searched + 1
            own[g] = min(own[g], found.bound + slack)
            if tokens is not None and found.value > gains[g]:
                better[g], gains[g] = tokens, found.value
            part -= min(max(float(own[g] - gains[g]), 0.0), share)
        return better

    def _search_one(
        self, g: int, price: float, allowed: float, bound: float
    ) -> tuple[Outcome, FloatArray | None, float]:
        """Branch and bound of one cap to an absolute gap, its tokens, and the bound's rounding."""
        caps, program = self.caps, self.program
        index, coefficient = caps.members(g), caps.coefficients(g)
        blocks, weight = [], np.zeros(index.size)
        for positions, group in self.queries.groups(index):
            columns = group.columns.full(weight[positions].size)
            blocks.append(UtilityBlock(group.kind.from_parameters(*columns.parameters), positions))
            weight[positions] = columns.weight
        paid = price * caps.ratio[g] * coefficient
        ends = np.array([0, index.size])
        alone = Program(
            weight=weight,
            cost=program.cost[index] + paid,
            lower=program.lower[index],
            upper=program.upper[index],
            integer=program.integer[index],
            utilities=tuple(blocks),
            rows=sparse.csr_array((coefficient, np.arange(index.size), ends), (1, index.size)),
            senses=("<=",),
            right_hand_side=caps.levels[[g]],
            floors=sparse.csr_array((0, index.size)),
            floor_levels=np.zeros(0),
        )
        seen = view(alone)
        queries = separate(seen, "numpy")
        row = OneRow(
            queries, coefficient[queries.order], float(caps.levels[g]), False, self.deadline
        )
        limits = Limits(
            tolerance=allowed / max(abs(bound), allowed, 1e-300),
            deadline=self.deadline,
            nodes=self.node_limit,
            eager_nodes=0,
        )
        start = max(float(self.price[g]) - price * float(caps.ratio[g]), 0.0)
        found = BranchAndBound(row, limits, start, Silent()).solve()
        if found.stopped == "infeasible":
            raise Infeasible
        rounding = 4 * _EPS * float(queries.cost @ queries.upper)
        if found.tokens is None:
            return found, None, rounding
        tokens = np.empty(index.size)
        tokens[queries.order] = found.tokens
        return found, seen.tokens(tokens), rounding

    def _take(self, better: dict[int, FloatArray]) -> None:
        """Better allocations of single caps."""
        for g, tokens in better.items():
            self.tokens[self.caps.members(g)] = tokens
            self.used[g] = float(self.caps.coefficients(g) @ tokens)

    def _prices(self, price: float) -> FloatArray:
        """(K,) the prices of all rows."""
        caps = self.caps
        prices = np.zeros(self.program.rows.shape[0])
        prices[caps.rows] = np.where(self.binds, np.maximum(self.price - price * caps.ratio, 0), 0)
        if caps.budget_row is not None:
            prices[caps.budget_row] = price
        return prices


def solve_large_caps(
    program: Program,
    *,
    tolerance: float,
    deadline: Deadline,
    known: FloatArray | None = None,
    ticker: Ticker,
    nodes: int | None = None,
    places: int = SMALL_BLOCK,
) -> dict[str, Any] | None:
    """What `make_solution` needs of a plain program whose rows are caps, and a budget over all.

    Args:
        known: (K,) prices of an earlier solution, NaN where there are none.
        nodes: of branch and bound, at most, under each cap.
        places: queries of a chunk.

    Returns:
        None where the rows are others, or the lower bounds do not fit.
    """
    caps = find_caps(program)
    if caps is None:
        return None
    start = None
    if known is not None and caps.budget_row is not None and np.isfinite(known[caps.budget_row]):
        start = float(known[caps.budget_row])
    run = LargeCaps(
        caps,
        tolerance=tolerance,
        deadline=deadline,
        ticker=ticker,
        nodes=nodes or _NODES,
        places=places,
    )
    try:
        return run.solve(start)
    except Infeasible:
        return None
