"""Which declared constraints conflict: a proof of infeasibility, thinned until all of it counts.

The proof is the elastic relaxation of `elastic`. Constraints are left out of it in turn, and stay
out where the rest still conflicts: the deletion filter of J. W. Chinneck and E. W. Dravnieks,
"Locating minimal infeasible constraint sets in linear programs", ORSA Journal on Computing 3
(1991), 157-168. Of what remains nothing can be left out.

Where the relaxation can be met, small programs are tried once more with whole tokens, nothing-or-
at-least amounts and choices taken at their word, by the MILP solver that SciPy ships, and then, by
a back-end that can prove it, with the utilities as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from clearopt.deadline import Deadline
from clearopt.program import ConstraintGroup, Program
from clearopt.solvers.elastic import Nearest, Selection, measure, meets_discretely
from clearopt.solvers.exact_conflict import Exact, restricted, towards_floor, towards_row
from clearopt.solvers.tangents import BoolArray, Box, Indices
from clearopt.validation import FloatArray

REASONS_TIME_LIMIT = 10.0  # seconds a back-end gives the search for the reason
_FEW = 50  # entries of one constraint that are told apart; beyond, it is named as a whole
_HALVINGS = 24  # relaxations spent on leaving out many entries at once
_LARGEST_WHOLE = 200  # queries, for the mixed-integer programs
_ADVISED = 6  # members at most for which it is found how far each alone would have to give way
_LISTED = 6  # members at most that a message lists
_ONE_PROOF = 0.3  # of what is left of it, for one exact proof
_SEARCH = 0.7  # of the time; the rest is for measuring what was found


class Member(NamedTuple):
    """A declared constraint, or one entry of it, with a part in a conflict."""

    name: str
    entry: Hashable | None  # label or position; None for all of the constraint
    text: str  # as the user wrote it

    @property
    def shown(self) -> str:
        """The name, with its label or position."""
        return repr(self.name) if self.entry is None else f"{self.name!r}[{self.entry!r}]"


@dataclass(frozen=True, eq=False)
class Conflict:
    """Constraints that no allocation satisfies together.

    Attributes:
        members: the constraints, in the order of their declaration.
        missed_by: by how much the nearest allocation misses each member, in its own unit (tokens,
            or accuracy; summed over the entries of a member named as a whole). Nearest is where
            the misses, each relative to the size of its row, add up to the least. Bounds are kept.
        relief: by how much each member would at least have to give way if it alone did, in its own
            unit; members for which that was not found out are left out.
        directions: what giving way means for each member: "raise", "lower", "change", "loosen".
        discrete: what the proof needs besides the relaxation, "whole tokens" for example; empty
            where the relaxation alone is infeasible.
        irreducible: whether every member was shown to be needed for the proof; False where time
            ran out first.
    """

    members: tuple[Member, ...]
    missed_by: Mapping[Member, float]
    relief: Mapping[Member, float]
    directions: Mapping[Member, str]
    discrete: tuple[str, ...] = ()
    irreducible: bool = True

    @property
    def message(self) -> str:
        """What conflicts, by how much, and what to do about it: a few sentences."""
        sentences = [f"{self._who()}{self._how_far()}", self._advice()]
        if self.discrete:
            sentences.append(
                f"This rests on {_listed(self.discrete, 'and')}: without, no conflict was found"
            )
        if not self.irreducible:
            sentences.append("Time ran out before it was clear whether all of these are needed")
        return ". ".join(sentence for sentence in sentences if sentence)

    def _who(self) -> str:
        if not self.members:
            return "the allocation's own bounds leave nothing for some query"
        if len(self.members) > _LISTED:
            together = [self._together(name) for name in self._names()]
            return f"{_listed(together, 'and')} cannot hold together"
        named = [f"{m.shown} ({m.text})" if m.text else m.shown for m in self.members]
        if len(named) == 1:
            return f"{named[0]} cannot be met within the bounds of its queries"
        return f"{_listed(named, 'and')} cannot hold together"

    def _how_far(self) -> str:
        missed = [(m, amount) for m, amount in self.missed_by.items() if amount > 0]
        if not missed:
            return ""
        if len(self.members) == 1:
            return f": the nearest allocation misses it by {missed[0][1]:.6g}"
        to = "both" if len(self.members) == 2 else "all of them"
        amounts = [f"{member.shown} by {amount:.6g}" for member, amount in missed[:_LISTED]]
        return f": the allocation nearest to {to} misses {_listed(amounts, 'and')}"

    def _advice(self) -> str:
        advice = []
        if len(self.members) > _LISTED:
            for name in self._names():
                first = next(m for m in self.members if m.name == name)
                advice.append(f"{self.directions[first]} {name!r}")
        else:
            for member in self.members:
                amount = self.relief.get(member, 0.0)
                by = f" by at least {amount:.6g}" if amount > 0 else ""
                who = "it" if len(self.members) == 1 else member.shown
                advice.append(f"{self.directions[member]} {who}{by}")
        text = _listed(advice, "or")
        return text[:1].upper() + text[1:]

    def _names(self) -> list[str]:
        """The names of the constraints, each once, and not too many."""
        return list(dict.fromkeys(member.name for member in self.members))[:_LISTED]

    def _together(self, name: str) -> str:
        """One constraint, and how many of its entries."""
        entries = [member for member in self.members if member.name == name]
        if len(entries) == 1:
            return entries[0].shown
        shown = ", ".join(repr(member.entry) for member in entries[:3])
        return f"{len(entries)} entries of {name!r} ({shown}{', ...' if len(entries) > 3 else ''})"


def infeasibility_message(
    program: Program, time_limit: float = 10.0, exact: Exact | None = None
) -> str | None:
    """What `find_conflict` found, for a person; None where it found nothing."""
    conflict = find_conflict(program, time_limit=time_limit, exact=exact)
    return None if conflict is None else conflict.message


def find_conflict(
    program: Program, *, time_limit: float = 10.0, exact: Exact | None = None
) -> Conflict | None:
    """Declared constraints that cannot hold together, as few as can be found in the time.

    Args:
        program: any program. Constraints that became bounds take part if it has `declared_lower`
            and `declared_upper`; otherwise bounds count as given.
        time_limit: seconds, for the search and the measuring together.
        exact: who can prove that a program is empty; asked where relaxations can be met.

    Returns:
        The conflict: the program is proven infeasible, to a relative 1e-7 of the misses. None
        proves nothing: without `exact` the conflict may lie in the shape of the utilities, or time
        ran out.
    """
    deadline = Deadline(time_limit)
    if deadline.over:
        return None
    search = _Search(program, deadline.part(_SEARCH))
    found = search.smallest(search.meets)
    if found is not None:
        return search.describe(found, measure, deadline, ())
    discrete = _discrete(program)
    if discrete and program.n <= _LARGEST_WHOLE:
        found = search.smallest(search.meets_discretely)
        if found is not None:
            return search.describe(found, meets_discretely, deadline, discrete)
    if exact is None:
        return None
    found = search.smallest(lambda keep: search.meets_exactly(keep, exact))
    return None if found is None else search.describe_exactly(found, deadline, exact)


def _discrete(program: Program) -> tuple[str, ...]:
    found = []
    if program.integer.any():
        found.append("whole tokens")
    if program.semicontinuous.any():
        found.append("queries that get nothing or their least amount")
    if (program.choice >= 0).any():
        found.append("choices")
    return tuple(found)


# ------------------------------------------------------------------------------------ the search
class _Found(NamedTuple):
    """Atoms that conflict, the groups among them that are named as a whole, and if all count."""

    atoms: BoolArray
    as_whole: frozenset[int]
    irreducible: bool

    def count(self, owner: Indices) -> int:
        entries = [a for a in np.flatnonzero(self.atoms) if owner[a] not in self.as_whole]
        return len(entries) + len(self.as_whole)


class _Search:
    """What can be left out: every row, every floor, and each constraint on bounds as a whole.

    These are the atoms: numbers 0, 1, ... in the order rows, floors, bounds.
    """

    def __init__(self, program: Program, deadline: Deadline) -> None:
        self.program, self.deadline = program, deadline
        self.groups = _groups(program)
        rows, floors = program.rows.shape[0], program.floors.shape[0]
        self.floors_from, self.bounds_from = rows, rows + floors
        owner, entry = np.full(rows + floors, -1, dtype=np.intp), np.zeros(rows + floors, np.intp)
        bounds = [g for g, group in enumerate(self.groups) if group.kind == "bound"]
        for g, group in enumerate(self.groups):
            if group.kind != "bound":
                first = group.first + (rows if group.kind == "floor" else 0)
                owner[first : first + group.count] = g
                entry[first : first + group.count] = np.arange(group.count)
        if not _bounds_known(program):
            bounds = []
        self.owner = np.concatenate([owner, np.array(bounds, dtype=np.intp)])
        self.entry = np.concatenate([entry, np.zeros(len(bounds), dtype=np.intp)])
        self._boxes: dict[bytes, Box] = {}

    def box(self, keep: BoolArray) -> Box:
        """The bounds that the constraints kept leave."""
        bounds = keep[self.bounds_from :]
        key = bounds.tobytes()
        if key not in self._boxes:
            kept = [self.groups[g] for g in self.owner[self.bounds_from :][bounds]]
            lower, upper = _bounds(self.program, None if bounds.all() else kept)
            self._boxes[key] = Box(self.program, lower, upper)
        return self._boxes[key]

    def selection(self, keep: BoolArray) -> Selection:
        return Selection(
            np.flatnonzero(keep[: self.floors_from]),
            np.flatnonzero(keep[self.floors_from : self.bounds_from]),
        )

    def meets(self, keep: BoolArray) -> tuple[bool | None, BoolArray]:
        """Whether the relaxation proves these atoms infeasible, and which it needs for that."""
        selection = self.selection(keep)
        nearest = measure(self.box(keep), selection, self.deadline)
        involved = keep.copy()
        involved[selection.rows] = nearest.rows_involved
        involved[self.floors_from + selection.floors] = nearest.floors_involved
        return nearest.infeasible, involved

    def meets_discretely(self, keep: BoolArray) -> tuple[bool | None, BoolArray]:
        """As `meets`, by a mixed-integer program, which does not say what it needs."""
        nearest = meets_discretely(self.box(keep), self.selection(keep), self.deadline)
        return nearest.infeasible, keep

    def meets_exactly(self, keep: BoolArray, exact: Exact) -> tuple[bool | None, BoolArray]:
        """As `meets`, by an exact solver, which does not say what it needs either."""
        box = self.box(keep)
        if box.gap.any():
            return True, keep
        part = restricted(self.program, self.selection(keep), box.lower, box.upper)
        return exact.is_empty(part, self.deadline.part(_ONE_PROOF)), keep

    def smallest(self, test: _Test) -> _Found | None:
        """The smaller of the conflicts that two orders of leaving out end in; None without one."""
        everything = np.ones(self.owner.size, dtype=bool)
        infeasible, involved = test(everything)
        if not infeasible:
            return None
        counts = np.bincount(self.owner[involved], minlength=len(self.groups))
        # Constraints of many entries first, and then the last declared.
        order = sorted(range(len(self.groups)), key=lambda g: (-counts[g], -g))
        before = self.deadline.spent
        found = self._thin(test, involved, order)
        took = self.deadline.spent - before
        if found.count(self.owner) <= 2 or 2 * took > self.deadline.left:
            return found
        other = self._thin(test, involved, order[::-1])
        better = other.irreducible and other.count(self.owner) < found.count(self.owner)
        return other if better else found

    def _thin(self, test: _Test, involved: BoolArray, order: Sequence[int]) -> _Found:
        """Whole constraints first, then their entries."""
        filter_ = _Filter(test, self.deadline)
        bounds = np.arange(self.owner.size) >= self.bounds_from
        keep = filter_.leave_out(involved, [bounds]) if bounds.sum() > 1 else involved
        keep = filter_.leave_out(keep, [self.owner == g for g in order])

        several = np.bincount(self.owner, minlength=len(self.groups)) > 1
        if keep[several[self.owner]].sum() > _FEW:
            keep = filter_.halve(keep, self._by_label(np.flatnonzero(several[self.owner])))
        counts = np.bincount(self.owner[keep], minlength=len(self.groups))
        as_whole = frozenset(int(g) for g in np.flatnonzero(counts > _FEW))
        for g in as_whole:
            keep = keep | (self.owner == g)
        # What is alone of its constraint has just been tried, unless others have come back.
        units = [
            np.arange(keep.size) == atom
            for atom in np.flatnonzero(keep)
            if self.owner[atom] not in as_whole and (as_whole or counts[self.owner[atom]] > 1)
        ]
        keep = filter_.leave_out(keep, units, only_these=bool(as_whole))
        return _Found(keep, as_whole, filter_.complete)

    def _by_label(self, atoms: Indices) -> Indices:
        """Atoms of the same label side by side: they are likely to conflict with each other."""
        known: dict[Hashable, int] = {}

        def rank(atom: int) -> tuple[int, int]:
            group = self.groups[self.owner[atom]]
            if group.labels is None:
                return -1, atom
            return known.setdefault(group.labels[self.entry[atom]], len(known)), atom

        return np.array(sorted((int(a) for a in atoms), key=rank), dtype=np.intp)

    # -------------------------------------------------------------------------- the report
    def describe(
        self,
        found: _Found,
        nearest: Callable[..., Nearest],
        deadline: Deadline,
        discrete: tuple[str, ...],
    ) -> Conflict:
        keep, box, selection = found.atoms, self.box(found.atoms), self.selection(found.atoms)
        chosen = np.concatenate([selection.rows, self.floors_from + selection.floors])
        members: dict[Member, list[int]] = {}
        for atom in np.flatnonzero(keep):
            g = int(self.owner[atom])
            members.setdefault(self._member(int(atom), whole=g in found.as_whole), []).append(atom)
        members = dict(sorted(members.items(), key=lambda item: self.owner[item[1][0]]))

        def misses(elastic: BoolArray, until: Deadline) -> FloatArray:
            """(atoms,) by how much each is missed where only these may be."""
            exact = {} if discrete else {"exactly": True}
            answer = nearest(box, selection, until, elastic=elastic, **exact)
            missed = np.zeros(keep.size)
            missed[chosen] = np.concatenate([answer.row_misses, answer.floor_misses])
            return missed

        relief: dict[Member, float] = {}
        missed = misses(np.ones(chosen.size, dtype=bool), deadline)
        if box.gap.any():
            last = max((a for a in np.flatnonzero(keep) if a >= self.bounds_from), default=None)
            if last is not None:
                missed[last] = box.gap.max()
        elif len(members) <= _ADVISED:
            for member, atoms in members.items():
                if atoms[0] < self.bounds_from and not deadline.over:
                    elastic = np.isin(chosen, atoms)
                    relief[member] = float(misses(elastic, deadline.part(0.5)).sum())
        return Conflict(
            members=tuple(members),
            missed_by=MappingProxyType({m: float(missed[a].sum()) for m, a in members.items()}),
            relief=MappingProxyType({m: amount for m, amount in relief.items() if amount > 0}),
            directions=MappingProxyType({m: self._direction(a[0]) for m, a in members.items()}),
            discrete=discrete,
            irreducible=found.irreducible,
        )

    def describe_exactly(self, found: _Found, deadline: Deadline, exact: Exact) -> Conflict:
        """Of what only an exact solver sees: how far each member alone would have to give way."""
        members: dict[Member, list[int]] = {}
        for atom in np.flatnonzero(found.atoms):
            g = int(self.owner[atom])
            members.setdefault(self._member(int(atom), whole=g in found.as_whole), []).append(atom)
        members = dict(sorted(members.items(), key=lambda item: self.owner[item[1][0]]))
        relief = {}
        for member, atoms in members.items():
            alone = len(atoms) == 1 and atoms[0] < self.bounds_from
            if not alone or len(members) > _ADVISED or deadline.over:
                continue
            until = deadline.part(0.5)
            relief[member] = self._relief(found.atoms, int(atoms[0]), until, exact)
        return Conflict(
            members=tuple(members),
            missed_by=MappingProxyType({}),
            relief=MappingProxyType({m: amount for m, amount in relief.items() if amount > 0}),
            directions=MappingProxyType({m: self._direction(a[0]) for m, a in members.items()}),
            discrete=("the shape of the utilities", *_discrete(self.program)),
            irreducible=found.irreducible,
        )

    def _relief(self, keep: BoolArray, atom: int, until: Deadline, exact: Exact) -> float:
        """How far the others together stay away from what one row or floor asks; 0 if unknown."""
        others = keep.copy()
        others[atom] = False
        box = self.box(others)
        rest = restricted(self.program, self.selection(others), box.lower, box.upper)
        level = self._level(atom)
        if atom >= self.floors_from:
            floor = atom - self.floors_from
            nearest = exact.bound(towards_floor(rest, self.program, floor), until)
            return level - nearest if np.isfinite(nearest) else 0.0
        sense = self.program.senses[atom]
        if sense == "==":  # from either side: not known which
            return 0.0
        nearest = exact.bound(towards_row(rest, self.program, atom), until)
        if not np.isfinite(nearest):
            return 0.0
        return -nearest - level if sense == "<=" else level - nearest

    def _member(self, atom: int, *, whole: bool) -> Member:
        group = self.groups[self.owner[atom]]
        if whole or atom >= self.bounds_from or (group.scalar and group.labels is None):
            return Member(group.name, None, group.text)
        entry: Hashable = int(self.entry[atom])
        if group.labels is not None:
            entry = group.labels[self.entry[atom]]
        elif group.unlimited:  # positions count the entries without a limit too
            skipped = set(group.unlimited)
            positions = [p for p in range(group.count + len(skipped)) if p not in skipped]
            entry = positions[self.entry[atom]]
        text, level = group.text, self._level(atom)
        left, sense, right = text.rpartition(f" {self._sense(atom)} ")
        if sense and "..." in right:  # many limits were shortened: here it is one of them
            text = f"{left}{sense}{level:.6g}"
        return Member(group.name, entry, text)

    def _sense(self, atom: int) -> str:
        return self.program.senses[atom] if atom < self.floors_from else ">="

    def _level(self, atom: int) -> float:
        if atom < self.floors_from:
            return float(self.program.right_hand_side[atom])
        return float(self.program.floor_levels[atom - self.floors_from])

    def _direction(self, atom: int) -> str:
        if atom >= self.bounds_from:
            return "loosen"
        return {"<=": "raise", ">=": "lower", "==": "change"}[self._sense(atom)]


_Test = Callable[[BoolArray], tuple[bool | None, BoolArray]]


class _Filter:
    """Leaves atoms out, for good where the others still conflict without them."""

    def __init__(self, test: _Test, deadline: Deadline) -> None:
        self.test, self.deadline = test, deadline
        self.complete = True  # nothing was kept for want of time, or of a clear answer

    def leave_out(
        self, keep: BoolArray, units: Iterable[BoolArray], *, only_these: bool = False
    ) -> BoolArray:
        """Try each unit in turn; with `only_these` nothing else leaves, needed or not."""
        for unit in units:
            if not (keep & unit).any():
                continue
            if self.deadline.over:
                self.complete = False
                break
            trial = keep & ~unit
            infeasible, involved = self.test(trial)
            if infeasible:
                keep = trial if only_these else involved
            elif infeasible is None:
                self.complete = False
        return keep

    def halve(self, keep: BoolArray, atoms: Indices) -> BoolArray:
        """Leave out half of the atoms, a quarter, ..., as long as that is quick."""
        size, spent = (int(keep[atoms].sum()) + 1) // 2, 0
        while size > 1 and spent < _HALVINGS:
            left = atoms[keep[atoms]]
            for start in range(0, left.size, size):
                if spent >= _HALVINGS or self.deadline.over:
                    return keep
                trial = keep.copy()
                trial[left[start : start + size]] = False
                if np.array_equal(trial, keep):
                    continue
                spent += 1
                infeasible, involved = self.test(trial)
                if infeasible:
                    keep = involved
            size = min(size // 2, (int(keep[atoms].sum()) + 1) // 2)
        return keep


# ------------------------------------------------------------------------------------ the program
def _groups(program: Program) -> tuple[ConstraintGroup, ...]:
    """The declared constraints, and one each for rows and floors that belong to none."""
    groups = list(program.constraints)
    kinds = (("row", program.rows.shape[0]), ("floor", program.floors.shape[0]))
    for kind, count in kinds:
        free = np.ones(count, dtype=bool)
        for group in program.constraints:
            if group.kind == kind:
                free[group.rows] = False
        for k in np.flatnonzero(free).tolist():
            groups.append(ConstraintGroup(f"{kind} {k}", kind, k, 1))  # type: ignore[arg-type]
    return tuple(groups)


def _bounds_known(program: Program) -> bool:
    """Whether it is known what every bound would be without the constraints on bounds."""
    declared = (program.declared_lower, program.declared_upper)
    if any(array.shape[0] != program.n for array in declared):
        return False
    return all(g.bounds is not None for g in program.constraints if g.kind == "bound")


def _bounds(
    program: Program, kept: Sequence[ConstraintGroup] | None
) -> tuple[FloatArray, FloatArray]:
    """(n,) bounds of the program, or those that only the constraints kept leave of them."""
    if kept is None:
        lower, upper = program.least.copy(), program.upper.copy()
    else:
        lower, upper = program.declared_lower.copy(), program.declared_upper.copy()
        for group in kept:
            assert group.bounds is not None
            query, sense = group.bounds.query, group.bounds.sense
            level = group.bounds.level / group.bounds.factor
            rising = group.bounds.factor > 0
            at_most = (sense == "==") | ((sense == "<=") == rising)
            at_least = (sense == "==") | ((sense == ">=") == rising)
            np.minimum.at(upper, query[at_most], level[at_most])
            np.maximum.at(lower, query[at_least], level[at_least])
    lower = np.where(program.integer, np.ceil(lower * (1 - 1e-12)), lower)
    upper = np.where(program.integer, np.floor(upper * (1 + 1e-12)), upper)
    return lower, upper


def _listed(words: Sequence[str], last: str) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
