"""Funding rates as a venue tells them, and the history that is kept of them: one Parquet file a contract."""

from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Final

import polars as pl
from filelock import FileLock

from gatecast.errors import DataError, NetworkFault
from gatecast.market.candles import TS_TYPE, from_ms, iso, symbol_slug
from gatecast.market.publications.table import PUBLISHED_AT, VALUE
from gatecast.workspace import write_atomically

RATE_SCHEMA: Final = pl.Schema({PUBLISHED_AT: TS_TYPE, VALUE: pl.Float64()})
MOST_FUNDING: Final = 1.0  # of a position, at one settlement; venues cap rates at a few hundredths


def as_rates(rows: Iterable[tuple[object, object]], since: int, before: int) -> pl.DataFrame:
    """What a venue answered, as funding rates.

    Args:
        rows: Instant of settlement, milliseconds, and rate, share of the position.
        since: First instant that was asked for, milliseconds.
        before: Instant, milliseconds, from which on nothing can have been settled yet.

    Returns:
        The columns of `RATE_SCHEMA`, sorted, each instant once.

    Raises:
        NetworkFault: A row that is none, one of the future, or two that contradict each other.
    """
    rates: dict[int, float] = {}
    for at, rate in rows:
        if (
            not isinstance(at, int)
            or not isinstance(rate, int | float)
            or not isfinite(rate)
            or abs(rate) > MOST_FUNDING
        ):
            raise NetworkFault(f"the answer holds {(at, rate)!r}, which is no funding rate")
        if at >= before:
            raise NetworkFault(f"the answer holds a funding rate of the future, {iso(from_ms(at))}")
        if rates.setdefault(at, rate) != rate:
            raise NetworkFault(f"the answer gives two funding rates of {iso(from_ms(at))}, {rates[at]} and {rate}")
    wanted = sorted((at, float(rate)) for at, rate in rates.items() if at >= since)
    stamps, values = ([row[place] for row in wanted] for place in (0, 1))
    return pl.DataFrame({PUBLISHED_AT: pl.Series(stamps, dtype=pl.Int64).cast(TS_TYPE), VALUE: values}, RATE_SCHEMA)


def rates_file(folder: Path, exchange: str, contract: str) -> Path:
    """Where the rates of a contract are kept, in the folder of what has been published."""
    return folder / "funding" / f"exchange={exchange}" / f"symbol={symbol_slug(contract)}.parquet"


def read_rates(path: Path) -> pl.DataFrame:
    """The rates kept of a contract, sorted; none where there is no file yet.

    Raises:
        DataError: The file is damaged.
    """
    if not path.exists():
        return pl.DataFrame(schema=RATE_SCHEMA)
    try:
        return pl.read_parquet(path).match_to_schema(RATE_SCHEMA)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): delete it and run `gatecast ingest` to fetch it"
            " again"
        ) from None


def merge_rates(path: Path, rates: pl.DataFrame) -> pl.DataFrame:
    """Put rates to those kept, atomically; a second process that does so waits. Idempotent and order-free.

    Args:
        path: File of the contract.
        rates: The columns of `RATE_SCHEMA`, any order.

    Returns:
        All rates that are kept now, sorted.

    Raises:
        DataError: A rate contradicts the one that is kept of its instant, or the file is damaged; it is as before.
        GatecastError: The disk is full; the file is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        stored = read_rates(path)
        merged = pl.concat([stored, rates]).unique().sort(PUBLISHED_AT, VALUE)
        twice = merged.filter(pl.col(PUBLISHED_AT).is_duplicated())
        if not twice.is_empty():
            at, first, second = twice[PUBLISHED_AT][0], twice[VALUE][0], twice[VALUE][1]
            raise DataError(
                f"{path} holds a funding rate of {iso(at)} that is not the one that came in ({first} and {second}):"
                " delete it and run `gatecast ingest` to fetch the whole history again"
            )
        if not merged.equals(stored):
            write_atomically(path, merged.write_parquet)
    return merged
