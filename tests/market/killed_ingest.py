"""What a process does that a test kills; it is forked from a server that has imported this, so nothing runs at import.

polars' threads do not survive a fork: had the server used polars before, every process would stand still.
"""

import os
from pathlib import Path

from gatecast.config_ingest import IngestConfig
from gatecast.market import intake
from gatecast.market.candles import Market
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.fetch import fetch
from gatecast.market.store import Store


async def no_sleep(seconds: float) -> None:
    """Tries follow each other at once."""
    del seconds


def ingest_until_killed(config: IngestConfig, market: Market, folder: Path, address: str) -> None:
    """Fetch a market, with a merge an answer, so that kills meet merges."""
    os.environ[URL_VARIABLE] = address
    vars(intake)["_FLUSH_S"] = 0.0
    fetch(config, (market,), Store(folder / "candles", folder / "ledger"), lambda _: None, (), no_sleep)
