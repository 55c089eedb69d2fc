"""The candle store: one Parquet file a month under a folder a market. What is on disk is the only state."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl
from filelock import FileLock

from gatecast.errors import DataError
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market, as_candles
from gatecast.market.revisions import append_revisions, revisions
from gatecast.workspace import write_atomically

_MONTH = "_month"
_COMPRESSION: Final = "lz4"  # half the time of zstd to write and to read, files half as large again
_N_THREADS = 4  # reading and writing of Parquet runs outside Python's lock


@dataclass(frozen=True)
class Store:
    """Where candles are kept.

    Attributes:
        candles: Folder of the candles, and of nothing else.
        ledger: Folder of what is known about them: gaps and revisions.
    """

    candles: Path
    ledger: Path


@dataclass(frozen=True)
class Merged:
    """What a merge has changed.

    Attributes:
        n_new: Open times stored that were not stored before.
        n_revised: Rows that came in with other values than were stored.
    """

    n_new: int
    n_revised: int


@dataclass(frozen=True)
class _Month:
    path: Path
    rows: pl.DataFrame
    revised: pl.DataFrame
    n_new: int
    changed: bool


def merge_candles(store: Store, market: Market, candles: pl.DataFrame) -> Merged:
    """Put candles into the store, atomically month by month; a second process that does so waits.

    What comes in replaces what is stored at the same open times and touches nothing else, so merging is idempotent, and
    its order matters only where two batches disagree, in which case the newest counts and both go on record as a
    revision. Rows that share an open time within one batch are all kept, in their order: `clean` judges them.

    Args:
        store: The store.
        market: Whose candles.
        candles: Candle columns, any order.

    Raises:
        DataError: A stored file cannot be read; nothing is touched.
        GatecastError: The disk is full; each month is as before or complete.
    """
    folder = store.candles / market.folder
    with alone(store, market), ThreadPoolExecutor(_N_THREADS) as pool:
        months = list(pool.map(lambda part: _merged(folder, *part), _by_month(candles)))
        found = pl.concat([month.revised for month in months]) if months else pl.DataFrame()
        append_revisions(store.ledger, market, found)  # first: a kill must not leave the new value without the old one
        _write(pool, [month for month in months if month.changed])
    return Merged(sum(month.n_new for month in months), len(found))


def write_candles(root: Path, market: Market, candles: pl.DataFrame) -> None:
    """Write candles of a market into a folder that holds none of it yet.

    Raises:
        GatecastError: The disk is full.
    """
    with ThreadPoolExecutor(_N_THREADS) as pool:
        _write(pool, [_merged(root / market.folder, *part) for part in _by_month(candles)])


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
    frames = [read_month(path) for path in sorted((root / market.folder).glob("????-??.parquet"))]
    candles = pl.concat(frames) if frames else pl.DataFrame(schema=CANDLE_SCHEMA)
    if start is not None:
        candles = candles.filter(pl.col(TS) >= start)
    return candles if end is None else candles.filter(pl.col(TS) < end)


@contextmanager
def alone(store: Store, market: Market) -> Iterator[None]:
    """Hold a market, its candles and its ledger; the operating system drops the lock when its holder dies."""
    path = store.ledger / market.folder / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def _by_month(candles: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    months = candles.sort(TS, maintain_order=True).with_columns(pl.col(TS).dt.truncate("1mo").alias(_MONTH))
    parts = months.partition_by(_MONTH, as_dict=True, include_key=False, maintain_order=True)
    return [(f"{month:%Y-%m}", batch) for (month,), batch in parts.items()]


def _merged(folder: Path, month: str, batch: pl.DataFrame) -> _Month:
    path = folder / f"{month}.parquet"
    if not path.exists():
        return _Month(path, batch, revisions(batch.clear(), batch.clear()), batch[TS].n_unique(), changed=True)
    stored = read_month(path)
    together = pl.concat([stored.join(batch, on=TS, how="anti"), batch]).sort(TS, maintain_order=True)
    n_new = together[TS].n_unique() - stored[TS].n_unique()
    changed = not together.equals(stored, null_equal=True)
    return _Month(path, together, revisions(stored, batch), n_new, changed)


def _write(pool: ThreadPoolExecutor, months: list[_Month]) -> None:
    def write(month: _Month) -> None:
        write_atomically(month.path, lambda path: month.rows.write_parquet(path, compression=_COMPRESSION))

    for _ in pool.map(write, months):
        pass  # reads the results, so that an error is raised
