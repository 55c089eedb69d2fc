"""Feature rows on their way to Parquet, a market at a time."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config
from gatecast.features.build import build_features, feature_rows
from gatecast.features.feature import Recipe
from gatecast.features.table import feature_schema, market_reader, write_rows
from gatecast.features.targets import build_targets
from gatecast.market.candles import SYMBOL
from tests.conftest import NO_PUBLICATIONS, clean_candles, random_candles, small_recipe

SYMBOLS = ("ADA/USDT", "BTC/USDT", "ETH/USDT")
HORIZONS = (1, 6)


@pytest.fixture(scope="module")
def recipe(config: Config) -> Recipe:
    return small_recipe(config, SYMBOLS)


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    path = tmp_path / "candles.parquet"
    pl.concat(
        clean_candles(random_candles(300 + 50 * n, seed=n)).with_columns(pl.lit(symbol).alias(SYMBOL))
        for n, symbol in enumerate(SYMBOLS)
    ).write_parquet(path)
    return path


def write(path: Path, candles: Path, recipe: Recipe) -> None:
    def markets() -> Iterator[pl.DataFrame]:
        for rows in feature_rows(market_reader(candles), SYMBOLS, NO_PUBLICATIONS, recipe):
            yield rows.hstack(build_targets(rows, HORIZONS))

    write_rows(path, markets, feature_schema(recipe, HORIZONS))


def test_a_market_is_read_whole_and_alone(candles: Path) -> None:
    whole = pl.read_parquet(candles)
    for symbol in SYMBOLS:
        assert market_reader(candles)(symbol).equals(whole.filter(pl.col(SYMBOL) == symbol))


def test_rows_written_a_market_at_a_time_are_those_of_all_markets_in_memory(
    candles: Path, recipe: Recipe, tmp_path: Path
) -> None:
    write(tmp_path / "rows.parquet", candles, recipe)
    rows = build_features(pl.read_parquet(candles), NO_PUBLICATIONS, recipe)
    assert pl.read_parquet(tmp_path / "rows.parquet").equals(rows.hstack(build_targets(rows, HORIZONS)))


def test_equal_rows_give_equal_bytes(candles: Path, recipe: Recipe, tmp_path: Path) -> None:
    written = []
    for n in range(5):
        write(tmp_path / f"{n}.parquet", candles, recipe)
        written.append((tmp_path / f"{n}.parquet").read_bytes())
    assert len(set(written)) == 1


def test_many_rows_keep_their_order_and_their_bytes(tmp_path: Path) -> None:
    # more than polars holds in one piece, so that its threads could shuffle them
    markets = [pl.DataFrame({SYMBOL: [symbol] * 400_000, "n": range(400_000)}) for symbol in SYMBOLS]
    for name in ("one", "two"):
        write_rows(tmp_path / name, lambda: markets, markets[0].schema)
    assert pl.read_parquet(tmp_path / "one").equals(pl.concat(markets))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_rows_are_a_file_with_columns(tmp_path: Path, recipe: Recipe) -> None:
    schema = feature_schema(recipe, HORIZONS)
    write_rows(tmp_path / "rows.parquet", lambda: [], schema)
    assert pl.read_parquet_schema(tmp_path / "rows.parquet") == schema
    assert pl.read_parquet(tmp_path / "rows.parquet").is_empty()


def test_the_columns_that_are_declared_are_those_that_are_built(candles: Path, recipe: Recipe) -> None:
    rows = build_features(pl.read_parquet(candles), NO_PUBLICATIONS, recipe)
    assert rows.hstack(build_targets(rows, HORIZONS)).schema == feature_schema(recipe, HORIZONS)


def test_what_stops_the_build_of_a_market_comes_out_of_the_writing(tmp_path: Path, recipe: Recipe) -> None:
    def markets() -> Iterator[pl.DataFrame]:
        raise ValueError("the market is not there")
        yield pl.DataFrame()

    with pytest.raises((ValueError, pl.exceptions.ComputeError), match="the market is not there"):
        write_rows(tmp_path / "rows.parquet", markets, feature_schema(recipe, HORIZONS))
