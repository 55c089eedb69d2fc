"""Candles from files: CSV or Parquet, one file a market, found through a path template.

A file has the columns ts, open, high, low, close and volume; others are ignored. `ts` is the open time: in Parquet a
stamp (UTC if it names no zone), in CSV ISO 8601 or whole seconds or milliseconds since the epoch. Rows are handed on
untouched and in file order, bad values included: judging them is the business of `clean`.
"""

import gzip
import zlib
from collections import deque
from pathlib import Path
from string import Formatter
from typing import Final

import polars as pl

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS, VALUES, Market, as_candles

_PLACEHOLDERS: Final = ("exchange", "symbol", "timeframe")
_FIRST_MS: Final = 10**11  # as milliseconds 1973, as seconds the year 5138: epoch counts below it are seconds


def read_files(template: str, root: Path, market: Market) -> pl.DataFrame:
    """The candle file of one market.

    Args:
        template: Path with {exchange}, {symbol} (as BTC-USDT) and {timeframe}; relative paths start at `root`.
        root: The workspace.
        market: Whose file.

    Raises:
        ConfigurationError: A placeholder that is not known.
        DataError: The file is absent, empty, truncated, of another kind, or lacks a column; the message names the path.
    """
    path = root / _fill(template, market)
    try:
        if path.name.endswith(".parquet"):
            frame = pl.read_parquet(path)
        elif path.name.endswith((".csv", ".csv.gz")):
            frame = _read_csv(path)
        else:
            raise DataError(f"{path} is neither .csv, .csv.gz nor .parquet")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: ingest.files is {template!r}, {market} was asked for") from None
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise DataError(f"{path} cannot be read: {reason}; nothing of it was stored") from None
    return as_candles(frame, str(path))


def _fill(template: str, market: Market) -> str:
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigurationError(f"ingest.files = {template!r} is not a path template: {error}") from None
    if unknown := names - set(_PLACEHOLDERS):
        known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
        raise ConfigurationError(
            f"ingest.files = {template!r} has {{{sorted(unknown)[0]}}}, which is not one of {known}"
        )
    try:
        return template.format(exchange=market.exchange, symbol=market.slug, timeframe=market.timeframe)
    except (ValueError, IndexError) as error:
        raise ConfigurationError(f"ingest.files = {template!r} is not a path template: {error}") from None


def _read_csv(path: Path) -> pl.DataFrame:
    text = pl.read_csv(path, infer_schema=False)  # everything as text, so that a bad cell is found with its row
    text = text.filter(~pl.all_horizontal(pl.all().str.strip_chars().fill_null("") == ""))  # blank lines
    if (n_cells := _last_line(path).count(",") + 1) < len(text.columns):
        raise DataError(
            f"{path} ends in the middle of a line, after {n_cells} of {len(text.columns)} cells: it has been cut short,"
            " and nothing of it was stored"
        )
    absent = [name for name in (TS, *VALUES) if name not in text.columns]
    if absent:
        found = ", ".join(text.columns)
        raise DataError(f"{path} lacks the column(s) {', '.join(absent)} in its first line, which reads {found}")
    return text.select(_stamps(text, path), *(_numbers(text, name, path) for name in VALUES))


def _last_line(path: Path) -> str:
    with gzip.open(path, "rt") if path.name.endswith(".gz") else path.open() as file:
        last = deque((line for line in file if line.strip()), maxlen=1)
    return last[0] if last else ""


def _numbers(text: pl.DataFrame, name: str, path: Path) -> pl.Series:
    """A column of numbers; an empty cell is NaN, so that it goes to quarantine and is seen there."""
    cells = text[name].str.strip_chars().replace("", None)
    numbers = cells.cast(pl.Float64, strict=False)
    _refuse_first(text[name], numbers.is_null() & cells.is_not_null(), name, "is not a number", path)
    return numbers.fill_null(float("nan"))


def _stamps(text: pl.DataFrame, path: Path) -> pl.Series:
    cells = text[TS].str.strip_chars()
    counts = cells.cast(pl.Int64, strict=False)
    if counts.null_count() == 0:
        milliseconds = pl.select(pl.when(counts.abs() < _FIRST_MS).then(counts * 1000).otherwise(counts)).to_series()
        return milliseconds.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias(TS)
    iso = pl.DataFrame({TS: cells}).select(
        pl.coalesce(
            pl.col(TS).str.to_datetime(time_unit="ms", time_zone="UTC", format=form, strict=False)
            for form in ("%+", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
        ).fill_null(
            pl.coalesce(
                pl.col(TS).str.strip_suffix("Z").str.to_datetime(time_unit="ms", format=form, strict=False)
                for form in (
                    "%Y-%m-%dT%H:%M:%S%.f",
                    "%Y-%m-%d %H:%M:%S%.f",
                    "%Y-%m-%dT%H:%M",
                    "%Y-%m-%d %H:%M",
                    "%Y-%m-%d",
                )
            ).dt.replace_time_zone("UTC")
        )
    )[TS]
    _refuse_first(text[TS], iso.is_null(), TS, "is neither ISO 8601 nor an epoch time", path)
    return iso


def _refuse_first(cells: pl.Series, bad: pl.Series, name: str, fault: str, path: Path) -> None:
    if bad.any():
        row = bad.arg_max()
        assert row is not None
        n_more = int(bad.sum()) - 1
        more = f" (and {n_more} more)" if n_more else ""
        raise DataError(f"{path} line {row + 2}: {name} {cells[row]!r} {fault}{more}; nothing of the file was stored")
