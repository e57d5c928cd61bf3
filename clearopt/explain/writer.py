"""The lines of an explanation: what was found in a program, put into formulas and remarks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from clearopt.explain.facts import Choices, Domain, Layout, Relation, Spread, Term
from clearopt.explain.families import FORMULAS, FamilyFacts
from clearopt.explain.notation import Notation, readable

# Symbols for coefficients that vary, in the order in which one line needs them.
_OBJECTIVE = {"utility": "wvzx", "tokens": "cpqe", "curve": "dhst"}
_ROW = {"utility": "VWXY", "tokens": "ABDE", "curve": "FGHK"}
_SETS = "STPQRLMNOJ"  # for sums over a part of the queries


class Line(NamedTuple):
    """One line: its label, a formula, and a remark; the last two in some notation."""

    label: str
    formula: str = ""
    remark: str = ""
    declared: bool = False  # the label is a name of the user's, and stands indented


@dataclass(frozen=True)
class Facts:
    """Everything that is said of a program; pairs say how many more there are."""

    minimize: bool
    offset: float  # in the user's sense
    layout: Layout
    objective: tuple[tuple[Term, ...], int]
    utilities: tuple[list[FamilyFacts], int]
    curves: tuple[list[FamilyFacts], int]
    relations: list[Relation]
    further: Counter[str]  # the other constraints by kind
    domains: list[Domain]
    choices: Choices
    counts: dict[str, int]


class Writer:
    """Writes the lines of an explanation in one notation; numbers and patterns come as `Facts`."""

    def __init__(self, facts: Facts, notation: Notation) -> None:
        self.facts = facts
        self.notation = notation
        layout = facts.layout
        self.single = len(layout.names) == 1
        self.names = _distinct([readable(name, 24) for name in layout.names])

    def lines(self) -> list[Line]:
        return [*self._objective(), *self._families(), *self._constraints(), *self._domains(),
                self._size()]  # fmt: skip

    # ------------------------------------------------------------------ symbols
    def _variable(self, part: int | None) -> str:
        if self.single or part is None:
            return "b"
        return self.notation.variable(self.names[part])

    def _of(self, quantity: str, part: int | None, index: str = "i") -> str:
        """The tokens, utility or cost curve of one query."""
        nt = self.notation
        tokens = nt.at(self._variable(part), index)
        if quantity == "tokens":
            return tokens
        return f"{nt.at('U' if quantity == 'utility' else 'C', index)}({tokens})"

    def _queries(self, size: int, length: int) -> str:
        """How many of the queries of an allocation."""
        nt = self.notation
        if size == length:
            return self._counted(size, "query", "queries")
        return nt.say("{} of {} queries", nt.number(size), nt.number(length))

    def _counted(self, size: int, one: str, many: str) -> str:
        return self.notation.say("{} " + (one if size == 1 else many), self.notation.number(size))

    def _sizes(self, sizes: tuple[int, int]) -> str:
        nt = self.notation
        if sizes[0] == sizes[1]:
            return self._counted(sizes[0], "query", "queries")
        return nt.say("{} to {} queries", *map(nt.number, sizes))

    # ------------------------------------------------------------------ sums
    def _sum(
        self,
        terms: tuple[Term, ...],
        omitted: int,
        symbols: dict[str, str],
        row: str,
        offset: float = 0.0,
    ) -> tuple[str, list[str]]:
        """Terms with their signs, and remarks on what varies in them.

        `row` is the index of the rows: "g" by group, "k" by position, "" where there is one row
        only, "i" where each row is a query.
        """
        nt = self.notation
        pools = {quantity: iter(pool) for quantity, pool in symbols.items()}
        sets = iter(_SETS)
        written, remarks, parts = "", [], []
        for term in terms:
            negative = term.factor.high <= 0
            factor = term.factor.scaled(-1.0) if negative else term.factor
            if row == "i" or term.query is not None:
                over, index, total = "", "i" if term.query is None else str(term.query), ""
            elif term.whole:
                over, index, total = "", "i", nt.total("")
            else:
                over, index = row or next(sets), "i"
                total = nt.total(over)
            what = self._of(term.quantity, term.part, index)
            piece = nt.times(total, what) if total else what
            if term.form == "mean":
                same = term.sizes[0] == term.sizes[1]
                piece = nt.times(
                    nt.one_over(nt.number(term.sizes[0]) if same else f"|{over}|"), piece
                )
            if term.form in ("same", "mean"):
                if factor.low != 1:
                    piece = nt.times(nt.number(factor.low), piece)
            else:
                symbol = next(pools[term.quantity])
                if term.form == "by row":
                    piece = nt.times(nt.at(symbol, row), piece)
                else:
                    coefficient = nt.at(symbol, index if row in ("", "i") else f"{row}{index}")
                    piece = nt.times(coefficient, what)
                    piece = nt.times(total, piece) if total else piece
                remarks.append(nt.within(symbol, factor))
            written += (" - " if negative else " + ") if written else ("-" if negative else "")
            written += piece
            # With several allocations, how long each is stands beside its bounds.
            if not row and total and not (term.whole and not self.single):
                size = self._queries(term.sizes[0], term.length)
                parts.append(size if term.whole else nt.say("{}: {}", over, size))
        if omitted:
            written += f" + {nt.dots}"
            remarks.append(self._counted(omitted, "more sum", "more sums"))
        if offset or not written:
            sign = (" - " if offset < 0 else " + ") if written else ("-" if offset < 0 else "")
            written += sign + nt.number(abs(offset))
        return written, [*dict.fromkeys(parts), *remarks]

    def _objective(self) -> list[Line]:
        facts = self.facts
        terms, omitted = facts.objective
        written, remarks = self._sum(terms, omitted, _OBJECTIVE, "", facts.offset)
        label = "minimise" if facts.minimize else "maximise"
        return [Line(label, written, self.notation.listed(remarks))]

    # ------------------------------------------------------------------ families
    def _families(self) -> list[Line]:
        nt = self.notation
        lines: list[Line] = []
        for quantity, (found, omitted) in (
            ("utility", self.facts.utilities),
            ("curve", self.facts.curves),
        ):
            for position, facts in enumerate(found):
                left = self._of(quantity, facts.part)
                remark = self._counted(facts.size, "query", "queries")
                if facts.part is not None and not self.single:
                    remark = self._queries(facts.size, self.facts.layout.length(facts.part))
                if facts.blocks > 1:
                    remark = nt.say("{}, declared in {} parts", remark, nt.number(facts.blocks))
                lines.append(Line("", f"{left} = {self._family(facts)}", remark))
                later = {name for other in found[position + 1 :] for name in _names(other)}
                for name in _names(facts):
                    if name in later or name not in FORMULAS:
                        continue
                    # A part of a sum goes by its name: `U_i` is the whole.
                    subject = nt.words(name) if facts.terms else nt.blank(left)
                    lines.append(Line("", f"{subject} = {nt.formula(*FORMULAS[name])}"))
            if omitted:
                lines.append(Line("", self._counted(omitted, "more family", "more families")))
        without = self.facts.counts["variables"] - self.facts.counts["utilities"]
        if self.facts.utilities[0] and without:
            left = nt.at("U", "i")
            remark = nt.say("the other {}", self._counted(without, "query", "queries"))
            lines.append(Line("", f"{left} = {nt.number(0)}", remark))
        return [line._replace(label="where") for line in lines[:1]] + lines[1:]

    def _family(self, facts: FamilyFacts) -> str:
        nt = self.notation
        if facts.terms:
            return " + ".join(
                self._family(part)
                if factor == Spread(1.0, 1.0)
                else nt.times(nt.spread(factor), self._family(part))
                for factor, part in facts.terms
            )
        if facts.parameters is None:
            return nt.words(readable(facts.shown, 160))
        pieces = [
            nt.say("{} {}", nt.words(p.name), nt.spread(p.values))
            if p.columns is None
            else nt.say(
                "{} numbers of {} in {}",
                nt.number(p.columns),
                nt.words(p.name),
                nt.spread(p.values),
            )
            for p in facts.parameters
        ]
        if facts.interpolation:
            pieces.append(nt.say("interpolation {}", nt.words(facts.interpolation)))
        return nt.say("{}({})", nt.words(facts.name), nt.listed(pieces, ", "))

    # ------------------------------------------------------------------ constraints
    def _constraints(self) -> list[Line]:
        nt, facts = self.notation, self.facts
        if not facts.relations:
            return []
        lines = [Line("subject to"), *map(self._relation, facts.relations)]
        if facts.further:
            kinds = [
                self._counted(count, kind, kind + "s") for kind, count in facts.further.items()
            ]
            total = self._counted(facts.further.total(), "more constraint", "more constraints")
            lines.append(Line("  …", nt.say("and {} ({})", total, nt.listed(kinds, ", "))))
        return lines

    def _relation(self, relation: Relation) -> Line:
        nt = self.notation
        name = readable(relation.name, 24)
        if relation.level is None:
            return Line(name, nt.words("no limit" if relation.unlimited else "nothing"),
                        nt.listed(self._unlimited(relation)), True)  # fmt: skip
        row = "i" if relation.entrywise else "g" if relation.labelled else "k"
        if relation.count == 1 and not relation.labelled and not relation.entrywise:
            row = ""
        left, remarks = self._sum(relation.terms, relation.omitted, _ROW, row)
        varies = not relation.level.uniform
        right = nt.at("r", row) if varies else nt.number(relation.level.low)
        remarks = [*self._limits(relation), *self._extent(relation, row), *remarks]
        remarks += self._unlimited(relation)
        formula = f"{left} {nt.relation(relation.senses)} {right}"
        return Line(name, formula, nt.listed(remarks), True)

    def _extent(self, relation: Relation, row: str) -> list[str]:
        """How many rows, and of how many queries each."""
        nt = self.notation
        terms = relation.terms
        if relation.kind == "bound":
            queries = self._queries(relation.count, terms[0].length)
            return [nt.say("bounds of {}" if relation.count > 1 else "bound of {}", queries)]
        if row == "i":
            return [self._queries(relation.count, terms[0].length)]
        if not row:
            return []
        counted = self._counted(
            relation.count, *(("group", "groups") if relation.labelled else ("row", "rows"))
        )
        if not terms:
            return [counted]
        sizes = (min(t.sizes[0] for t in terms), max(t.sizes[1] for t in terms))
        return [nt.say("{} of {}", counted, self._sizes(sizes))]

    def _limits(self, relation: Relation) -> list[str]:
        """The limits where they vary, and the groups they belong to."""
        nt, level = self.notation, relation.level
        remarks = []
        hidden = relation.count - len(relation.examples)
        if level is not None and not level.uniform and (hidden or not relation.examples):
            remarks.append(nt.within("r", level))
        if relation.examples:
            pieces = []
            for label, value in relation.examples:
                shown = nt.words(readable(label, 20))
                same = level is None or level.uniform
                pieces.append(shown if same else nt.say("{}: {}", shown, nt.number(value)))
            listed = nt.listed(pieces, ", ")
            if hidden:
                listed = nt.say("{} and {} more", listed, nt.number(hidden))
            remarks.append(nt.say("for {} in {}", "g", listed))
        return remarks

    def _unlimited(self, relation: Relation) -> list[str]:
        nt = self.notation
        if not relation.unlimited:
            return []
        counted = nt.say("{} without limit", nt.number(relation.unlimited))
        if not relation.unlimited_examples:
            return [counted]
        listed = nt.listed([nt.words(readable(x, 20)) for x in relation.unlimited_examples], ", ")
        hidden = relation.unlimited - len(relation.unlimited_examples)
        if hidden:
            listed = nt.say("{} and {} more", listed, nt.number(hidden))
        return [nt.say("{} ({})", counted, listed)]

    # ------------------------------------------------------------------ bounds and sizes
    def _domains(self) -> list[Line]:
        nt, facts = self.notation, self.facts
        bounded = any(relation.kind == "bound" for relation in facts.relations)
        bounded = bounded or bool(facts.further["bound"])
        lines = [self._domain(domain) for domain in facts.domains]
        if bounded:
            included = nt.words("the bounds above included")
            lines[0] = lines[0]._replace(
                remark=nt.listed([r for r in (lines[0].remark, included) if r])
            )
        hidden = len(facts.layout.names) - len({domain.part for domain in facts.domains})
        if hidden:
            lines.append(Line("", self._counted(hidden, "more allocation", "more allocations")))
        if facts.choices.count:
            words = nt.words("at most one query of each choice is served")
            choices = self._counted(facts.choices.count, "choice", "choices")
            lines.append(
                Line("", words, nt.say("{} of {}", choices, self._sizes(facts.choices.sizes)))
            )
        return [lines[0]._replace(label="with"), *lines[1:]]

    def _domain(self, domain: Domain) -> Line:
        nt = self.notation
        tokens = self._of("tokens", domain.part)
        low = nt.number(domain.lower.low) if domain.lower.uniform else nt.at("l", "i")
        at_most = nt.relation(("<=",))
        remarks = []
        if domain.size != domain.length or not self.single:
            remarks.append(self._queries(domain.size, domain.length))
        if domain.semicontinuous:
            remarks.append(nt.words("semicontinuous"))
        if not domain.lower.uniform:
            remarks.append(nt.within("l", domain.lower))
        if domain.upper is None:
            formula = f"{tokens} {nt.relation(('>=',))} {low}"
        else:
            varies = not domain.upper.uniform or bool(domain.endless)
            high = nt.at("u", "i") if varies else nt.number(domain.upper.low)
            formula = f"{low} {at_most} {tokens} {at_most} {high}"
            if varies:
                remarks.append(nt.within("u", domain.upper))
            if domain.endless:
                remarks.append(nt.say("{} without upper bound", nt.number(domain.endless)))
            if domain.fixed == domain.size and not varies:
                formula = f"{tokens} = {high}"
            elif domain.fixed:
                remarks.append(nt.say("{} fixed", nt.number(domain.fixed)))
        if domain.semicontinuous:
            formula = nt.say("{} = {} or {}", tokens, nt.number(0), formula)
        if domain.whole == domain.size:
            remarks.append(nt.words("whole"))
        elif domain.whole:
            remarks.append(nt.say("{} of them whole", nt.number(domain.whole)))
        if self.single and self.names[0] not in ("", "b"):
            remarks.insert(0, nt.say("{} = {}", "b", nt.words(self.names[0])))
        return Line("", formula, nt.listed(remarks))

    def _size(self) -> Line:
        nt, counts = self.notation, self.facts.counts
        notes = [nt.say("{} " + name, nt.number(counts[name]))
                 for name in ("whole", "semicontinuous") if counts[name]]  # fmt: skip
        variables = self._counted(counts["variables"], "variable", "variables")
        if notes:
            variables = nt.say("{} ({})", variables, nt.listed(notes, ", "))
        others = [
            self._counted(counts[key], one, key)
            for key, one in (
                ("rows", "row"),
                ("floors", "floor"),
                ("choices", "choice"),
                ("nonzeros", "nonzero"),
            )
            if counts[key] or key in ("rows", "nonzeros")
        ]
        return Line("size", nt.listed([variables, *others], ", "))


def _names(facts: FamilyFacts) -> list[str]:
    """The families in one line whose formulas are known, each once."""
    parts = [part for _, part in facts.terms] or [facts]
    known = [part.name for part in parts if part.known]
    return list(dict.fromkeys("SampledTokens" if "." in name else name for name in known))


def _distinct(names: list[str]) -> list[str]:
    """Names for the variables, numbered where two are the same."""
    if len(names) == 1:
        return names
    seen: dict[str, int] = {}
    for name in names:
        name = name or "allocation"
        shown, number = name, 1
        while shown in seen:
            number += 1
            shown = f"{name} {number}"
        seen[shown] = number
    return list(seen)
