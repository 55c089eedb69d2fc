"""The frozen candles and publications of a run: what they are, and how they are written and recognised."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import Market, paired
from gatecast.market.grid import Grid
from gatecast.market.publications.table import PUBLISHED_AT, sources_of, write_publications
from gatecast.market.store import write_candles
from gatecast.workspace import write_json

_SNAPSHOT = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """The frozen candles and publications of a run: what they are, and the instant at which they end.

    Attributes:
        exchange: Venue.
        symbols: Markets.
        timeframe: Length of a candle.
        calendar: Code of the calendar of closed days; null where the venue is never closed.
        reference_exchange: Second venue whose candles are frozen beside; null where there is none.
        reference_symbols: Its symbols, one for each of `symbols`.
        end: Close of the last candle of any market of the run, ISO 8601: whatever opens from here on is in the future.
        source: Where they came from: sample, exchange or files.
        wanted: The span that was asked for, ISO 8601; null where it was open.
        sources: Which publications are frozen beside, of `gatecast.market.publications.SOURCES`; empty where none are.
    """

    exchange: str
    symbols: tuple[str, ...]
    timeframe: str
    calendar: str | None
    reference_exchange: str | None
    reference_symbols: tuple[str, ...]
    end: str
    source: str
    wanted: tuple[str | None, str | None]
    sources: tuple[str, ...]

    def __str__(self) -> str:
        start, until = (instant or "open" for instant in self.wanted)
        markets = f"{self.exchange} {', '.join(self.symbols)} {self.timeframe}"
        calendar = f" on calendar {self.calendar}" if self.calendar else ""
        beside = (
            f" beside {self.reference_exchange} {', '.join(self.reference_symbols)}" if self.reference_exchange else ""
        )
        published = f", with {', '.join(self.sources)}" if self.sources else ""
        return f"{markets}{calendar}{beside} from source {self.source}, start {start}, end {until}{published}"

    def markets(self) -> tuple[Market, ...]:
        """The markets, in the order of the configuration."""
        return tuple(Market(self.exchange, symbol, self.timeframe) for symbol in self.symbols)

    def references(self) -> dict[Market, Market]:
        """The market of the second venue that each market is held against; empty where there is none."""
        return paired(self.markets(), self.reference_exchange, self.reference_symbols)

    @property
    def grid(self) -> Grid:
        """The open times that its candles can have."""
        return Grid(self.timeframe, self.calendar)

    @property
    def end_at(self) -> datetime:
        """The end as an instant."""
        return datetime.fromisoformat(self.end)


def freeze(
    target: Path, snapshot: Snapshot, candles: Mapping[Market, pl.DataFrame], publications: pl.DataFrame
) -> None:
    """Write the candles of a run and what was published before they end, so that DVC has them by hash.

    The target is replaced as a whole. Equal content gives equal bytes.

    Args:
        target: The folder of frozen candles.
        snapshot: What is frozen.
        candles: Candle rows by market.
        publications: The columns of `PUBLICATION_SCHEMA`, sorted. What is published at the end of the snapshot or later
            is in the future of its candles, and left out.
    """
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for market, rows in candles.items():
        write_candles(fresh, market, rows)
    write_publications(fresh, publications.filter(pl.col(PUBLISHED_AT) < snapshot.end_at))
    write_json(fresh / _SNAPSHOT, asdict(snapshot))
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)


def snapshot_of(config: IngestConfig, end: datetime) -> Snapshot:
    """What a run with this configuration freezes, when its last candle closes at `end`."""
    return Snapshot(
        exchange=config.exchange,
        symbols=config.symbols,
        timeframe=config.timeframe,
        calendar=config.calendar,
        reference_exchange=config.reference_exchange,
        reference_symbols=config.reference_symbols,
        end=end.isoformat(),
        source=config.source,
        wanted=(config.start.isoformat() if config.start else None, config.end.isoformat() if config.end else None),
        sources=sources_of(config),
    )


def require_snapshot(folder: Path, config: IngestConfig) -> None:
    """Make sure that the frozen candles are those that the configuration asks for.

    Raises:
        DataError: None are frozen.
        ConfigurationError: Others are.
    """
    found = read_snapshot(folder)
    if found != snapshot_of(config, found.end_at):
        raise ConfigurationError(
            f"the frozen candles are {found}, and `ingest` is configured for {snapshot_of(config, found.end_at)}: run"
            " `gatecast ingest` first"
        )


def read_snapshot(folder: Path) -> Snapshot:
    """What the frozen candles are.

    Raises:
        DataError: `ingest` has not frozen any, or they are damaged.
    """
    try:
        content = json.loads((folder / _SNAPSHOT).read_text(encoding="utf-8"))
        lists = {key: tuple(content[key]) for key in ("symbols", "reference_symbols", "wanted", "sources")}
        return Snapshot(**{**content, **lists})
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no frozen candles: run `gatecast ingest`, or `dvc pull` if they are in a remote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _SNAPSHOT} is damaged ({error}): run `gatecast ingest`") from error
