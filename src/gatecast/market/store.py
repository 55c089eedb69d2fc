"""The candle store: one Parquet file a month under a folder a market. What is on disk is the only state."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from gatecast.config import IngestConfig
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market, as_candles
from gatecast.workspace import write_atomically, write_json

_MONTH = "_month"
_SNAPSHOT = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """The frozen candles of a run: what they are, and the instant at which they end.

    Attributes:
        exchange: Venue.
        symbols: Markets.
        timeframe: Length of a candle.
        end: Close of the last candle of any market, ISO 8601: whatever opens from here on is in the future.
        source: Where they came from: sample, exchange or files.
        wanted: The span that was asked for, ISO 8601; null where it was open.
    """

    exchange: str
    symbols: tuple[str, ...]
    timeframe: str
    end: str
    source: str
    wanted: tuple[str | None, str | None]

    def __str__(self) -> str:
        start, until = (instant or "open" for instant in self.wanted)
        markets = f"{self.exchange} {', '.join(self.symbols)} {self.timeframe}"
        return f"{markets} from source {self.source}, start {start}, end {until}"

    def markets(self) -> tuple[Market, ...]:
        """The markets, in the order of the configuration."""
        return tuple(Market(self.exchange, symbol, self.timeframe) for symbol in self.symbols)

    @property
    def end_at(self) -> datetime:
        """The end as an instant."""
        return datetime.fromisoformat(self.end)


def merge_candles(root: Path, market: Market, candles: pl.DataFrame) -> int:
    """Put candles into the store, atomically month by month.

    What comes in replaces what is stored at the same open times and touches nothing else, so merging is idempotent, and
    its order matters only where two batches disagree, in which case the newest counts. Rows that share an open time
    within one batch are all kept, in their order: `clean` judges them.

    Args:
        root: The candle folder.
        market: Whose candles.
        candles: Candle columns, any order.

    Returns:
        Open times stored that were not stored before.

    Raises:
        DataError: A stored file cannot be read; nothing is touched.
        GatecastError: The disk is full; each month is as before or complete.
    """
    merged: list[tuple[Path, pl.DataFrame]] = []
    n_new = 0
    by_month = candles.with_columns(pl.col(TS).dt.strftime("%Y-%m").alias(_MONTH))
    for (month,), batch in sorted(by_month.partition_by(_MONTH, as_dict=True, include_key=False).items()):
        path = root / market.folder / f"{month}.parquet"
        batch_sorted = batch.sort(TS, maintain_order=True)
        if not path.exists():
            merged.append((path, batch_sorted))
            n_new += batch[TS].n_unique()
            continue
        stored = read_month(path)
        together = pl.concat([stored.join(batch, on=TS, how="anti"), batch_sorted]).sort(TS, maintain_order=True)
        if not together.equals(stored, null_equal=True):
            merged.append((path, together))
            n_new += together[TS].n_unique() - stored[TS].n_unique()
    for path, frame in merged:  # all files were read before the first is written
        write_atomically(path, frame.write_parquet)
    return n_new


def read_month(path: Path) -> pl.DataFrame:
    """The candles of one stored file.

    Raises:
        DataError: Truncated or foreign.
    """
    try:
        return as_candles(pl.read_parquet(path), str(path)).select(*CANDLE_SCHEMA)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read ({reason}): delete it and run `gatecast ingest` to fetch it again"
        ) from None


def read_candles(
    root: Path, market: Market, start: datetime | None = None, end: datetime | None = None
) -> pl.DataFrame:
    """Stored candles of a market that open in [start, end), sorted by open time.

    Raises:
        DataError: A stored file cannot be read.
    """
    frames = [read_month(path) for path in _months(root, market)]
    candles = pl.concat(frames) if frames else pl.DataFrame(schema=CANDLE_SCHEMA)
    if start is not None:
        candles = candles.filter(pl.col(TS) >= start)
    return candles if end is None else candles.filter(pl.col(TS) < end)


def freeze(target: Path, snapshot: Snapshot, candles: Mapping[Market, pl.DataFrame]) -> None:
    """Write the candles of a run, so that DVC has them by hash.

    The target is replaced as a whole. Equal candles give equal bytes.

    Args:
        target: The folder of frozen candles.
        snapshot: What is frozen.
        candles: Candle rows by market.
    """
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for market, rows in candles.items():
        merge_candles(fresh, market, rows)
    write_json(fresh / _SNAPSHOT, asdict(snapshot))
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)


def snapshot_of(config: IngestConfig, end: datetime) -> Snapshot:
    """What a run with this configuration freezes, when its last candle closes at `end`."""
    return Snapshot(
        exchange=config.exchange,
        symbols=config.symbols,
        timeframe=config.timeframe,
        end=end.isoformat(),
        source=config.source,
        wanted=(config.start.isoformat() if config.start else None, config.end.isoformat() if config.end else None),
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
        return Snapshot(**{**content, "symbols": tuple(content["symbols"]), "wanted": tuple(content["wanted"])})
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no frozen candles: run `gatecast ingest`, or `dvc pull` if they are in a remote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _SNAPSHOT} is damaged ({error}): run `gatecast ingest`") from error


def _months(root: Path, market: Market) -> list[Path]:
    return sorted((root / market.folder).glob("????-??.parquet"))
