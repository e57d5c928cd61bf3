"""`tale_estimates`: how many tokens a model itself thinks a question needs.

TALE-EP (Han et al., arXiv 2412.18547) asks the model for a budget before it asks the question. As a
policy, the estimates are caps in proportion: they say who needs more, and the budget says how much
there is. The words of the request here are our own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.tables import write_table
from clearopt.validation import FloatArray

if TYPE_CHECKING:
    from clearopt.serving import Engine

COLUMN = "estimate"
"""Of a file of estimates, beside `query_id`: tokens."""

REQUEST = """\
Do not solve the problem below. Estimate how many tokens a complete and correct solution of it \
takes, reasoning included, as short as it can be. Reply with one whole number in double brackets, \
such as [[350]], and nothing else.

Problem: {question}

Estimate: """
"""What a model is asked; `{question}` stands for the question."""

_MOST = 10_000_000.0  # tokens; a larger number is no estimate
_BY_DEFAULT = 256.0  # tokens, where no reply can be read: all alike, whatever the number
_NUMBER = r"(\d{1,3}(?:[, _]\d{3})+|\d+)(\.\d+)?[ \t]*([kK](?![A-Za-z]))?(?![\w.]*\d)"
_BRACKETED = re.compile(r"\[\[?[^\[\]\d]{0,20}" + _NUMBER + r"[^\[\]\d]{0,20}\]")
_ANYWHERE = re.compile(r"(?<![\w.,])" + _NUMBER)


@dataclass(frozen=True, eq=False)
class Estimates:
    """A model's own estimates for n queries. Made by `tale_estimates`.

    Attributes:
        queries: their labels.
        tokens: (n,) estimates; `fallback` where the reply could not be read.
        readable: (n,) where it could.
        fallback: the median of those that could.
        replies: what the model said.
    """

    queries: tuple[str, ...]
    tokens: FloatArray
    readable: NDArray[np.bool_]
    fallback: float
    replies: tuple[str, ...]

    @property
    def unreadable(self) -> int:
        """How many replies held no number, or no single one, and stand at the fallback."""
        return int(np.count_nonzero(~self.readable))

    def __repr__(self) -> str:
        return (
            f"Estimates({len(self.queries)} queries, median {np.median(self.tokens):,.0f} tokens; "
            f"{self.unreadable} replies unreadable, taken as {self.fallback:,.0f})"
        )

    def write(self, path: str | Path) -> Path:
        """Write a table of `query_id`, `estimate`, `readable`: for `clearopt replay --estimates`.

        Raises:
            MissingExtraError: polars is not installed.
        """
        columns = {
            "query_id": list(self.queries),
            COLUMN: self.tokens.tolist(),
            "readable": self.readable.tolist(),
        }
        write_table(columns, Path(path))
        return Path(path)


def tale_estimates(
    engine: Engine,
    questions: Mapping[str, str],
    *,
    request: str = REQUEST,
    template: Callable[[str], str] | None = None,
    longest: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    fallback: float | None = None,
) -> Estimates:
    """Ask a model how many tokens each question will take it.

    Args:
        engine: the model that will answer the questions.
        questions: query's label -> the bare question, without a chat template.
        request: what is asked, with `{question}` where the question goes.
        template: puts a request into the form that the model was trained on (a chat template).
        longest: cap of a reply, tokens. A model that thinks before it replies needs more.
        temperature, seed: as in `Engine.generate`.
        fallback: tokens where a reply cannot be read; by default the median of those that can.

    Raises:
        DeclarationError: there is no question, the request does not say where it goes, or the
            fallback is not positive.
    """
    if not questions:
        raise DeclarationError("questions: there is none; give a mapping from labels to questions")
    if "{question}" not in request:
        raise DeclarationError("request: says nowhere {question}, where the question goes")
    if fallback is not None and not 0 < fallback < math.inf:
        raise DeclarationError(f"fallback = {fallback!r}: must be a positive number of tokens")
    form = template or (lambda text: text)
    # Replaced, not formatted: a question may hold braces of its own.
    asked = [form(request.replace("{question}", text)) for text in questions.values()]
    answers = engine.generate(asked, longest, seed, temperature)
    return estimates_of(tuple(questions), [answer.text for answer in answers], fallback)


def estimates_of(
    queries: Sequence[str], replies: Sequence[str], fallback: float | None = None
) -> Estimates:
    """The estimates in replies, however they were obtained (a server's, say); (n,) each."""
    if len(queries) != len(replies):
        raise DeclarationError(f"replies: {len(replies)} for {len(queries)} queries")
    found = [parse_estimate(reply) for reply in replies]
    readable = np.array([tokens is not None for tokens in found], dtype=np.bool_)
    known = [tokens for tokens in found if tokens is not None]
    if fallback is None:
        fallback = float(np.median(known)) if known else _BY_DEFAULT
    tokens = np.array([fallback if tokens is None else tokens for tokens in found])
    return Estimates(tuple(queries), tokens, readable, fallback, tuple(replies))


def parse_estimate(reply: str) -> float | None:
    """The number of tokens a reply names, None where it names none or leaves several open.

    The last number in brackets counts, else the only number there is: a reply that works the
    problem out instead is full of numbers, none of which is meant.
    """
    bracketed = [_value(match) for match in _BRACKETED.finditer(reply)]
    if bracketed:
        return bracketed[-1]
    numbers = {_value(match) for match in _ANYWHERE.finditer(reply)}
    return numbers.pop() if len(numbers) == 1 else None


def _value(match: re.Match[str]) -> float | None:
    whole, fraction, thousands = match.groups()
    value = float(re.sub(r"[, _]", "", whole) + (fraction or ""))
    value *= 1000.0 if thousands else 1.0
    return value if 1.0 <= value <= _MOST else None
