"""`PostedPrice`: every query gets its tokens the moment it comes, at a price learnt on the way.

Offline, one price of a token decides which queries are funded and how far. Online it is not known,
but each query can be answered as if it were: it buys what it is worth most to it at the price
posted, and the price then moves with what was bought, up where that was more than the budget's
rate, down where it was less. That is mirror descent on the dual (Balseiro, Lu and Mirrokni,
Operations Research 71, 2023), here on the logarithm of the price, so that it never falls to 0 and
moves by shares of itself. Steps shrink with the square root of the number of queries seen, in units
of how far purchases scatter (as AdaGrad's do). Queries that come independently of one another cost
a regret of the order of sqrt(horizon) against the offline optimum; what drifts, costs what the
price lags behind.

A query's answer is a best response over its whole curve, so that curves may be S-shaped: whom the
price shuts out is abandoned.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from clearopt.errors import DeclarationError
from clearopt.utilities import Utility
from clearopt.validation import FloatArray, broadcast_to_length

_FARTHEST = 1.0  # the logarithm of the price moves by at most so much for one query
_KNOWN = 10.0  # queries' worth of trust in the first guesses of price and scatter
_BURST = 50.0  # times the rate: what an endless stream may be ahead of it


@dataclass(frozen=True)
class Quote:
    """What one query may spend.

    Attributes:
        number: 0, 1, ... in the order of quotes.
        tokens: its cap; 0 where it is abandoned.
        price: accuracy per token at which it bought.
        accuracy: expected of it under the cap, by its curve.
    """

    number: int
    tokens: float
    price: float
    accuracy: float

    @property
    def funded(self) -> bool:
        return self.tokens > 0


@dataclass(frozen=True)
class TierState:
    """A tier with a floor.

    Attributes:
        queries: how many came.
        accuracy: their mean, expected; abandoned ones count as 0.
        floor: what was promised.
        price: of the floor: what a right answer counts for here beyond 1.
    """

    queries: int
    accuracy: float
    floor: float
    price: float


class _Tier:
    """The learning of one floor's price."""

    def __init__(self, floor: float) -> None:
        self.floor, self.price = float(floor), 0.0
        self._seen, self._total, self._scatter = 0, 0.0, 1.0

    def learn(self, accuracy: float, step: float, memory: float) -> None:
        """A step on the dual: up by what an answer stays below the floor."""
        self._seen += 1
        self._total += accuracy
        short = self.floor - accuracy
        counted = min(self._seen + _KNOWN, memory)
        self._scatter += (short**2 - self._scatter) / counted
        self.price = max(self.price + step * short / math.sqrt(self._scatter * counted), 0.0)

    def state(self) -> TierState:
        return TierState(self._seen, self._total / max(self._seen, 1), self.floor, self.price)


class PostedPrice:
    """A market: a budget, and a price of its tokens that is learnt as queries come.

    The sum of what was spent and what is promised to queries under way never exceeds the budget.
    `settle` says what a query really spent; the rest goes back into the budget.

    Args:
        budget: tokens for the whole stream; with `horizon`.
        horizon: how many queries will come. More may come: they share what is left.
        rate: tokens a query for a stream without an end, instead of budget and horizon: each
            arrival brings so many, and up to `burst` of them may be spent ahead.
        burst: tokens; 50 times the rate by default. What is saved up is not bounded.
        price: to begin with, accuracy per token; `price_of_history` learns one from earlier
            queries. By default that at which a perfect answer for the rate breaks even.
        learnt_from: of how many earlier queries; the more, the smaller are the first steps.
        step: how boldly the price moves; 1 is the theory's order of size.
        memory: how many past queries the price should go by: steps stop shrinking there. Fewer
            follow a drift faster and fluctuate more. By default the horizon, or 1 000.
        floors: label of a tier -> mean accuracy promised to its queries. A floor has a price too,
            on accuracy, learnt likewise: it raises what accuracy is worth to that tier. A floor
            that the budget cannot carry is missed; `tiers` shows it.
        whole: caps are whole tokens.

    Raises:
        DeclarationError: an argument is out of range, or neither a budget with its horizon nor a
            rate is given.
    """

    def __init__(
        self,
        *,
        budget: float | None = None,
        horizon: int | None = None,
        rate: float | None = None,
        burst: float | None = None,
        price: float | None = None,
        learnt_from: int = 0,
        step: float = 1.0,
        memory: float | None = None,
        floors: Mapping[Hashable, float] | None = None,
        whole: bool = True,
    ) -> None:
        if (budget is None) != (horizon is None) or (budget is None) == (rate is None):
            raise DeclarationError(
                "PostedPrice: give a budget with the horizon it is for, or else a rate, tokens a "
                "query"
            )
        for name, value in (
            ("budget", budget), ("horizon", horizon), ("rate", rate), ("price", price),
            ("step", step), ("memory", memory),
        ):  # fmt: skip
            if value is not None and not 0 < value < math.inf:
                raise DeclarationError(f"PostedPrice: {name} = {value!r}: must be positive")
        if burst is not None and not burst >= 0:
            raise DeclarationError(f"PostedPrice: burst = {burst!r}: must be at least 0")
        if not learnt_from >= 0:
            raise DeclarationError(f"PostedPrice: learnt_from = {learnt_from!r}: at least 0")
        for label, floor in (floors or {}).items():
            if not 0 < floor < 1:
                raise DeclarationError(
                    f"PostedPrice: floors[{label!r}] = {floor!r}: must lie between 0 and 1"
                )
        self._horizon = None if horizon is None else int(horizon)
        self._budget = 0.0 if budget is None else float(budget)
        if rate is not None:
            self._budget = _BURST * rate if burst is None else float(burst)
            self._rate = float(rate)
        else:
            assert horizon is not None
            self._rate = self._budget / horizon
        self.price = 1.0 / self._rate if price is None else float(price)
        self._tiers = {label: _Tier(floor) for label, floor in (floors or {}).items()}
        self._step, self._whole = float(step), bool(whole)
        self._memory = float(memory or horizon or 1000)
        self._known = _KNOWN + float(learnt_from)
        self.seen = 0
        self.spent = 0.0
        self.reserved = 0.0
        self._expected = 0.0
        self._scatter = 1.0  # mean square of the price's gradient
        self._settled, self._used = 0.0, 0.0
        self._open: dict[int, float] = {}

    # ---------------------------------------------------------------- what is left
    @property
    def budget(self) -> float:
        """Tokens given so far: all of them, or burst and what the arrivals have brought."""
        return self._budget if self._horizon is not None else self._budget + self._rate * self.seen

    @property
    def room(self) -> float:
        """Tokens neither spent nor promised."""
        return max(self.budget - self.spent - self.reserved, 0.0)

    @property
    def accuracy(self) -> float:
        """Mean expected accuracy of all queries so far, abandoned ones included."""
        return self._expected / max(self.seen, 1)

    @property
    def use(self) -> float:
        """Which share of their caps queries have really spent; 1 before any is settled."""
        return (self._used + self._rate) / (self._settled + self._rate)

    @property
    def pace(self) -> float:
        """Tokens that the next query should cost on average, for the budget to last."""
        if self._horizon is None:
            return self._rate
        return self.room / max(self._horizon - self.seen, 1)

    @property
    def tiers(self) -> dict[Hashable, TierState]:
        """Each tier that has a floor, as it stands."""
        return {label: tier.state() for label, tier in self._tiers.items()}

    # ---------------------------------------------------------------- buying
    def quote(
        self, utility: Utility, upper: float = math.inf, tier: Hashable | None = None
    ) -> Quote:
        """What the next query may spend, at once, and a step of the price.

        Args:
            utility: its expected accuracy by cap, one member.
            upper: the most it may have.
            tier: whose floor it counts for, if it is of one that has a floor.

        Raises:
            DeclarationError: the utility has several members; they are for `quotes`.
        """
        m = members_of(utility)
        if m > 1:
            raise DeclarationError(
                f"PostedPrice.quote: the utility has {m} members; give one, or take quotes(...)"
            )
        (found,) = self.quotes(utility, upper, tier)
        return found

    def quotes(
        self,
        utility: Utility,
        upper: float | FloatArray = math.inf,
        tier: Hashable | None = None,
    ) -> list[Quote]:
        """The same for queries that come together: all at the price posted, in their order.

        Args:
            utility: of m queries, one member each.
            upper: the most each may have, one or (m,).
            tier: of all of them.
        """
        m = members_of(utility)
        members = utility.broadcast(m)
        most = broadcast_to_length(np.asarray(upper, dtype=np.float64), m, "upper")
        if not (most >= 0).all():
            raise DeclarationError("PostedPrice: upper: must be at least 0")
        own = self._tiers.get(tier)
        price, worth = self.price, 1.0 if own is None else 1.0 + own.price
        wanted, expected = self._demand(members, most, price, worth)
        found = []
        for k in range(m):
            self.seen += 1  # its arrival may bring tokens
            tokens, accuracy = float(wanted[k]), float(expected[k])
            if tokens > self.room:  # what those before it have left
                one = slice(k, k + 1)
                less, reached = self._demand(members.take(one), most[one], price, worth)
                tokens, accuracy = float(less[0]), float(reached[0])
            found.append(self._booked(tokens, price, accuracy, float(wanted[k]), own))
        return found

    def settle(self, quote: Quote | int, tokens: float) -> None:
        """Say what a query really spent; what it leaves goes back into the budget.

        Raises:
            DeclarationError: there is no such quote open, or it was overspent.
        """
        number = quote.number if isinstance(quote, Quote) else int(quote)
        if number not in self._open:
            raise DeclarationError(
                f"settle: quote {number} is not open: abandoned queries spend nothing, and each "
                "other one is settled once"
            )
        cap = self._open[number]
        if not 0 <= tokens <= cap:
            raise DeclarationError(
                f"settle: quote {number} spent {tokens!r} tokens of its {cap:g}: an engine that "
                "exceeds its caps cannot keep a budget"
            )
        del self._open[number]
        self.reserved -= cap
        self.spent += float(tokens)
        self._settled += cap
        self._used += float(tokens)

    def repeat(
        self, utility: Utility, tokens: float, price: float, tier: Hashable | None = None
    ) -> Quote:
        """A quote that was made before, by a market that is no more; see `clearopt.runs`.

        Args:
            utility: of the query, one member.
            tokens, price: as they were quoted.
            tier: as it was.
        """
        self.seen += 1
        self.price, cap = float(price), float(tokens)
        accuracy = float(np.ravel(utility.value(cap))[0])
        return self._booked(cap, self.price, accuracy, cap, self._tiers.get(tier))

    def lose(self, tokens: float) -> None:
        """Tokens that were spent and brought nothing: an answer that was lost on the way.

        Raises:
            DeclarationError: they are negative.
        """
        if not tokens >= 0:
            raise DeclarationError(f"lose: {tokens!r} tokens: must be at least 0")
        self.spent += float(tokens)

    # ---------------------------------------------------------------- prices
    def _demand(
        self, utility: Utility, upper: FloatArray, price: float, worth: float
    ) -> tuple[FloatArray, FloatArray]:
        """What each member buys within the room, as if it were alone, and its accuracy then."""
        with np.errstate(all="ignore"):
            enough = utility.origin + utility.saturation_excess
            whole = None
            if self._whole:
                enough = np.ceil(enough)
                whole = np.ones(upper.shape, dtype=np.bool_)
            most = np.minimum(np.minimum(upper, enough), self.room)
            if self._whole:
                most = np.floor(most)
            ones = np.ones(most.shape)
            bought = utility.best_response(worth * ones, price * ones, 0.0 * ones, most, whole)
        return np.asarray(bought.tokens), np.asarray(bought.utility)

    def _booked(
        self, tokens: float, price: float, accuracy: float, wanted: float, own: _Tier | None
    ) -> Quote:
        """Note the cap of the query that has just come, and learn from what it wanted."""
        quote = Quote(self.seen - 1, tokens, price, accuracy)
        self._learn(wanted)
        if own is not None:
            own.learn(accuracy, self._step, self._memory)
        self.reserved += tokens
        self._expected += accuracy
        if tokens > 0:
            self._open[quote.number] = tokens
        return quote

    def _learn(self, tokens: float) -> None:
        """One step of mirror descent: the price goes by what was wanted, had or not."""
        pace = self.pace
        if not pace > 0:  # the budget is spent: nothing more is to be learnt from it
            return
        excess = tokens * self.use / pace - 1.0
        counted = min(self.seen + self._known, self._memory)
        self._scatter += (excess**2 - self._scatter) / counted
        move = self._step * excess / math.sqrt(self._scatter * counted)
        self.price *= math.exp(min(max(move, -_FARTHEST), _FARTHEST))

    def __repr__(self) -> str:
        return (
            f"PostedPrice(price {self.price:.3g}, {self.seen} queries, {self.spent:.0f} tokens "
            f"spent, {self.reserved:.0f} promised of {self.budget:.0f})"
        )


def members_of(utility: Utility) -> int:
    """How many queries a family has members for; 1 where its parameters are numbers.

    Of a table, which is one row for all or one a query, the first of two axes.
    """
    own = 1 if utility.s_shaped else 2
    return max((int(np.shape(p)[0]) for p in utility.parameters if np.ndim(p) >= own), default=1)
