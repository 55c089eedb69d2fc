"""From the configured source into the candle store, and what of the store a run works on."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from gatecast.config import IngestConfig
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS, Market, iso, paired, timeframe_ms, to_ms
from gatecast.market.gaps import Hole
from gatecast.market.store import Store, merge_candles, read_candles

Say = Callable[[str], None]


def markets_of(config: IngestConfig) -> tuple[Market, ...]:
    """The markets that a run works on."""
    return tuple(Market(config.exchange, symbol, config.timeframe) for symbol in config.symbols)


def references_of(config: IngestConfig) -> dict[Market, Market]:
    """The market of the second venue that each market is held against; empty where none is configured."""
    return paired(markets_of(config), config.reference_exchange, config.reference_symbols)


def kept_markets(config: IngestConfig) -> tuple[Market, ...]:
    """All markets that the store is to hold: those of a run, their further timeframes, and their references."""
    more = (
        Market(config.exchange, symbol, timeframe)
        for symbol in config.symbols
        for timeframe in (config.more_timeframes if config.source == "exchange" else ())
    )
    return (*markets_of(config), *more, *references_of(config).values())


def collect(
    config: IngestConfig, root: Path, store: Store, say: Say, refetch: Sequence[datetime] = ()
) -> dict[Market, pl.DataFrame]:
    """Bring every configured market up to date, and return the closed candles between `start` and `end`.

    From files and the embedded sample a run takes exactly the rows they hold; from an exchange, all that is stored.

    Args:
        config: Source, markets and span.
        root: Folder to which a relative file template refers.
        store: Candles and ledger.
        say: Takes lines of progress.
        refetch: Days (UTC) to ask an exchange for again, whatever is stored of them.

    Returns:
        Candle rows of the markets of the run and of their references.

    Raises:
        ConfigurationError: Days to ask for again, and no exchange to ask, or a day to come.
        GatecastError: The source cannot be used; what was stored before is as it was, or has grown.
    """
    if refetch and config.source != "exchange":
        raise ConfigurationError(f"--refetch asks an exchange again, and ingest.source is {config.source}")
    days = [day.replace(tzinfo=UTC) for day in refetch]
    if late := [day for day in days if day > datetime.now(UTC)]:
        raise ConfigurationError(f"--refetch {late[0]:%Y-%m-%d} is a day to come")
    wanted = (*markets_of(config), *references_of(config).values())
    if config.source == "exchange":
        from gatecast.market.fetch import fetch

        again = [Hole(to_ms(day), to_ms(day + timedelta(days=1))) for day in days]
        fetch(config, kept_markets(config), store, say, again)
        candles = {market: read_candles(store.candles, market) for market in wanted}
    else:
        candles = {market: _from_disk(config, root, market, say) for market in wanted}  # all, before any is stored
        for market, rows in candles.items():
            merged = merge_candles(store, market, rows)
            revised = f", {merged.n_revised} revised" if merged.n_revised else ""
            say(f"ingest: {market}: {len(rows)} candles read, {merged.n_new} of them new{revised}")
    chosen = {market: _within(rows, config) for market, rows in candles.items()}
    for market, rows in chosen.items():
        if rows.is_empty():
            raise DataError(
                f"{config.source} has no closed candle of {market} from {_bound(config.start)} to {_bound(config.end)}:"
                " check ingest.start and ingest.end"
            )
    return chosen


def _from_disk(config: IngestConfig, root: Path, market: Market, say: Say) -> pl.DataFrame:
    from gatecast.market.files import read_files
    from gatecast.market.sample import read_sample

    rows = read_files(config.files or "", root, market) if config.source == "files" else read_sample(market)
    still_open = pl.col(TS) + pl.duration(milliseconds=timeframe_ms(market.timeframe)) > datetime.now(UTC)
    closed = rows.filter(~still_open)
    if len(closed) < len(rows):
        say(f"ingest: {market}: {len(rows) - len(closed)} candles are not closed yet and were left out")
    if closed.is_empty():
        raise DataError(f"none of the {len(rows)} candles of {market} is closed yet")
    return closed


def _within(rows: pl.DataFrame, config: IngestConfig) -> pl.DataFrame:
    if config.start is not None:
        rows = rows.filter(pl.col(TS) >= config.start)
    return rows if config.end is None else rows.filter(pl.col(TS) < config.end)


def _bound(instant: datetime | None) -> str:
    return iso(instant) if instant else "any time"
