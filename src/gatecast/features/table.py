"""Feature rows from Parquet to Parquet, a market at a time: memory follows the largest market."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from gatecast.features.build import ReadMarket
from gatecast.features.catalogue import feature_names
from gatecast.features.feature import VOLATILITY, Recipe
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS, TS_TYPE


def market_reader(candles: Path) -> ReadMarket:
    """Reads the clean candles of one market out of the file of all."""
    return lambda symbol: pl.scan_parquet(candles).filter(pl.col(SYMBOL) == symbol).collect()


def feature_schema(recipe: Recipe, horizons: Sequence[int]) -> pl.Schema:
    """Columns and types of feature rows with targets."""
    keys = {SYMBOL: pl.String(), TS: TS_TYPE, BAR: pl.Int64(), CLOSE: pl.Float64(), MISSING: pl.Boolean()}
    numbers = (VOLATILITY, *feature_names(recipe), *(target_name(horizon) for horizon in horizons))
    return pl.Schema({**keys, **dict.fromkeys(numbers, pl.Float64())})


def write_rows(path: Path, markets: Callable[[], Iterable[pl.DataFrame]], schema: pl.Schema) -> None:
    """Write the rows of each market as they come; equal rows give equal bytes.

    polars encodes one market while the next is built.

    Args:
        path: The Parquet file.
        markets: Makes the frames, each with the columns of the schema.
        schema: Names and types of the columns.
    """

    def source(_columns: object, _predicate: object, _n_rows: object, _batch: object) -> Iterator[pl.DataFrame]:
        yield from markets()

    register_io_source(source, schema=schema, is_pure=True).sink_parquet(path)
