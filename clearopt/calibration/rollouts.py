"""`Rollouts`: what was seen when a model answered calibration queries with ample tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import ClearoptError, DeclarationError
from clearopt.validation import FloatArray, as_float_array, require


class CalibrationError(ClearoptError, ValueError):
    """The rollouts cannot be turned into utilities; the message says what they lack."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """m generated answers to calibration queries. Every field has shape (m,).

    Attributes:
        query: which query it answers, a position in the list of features (0, 1, ...).
        tokens: tokens the answer needed (for one that was cut: tokens generated).
        correct: whether the answer is right.
        finished: whether it ended by itself; one that was cut at its cap is *censored*: it does
            not count as right, and its length is not used as a length.

    Raises:
        DeclarationError: lengths differ, no rollout at all, a query that is not a whole number of
            at least 0, or a token count below 0.
    """

    query: NDArray[np.intp]
    tokens: FloatArray
    correct: NDArray[np.bool_]
    finished: NDArray[np.bool_]

    def __init__(
        self, query: ArrayLike, tokens: ArrayLike, correct: ArrayLike, finished: ArrayLike
    ) -> None:
        numbers = as_float_array(query, "Rollouts: query")
        lengths = as_float_array(tokens, "Rollouts: tokens")
        flags: dict[str, NDArray[Any]] = {}
        for name, value in (("correct", correct), ("finished", finished)):
            flags[name] = np.array(as_float_array(value, f"Rollouts: {name}"))
            require(
                flags[name], np.isin(flags[name], (0.0, 1.0)), f"Rollouts: {name}", "must be a bool"
            )
        arrays = {"query": numbers, "tokens": lengths, **flags}
        for name, array in arrays.items():
            if array.ndim != 1 or array.shape != numbers.shape:
                raise DeclarationError(
                    f"Rollouts: {name} has shape {array.shape}, query has shape {numbers.shape}: "
                    "give one entry a rollout in each"
                )
        if not numbers.size:
            raise DeclarationError("Rollouts: there are none; at least one is needed")
        whole = (numbers >= 0) & (numbers == np.floor(numbers))
        require(numbers, whole, "Rollouts: query", "must be a whole number of at least 0")
        require(lengths, lengths >= 0, "Rollouts: tokens", "must be at least 0")
        object.__setattr__(self, "query", numbers.astype(np.intp))
        # Less than a millionth of a token is rounding, and no length to fit a law to.
        object.__setattr__(self, "tokens", np.where(lengths < 1e-6, 0.0, lengths))
        object.__setattr__(self, "correct", flags["correct"].astype(bool))
        object.__setattr__(self, "finished", flags["finished"].astype(bool))

    def __len__(self) -> int:
        return int(self.query.shape[0])

    def __repr__(self) -> str:
        queries = np.unique(self.query).size
        return f"Rollouts({len(self)} answers to {queries} quer{'y' if queries == 1 else 'ies'})"

    @property
    def solved(self) -> NDArray[np.bool_]:
        """(m,) right and ended by itself: what counts as solved with ample tokens."""
        return self.correct & self.finished

    def accuracy_under(self, cap: float) -> float:
        """Share of the rollouts that are right under a common cap of `cap` tokens."""
        return float(np.mean(self.solved & (self.tokens <= cap)))

    def ample_cap(self, share: float = 0.99) -> int:
        """The smallest common cap (tokens) that reaches `share` of the uncapped accuracy.

        Raises:
            CalibrationError: no rollout is right.
        """
        lengths = np.sort(self.tokens[self.solved])
        if not lengths.size:
            raise CalibrationError(
                f"none of the {len(self)} calibration rollouts is right, so no number of tokens is "
                "ample: use a model that solves some of the queries, or easier queries"
            )
        needed = int(np.ceil(share * lengths.size - 1e-9))
        return int(np.ceil(lengths[max(needed, 1) - 1]))
