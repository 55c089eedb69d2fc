"""Publications from files, CSV or Parquet, plain or packed, and when each of their rows could be known.

- A column `published_at` is taken at its word: a day without a time counts from its end, and it cannot lie
  before the day or the time that the row is about.
- The daily index carries the stamp of its day, and what it says of a day is known when the day is over.
- A headline is known at its stamp. A stamp without a time, or of midnight to the second, tells the day alone: of 7,524
  real headlines 129 have one, where 5 would by chance.
- A funding rate is known when it is settled, which is what its stamp says.

A day is that of the zone which a stamp names, of UTC where it names none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import SYMBOL, TS, TS_TYPE, Market, iso
from gatecast.market.files import files_of, readable, require_own_files, table_of_file
from gatecast.market.publications.funding_rates import MOST_FUNDING
from gatecast.market.publications.table import (
    FEAR_GREED,
    FUNDING,
    HEADLINES,
    PUBLISHED_AT,
    TEXT,
    VALUE,
    as_publications,
)
from gatecast.market.stamps import names_days, stamps_in, wall_clock
from gatecast.market.tables import Table, numbers_in, table_of_prose

_DAY_MS: Final = 86_400_000
_STAMPS: Final = (TS, "published", "date", "datetime", "timestamp", "time", "unix")  # the first that is there counts
_INDEX: Final = (FEAR_GREED, "fng_value", VALUE)
_RATE: Final = ("funding_rate", "fundingrate", "last_funding_rate")
_SETTLED: Final = ("fundingtime", "funding_time", "calc_time")
_HEADLINE: Final = ("title", "headline", TEXT)
_PLACE: Final = "_place"
_MEND: Final = "mend the row or take it out"


def read_fear_greed(path: str, root: Path) -> pl.DataFrame:
    """The daily index, each value published when its day is over.

    Args:
        path: Of its files, with * for any text; a relative one starts at `root`. They have a stamp (`ts`, `date`,
            `timestamp`, …) and the index (`fear_greed`, `fng_value` or `value`), 0 to 100.
        root: The workspace.

    Returns:
        The columns of `PUBLICATION_SCHEMA`.

    Raises:
        DataError: A file is absent, damaged or of another kind, or a row cannot be; the message names file and row.
    """

    def daily(table: Table) -> pl.DataFrame:
        name = _column(table, _INDEX, "an index")
        values = _values(table, name, 0.0, 100.0, f"is no index from 0 to 100: {_MEND}")
        return _rows(table, _published(table, _STAMPS, by_day=True), values.alias(VALUE))

    tables = _tables(path, root, None, f"ingest.{FEAR_GREED}")
    return as_publications(_agreed(list(map(daily, tables))), FEAR_GREED)


def read_headlines(path: str, root: Path) -> pl.DataFrame:
    """Headlines, each published at its stamp or, where that tells the day alone, when the day is over.

    Args:
        path: Of their files, with * for any text; a relative one starts at `root`. They have a stamp (`ts`,
            `published`, `date`, …) and the headline: the first of `title`, `headline` and `text` that a row has.
        root: The workspace.

    Returns:
        The columns of `PUBLICATION_SCHEMA`, without values; a headline given twice for one instant, once.

    Raises:
        DataError: A file is absent, damaged or of another kind, or a row cannot be; the message names file and row.
    """

    def told(table: Table) -> pl.DataFrame:
        names = [name for name in _HEADLINE if name in table.cells.columns]
        name = _column(table, names or _HEADLINE, "a headline")
        if others := [kind for kind in table.cells.select(names).dtypes if kind != pl.String]:
            raise DataError(f"{table.path} has {others[0]} in a column of {', '.join(names)}, where texts are needed")
        texts = table.cells.select(pl.coalesce(pl.col(names).str.strip_chars().replace("", None)).alias(TEXT))[TEXT]
        table.refuse_first(name, texts.is_null(), f"is no headline: {_MEND}")
        return _rows(table, _published(table, _STAMPS, by_day=False), texts)

    tables = _tables(path, root, None, f"ingest.{HEADLINES}")
    return as_publications(pl.concat(map(told, tables)).drop(_PLACE).unique(), HEADLINES)


def read_funding(template: str, root: Path, markets: Sequence[Market]) -> pl.DataFrame:
    """Funding rates of markets, each published when it is settled.

    Args:
        template: Path with {exchange}, {symbol} (as BTC-USDT), {pair} (as BTCUSDT) and * for any text; a relative one
            starts at `root`. Files have a stamp (`ts`, `fundingTime`, …) and the rate (`funding_rate`, `fundingRate`,
            …), a share of the position; those of the Binance archive do.
        root: The workspace.
        markets: Whose rates.

    Returns:
        The columns of `PUBLICATION_SCHEMA`.

    Raises:
        ConfigurationError: A placeholder that is not known.
        DataError: A file is absent, damaged, of another kind or of two markets, or a row cannot be; the message names
            file and row.
    """
    key = f"ingest.{FUNDING}"
    require_own_files(template, root, markets, key)

    def settled(table: Table) -> pl.DataFrame:
        if SYMBOL in table.cells.columns and table.cells[SYMBOL].n_unique() > 1:
            raise DataError(f"{table.path} holds rates of several symbols: give each a file of its own, as {key} says")
        name = _column(table, _RATE, "a funding rate")
        fault = f"is no funding rate, a share of the position such as 0.0001: {_MEND}"
        values = _values(table, name, -MOST_FUNDING, MOST_FUNDING, fault)
        return _rows(table, _published(table, (*_SETTLED, *_STAMPS), by_day=None), values.alias(VALUE))

    return pl.concat(
        as_publications(_agreed(list(map(settled, _tables(template, root, market, key)))), FUNDING, market.symbol)
        for market in markets
    )


def _tables(template: str, root: Path, market: Market | None, key: str) -> list[Table]:
    return [_table(path) for path in files_of(template, root, market, key)]


def _table(path: Path) -> Table:
    with readable(path):
        table = table_of_file(path, table_of_prose)
    if table.cells.is_empty():
        raise DataError(f"{path} holds no row: download it again, or leave it out")
    return table


def _column(table: Table, names: Sequence[str], what: str) -> str:
    found = next((name for name in names if name in table.cells.columns), None)
    if found is None:
        others = ", ".join(table.cells.columns)
        raise DataError(f"{table.path} has no column of {what} ({', '.join(names)}); those that it has are {others}")
    return found


def _values(table: Table, name: str, low: float, high: float, fault: str) -> pl.Series:
    kind = table.cells.schema[name]
    if kind != pl.String and not kind.is_numeric():
        raise DataError(f"{table.path} has {kind} in column {name}, where numbers are needed")
    values = numbers_in(table, name).cast(pl.Float64)
    table.refuse_first(name, ~values.is_between(low, high).fill_null(value=False), fault)  # not a number lies nowhere
    return values


def _published(table: Table, stamps: Sequence[str], *, by_day: bool | None) -> pl.Series:
    """When each row could be known: at its stamp, or at the end of its day.

    Args:
        table: Cells.
        stamps: Columns that may tell it, beside `published_at`, which goes before them.
        by_day: Whether all stamps tell a day alone; None where none does, False where those of midnight do.
    """
    name = _column(table, (PUBLISHED_AT, *stamps), "times")
    instants = _instants(table, name)
    if name == PUBLISHED_AT:  # a day without a time says no more than that it was known when the day was over
        instants = instants.zip_with(~names_days(table, name), instants.dt.offset_by("1d"))
    if name == PUBLISHED_AT and by_day is not None:
        for other in [stamp for stamp in stamps if stamp in table.cells.columns][:1]:
            early = instants < _instants(table, other)
            table.refuse_first(name, early, f"is before the {other} of its own row, which it cannot be: {_MEND}")
    if name == PUBLISHED_AT or by_day is None:
        return instants.alias(PUBLISHED_AT)
    utc, local = pl.col("utc"), pl.col("local")
    day_over = (local // _DAY_MS + 1) * _DAY_MS - (local - utc)
    known = -(-day_over // _DAY_MS) * _DAY_MS if by_day else pl.when(local % _DAY_MS == 0).then(day_over).otherwise(utc)
    clocks = {"utc": instants.dt.epoch("ms"), "local": wall_clock(table, name, instants).dt.epoch("ms")}
    return pl.DataFrame(clocks).select(known.cast(TS_TYPE).alias(PUBLISHED_AT))[:, 0]


def _instants(table: Table, name: str) -> pl.Series:
    stamps = stamps_in(table, name)
    if not isinstance(stamps.dtype, pl.Datetime):
        raise DataError(f"{table.path} has {stamps.dtype} in column {name}, where times are needed")
    table.refuse_first(name, stamps.is_null(), f"is no time: {_MEND}")
    zoned = stamps if stamps.dtype.time_zone else stamps.dt.replace_time_zone("UTC")
    return zoned.dt.convert_time_zone("UTC").dt.cast_time_unit("ms")


def _rows(table: Table, published_at: pl.Series, content: pl.Series) -> pl.DataFrame:
    place = f"{table.path} {table.unit} " + table.numbers.cast(pl.String)
    return pl.DataFrame([published_at, content, place.alias(_PLACE)])


def _agreed(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows, each once.

    Raises:
        DataError: Two of one instant differ.
    """
    rows = pl.concat(parts).unique((PUBLISHED_AT, VALUE), keep="first", maintain_order=True)
    twice = rows.filter(pl.col(PUBLISHED_AT).is_duplicated()).sort(PUBLISHED_AT, maintain_order=True)
    if not twice.is_empty():
        first, second = twice[:2].rows(named=True)
        raise DataError(
            f"{second[_PLACE]} says {second[VALUE]:g} and {first[_PLACE]} says {first[VALUE]:g}, both published at"
            f" {iso(first[PUBLISHED_AT])}: take one of the rows out"
        )
    return rows.drop(_PLACE)
