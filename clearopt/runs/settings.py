"""`Settings` of a run: its budget, and how it is spent."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from clearopt.errors import DeclarationError
from clearopt.runs.retries import Retries
from clearopt.serving.reasoning import Reasoning


@dataclass(frozen=True)
class Settings:
    """What a run does with its budget.

    Attributes:
        budget: generated tokens, of all queries together; never exceeded.
        reserve: of them, kept out of plans to ask again with, where an answer was lost on the way.
        rounds: how often tokens that were left over are shared out again, at most.
        seed: of the sampling; every request has a seed of its own.
        temperature, stop: of the sampling.
        chat: whether prompts are a user's messages, to be put into the model's chat template.
        reasoning: of a model that thinks first: what of each cap is kept for its answer.
        charge_lost: whether an attempt whose answer never came is charged its cap. If not, the
            budget covers what was received, and what was lost is reported beside it.
        request_timeout: seconds for one attempt, or None.
        time_limit: seconds for the whole run, or None; at the limit requests under way are
            withdrawn, and their caps count as lost.
        retries: how failures are met.
        solver, solver_seconds: who shares tokens out, and how long each time.
        score_cut: whether an answer that was cut at its cap may be right.
        verify_seconds: for a verifier to look at one answer.
        verify_processes: how many answers are looked at at a time.
    """

    budget: int
    reserve: int = 0
    rounds: int = 3
    seed: int = 0
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    chat: bool = False
    reasoning: Reasoning | None = None
    charge_lost: bool = True
    request_timeout: float | None = None
    time_limit: float | None = None
    retries: Retries = field(default_factory=Retries)
    solver: str = "dual"
    solver_seconds: float | None = None
    score_cut: bool = False
    verify_seconds: float = 10.0
    verify_processes: int = 2

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("reserve", 0), ("rounds", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise DeclarationError(
                    f"{name} = {value!r}: must be a whole number of at least {least}"
                )
        if self.reserve >= self.budget:
            raise DeclarationError(
                f"reserve = {self.reserve}: nothing is left of the budget, {self.budget} tokens"
            )
        for name in ("request_timeout", "time_limit", "solver_seconds", "verify_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise DeclarationError(f"{name} = {value!r}: must be seconds above 0")
        if not 0 <= self.temperature < math.inf:
            raise DeclarationError(f"temperature = {self.temperature!r}: must be at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def answers_depend_on(self) -> dict[str, Any]:
        """Without those that change no answer, which may differ when a run is taken up again."""
        chosen = self.to_dict()
        for name in (
            "request_timeout", "time_limit", "retries", "verify_seconds", "verify_processes",
            "score_cut", "charge_lost",
        ):  # fmt: skip
            del chosen[name]
        return chosen
