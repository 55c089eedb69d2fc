"""The columns of candle files, as different hands write them.

- gatecast's own: `ts` (a stamp, ISO 8601 or an epoch time), `open`, `high`, `low`, `close`, `volume`;
- the Binance archive: 12 columns from `open_time` to `ignore`, often without a line of names; in µs since 2025;
- CryptoDataDownload: a web address in the first line, then `unix` or `unix timestamp` (seconds in old rows,
  milliseconds in newer ones of the same file) and `Volume BTC` beside `Volume USDT`; newest first;
- daily stocks: the date in `date` or `timestamp`.

Names count in any case, and with blanks for underscores; other columns are ignored, so that of `close` and `adj close`
the price that was paid is taken. An epoch time is in the one unit, of s, ms and µs, in which it lies between 1990 and
2100, row by row. Volume is that of the base currency.
"""

from dataclasses import dataclass
from typing import Final

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import PRICES, TS, TS_TYPE, VALUES, VOLUME, Market

_STAMPS: Final = (TS, "open_time", "unix", "unix_timestamp", "timestamp", "date")  # the first that is there counts
_BINANCE: Final = (
    "open_time",
    *VALUES,
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
_SYMBOL: Final = "symbol"
_LINE, _TEXT = "_line", "_text"
_FIRST_S, _END_S = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since the epoch
_WITH_ZONE = ("%+", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_WITHOUT_ZONE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Table:
    """The cells of a file, and where they stand.

    Attributes:
        cells: Its columns, with names in lower case and underscores for blanks; of a CSV, all are text.
        path: The file.
        unit: What its rows are called: line or row.
        numbers: Number of each row in the file.
    """

    cells: pl.DataFrame
    path: str
    unit: str
    numbers: pl.Series

    def refuse_first(self, name: str, bad: pl.Series, fault: str) -> None:
        """Raise for the first bad cell of a column.

        Raises:
            DataError: There is one.
        """
        row = bad.arg_max()
        if row is None or not bad.any():
            return
        n_more = int(bad.sum()) - 1
        more = f" (and {n_more} more)" if n_more else ""
        where = f"{self.path} {self.unit} {self.numbers[row]}"
        raise DataError(f"{where}: {name} {self.cells[name][row]!r} {fault}{more}; nothing of the file was stored")


def table_of_frame(frame: pl.DataFrame, path: str) -> Table:
    """The cells of a Parquet file.

    Raises:
        DataError: A column is named twice.
    """
    return Table(_named(frame, frame.columns, path), path, "row", pl.int_range(1, len(frame) + 1, eager=True))


def table_of_text(text: str, path: str) -> Table:
    """The cells of a CSV.

    Args:
        text: Its content. That a last line has been cut within its last cell cannot be told from a shorter number.
        path: What to call it in an error.

    Raises:
        DataError: Nothing in it, a web page, a line with another number of cells, or a column named twice.
    """
    lines = pl.DataFrame({_TEXT: text.split("\n")}).with_row_index(_LINE, offset=1)
    lines = lines.with_columns(pl.col(_TEXT).str.strip_chars_end("\r")).filter(
        pl.col(_TEXT).str.strip_chars(" ,") != ""
    )
    if lines.is_empty():
        raise DataError(f"{path} is empty: it holds no line")
    first = lines[_TEXT][0]
    if first.lstrip().startswith("<"):
        raise DataError(f"{path} is a web page (it begins with {first.strip()[:40]!r}) and no CSV: download it again")
    if first.lower().startswith(("http://", "https://", "www.")):
        lines = lines[1:]
    head = [cell.strip().strip('"') for cell in lines[_TEXT][0].split(",")] if len(lines) else []
    if len(head) == len(_BINANCE) and head[0].isdecimal():
        head = list(_BINANCE)
    else:
        lines = lines[1:]
    if lines.is_empty():
        raise DataError(f"{path} holds no candle: its first line reads {first!r}, and nothing follows")
    _require_width(lines, len(head), path)
    body = "\n".join(lines[_TEXT]).encode()
    columns = [f"{number}" for number in range(len(head))]
    cells = pl.read_csv(body, has_header=False, new_columns=columns, infer_schema=False)
    return Table(_named(cells, head, path), path, "line", lines[_LINE])


def candles_in(table: Table, market: Market) -> pl.DataFrame:
    """The candle columns of a file of any kind, rows untouched.

    Args:
        table: Its cells.
        market: Whose file it should be.

    Raises:
        DataError: A column is lacking, a cell is no number or no time, or the file is about several markets.
    """
    columns = table.cells.columns
    volume = _volume(table, market)
    stamp = next((name for name in _STAMPS if name in columns), TS)
    if absent := [name for name in (stamp, *PRICES, volume) if name not in columns]:
        raise DataError(
            f"{table.path} lacks the column(s) {', '.join(absent)}; those that it has are {', '.join(columns)}"
        )
    if _SYMBOL in columns and table.cells[_SYMBOL].n_unique() > 1:
        others = table.cells[_SYMBOL].unique(maintain_order=True).to_list()
        raise DataError(f"{table.path} holds candles of {len(others)} symbols, {others[0]!r} and {others[1]!r} first")
    stamps = _stamps(table, stamp).alias(TS)
    values = (_numbers(table, name).alias(kept) for name, kept in zip((*PRICES, volume), VALUES, strict=True))
    return pl.DataFrame([stamps, *values])


def _named(cells: pl.DataFrame, head: list[str], path: str) -> pl.DataFrame:
    names = [name.strip().lower().replace(" ", "_") for name in head]
    if twice := [name for number, name in enumerate(names) if name and name in names[:number]]:
        raise DataError(f"{path} names column {twice[0]} twice")
    unnamed = [name or f"column_{number}" for number, name in enumerate(names)]
    return cells.rename(dict(zip(cells.columns, unnamed, strict=True)))


def _require_width(lines: pl.DataFrame, width: int, path: str) -> None:
    unquoted = pl.col(_TEXT).str.replace_all('"[^"]*"', "")
    widths = lines.select(pl.col(_LINE), (unquoted.str.count_matches(",", literal=True) + 1).alias("n"))
    if (others := widths.filter(pl.col("n") != width)).is_empty():
        return
    line, n_cells = others.row(0)
    if line == lines[_LINE][-1] and n_cells < width:
        raise DataError(
            f"{path} ends in the middle of a line, after {n_cells} of {width} cells: it has been cut short, and nothing"
            " of it was stored"
        )
    raise DataError(
        f"{path} line {line} has {n_cells} cells where {width} are needed, as in the first; nothing of it was stored"
    )


def _volume(table: Table, market: Market) -> str:
    """The column of the base volume."""
    if VOLUME in table.cells.columns:
        return VOLUME
    base = market.symbol.split("/")[0]
    units = [name.removeprefix("volume_") for name in table.cells.columns if name.startswith("volume_")]
    if units and base.lower() not in units:
        raise DataError(
            f"{table.path} has volumes in {', '.join(units).upper()} and none in {base}, the base of {market}: it is"
            " the file of another market"
        )
    return f"volume_{base.lower()}" if units else VOLUME


def _numbers(table: Table, name: str) -> pl.Series:
    """A column of numbers; an empty cell of a CSV is NaN, so that it goes to quarantine and is seen there."""
    column = table.cells[name]
    if column.dtype != pl.String:
        return column
    cells = column.str.strip_chars().replace("", None)
    numbers = cells.cast(pl.Float64, strict=False)
    table.refuse_first(name, numbers.is_null() & cells.is_not_null(), "is not a number")
    return numbers.fill_null(float("nan"))


def _stamps(table: Table, name: str) -> pl.Series:
    """A column of open times, UTC."""
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
