"""Choices: of the queries of one choice at most one has more than nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from clearopt.validation import FloatArray


@dataclass(frozen=True, eq=False)
class Choices:
    """Of the queries of one choice at most one has more than nothing."""

    members: NDArray[np.intp]  # all queries that are in a choice, choice by choice
    starts: NDArray[np.intp]  # where each choice starts in `members`
    n: int

    @classmethod
    def of(cls, choice: NDArray[np.intp]) -> Choices | None:
        """From the choice of each query, -1 for none; None where there are no choices."""
        members = np.flatnonzero(choice >= 0)
        if not members.size:
            return None
        members = members[np.argsort(choice[members], kind="stable")]
        starts = np.flatnonzero(np.diff(choice[members], prepend=-1))
        return cls(members, starts, choice.size)

    @cached_property
    def number(self) -> NDArray[np.intp]:
        """For each of `members`, which choice it is in, counted from 0."""
        sizes = np.diff(np.r_[self.starts, self.members.size])
        return np.repeat(np.arange(self.starts.size), sizes)

    def best(self, surplus: FloatArray) -> NDArray[np.bool_]:
        """(n,) who may have tokens: all outside of choices, and one of each with the most."""
        values = surplus[self.members]
        top = np.maximum.reduceat(values, self.starts)[self.number]
        place = np.where(values == top, np.arange(values.size), values.size)
        first = np.minimum.reduceat(place, self.starts)  # ties: the first option
        kept = np.ones(self.n, dtype=bool)
        kept[self.members] = False
        kept[self.members[first]] = True
        return kept

    @cached_property
    def membership(self) -> NDArray[np.bool_]:
        """(n,) who is in a choice."""
        inside = np.zeros(self.n, dtype=bool)
        inside[self.members] = True
        return inside

    def second(self, surplus: FloatArray) -> FloatArray:
        """(n,) the best surplus among the other options of each query's choice, at least 0."""
        values = surplus[self.members]
        top = np.maximum.reduceat(values, self.starts)[self.number]
        winner = self.best(surplus)[self.members]
        runner_up = np.maximum.reduceat(np.where(winner, -np.inf, values), self.starts)
        others = np.zeros(self.n)
        others[self.members] = np.maximum(np.where(winner, runner_up[self.number], top), 0.0)
        return others

    def broken(self, tokens: FloatArray) -> bool:
        """Whether some choice has two with tokens."""
        return bool((np.add.reduceat(tokens[self.members] > 0, self.starts) > 1).any())

    def matrix(self) -> sparse.csr_array:
        """(choices, n) with a one for each option."""
        ones = np.ones(self.members.size)
        return sparse.csr_array((ones, (self.number, self.members)), (self.starts.size, self.n))
