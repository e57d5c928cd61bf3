"""What is asked of an engine and what it gives back: `Request`, `Prefix`, `Generation`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError
from clearopt.validation import as_float_array, broadcast_to_length, require


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: what was generated, without the prompt and without special tokens.
        tokens: how many tokens were generated, the one that ends an answer included.
        finish_reason: "stop" (ended by itself), "length" (cut at its cap) or "abandoned" (never
            sent).
        token_ids: the tokens themselves; empty where the engine does not tell.
        overrun: tokens received beyond the cap; they are not part of the answer.
    """

    text: str
    tokens: int
    finish_reason: str
    token_ids: tuple[int, ...] = ()
    overrun: int = 0

    @property
    def finished(self) -> bool:
        """Whether the answer ended by itself."""
        return self.finish_reason == "stop"


ABANDONED = Generation("", 0, "abandoned")


@dataclass(frozen=True)
class Prefix:
    """The part of an answer that is there already and is to be continued.

    Attributes:
        text: as it was generated.
        tokens: how many they were.
        token_ids: the tokens themselves; empty where they are not known, then the text is sent.
    """

    text: str = ""
    tokens: int = 0
    token_ids: tuple[int, ...] = ()

    def then(self, more: Generation) -> Prefix:
        """This prefix followed by its continuation."""
        known = len(self.token_ids) == self.tokens and len(more.token_ids) == more.tokens
        ids = self.token_ids + more.token_ids if known else ()
        return Prefix(self.text + more.text, self.tokens + more.tokens, ids)


NOTHING = Prefix()


@dataclass(frozen=True)
class Request:
    """One request to an engine.

    Attributes:
        prompt: a text, or its tokens.
        max_tokens: most tokens to generate now, the prefix not counted; at least 1.
        seed: of the sampling.
        temperature: of the sampling; 0 takes the likeliest token.
        stop: texts that end an answer, and are not part of it.
        prefix: what was generated before, to be continued.
        thinking_tokens: most tokens of thinking, those in the prefix included; None: no limit.
        chat: whether the prompt is a user's message, to be put into the model's chat template.

    Raises:
        DeclarationError: a number is out of range.
    """

    prompt: str | tuple[int, ...]
    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    prefix: Prefix = NOTHING
    thinking_tokens: int | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DeclarationError("Request: the prompt is empty")
        if self.chat and not isinstance(self.prompt, str):
            raise DeclarationError("Request: chat: the prompt must be a text, not tokens")
        for name, value, least in (
            ("max_tokens", self.max_tokens, 1),
            ("seed", self.seed, 0),
            ("thinking_tokens", self.thinking_tokens, 0),
        ):
            if name == "thinking_tokens" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise DeclarationError(
                    f"Request: {name} = {value!r}: must be a whole number of at least {least}"
                )
        if not (isinstance(self.temperature, int | float) and 0 <= self.temperature < math.inf):
            raise DeclarationError(
                f"Request: temperature = {self.temperature!r}: must be a number of at least 0"
            )


def whole_numbers(value: ArrayLike, length: int, argument: str) -> NDArray[np.int64]:
    """`value` as (length,) whole numbers; floats that are whole pass."""
    numbers = as_float_array(value, argument)
    require(numbers, numbers == np.floor(numbers), argument, "must be a whole number")
    require(numbers, np.abs(numbers) < 2.0**53, argument, "is out of range")
    return broadcast_to_length(numbers, length, argument).astype(np.int64)
