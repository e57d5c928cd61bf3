"""Replay: every policy over a range of budgets, on rollouts that were recorded before.

`replay` evaluates a file's runs; `sample_stream` draws traffic from a pool of queries;
`collect_rollouts` records rollouts of a model of your own through vLLM, and `tale_estimates` asks
it what it thinks it needs.
"""

from clearopt.replay.collect import collect_rollouts
from clearopt.replay.estimates import Estimates, estimates_of, tale_estimates
from clearopt.replay.report import Report, Row
from clearopt.replay.run import replay
from clearopt.replay.settings import Settings
from clearopt.replay.streams import MIXES, Stream, sample_stream

__all__ = [
    "MIXES",
    "Estimates",
    "Report",
    "Row",
    "Settings",
    "Stream",
    "collect_rollouts",
    "estimates_of",
    "replay",
    "sample_stream",
    "tale_estimates",
]
