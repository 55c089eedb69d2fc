"""An exchange on loopback that speaks Binance's dialect, replays candle frames and misbehaves by schedule.

Tests start it in their own process; `python -m tests.venue --help` tells how to run it beside gatecast.
"""

from tests.venue.faults import (
    BREAK,
    DELISTED,
    DUPLICATES,
    EMPTY,
    FUTURE,
    GARBAGE,
    OK,
    OVERLAP,
    PAGE,
    RESET,
    SHUFFLED,
    STALE,
    TIMEOUT,
    TRANSIENT,
    TRUNCATED,
    Fault,
    chaos,
)
from tests.venue.habits import Habits
from tests.venue.klines import aggregated, derived_markets
from tests.venue.server import StandInExchange
from tests.venue.weights import peak_weight

__all__ = [
    "BREAK",
    "DELISTED",
    "DUPLICATES",
    "EMPTY",
    "FUTURE",
    "GARBAGE",
    "OK",
    "OVERLAP",
    "PAGE",
    "RESET",
    "SHUFFLED",
    "STALE",
    "TIMEOUT",
    "TRANSIENT",
    "TRUNCATED",
    "Fault",
    "Habits",
    "StandInExchange",
    "aggregated",
    "chaos",
    "derived_markets",
    "peak_weight",
]
