"""Revisions: what a candle was when it was fetched first, and what the source says of it now."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import TS, TS_TYPE, VALUES, Market
from gatecast.workspace import write_atomically

SEEN_AT: Final = "seen_at"
OLD: Final = tuple(f"old_{name}" for name in VALUES)
NEW: Final = tuple(f"new_{name}" for name in VALUES)
REVISION_SCHEMA: Final = pl.Schema({TS: TS_TYPE, SEEN_AT: TS_TYPE, **dict.fromkeys((*OLD, *NEW), pl.Float64())})


def revisions(stored: pl.DataFrame, incoming: pl.DataFrame) -> pl.DataFrame:
    """The candles that came in with other values than they are stored with.

    Where several rows share an open time, a row that is among the stored ones is no revision, and another one is held
    against the first of them.

    Args:
        stored: Candle columns.
        incoming: Candle columns.

    Returns:
        ts, and the old and the new value of each column.
    """
    touched = stored.join(incoming, on=TS, how="semi", maintain_order="left")
    known = incoming.join(touched, on=[TS, *VALUES], how="anti", nulls_equal=True)
    first = touched.unique(TS, keep="first", maintain_order=True)
    return known.join(first, on=TS, suffix="_stored", maintain_order="left").select(
        TS,
        *(pl.col(f"{name}_stored").alias(f"old_{name}") for name in VALUES),
        *(pl.col(name).alias(f"new_{name}") for name in VALUES),
    )


def append_revisions(ledger: Path, market: Market, found: pl.DataFrame) -> None:
    """Put revisions on record; a change that is the last one on record of its candle is not put there again.

    Raises:
        DataError: The file is damaged.
        GatecastError: The disk is full; the file is as before.
    """
    if found.is_empty():
        return
    on_record = read_revisions(ledger, market)
    newest = on_record.unique(TS, keep="last", maintain_order=True)
    fresh = found.join(newest, on=[TS, *OLD, *NEW], how="anti", nulls_equal=True)
    if not fresh.is_empty():  # empty after a kill between this and the merge
        rows = fresh.with_columns(pl.lit(datetime.now(UTC)).cast(TS_TYPE).alias(SEEN_AT)).select(*REVISION_SCHEMA)
        write_atomically(_path(ledger, market), pl.concat([on_record, rows]).write_parquet)


def read_revisions(ledger: Path, market: Market) -> pl.DataFrame:
    """The revisions of a market in the order in which they were seen: ts, seen_at, old and new values.

    Raises:
        DataError: The file is damaged.
    """
    path = _path(ledger, market)
    if not path.exists():
        return pl.DataFrame(schema=REVISION_SCHEMA)
    try:
        return pl.read_parquet(path).select(pl.col(name).cast(kind) for name, kind in REVISION_SCHEMA.items())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}): move it away") from None


def _path(ledger: Path, market: Market) -> Path:
    return ledger / market.folder / "revisions.parquet"
