"""Replay: every policy over a range of budgets, on rollouts that were recorded before.

`replay` evaluates a file's runs; `sample_stream` draws traffic from a pool of queries;
`collect_rollouts` records rollouts of a model of your own through vLLM.
"""

from clearopt.replay.collect import collect_rollouts
from clearopt.replay.report import Report, Row
from clearopt.replay.run import replay
from clearopt.replay.settings import Settings
from clearopt.replay.streams import MIXES, Stream, sample_stream

__all__ = [
    "MIXES",
    "Report",
    "Row",
    "Settings",
    "Stream",
    "collect_rollouts",
    "replay",
    "sample_stream",
]
