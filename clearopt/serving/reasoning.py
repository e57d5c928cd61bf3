"""`Reasoning`: how a model marks its thinking, and how many tokens are kept for its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clearopt.errors import DeclarationError


@dataclass(frozen=True)
class Reasoning:
    """Of a model that thinks before it answers.

    A cap alone may cut a model in the middle of its thinking, and then there is no answer at all.
    So the thinking gets a limit of its own, and `answer_tokens` of every cap are kept.

    Attributes:
        answer_tokens: of each cap, kept for the answer; the mark that ends the thinking, which the
            engine writes when the limit is reached, is paid from them.
        start, end: texts that begin and end the thinking.
    """

    answer_tokens: int
    start: str = "<think>"
    end: str = "</think>"

    def __post_init__(self) -> None:
        if not isinstance(self.answer_tokens, int) or self.answer_tokens < 1:
            raise DeclarationError(
                f"Reasoning: answer_tokens = {self.answer_tokens!r}: must be a whole number of at "
                "least 1"
            )
        if not self.end or not self.start:
            raise DeclarationError("Reasoning: start and end must not be empty")

    def thinking_tokens(self, cap: int) -> int:
        """The limit of the thinking in an answer of `cap` tokens."""
        return max(cap - self.answer_tokens, 0)

    def answer_in(self, text: str) -> str:
        """What follows the thinking in a text; nothing where the thinking has not ended."""
        return text.rpartition(self.end)[2] if self.end in text else ""


def thought(
    token_ids: Sequence[int], end: Sequence[int], start: Sequence[int] = (), *, begun: bool = False
) -> int | None:
    """How many of an answer's tokens are thinking, its marks not counted.

    Args:
        token_ids: of the answer.
        end, start: of the marks.
        begun: whether the prompt ends within the thinking.

    Returns:
        None where the answer shows no thinking.
    """
    first = 0
    if not begun:
        opened = _find(token_ids, start)
        if opened is None:
            return None
        first = opened + len(start)
    closed = _find(token_ids, end, first)
    return (len(token_ids) if closed is None else closed) - first


def last_mark(tokens: Sequence[int], mark: Sequence[int]) -> int:
    """Where a mark begins for the last time among some tokens; -1 where it does not."""
    tokens, mark = tuple(tokens), tuple(mark)
    places = range(len(tokens) - len(mark), -1, -1) if mark else ()
    return next((p for p in places if tokens[p : p + len(mark)] == mark), -1)


def _find(tokens: Sequence[int], mark: Sequence[int], begin: int = 0) -> int | None:
    mark, length = tuple(mark), len(mark)
    if not length:
        return None
    for place in range(begin, len(tokens) - length + 1):
        if tuple(tokens[place : place + length]) == mark:
            return place
    return None
