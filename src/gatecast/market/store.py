"""The candle store: one Parquet file a month under a folder a market. What is on disk is the only state."""

from datetime import datetime
from pathlib import Path

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market, as_candles
from gatecast.workspace import write_atomically

_MONTH = "_month"


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


def _months(root: Path, market: Market) -> list[Path]:
    return sorted((root / market.folder).glob("????-??.parquet"))
