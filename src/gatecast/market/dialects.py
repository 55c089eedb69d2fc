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

from typing import Final

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import PRICES, TS, VALUES, VOLUME, Market
from gatecast.market.stamps import stamps_in
from gatecast.market.tables import Table, named, numbers_in

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
    return Table(named(cells, head, path), path, "line", lines[_LINE])


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
    stamps = stamps_in(table, stamp).alias(TS)
    values = (numbers_in(table, name).alias(kept) for name, kept in zip((*PRICES, volume), VALUES, strict=True))
    return pl.DataFrame([stamps, *values])


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
