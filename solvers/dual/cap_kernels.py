"""What is asked of queries under caps, each at its own cap's price: answers query by query.

The sums by cap are formed by the caller. As in `kernels`, the same lines run in NumPy and JAX.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from clearopt.solvers.dual.blocks import Columns
from clearopt.solvers.dual.kernels import see
from clearopt.utilities.lambertw import namespace_of


def demanded(kind: Any, columns: Columns, valid: Any, price: Any) -> tuple[Any, ...]:
    """What each is charged for its best response, and that."""
    seen = see(kind, columns, valid)
    tokens = seen.at(price).tokens
    return seen.coefficient * tokens, tokens


def sides(kind: Any, columns: Columns, valid: Any, price: Any) -> tuple[Any, ...]:
    """Gain and its size at the best response; the edge of buying on the concave part over the least
    amount, and what either is charged. The edge is infinite for who has no other side.
    """
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    charged = seen.cost + price * seen.coefficient
    response = seen.at(price)
    past = seen.at(price, xp.minimum(seen.bend, seen.upper), seen.upper)
    idle = seen.weight * seen.utility.value_at(seen.utility.excess_of(seen.lower))
    edge = past.gain - (idle - charged * seen.lower)
    return (
        response.gain,
        seen.size(response, price),
        xp.where((seen.lower < seen.bend) & valid, edge, xp.inf),
        seen.coefficient * seen.lower,
        seen.coefficient * past.tokens,
    )


def hurried(kind: Any, columns: Columns, valid: Any, price: Any) -> tuple[Any, ...]:
    """Gain and its size at the best response; what it and the least amount are charged, and are in
    tokens."""
    seen = see(kind, columns, valid)
    response = seen.at(price)
    return (
        response.gain,
        seen.size(response, price),
        seen.coefficient * response.tokens,
        seen.coefficient * seen.lower,
        response.tokens,
        seen.lower,
    )


def filled(kind: Any, columns: Columns, valid: Any, price: Any, on: Any) -> tuple[Any, ...]:
    """What each is charged, and buys, if it is past its inflection where `on`, else at its least.

    And, where fractions of tokens follow the price, between which amounts; else nothing.
    """
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    low = xp.minimum(seen.bend, seen.upper)
    tokens = xp.where(on, seen.at(price, low, seen.upper).tokens, seen.lower)
    follows = on & (tokens > low) & (tokens < seen.upper) & valid
    if seen.integer is not None:
        follows = follows & ~seen.integer
    return (
        seen.coefficient * tokens,
        tokens,
        xp.where(follows, low, tokens),
        xp.where(follows, seen.upper, tokens),
    )


def following(kind: Any, columns: Columns, valid: Any, tokens: Any, on: Any) -> tuple[Any, ...]:
    """The next whole amount of each, what it is charged more then, and what it gains for that.

    The gain is per unit charged, and at most 0 for who is not `on` or has none.
    """
    xp = namespace_of(valid)
    seen = see(kind, columns, valid)
    more = xp.minimum(seen.utility.whole_after(tokens), seen.upper)
    charge = seen.coefficient * (more - tokens)
    before, after = (seen.utility.value_at(seen.utility.excess_of(at)) for at in (tokens, more))
    gain = seen.weight * (after - before) - seen.cost * (more - tokens)
    able = on & (charge > 0)
    if seen.integer is not None:
        able = able & seen.integer
    return more, charge, xp.where(able, gain / xp.where(able, charge, 1.0), 0.0)


def worth(kind: Any, columns: Columns, valid: Any, tokens: Any) -> tuple[Any, ...]:
    """What each adds to the objective, and what it is charged."""
    seen = see(kind, columns, valid)
    utility = seen.utility.value_at(seen.utility.excess_of(tokens))
    return seen.weight * utility - seen.cost * tokens, seen.coefficient * tokens


_QUESTIONS: dict[str, Any] = {
    "demanded": demanded,
    "sides": sides,
    "hurried": hurried,
    "filled": filled,
    "following": following,
    "worth": worth,
}


@cache
def compiled(question: str, kind: Any) -> Any:
    """A question compiled by JAX for one kind of utility; call it within `enable_x64`."""
    import jax

    def ask(columns: Columns, valid: Any, *others: Any) -> Any:
        return _QUESTIONS[question](kind, columns, valid, *others)

    return jax.jit(ask)
