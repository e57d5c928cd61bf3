"""`Query`: what is asked and how its answer is told right; ready task sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearopt.errors import DeclarationError, MissingExtraError


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        key: its label, unlike all others.
        prompt: ready for the model (a chat template applied), or its tokens.
        answer: the right one, for verifiers that compare; None where there is none.
        data: what else a verifier needs.
    """

    key: str
    prompt: str | tuple[int, ...]
    answer: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


def require_distinct(queries: Sequence[Query]) -> None:
    """Raise unless there are queries, and no label stands twice."""
    if not queries:
        raise DeclarationError("queries: there is none")
    seen: set[str] = set()
    for position, query in enumerate(queries):
        if query.key in seen:
            raise DeclarationError(f"queries[{position}]: the label {query.key!r} stands already")
        if not query.prompt:
            raise DeclarationError(f"queries[{position}] ({query.key!r}): the prompt is empty")
        seen.add(query.key)


def reasoning_gym_queries(
    dataset: str, size: int, seed: int = 0, *, template: str = "{question}", **config: Any
) -> list[Query]:
    """Procedural tasks of reasoning-gym, for its own scorers (`ReasoningGym`).

    Args:
        dataset: its name there, such as "chain_sum".
        size: how many.
        seed: of the tasks.
        template: the prompt, with `{question}` in it.
        config: further settings of the data set.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
        DeclarationError: there is no such data set.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtraError(
            "reasoning-gym is not installed: pip install 'clearopt[reasoning-gym]'"
        ) from error
    if "{question}" not in template:
        raise DeclarationError(f"template = {template!r}: must contain {{question}}")
    try:
        tasks = reasoning_gym.create_dataset(dataset, size=size, seed=seed, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise DeclarationError(f"reasoning-gym, {dataset!r}: {error}") from error
    return [
        Query(
            key=f"{dataset}-{seed}-{number}",
            prompt=template.replace("{question}", str(entry["question"])),
            answer=None if entry["answer"] is None else str(entry["answer"]),
            data=dict(entry),
        )
        for number, entry in enumerate(tasks)
    ]
