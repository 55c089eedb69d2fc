"""The gap ledger: which holes of a market the venue has confirmed as empty, and which are still open, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import TS_TYPE, Market, from_ms
from gatecast.workspace import write_atomically

START: Final = "start"  # open time of the first candle that is not there
END: Final = "end"  # open time from which on there are candles again
CAUSE: Final = "cause"
REASON: Final = "reason"
ASKED_AT: Final = "asked_at"
VENUE: Final = "venue"  # the venue has no candle there, and says so
LOST: Final = "lost"  # the venue has had candles there, or may have, and does not serve them any more
OURS: Final = "ours"  # not fetched yet: something failed on the way

GAP_SCHEMA: Final = pl.Schema(
    {START: TS_TYPE, END: TS_TYPE, CAUSE: pl.String(), REASON: pl.String(), ASKED_AT: TS_TYPE}
)


@dataclass(frozen=True, order=True)
class Hole:
    """Candles from `start` up to, not including, `end`, in milliseconds since the epoch."""

    start: int
    end: int


def missing(stamps: pl.Series, gaps: pl.DataFrame, wanted: Hole, length: int) -> list[Hole]:
    """What of a span is neither stored nor confirmed as empty.

    Args:
        stamps: Open times of the stored candles, milliseconds, any order.
        gaps: Gaps that count as known.
        wanted: The span.
        length: Of a candle, milliseconds.

    Returns:
        Holes in order, on the grid; part of a bar beside a candle that is off the grid is none.
    """
    known = pl.concat(
        [
            pl.DataFrame({START: stamps, END: stamps + length}),
            gaps.select(pl.col(START, END).dt.epoch("ms")),
            pl.DataFrame({START: [wanted.end], END: [wanted.end]}),
        ]
    ).sort(START)
    reach = pl.col(END).cum_max().shift(1, fill_value=wanted.start).clip(lower_bound=wanted.start)
    holes = known.select(
        (-(-reach // length) * length).alias(START),
        (pl.col(START).clip(upper_bound=wanted.end) // length * length).alias(END),
    ).filter(pl.col(START) < pl.col(END))
    return [Hole(*row) for row in holes.unique(maintain_order=True).iter_rows()]


def as_gaps(holes: Iterable[Hole], cause: str, reason: str, asked_at: datetime) -> pl.DataFrame:
    """Rows of the ledger."""
    bounds = pl.DataFrame([(hole.start, hole.end) for hole in holes], schema=[START, END], orient="row")
    return bounds.select(
        pl.col(START, END).cast(pl.Int64).cast(TS_TYPE),
        pl.lit(cause).alias(CAUSE),
        pl.lit(reason).alias(REASON),
        pl.lit(asked_at).cast(TS_TYPE).alias(ASKED_AT),
    )


def without(gaps: pl.DataFrame, hole: Hole) -> pl.DataFrame:
    """The ledger without what it says about some bars."""
    start, end = from_ms(hole.start), from_ms(hole.end)
    before = gaps.filter(pl.col(START) < start).with_columns(pl.col(END).clip(upper_bound=start))
    after = gaps.filter(pl.col(END) > end).with_columns(pl.col(START).clip(lower_bound=end))
    return pl.concat([before, after])


def confirmed(gaps: pl.DataFrame) -> pl.DataFrame:
    """Those that need not be asked for again: the venue has confirmed them, or serves them no more."""
    return gaps.filter(pl.col(CAUSE) != OURS)


def read_gaps(ledger: Path, market: Market) -> pl.DataFrame:
    """The gap ledger of a market, empty where nothing has been asked yet.

    Raises:
        DataError: The file is damaged.
    """
    path = _path(ledger, market)
    if not path.exists():
        return pl.DataFrame(schema=GAP_SCHEMA)
    try:
        return pl.read_parquet(path).select(pl.col(name).cast(kind) for name, kind in GAP_SCHEMA.items())
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read ({reason}): delete it, and its holes are asked for again") from None


def write_gaps(ledger: Path, market: Market, gaps: pl.DataFrame) -> None:
    """Replace the gap ledger of a market.

    Raises:
        GatecastError: The disk is full; the ledger is as before.
    """
    ordered = gaps.sort(START, END)
    if not ordered.equals(read_gaps(ledger, market)):
        write_atomically(_path(ledger, market), ordered.write_parquet)


def _path(ledger: Path, market: Market) -> Path:
    return ledger / market.folder / "gaps.parquet"
