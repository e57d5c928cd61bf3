"""Runs: a budget's allocation answered by an engine, with nothing lost and nothing overspent.

The names below are imported on first use: the processes in which verifiers run need few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearopt.runs.abandonment import Cheaper, Fallback, Queue, Skip
    from clearopt.runs.journal import JournalError
    from clearopt.runs.planning import Workload
    from clearopt.runs.queries import Query, reasoning_gym_queries
    from clearopt.runs.report import Report
    from clearopt.runs.retries import Retries
    from clearopt.runs.running import run, run_async
    from clearopt.runs.settings import Settings
    from clearopt.runs.stream import Arrival, run_stream, run_stream_async
    from clearopt.runs.stream_report import StreamReport
    from clearopt.runs.verifiers import (
        ExactMatch,
        Mathematics,
        MultipleChoice,
        Numeric,
        ReasoningGym,
    )

_HOME = {
    "Arrival": "stream",
    "Cheaper": "abandonment",
    "ExactMatch": "verifiers",
    "Fallback": "abandonment",
    "JournalError": "journal",
    "Mathematics": "verifiers",
    "MultipleChoice": "verifiers",
    "Numeric": "verifiers",
    "Query": "queries",
    "Queue": "abandonment",
    "ReasoningGym": "verifiers",
    "Report": "report",
    "Retries": "retries",
    "Settings": "settings",
    "Skip": "abandonment",
    "StreamReport": "stream_report",
    "Workload": "planning",
    "reasoning_gym_queries": "queries",
    "run": "running",
    "run_async": "running",
    "run_stream": "stream",
    "run_stream_async": "stream",
}

__all__ = [
    "Arrival",
    "Cheaper",
    "ExactMatch",
    "Fallback",
    "JournalError",
    "Mathematics",
    "MultipleChoice",
    "Numeric",
    "Query",
    "Queue",
    "ReasoningGym",
    "Report",
    "Retries",
    "Settings",
    "Skip",
    "StreamReport",
    "Workload",
    "reasoning_gym_queries",
    "run",
    "run_async",
    "run_stream",
    "run_stream_async",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
