"""Two ways of writing the same mathematics: plain text with Unicode, and LaTeX.

Whoever writes a formula asks a `Notation` for its pieces, so that both say the same. The LaTeX
needs amsmath (`aligned`, `\\text`) and nothing else. Characters that mean something to TeX stand
outside `\\text{}`: LaTeX, MathJax and KaTeX agree on them in formulas, but not inside text.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from clearopt.explain.facts import Spread


def readable(text: str, most: int = 32) -> str:
    """A name from the user on one line: printable characters, not too many of them."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= most else shown[: most - 1].rstrip() + "…"


class Notation(ABC):
    """The pieces that formulas and remarks are made of."""

    infinity: str
    about: str
    dots: str
    relations: ClassVar[dict[str, str]]

    # ------------------------------------------------------------------ words
    @abstractmethod
    def words(self, text: str) -> str:
        """Words, whatever characters they contain."""

    @abstractmethod
    def say(self, template: str, *parts: str) -> str:
        """A sentence: words around `{}`, in whose place stand pieces already written."""

    def listed(self, pieces: list[str], separator: str = "; ") -> str:
        return self.say(separator.join(["{}"] * len(pieces)), *pieces)

    # ------------------------------------------------------------------ numbers
    @abstractmethod
    def _finite(self, digits: str) -> str:
        """A number given as `-1 234.5` or `1.5e-06`."""

    def number(self, value: float) -> str:
        """Whole numbers in full with their thousands apart, others to six digits."""
        if math.isinf(value):
            return ("-" if value < 0 else "") + self.infinity
        if float(value).is_integer() and abs(value) < 1e9:
            return self._finite(f"{int(value):,}".replace(",", " "))
        return self._finite(f"{value:,.6g}".replace(",", " "))

    def spread(self, values: Spread) -> str:
        """One number, two, or from where to where."""
        low, high = self.number(values.low), self.number(values.high)
        if values.uniform:
            return low
        if low == high:
            return f"{self.about} {low}"
        return self.pair(low, high) if values.pair else self.interval(low, high)

    def within(self, symbol: str, values: Spread) -> str:
        """That a symbol stands for numbers in a range."""
        if values.uniform:
            return f"{symbol} = {self.number(values.low)}"
        if self.number(values.low) == self.number(values.high):
            return f"{symbol} {self.spread(values)}"
        return self.say("{} in {}", symbol, self.spread(values))

    @abstractmethod
    def interval(self, low: str, high: str) -> str: ...

    @abstractmethod
    def pair(self, low: str, high: str) -> str: ...

    # ------------------------------------------------------------------ formulas
    @abstractmethod
    def at(self, symbol: str, index: str) -> str:
        """A symbol with its index."""

    @abstractmethod
    def variable(self, name: str) -> str:
        """An allocation's own name as the symbol of its variables."""

    @abstractmethod
    def total(self, over: str) -> str:
        """The sum sign, over all i, or over the i in a set."""

    @abstractmethod
    def one_over(self, divisor: str) -> str: ...

    @abstractmethod
    def times(self, factor: str, what: str) -> str: ...

    @abstractmethod
    def blank(self, left: str) -> str:
        """Room as wide as what stands on the left above."""

    @abstractmethod
    def formula(self, plain: str, latex: str) -> str:
        """A formula that is kept in both notations."""

    def relation(self, senses: tuple[str, ...]) -> str:
        return "/".join(self.relations[sense] for sense in senses)


class PlainNotation(Notation):
    """Unicode text for a terminal."""

    infinity = "∞"
    about = "≈"
    dots = "…"
    relations: ClassVar[dict[str, str]] = {"<=": "≤", ">=": "≥", "==": "="}

    def words(self, text: str) -> str:
        return text

    def say(self, template: str, *parts: str) -> str:
        return template.format(*parts)

    def _finite(self, digits: str) -> str:
        return digits

    def interval(self, low: str, high: str) -> str:
        return f"[{low} .. {high}]"

    def pair(self, low: str, high: str) -> str:
        return f"{{{low}, {high}}}"

    def at(self, symbol: str, index: str) -> str:
        return f"{symbol}_{index}"

    def variable(self, name: str) -> str:
        return name if name.isidentifier() else f"[{name}]"

    def total(self, over: str) -> str:
        return f"Σ_{{i in {over}}}" if over else "Σ_i"

    def one_over(self, divisor: str) -> str:
        return f"(1/{divisor})"

    def times(self, factor: str, what: str) -> str:
        return f"{factor} {what}"

    def blank(self, left: str) -> str:
        return " " * len(left)

    def formula(self, plain: str, latex: str) -> str:
        return plain


_OUTSIDE_TEXT = {
    **{character: "\\" + character for character in "_%&#{}$"},
    "\\": "\\backslash ",
    "^": "{}^{\\wedge}",
    "~": "{\\sim}",
    "<": "{<}",
    ">": "{>}",
    "|": "{|}",
    "`": "{}^{\\backprime}",
    "∞": "\\infty ",
    "≈": "\\approx ",
    "·": "\\cdot ",
    "…": "\\ldots ",
}


class LatexNotation(Notation):
    """LaTeX for inside a formula."""

    infinity = "\\infty"
    about = "\\approx"
    dots = "\\dots"
    relations: ClassVar[dict[str, str]] = {"<=": "\\leq", ">=": "\\geq", "==": "="}

    def words(self, text: str) -> str:
        pieces: list[str] = []
        run = ""
        for character in text:
            if character in _OUTSIDE_TEXT:
                pieces += [f"\\text{{{run}}}"] if run else []
                pieces.append(_OUTSIDE_TEXT[character])
                run = ""
            else:
                run += character
        return "".join([*pieces, f"\\text{{{run}}}" if run else ""])

    def say(self, template: str, *parts: str) -> str:
        words = template.split("{}")
        written = self.words(words[0])
        for part, after in zip(parts, words[1:], strict=True):
            written += part + self.words(after)
        return written

    def _finite(self, digits: str) -> str:
        mantissa, _, exponent = digits.partition("e")
        mantissa = mantissa.replace(" ", "\\,")
        if not exponent:
            return mantissa
        power = f"10^{{{int(exponent)}}}"
        return {"1": power, "-1": f"-{power}"}.get(mantissa, f"{mantissa} \\times {power}")

    def interval(self, low: str, high: str) -> str:
        return f"[{low} \\ldots {high}]"

    def pair(self, low: str, high: str) -> str:
        return f"\\{{{low}, {high}\\}}"

    def at(self, symbol: str, index: str) -> str:
        return f"{symbol}_{{{index}}}"

    def variable(self, name: str) -> str:
        return f"{{{self.words(name)}}}"

    def total(self, over: str) -> str:
        return f"\\sum_{{i \\in {over}}}" if over else "\\sum_{i}"

    def one_over(self, divisor: str) -> str:
        return f"\\frac{{1}}{{{divisor}}}"

    def times(self, factor: str, what: str) -> str:
        return f"{factor} \\, {what}"

    def blank(self, left: str) -> str:
        return "\\qquad {}"

    def formula(self, plain: str, latex: str) -> str:
        return latex
