"""The few rows without which everything falls apart into groups: a budget over tenant caps.

Such rows are found among the longest: without the m longest rows and floors, for m = 1, 2, ...,
the others and the choices connect queries to groups, and small groups are what is looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from clearopt.solvers.dual.several_rows import SeveralRows

_MOST = 8  # linking rows and floors
_LARGEST = 0.34  # share of all queries that one group may have


@dataclass(frozen=True, eq=False)
class Linking:
    """Which rows and floors link, and who belongs together without them.

    Attributes:
        linking: (K + J,) the rows and floors that link groups.
        group: (n,) of every query, counted from 0.
        owner: (K + J,) the group of every other row and floor; -1 for those that link, and for
            those over nobody.
        count: of groups.
    """

    linking: NDArray[np.bool_]
    group: NDArray[np.intp]
    owner: NDArray[np.intp]
    count: int


def find_linking(problem: SeveralRows) -> Linking | None:
    """The fewest of the longest rows without which groups are small; None where there are none.

    At least two groups must keep rows of their own: where there are none, prices say it all.
    """
    n, k, j = problem.queries.n, problem.rows.shape[0], problem.levels.size
    tokens, curves, floors = (
        matrix.tocoo() for matrix in (problem.rows, problem.curve_rows, problem.floors)
    )
    row = np.concatenate([tokens.row, curves.row, k + floors.row])
    query = np.concatenate([tokens.col, curves.col, floors.col])
    kept = np.concatenate([tokens.data, curves.data, floors.data]) != 0
    row, query = row[kept], query[kept]
    length = np.bincount(row, minlength=k + j)
    choice = problem.queries.choice
    if choice is not None:
        row = np.concatenate([row, k + j + choice.number])
        query = np.concatenate([query, choice.members])
    nodes = k + j if choice is None else k + j + choice.starts.size
    longest = np.argsort(-length, kind="stable")
    for m in range(1, min(_MOST, k + j - 2) + 1):
        linking = np.zeros(k + j, dtype=bool)
        linking[longest[:m]] = True
        # A row longer than a group may be must be among those that link.
        if m < k + j and length[longest[m]] > _LARGEST * n:
            continue
        inside = ~np.r_[linking, np.zeros(nodes - k - j, dtype=bool)][row]
        graph = sparse.csr_array(
            (np.ones(int(inside.sum())), (query[inside], n + row[inside])), (n + nodes, n + nodes)
        )
        _, labels = connected_components(graph, directed=False)
        _, group = np.unique(labels[:n], return_inverse=True)
        group = np.ravel(group).astype(np.intp)
        count = int(group.max(initial=-1)) + 1
        owner = np.full(k + j, -1, dtype=np.intp)
        mine = inside & (row < k + j)
        owner[row[mine]] = group[query[mine]]
        small = np.bincount(group, minlength=1).max() <= _LARGEST * n
        if small and np.unique(owner[owner >= 0]).size >= 2:
            return Linking(linking, group, owner, count)
    return None
