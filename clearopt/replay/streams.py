"""Seeded streams of traffic, drawn from a pool of queries with a chosen mix of easy and hard.

A query is easy where the pool's model solves it often and quickly: queries are ranked by the share
of their answers that is right, ties by how long a right answer takes, and cut into three equal
parts. A stream draws a part by the mix, then a query of that part, with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearopt.calibration import Rollouts, Run
from clearopt.errors import DeclarationError
from clearopt.replay.accounting import per_query
from clearopt.validation import FloatArray

EASY, MEDIUM, HARD = range(3)

_THIRD = 1.0 / 3.0
MIXES: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "balanced": ((_THIRD, _THIRD, _THIRD), (_THIRD, _THIRD, _THIRD)),
    "easy-heavy": ((0.7, 0.2, 0.1), (0.7, 0.2, 0.1)),
    "hard-heavy": ((0.1, 0.2, 0.7), (0.1, 0.2, 0.7)),
    "drifting": ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7)),
}
"""Name -> shares of easy, medium and hard queries at the stream's beginning and at its end."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries in the order in which they come.

    Attributes:
        mix: its name.
        queries: (length,) positions in the pool; a query may come again.
        part: (length,) 0 for easy, 1 for medium, 2 for hard.
    """

    mix: str
    queries: NDArray[np.intp]
    part: NDArray[np.intp]

    def __len__(self) -> int:
        return int(self.queries.size)


def sample_stream(
    pool: Run | NDArray[np.intp], mix: str, *, length: int = 500, seed: int = 0
) -> Stream:
    """Draw a stream.

    Args:
        pool: a run, or (n,) the part (0, 1, 2) of each query as `difficulty_parts` gives it.
        mix: a name of `MIXES`; "drifting" moves evenly from its first mix to its second.
        length: how many queries come.
        seed: of the draws.

    Raises:
        DeclarationError: there is no such mix, or the stream has no query.
    """
    if mix not in MIXES:
        raise DeclarationError(f"mix {mix!r}: known are {', '.join(MIXES)}")
    if length < 1:
        raise DeclarationError(f"length = {length!r}: a stream has at least one query")
    parts = difficulty_parts(pool.rollouts, pool.n) if isinstance(pool, Run) else pool
    rng = np.random.default_rng([seed, 17])
    first, last = np.array(MIXES[mix])
    done = np.linspace(0.0, 1.0, length)[:, None] if length > 1 else np.zeros((1, 1))
    shares = (1 - done) * first + done * last
    # A pool of one or two queries has no query of some part: its share goes to the others.
    shares = shares * (np.bincount(parts, minlength=3) > 0)
    limits = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    drawn = (rng.random(length)[:, None] > limits[:, :2]).sum(axis=1)
    members = [np.flatnonzero(parts == part) for part in range(3)]
    place = rng.random(length)
    queries = np.array(
        [
            members[part][int(where * members[part].size)]
            for part, where in zip(drawn, place, strict=True)
        ],
        dtype=np.intp,
    )
    return Stream(mix, queries, drawn.astype(np.intp))


def difficulty_parts(rollouts: Rollouts, n: int) -> NDArray[np.intp]:
    """(n,) 0 for the easiest third of the queries, 1 for the next, 2 for the hardest."""
    solved = per_query(rollouts, rollouts.solved.astype(np.float64), n)
    length = _mean_length(rollouts, n)
    order = np.lexsort((length, -solved))
    parts = np.empty(n, dtype=np.intp)
    parts[order] = np.arange(n) * 3 // n
    return parts


def _mean_length(rollouts: Rollouts, n: int) -> FloatArray:
    """(n,) mean tokens of the right answers, of all answers where none is right."""
    right = rollouts.solved
    counts = np.bincount(rollouts.query[right], minlength=n)
    sums = np.bincount(rollouts.query[right], weights=rollouts.tokens[right], minlength=n)
    return np.where(
        counts > 0, sums / np.maximum(counts, 1), per_query(rollouts, rollouts.tokens, n)
    )
