"""Verifiers: whether an answer is right, as a score between 0 and 1.

A verifier is called with a query and an answer's text. Any function will do; those here are
classes so that their settings travel with them to the process in which they run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.runs.queries import Query

Verifier = Callable[[Query, str], float]

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_FRACTION = re.compile(r"([-+]?\d+)\s*/\s*(\d+)")


def final_answer(text: str, mark: str | None = None) -> str | None:
    """The answer that a text ends in.

    What follows the last `mark` on its line, where a mark is given (None if it is nowhere);
    else the last `\\boxed{...}`, else the last `<answer>...</answer>`, else the whole text.
    """
    if mark is not None:
        _, found, after = text.rpartition(mark)
        if not found:
            return None
        lines = after.strip().splitlines()
        return lines[0].strip() if lines else ""
    for pattern in (_BOXED, _TAGGED):
        matches = pattern.findall(text)
        if matches:
            return str(matches[-1]).strip()
    return text.strip()


@dataclass(frozen=True)
class ExactMatch:
    """The final answer is the query's, blanks and, unless `case` matters, capitals aside."""

    mark: str | None = None
    case: bool = False

    def __call__(self, query: Query, text: str) -> float:
        """1 or 0."""
        found = final_answer(text, self.mark)
        return float(found is not None and self._plain(found) == self._plain(_right(query)))

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text if self.case else text.casefold()


@dataclass(frozen=True)
class Numeric:
    """The last number of the final answer is the query's, within a tolerance.

    Thousands may be separated by commas, and a simple fraction counts as its value.
    """

    mark: str | None = None
    absolute: float = 0.0
    relative: float = 1e-9

    def __call__(self, query: Query, text: str) -> float:
        """1 or 0."""
        right = last_number(_right(query))
        if right is None:
            raise DeclarationError(f"the answer of {query.key!r}, {query.answer!r}, is no number")
        answer = final_answer(text, self.mark)
        found = None if answer is None else last_number(answer)
        if found is None:
            return 0.0
        return float(math.isclose(found, right, rel_tol=self.relative, abs_tol=self.absolute))


def last_number(text: str) -> float | None:
    """The last number in a text, or None."""
    fractions = list(_FRACTION.finditer(text))
    numbers = list(_NUMBER.finditer(text))
    if fractions and (not numbers or fractions[-1].end() >= numbers[-1].end()):
        above, below = fractions[-1].groups()
        return float(Fraction(int(above), int(below))) if int(below) else None
    return float(numbers[-1][0].replace(",", "")) if numbers else None


@dataclass(frozen=True)
class MultipleChoice:
    """The letter that is chosen is the query's.

    Looked for, in this order: after the mark, in a box, after "answer is" or "answer:", and as the
    last letter that stands alone.
    """

    choices: str = "ABCDE"
    mark: str | None = None

    def __call__(self, query: Query, text: str) -> float:
        """1 or 0."""
        return float(self.chosen(text) == _right(query).strip().strip("().").upper())

    def chosen(self, text: str) -> str | None:
        """The letter, or None."""
        letter = f"[{re.escape(self.choices)}]"
        answer = final_answer(text, self.mark)
        if answer is None:
            return None
        short = self.mark is not None or answer != text.strip() or len(answer) <= 4
        whole = re.fullmatch(rf"\W*({letter})\b.*", answer, re.IGNORECASE | re.DOTALL)
        if short and whole:
            return whole[1].upper()
        stated = re.findall(rf"answer\s*(?:is|:)?[\s*:(]*({letter})\b", answer, re.IGNORECASE)
        if stated:
            return str(stated[-1]).upper()
        alone = re.findall(rf"(?<![A-Za-z'])({letter})(?![A-Za-z'])", answer)
        return str(alone[-1]) if alone else None


@dataclass(frozen=True)
class Mathematics:
    """Equal as mathematics, by `math-verify`: "1/2" is "0.5", and sets may be in any order.

    Raises:
        MissingExtraError: math-verify is not installed.
    """

    def __post_init__(self) -> None:
        _require("math_verify", "math-verify", "math")

    def __call__(self, query: Query, text: str) -> float:
        """1 or 0."""
        from math_verify import parse, verify

        right = _right(query)
        gold = parse(right if "$" in right or "\\boxed" in right else f"${right}$")
        return float(verify(gold, parse(text)))


@dataclass(frozen=True)
class ReasoningGym:
    """The score of reasoning-gym's own scorer of the data set; see `reasoning_gym_queries`.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
    """

    mark: str | None = None

    def __post_init__(self) -> None:
        _require("reasoning_gym", "reasoning-gym", "reasoning-gym")

    def __call__(self, query: Query, text: str) -> float:
        """From 0 to 1."""
        import reasoning_gym

        entry: dict[str, Any] = dict(query.data)
        scorer = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
        return float(scorer(final_answer(text, self.mark), entry))


@dataclass(frozen=True)
class FromFile:
    """A user's function of a query and a text, in a Python file.

    Attributes:
        path: of the file; function: its name in there.

    Raises:
        DeclarationError: there is no such file.
    """

    path: str
    function: str

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise DeclarationError(f"{self.path}: there is no such file")

    @property
    def identity(self) -> str:
        """The function's name and what stands in the file: another text is another verifier."""
        digest = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]
        return f"{self.function} of {digest}"

    def __call__(self, query: Query, text: str) -> float:
        """What the function says."""
        return float(_loaded(self.path, self.function)(query, text))


@cache
def _loaded(path: str, function: str) -> Verifier:
    found: Verifier | None = runpy.run_path(path).get(function)
    if found is None:
        raise DeclarationError(f"{path}: there is no function {function!r} in it")
    return found


def _right(query: Query) -> str:
    if query.answer is None:
        raise DeclarationError(f"the query {query.key!r} has no answer to compare with")
    return query.answer


def _require(module: str, name: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"{name} is not installed: pip install 'clearopt[{extra}]'")
