"""Funding rates of perpetual contracts from their venue: the whole history once, then what is new."""

import asyncio
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError, GatecastError, NetworkFault
from gatecast.market.candles import iso, to_ms
from gatecast.market.exchange import Venue
from gatecast.market.fetch import Say
from gatecast.market.patience import Sleep
from gatecast.market.publications.funding_rates import merge_rates, rates_file, read_rates
from gatecast.market.publications.table import FUNDING, PUBLISHED_AT, as_publications

_KEY: Final = "ingest.funding_exchange"
_FIRST: Final = 1_451_606_400_000  # 2016, in milliseconds: before the first perpetual contract was listed
_SPAN_MS: Final = 30 * 86_400_000  # some venues answer no more than 33 days from the instant asked for (100 rates, 8 h)
_CLOCK_MS: Final = 3_600_000  # rates may be settled while they are asked for


def contracts_of(config: IngestConfig) -> dict[str, str]:
    """The perpetual contract of each symbol; where none is named, the one of its pair that is settled in its quote."""
    named = config.funding_symbols or [
        symbol if ":" in symbol else f"{symbol}:{symbol.partition('/')[2]}" for symbol in config.symbols
    ]
    return dict(zip(config.symbols, named, strict=True))


def fetch_funding(config: IngestConfig, folder: Path, say: Say, sleep: Sleep = asyncio.sleep) -> pl.DataFrame:
    """Bring the funding rates of all contracts up to date.

    Args:
        config: Venue, contracts and tries.
        folder: Of what has been published.
        say: Takes lines of progress.
        sleep: Waits so many seconds between tries.

    Returns:
        The columns of `PUBLICATION_SCHEMA`, all that is kept of the contracts, under the symbols of the run.

    Raises:
        ConfigurationError: The venue is not known, or does not have a contract.
        GatecastError: It failed or refused; what had come is kept, and the next run goes on from there.
    """
    contracts = contracts_of(config)
    faults = asyncio.run(_fetch(config, list(contracts.values()), folder, say, sleep))
    if faults:
        may_pass = all(isinstance(fault, NetworkFault) for fault in faults.values())
        each = "; ".join(f"{contract}: {fault}" for contract, fault in faults.items())
        raise (NetworkFault if may_pass else DataError)(f"funding rates of {config.funding_exchange} {each}")
    return pl.concat(
        as_publications(read_rates(_file(config, folder, contract)), FUNDING, symbol)
        for symbol, contract in contracts.items()
    )


async def _fetch(
    config: IngestConfig, contracts: list[str], folder: Path, say: Say, sleep: Sleep
) -> dict[str, GatecastError]:
    exchange = config.funding_exchange or ""
    async with Venue(exchange, config, sleep, contracts, _KEY) as venue:
        if not venue.tells_funding:
            raise ConfigurationError(f"{_KEY} = {exchange!r} tells no history of funding rates: name another venue")
        now = to_ms(await venue.open())
        for contract in contracts:
            venue.require_perpetual(contract)

        async def of_contract(contract: str) -> GatecastError | None:
            path = _file(config, folder, contract)
            try:
                n_before = len(read_rates(path))
                kept = await _bring_up_to_date(venue, contract, path, now)
            except GatecastError as fault:
                return fault
            if kept.is_empty():
                return DataError("the venue has none: set ingest.funding_symbols")
            n_new, last = len(kept) - n_before, iso(kept[PUBLISHED_AT][-1])
            say(f"ingest: {exchange} {contract}: {n_new} new funding rates, the last one settled at {last}")
            return None

        found = await asyncio.gather(*map(of_contract, contracts))
    return {contract: fault for contract, fault in zip(contracts, found, strict=True) if fault}


async def _bring_up_to_date(venue: Venue, contract: str, path: Path, now: int) -> pl.DataFrame:
    """Page after page since the last rate that is kept; an empty one is the end, or a span without contract."""
    kept = read_rates(path)
    since = _FIRST if kept.is_empty() else to_ms(kept[PUBLISHED_AT][-1]) + 1
    pages = [kept]
    try:
        while since <= now:
            page = await venue.funding_rates(contract, since, now + _CLOCK_MS)
            since = since + _SPAN_MS if page.is_empty() else to_ms(page[PUBLISHED_AT][-1]) + 1
            pages.append(page)
    finally:
        merged = merge_rates(path, pl.concat(pages))
    return merged


def _file(config: IngestConfig, folder: Path, contract: str) -> Path:
    return rates_file(folder, config.funding_exchange or "", contract)
