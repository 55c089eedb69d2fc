"""From the configured source into the candle store, and what of the store a run works on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from gatecast.config import IngestConfig
from gatecast.errors import DataError
from gatecast.market.candles import TS, Market, iso, timeframe_ms
from gatecast.market.store import merge_candles, read_candles

Say = Callable[[str], None]


def markets_of(config: IngestConfig) -> tuple[Market, ...]:
    """The configured markets."""
    return tuple(Market(config.exchange, symbol, config.timeframe) for symbol in config.symbols)


def collect(config: IngestConfig, root: Path, store: Path, say: Say) -> dict[Market, pl.DataFrame]:
    """Bring every configured market up to date, and return the closed candles between `start` and `end`.

    From files and the embedded sample a run takes exactly the rows they hold; from an exchange, all that is stored.

    Args:
        config: Source, markets and span.
        root: Folder to which a relative file template refers.
        store: The candle folder.
        say: Takes lines of progress.

    Returns:
        Candle rows by market.

    Raises:
        GatecastError: The source cannot be used; what was stored before is as it was, or has grown by whole pages.
    """
    markets = markets_of(config)
    if config.source == "exchange":
        candles = _from_exchange(config, markets, store, say)
    else:
        candles = {
            market: _from_disk(config, root, market, say) for market in markets
        }  # all are read before any is stored
        for market, rows in candles.items():
            n_new = merge_candles(store, market, rows)
            say(f"ingest: {market}: {len(rows)} candles read, {n_new} of them new")
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


def _from_exchange(
    config: IngestConfig, markets: tuple[Market, ...], store: Path, say: Say
) -> dict[Market, pl.DataFrame]:
    from gatecast.market.exchange import Venue

    venue = Venue(config)
    for market in markets:
        venue.check(market)
    for market in markets:
        closed = venue.last_closed_end(market)
        end = min(closed, config.end) if config.end else closed
        for start, until in _missing_spans(config, market, store, end):
            for page in venue.pages(market, start, until):
                merge_candles(store, market, page)  # page by page: what has come is not fetched again
                say(f"ingest: {market}: {iso(page[TS][0])} to {iso(page[TS][-1])} stored")
    return {market: read_candles(store, market) for market in markets}


def _missing_spans(
    config: IngestConfig, market: Market, store: Path, end: datetime
) -> Iterator[tuple[datetime | None, datetime]]:
    """What to ask for: whatever is not stored between the wanted start and `end`, holes included.

    A hole may be the exchange's or that of an interrupted run; asking costs one request and tells.
    """
    length = timedelta(milliseconds=timeframe_ms(market.timeframe))
    stored = read_candles(store, market)[TS].unique().sort()
    if stored.is_empty():
        yield config.start, end
        return
    edges = pl.DataFrame({"after": stored, "before": stored.shift(-1)})
    holes = edges.filter(pl.col("before") - pl.col("after") > length).rows()
    first, last = stored[0], stored[-1]
    if config.start is not None and config.start < first:
        yield config.start, first
    for after, before in holes:
        if config.start is None or before > config.start:
            yield after + length, before
    if last + length < end:
        yield last + length, end


def _within(rows: pl.DataFrame, config: IngestConfig) -> pl.DataFrame:
    if config.start is not None:
        rows = rows.filter(pl.col(TS) >= config.start)
    return rows if config.end is None else rows.filter(pl.col(TS) < config.end)


def _bound(instant: datetime | None) -> str:
    return iso(instant) if instant else "any time"
