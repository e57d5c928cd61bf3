"""`explain`: a `Program` as mathematics a person can read, in plain text or in LaTeX.

A program of a million queries is told in a page: what is the same for all entries as a number,
what varies as a range, groups by their first labels and how many there are.
"""

from __future__ import annotations

import re
from collections import Counter

from clearopt.explain import facts as found
from clearopt.explain.families import families
from clearopt.explain.notation import LatexNotation, PlainNotation
from clearopt.explain.writer import Facts, Writer
from clearopt.program import Program

# Words never contain braces, those stand outside: `\text{a}\text{b}` can be joined.
_WORDS = re.compile(r"\\text\{([^{}]*)\}")
_NEIGHBOURS = re.compile(rf"(?:{_WORDS.pattern}){{2,}}")
_WIDEST_FORMULA = 48  # up to here the remarks of all lines stand below one another


class Explanation:
    """What `explain` returns: print it, take its `latex()`, or the sizes in `counts`.

    Attributes:
        counts: sizes by name: `variables`, how many of them are `whole` and `semicontinuous`,
            `choices`, `allocations`, declared `constraints`, the `rows`, `floors` and `bounds` they
            became, their `unlimited` entries (an infinite limit), `nonzeros` in rows and floors,
            and how many queries have `utilities` and cost `curves`.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.counts = facts.counts

    def __str__(self) -> str:
        lines = Writer(self._facts, PlainNotation()).lines()
        labels = ["  " + line.label if line.declared else line.label for line in lines]
        first = max(map(len, labels)) + 2
        sizes = [len(line.formula) for line in lines if line.remark]
        second = max((size for size in sizes if size <= _WIDEST_FORMULA), default=0)
        return "\n".join(
            f"{label:<{first}}{line.formula:<{second}}  {line.remark}".rstrip()
            for label, line in zip(labels, lines, strict=True)
        )

    __repr__ = __str__

    def latex(self) -> str:
        r"""The same as `\begin{aligned} ... \end{aligned}`, for a formula; needs amsmath."""
        notation = LatexNotation()
        rows = [
            f"  {notation.words(line.label)} & {line.formula}"
            + (f" && {line.remark}" if line.remark else "")
            for line in Writer(self._facts, notation).lines()
        ]
        body = _NEIGHBOURS.sub(_joined, " \\\\\n".join(rows))
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"


def _joined(words: re.Match[str]) -> str:
    return f"\\text{{{''.join(_WORDS.findall(words[0]))}}}"


def explain(program: Program) -> Explanation:
    """The program as mathematics: objective, families, constraints, bounds and sizes.

    Takes a few whole-array passes over the program, and gives a page however large it is.
    """
    layout = found.layout_of(program)
    choices = found.choices(program)
    relations, others = found.relations(program, layout)
    return Explanation(
        Facts(
            minimize=program.minimize,
            offset=program.sign * program.offset,
            layout=layout,
            objective=found.objective_terms(program, layout),
            utilities=families(program.utilities, layout, "utility"),
            curves=families(program.curves, layout, "curve"),
            relations=relations,
            further=Counter(group.kind for group in others),
            domains=found.domains(program, layout),
            choices=choices,
            counts=found.counts(program, layout, choices),
        )
    )
