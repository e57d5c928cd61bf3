"""`Settings` of a replay: what is evaluated, and on how much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from clearopt.errors import DeclarationError
from clearopt.replay.accounting import ACCOUNTINGS
from clearopt.replay.policies import DEFAULT_POLICIES, DESCRIPTIONS
from clearopt.replay.splits import QUERY, SAMPLE
from clearopt.replay.streams import MIXES

OTHERS = "others"
"""`predict_from`: all other models of the file together."""

_BASELINES = ("uniform", "time-share")
PREDICTORS = ("design", "ridge", "boosting")


@dataclass(frozen=True)
class Settings:
    """What a replay depends on, the rollouts apart.

    Attributes:
        fractions: the budgets, as shares of ample.
        policies: who shares them out; `uniform` and `time-share`, the baselines, are always there.
        accountings: what budgets are counted in, "planned" caps, "realised" tokens, or both.
        splits: "sample", "query" or both; a query split needs `features` or `predict_from`.
        repeats: draws of each split.
        seed: of splits, streams and intervals.
        benchmark, model: evaluate these alone.
        features: a table of numbers by query, to predict curves from.
        predict_from: a model of the same file from whose rollouts this one's curves are predicted,
            or "others" for all of them together.
        predictor: what predicts: "design" (a linear model inside the fit), "ridge", "boosting".
        estimates: a table by query of the tokens that the model itself thinks it needs, column
            "estimate", as `tale_estimates` writes; without one the policy "tale-ep" is skipped.
        stream: a mix of easy and hard queries to draw streams of, or None for the file's own.
        length: queries in a stream.
        time_limit: seconds a solver may take for one allocation.
        resamples: of the bootstrap.

    Raises:
        DeclarationError: a value out of range; names it.
    """

    fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.6)
    policies: tuple[str, ...] = DEFAULT_POLICIES
    accountings: tuple[str, ...] = tuple(ACCOUNTINGS)
    splits: tuple[str, ...] = (SAMPLE, QUERY)
    repeats: int = 2
    seed: int = 0
    benchmark: str | None = None
    model: str | None = None
    features: str | None = None
    predict_from: str | None = None
    predictor: str = "design"
    estimates: str | None = None
    stream: str | None = None
    length: int = 500
    time_limit: float = 60.0
    resamples: int = 4000

    def __post_init__(self) -> None:
        least = {"repeats": 1, "seed": 0, "length": 1, "resamples": 100}
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise DeclarationError(
                    f"{name} = {value!r}: must be a whole number of at least {minimum}"
                )
        if not 0 < self.time_limit < math.inf:
            raise DeclarationError(
                f"time_limit = {self.time_limit!r}: must be a positive number of seconds"
            )
        if not self.fractions:
            raise DeclarationError("budgets: there is none; give shares of ample such as 0.2")
        for fraction in self.fractions:
            if not 0 < fraction <= 2:
                raise DeclarationError(
                    f"budgets: {fraction!r} must lie above 0 and be at most 2 (a share of ample)"
                )
        object.__setattr__(self, "fractions", tuple(sorted(set(map(float, self.fractions)))))
        if self.predictor not in PREDICTORS:
            raise DeclarationError(
                f"predictor {self.predictor!r}: known are {', '.join(PREDICTORS)}"
            )
        if self.stream is not None and self.stream not in MIXES:
            raise DeclarationError(f"stream {self.stream!r}: known are {', '.join(MIXES)}")
        for name in ("features", "estimates"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        self._choose("policies", DESCRIPTIONS, _BASELINES)
        self._choose("accountings", ACCOUNTINGS, ())
        self._choose("splits", (SAMPLE, QUERY), ())

    def _choose(self, name: str, known: Any, always: tuple[str, ...]) -> None:
        """Check names against the known ones, and put them into the known order."""
        given = getattr(self, name)
        unknown = [each for each in given if each not in known]
        if unknown:
            raise DeclarationError(f"{name}: {unknown[0]!r} is unknown; known: {', '.join(known)}")
        if not given:
            raise DeclarationError(f"{name}: there is none; known: {', '.join(known)}")
        chosen = tuple(each for each in known if each in {*given, *always})
        object.__setattr__(self, name, chosen)

    @property
    def predicts(self) -> bool:
        """Whether there is anything to predict an unseen query's curve from."""
        return self.features is not None or self.predict_from is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
