"""`Settings` of a confirmation: what is run, and on how much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from clearopt.confirmation.policies import SOLVERS
from clearopt.errors import DeclarationError


@dataclass(frozen=True)
class Settings:
    """What a confirmation depends on.

    Attributes:
        queries: evaluation queries.
        calibration: calibration queries, none of them evaluated.
        samples: rollouts of each calibration query.
        fractions: the budgets, as shares of ample.
        policies: who shares them out; `uniform` is always among them, as the baseline.
        seed: of tasks, rollouts, policies and intervals.
        model: see `clearopt.serving.resolve_model`.
        longest: most tokens an answer may have: the cap of calibration, and of any allocation.
        time_limit: seconds a solver may take for one allocation.
        check_queries, check_seconds: size of the sub-problem on which the solvers are compared, and
            seconds each of them may take.
        resamples: of the bootstrap.

    Raises:
        DeclarationError: a value out of range; names it.
    """

    queries: int = 500
    calibration: int = 300
    samples: int = 4
    fractions: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    policies: tuple[str, ...] = tuple(SOLVERS)
    seed: int = 0
    model: str = "reasoner"
    longest: int = 400
    time_limit: float = 20.0
    check_queries: int = 12
    check_seconds: float = 10.0
    resamples: int = 4000

    def __post_init__(self) -> None:
        least = {"queries": 2, "calibration": 2, "samples": 1, "seed": 0, "longest": 2,
                 "check_queries": 0, "resamples": 100}  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise DeclarationError(
                    f"{name} = {value!r}: must be a whole number of at least {minimum}"
                )
        for name in ("time_limit", "check_seconds"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise DeclarationError(f"{name} = {value!r}: must be a positive number of seconds")
        if not self.fractions:
            raise DeclarationError("fractions: there is none; give shares of ample such as 0.2")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise DeclarationError(
                    f"fractions: {fraction!r} must lie above 0 and be at most 1 (a share of ample)"
                )
        object.__setattr__(self, "fractions", tuple(sorted(set(map(float, self.fractions)))))
        unknown = [policy for policy in self.policies if policy not in SOLVERS]
        if unknown:
            raise DeclarationError(
                f"policies: {unknown[0]!r} is unknown; known are {', '.join(SOLVERS)}"
            )
        chosen = tuple(name for name in SOLVERS if name in {"uniform", *self.policies})
        object.__setattr__(self, "policies", chosen)
        object.__setattr__(self, "check_queries", min(self.check_queries, self.queries))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


QUICK: dict[str, Any] = {"queries": 200, "calibration": 200, "samples": 3, "check_seconds": 5.0}
"""What `--quick` changes."""
