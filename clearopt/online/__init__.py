"""Streams: queries that come one at a time or in bursts, and get their tokens at once."""

from clearopt.online.market import PostedPrice, Quote, TierState
from clearopt.online.markets import Markets, MarketState
from clearopt.online.picture import plot_stream
from clearopt.online.regret import RegretRow, RegretStudy, regret_study
from clearopt.online.stream import (
    StreamRun,
    offline_optimum,
    price_of_history,
    run_posted,
    run_windows,
)
from clearopt.online.windows import Windows

__all__ = [
    "MarketState",
    "Markets",
    "PostedPrice",
    "Quote",
    "RegretRow",
    "RegretStudy",
    "StreamRun",
    "TierState",
    "Windows",
    "offline_optimum",
    "plot_stream",
    "price_of_history",
    "regret_study",
    "run_posted",
    "run_windows",
]
