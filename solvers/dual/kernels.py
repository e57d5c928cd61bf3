"""What is asked of a block of queries at a price, compiled once and written once for NumPy too.

**Rounding.** A kernel returns its sums in rows of `ROW` terms. However XLA orders the additions of
a row, its sum is off by at most (ROW - 1) u times the sum of the sizes of its terms, u = eps / 2
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 4.6, first order); the rows
are added exactly on the host (`math.fsum`). With at most `ROUNDING` (64 u) for the computation of
one term, `SUM_ERROR` times the sum of sizes bounds the whole error of a sum of any length, sums
over several devices included: they exchange rows, not totals.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from clearopt.solvers.dual.blocks import Columns
from clearopt.solvers.dual.separable import ROUNDING
from clearopt.utilities import BestResponse, Utility
from clearopt.utilities.lambertw import namespace_of
from clearopt.validation import FloatArray

ROW = 128
# Relative to the sum of the terms' sizes; the sizes themselves are summed with the same error.
SUM_ERROR = (ROUNDING + ROW * float(np.finfo(np.float64).eps) / 2) * (1 + 1e-9)
_ENDLESS = 1e300  # stands for an infinite amount
# Of its own amount and per relative change of price: who moves more than this is a jump.
STEEP = 100.0


class _Seen(NamedTuple):
    """The queries of a block, ready to be asked."""

    utility: Utility
    weight: Any
    cost: Any
    coefficient: Any
    lower: Any
    upper: Any
    integer: Any
    bend: Any  # tokens from which the utility is concave, whole where tokens are

    def at(self, price: Any, lower: Any = None, upper: Any = None) -> BestResponse:
        """Best responses to the row's price; tokens that add nothing are left."""
        xp = namespace_of(self.lower)
        lower = self.lower if lower is None else lower
        upper = self.upper if upper is None else upper
        charged = self.cost + price * self.coefficient
        response = self.utility.best_response(
            self.weight, charged, lower, upper, self.integer, saturated=True
        )
        idle = self.utility.value_at(self.utility.excess_of(lower))
        tokens = xp.where(response.utility > idle, response.tokens, lower)
        return BestResponse(tokens, response.gain, response.utility)

    def decided(self, response: BestResponse, price: Any, funded: Any) -> BestResponse:
        """What each buys at another price if it stays on its side of the inflection.

        Those `funded` are past it whatever the response was.
        """
        xp = namespace_of(self.lower)
        concave = (response.tokens >= self.bend) | funded
        low = xp.where(concave, xp.maximum(self.lower, self.bend), response.tokens)
        high = xp.where(concave, self.upper, response.tokens)
        return self.at(price, xp.minimum(low, high), high)

    def size(self, response: BestResponse, price: Any) -> Any:
        """What the terms of a gain come to in size."""
        xp = namespace_of(self.lower)
        charged = self.cost + price * self.coefficient
        return xp.abs(self.weight * response.utility) + xp.abs(charged * response.tokens)


def see(kind: Any, columns: Columns, valid: Any) -> _Seen:
    """Finite bounds that no optimum at prices of at least 0 needs to leave; the padded buy nothing.

    Past saturation nothing is gained, and without a weight nothing is worth its tokens.
    """
    xp = namespace_of(valid)
    utility: Utility = kind.from_parameters(*columns.parameters)
    weight = xp.where(valid, columns.weight, 0.0)
    lower = xp.broadcast_to(columns.lower, valid.shape)
    integer = columns.integer
    enough = xp.nextafter(utility.origin + utility.saturation_excess, xp.inf)
    if integer is not None:
        enough = xp.where(integer, utility.whole_above(enough), enough)
    upper = xp.minimum(xp.minimum(columns.upper, enough), _ENDLESS)
    bend = utility.origin + utility.inflection_excess
    if integer is not None:
        upper = xp.where(integer, utility.whole_below(upper), upper)
        bend = xp.where(integer, utility.whole_above(bend), bend)
    upper = xp.maximum(upper, lower)
    bend = xp.clip(bend, lower, upper)
    return _Seen(
        utility,
        weight,
        xp.where(valid, columns.cost, 0.0),
        xp.where(valid, columns.coefficient, 0.0),
        lower,
        xp.where(weight > 0, upper, lower),
        integer,
        bend,
    )


# -------------------------------------------------------------------------------- the questions
def measure(kind: Any, columns: Columns, valid: Any, price: Any) -> Any:
    """(3, rows): gains, their sizes, what the row is charged."""
    seen = see(kind, columns, valid)
    response = seen.at(price)
    return rows(response.gain, seen.size(response, price), seen.coefficient * response.tokens)


def straddle(kind: Any, columns: Columns, valid: Any, dear: Any, cheap: Any) -> Any:
    """(4, rows) and (m,) bool: charges at two prices, and who jumps between them.

    Charges of those who do not jump at the dear and at the cheap price, then of those who do. A
    jump crosses the inflection, is a step of whole tokens, or is out of all proportion.
    """
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    few, many = seen.at(dear).tokens, seen.at(cheap).tokens
    steep = STEEP * xp.maximum((dear - cheap) / dear, 1e-15)
    jumps = (few < seen.bend) | (many - few > steep * many)
    if seen.integer is not None:
        jumps = jumps | seen.integer
    jumps = (many > few) & jumps & valid
    settled, open_ = xp.where(jumps, 0.0, seen.coefficient), xp.where(jumps, seen.coefficient, 0.0)
    return rows(settled * few, settled * many, open_ * few, open_ * many), jumps


def commit(kind: Any, columns: Columns, valid: Any, price: Any, spent_at: Any, taken: Any) -> Any:
    """(5, rows) and (m,): gains and sizes at `price`; charges, values and their sizes of an
    allocation, and the allocation in tokens.

    Who buys is decided at `price`, how much at `spent_at`. `taken` are tokens decided elsewhere:
    infinite where only this is decided, that the query buys past its inflection, and NaN for all
    others.
    """
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    response = seen.at(price)
    allotted = seen.decided(response, spent_at, xp.isinf(taken))
    own = ~xp.isfinite(taken)
    fixed = xp.where(own, 0.0, taken)
    tokens = xp.where(own, allotted.tokens, fixed)
    utility = xp.where(own, allotted.utility, seen.utility.value_at(seen.utility.excess_of(fixed)))
    reward, paid = seen.weight * utility, seen.cost * tokens
    sums = rows(
        response.gain,
        seen.size(response, price),
        seen.coefficient * tokens,
        reward - paid,
        xp.abs(reward) + xp.abs(paid),
    )
    return sums, tokens


def buy(kind: Any, columns: Columns, valid: Any, price: Any, taken: Any) -> tuple[Any, Any]:
    """As `commit` where who buys and how much is decided at one price, but for finite `taken`."""
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    response = seen.at(price)
    own = ~xp.isfinite(taken)
    fixed = xp.where(own, 0.0, taken)
    tokens = xp.where(own, response.tokens, fixed)
    elsewhere = seen.utility.value_at(seen.utility.excess_of(fixed))
    reward = seen.weight * xp.where(own, response.utility, elsewhere)
    paid = seen.cost * tokens
    sums = rows(
        response.gain,
        seen.size(response, price),
        seen.coefficient * tokens,
        reward - paid,
        xp.abs(reward) + xp.abs(paid),
    )
    return sums, tokens


def rows(*terms: Any) -> Any:
    """(k, ceil(m / ROW)): each of the k terms, (m,), summed in rows."""
    xp = namespace_of(terms[0])
    stacked = []
    for term in terms:
        excess = -term.shape[0] % ROW
        if excess:
            term = xp.concatenate([term, xp.zeros(excess)])
        stacked.append(term.reshape(-1, ROW).sum(axis=1))
    return xp.stack(stacked)


# -------------------------------------------------------------------------------- compiled
_QUESTIONS: dict[str, Any] = {
    "measure": measure,
    "straddle": straddle,
    "commit": commit,
    "buy": buy,
}


@cache
def compiled(question: str, kind: Any, sharding: Any = None) -> Any:
    """A question compiled by JAX for one kind of utility; call it within `enable_x64`.

    With a sharding, arrays of queries stay on their devices and sums are handed to all of them.
    """
    import jax

    def ask(columns: Columns, valid: Any, *prices: Any) -> Any:
        return _QUESTIONS[question](kind, columns, valid, *prices)

    if sharding is None:
        return jax.jit(ask)
    of: Any = jax.sharding
    everywhere = of.NamedSharding(sharding.mesh, of.PartitionSpec())
    outputs = everywhere if question == "measure" else (everywhere, sharding)
    return jax.jit(ask, out_shardings=outputs)


def in_numpy(question: str, kind: Any, columns: Columns, *arguments: Any) -> Any:
    """The same question to a few queries, without a compiler."""
    valid = np.ones(columns.weight.shape[0], dtype=np.bool_)
    with np.errstate(all="ignore"):
        return _QUESTIONS[question](kind, columns, valid, *(np.asarray(a) for a in arguments))


def response_in_numpy(kind: Any, columns: Columns, price: Any) -> tuple[_Seen, FloatArray]:
    """The few queries as they are seen, and what they buy at a price."""
    valid = np.ones(columns.weight.shape[0], dtype=np.bool_)
    with np.errstate(all="ignore"):
        seen = see(kind, columns, valid)
        return seen, np.asarray(seen.at(np.asarray(price)).tokens)
