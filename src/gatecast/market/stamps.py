"""Stamps as different hands write them: ISO 8601, with a zone or without, and epoch times.

An epoch time is in the one unit, of s, ms and µs, in which it lies between 1990 and 2100, row by row.
"""

from typing import Final

import polars as pl

from gatecast.market.candles import TS, TS_TYPE
from gatecast.market.tables import Table

_FIRST_S, _END_S = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since the epoch
_WITH_ZONE = ("%+", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_WITHOUT_ZONE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_ZONE: Final = r"(?i)(\d{2}:\d{2}\S*?)\s*(z|utc|[+-]\d{2}:?\d{2})$"


def stamps_in(table: Table, name: str) -> pl.Series:
    """A column of instants, UTC where they name no zone; columns of other types than stamps are handed on.

    Raises:
        DataError: A cell is no time.
    """
    column = table.cells[name]
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    if isinstance(column.dtype, pl.Datetime):
        wrong = ~_is_time(column.dt.epoch("s"), _END_S) & column.is_not_null()
        table.refuse_first(name, wrong, "is no time of a candle: its numbers were read in another unit")
        return column
    if column.dtype.is_integer():
        stamps = _epoch(column.cast(pl.Int64))
        table.refuse_first(name, stamps.is_null(), _NO_EPOCH)
        return stamps
    return _text_stamps(table, name) if column.dtype == pl.String else column


def names_days(table: Table, name: str) -> pl.Series:
    """Whether each stamp of a column is a day without a time."""
    column = table.cells[name]
    if column.dtype == pl.String:
        return column.str.contains(r"^\s*\d{4}-\d{2}-\d{2}\s*$").fill_null(value=False)
    return pl.repeat(column.dtype == pl.Date, len(column), dtype=pl.Boolean, eager=True)


def wall_clock(table: Table, name: str, stamps: pl.Series) -> pl.Series:
    """What the clock showed where each stamp was written: the hour that it names, without its zone.

    Args:
        table: Cells.
        name: The column of the stamps.
        stamps: What `stamps_in` found in it, as UTC.
    """
    column = table.cells[name]
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        return column.dt.replace_time_zone(None).dt.cast_time_unit("ms")
    naive = stamps.dt.replace_time_zone(None)
    if column.dtype != pl.String:
        return naive
    local = pl.col(name).str.strip_chars().str.replace(_ZONE, "$1")
    read = pl.coalesce(local.str.to_datetime(form, time_unit="ms", strict=False) for form in _WITHOUT_ZONE)
    return table.cells.select(read)[:, 0].fill_null(naive) if len(naive) else naive


_NO_EPOCH = "is no epoch time in s, ms or µs between 1990 and 2100"


def _is_time(seconds: pl.Series, end: int) -> pl.Series:
    """Before 2100, and not in the first weeks of 1970, where times land whose seconds were taken for milliseconds."""
    return (seconds < end) & ~seconds.is_between(0, end // 1000, closed="left")


def _epoch(counts: pl.Series) -> pl.Series:
    """Instants from epoch times, each in the unit in which it is plausible; null where none is."""
    count = pl.col(TS)
    milliseconds = (
        pl.when(count.is_between(_FIRST_S, _END_S, closed="left"))
        .then(count * 1000)
        .when(count.is_between(_FIRST_S * 1000, _END_S * 1000, closed="left"))
        .then(count)
        .when(count.is_between(_FIRST_S * 1_000_000, _END_S * 1_000_000, closed="left"))
        .then(count // 1000)
    )
    return counts.alias(TS).to_frame().select(milliseconds)[:, 0].cast(TS_TYPE)


def _text_stamps(table: Table, name: str) -> pl.Series:
    cells = table.cells[name].str.strip_chars().alias(TS)
    counts = cells.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)  # some write seconds as 1586995200.0
    stamps = _epoch(counts)
    if stamps.null_count():
        zoned = (pl.col(TS).str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False) for form in _WITH_ZONE)
        local = pl.col(TS).str.strip_suffix("Z")
        naive = (local.str.to_datetime(form, time_unit="ms", strict=False) for form in _WITHOUT_ZONE)
        iso = cells.to_frame().select(pl.coalesce(*zoned, pl.coalesce(*naive).dt.replace_time_zone("UTC")))[:, 0]
        stamps = stamps.zip_with(stamps.is_not_null(), iso)
    table.refuse_first(name, stamps.is_null() & counts.is_not_null(), _NO_EPOCH)
    table.refuse_first(name, stamps.is_null(), "is neither ISO 8601 nor an epoch time")
    return stamps
