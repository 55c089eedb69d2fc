"""From the configured source into the candle store, and what of the store a run works on."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from gatecast.config_ingest import IngestConfig
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
    """Bring every configured market up to date, and return its candles between `start` and `end`.

    From files and the embedded sample a run takes exactly the rows they hold, in their order, with whatever is wrong
    with them: `clean` accounts for each. From an exchange it takes all that is stored. The store never gets a candle
    that is not closed yet.

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
        candles = _from_disk(config, root, wanted, say)  # all, before any is stored
        for market, rows in candles.items():
            merged = merge_candles(store, market, rows.filter(is_closed(market.timeframe)))
            revised = f", {merged.n_revised} revised" if merged.n_revised else ""
            say(f"ingest: {market}: {len(rows)} candles read, {merged.n_new} of them new{revised}")
    chosen = {market: _within(rows, config) for market, rows in candles.items()}
    for market, rows in chosen.items():
        if rows.filter(is_closed(market.timeframe)).is_empty():
            raise DataError(
                f"{config.source} has no closed candle of {market} from {_bound(config.start)} to {_bound(config.end)}:"
                " check ingest.start and ingest.end"
            )
    return chosen


def is_closed(timeframe: str) -> pl.Expr:
    """Whether a candle is closed, by the clock."""
    return pl.col(TS) + pl.duration(milliseconds=timeframe_ms(timeframe)) <= datetime.now(UTC)


def _from_disk(config: IngestConfig, root: Path, markets: Sequence[Market], say: Say) -> dict[Market, pl.DataFrame]:
    from gatecast.market.files import read_files, require_own_files
    from gatecast.market.sample import read_sample

    template = config.files or ""
    if config.source == "files":
        require_own_files(template, root, markets)
    candles = {
        market: read_files(template, root, market) if config.source == "files" else read_sample(market)
        for market in markets
    }
    for market, rows in candles.items():
        n_closed = len(rows.filter(is_closed(market.timeframe)))
        if n_closed == 0:
            raise DataError(f"none of the {len(rows)} candles of {market} is closed yet")
        if n_closed < len(rows):
            say(f"ingest: {market}: {len(rows) - n_closed} candles are not closed yet: `clean` will quarantine them")
    for market, reference in references_of(config).items():
        if candles[market].equals(candles[reference]):
            raise DataError(
                f"the candles of {reference} are those of {market}, row by row: a market that is held against a copy of"
                " itself always agrees; name the files of the other venue in ingest.files"
            )
    return candles


def _within(rows: pl.DataFrame, config: IngestConfig) -> pl.DataFrame:
    if config.start is not None:
        rows = rows.filter(pl.col(TS) >= config.start)
    return rows if config.end is None else rows.filter(pl.col(TS) < config.end)


def _bound(instant: datetime | None) -> str:
    return iso(instant) if instant else "any time"
