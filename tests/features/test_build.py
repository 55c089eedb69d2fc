"""One formula, three ways: all markets in memory, a market at a time, and the newest bars of many at once."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.features.build import build_features, feature_rows, newest_features
from gatecast.features.catalogue import catalogue, declared, look_back
from gatecast.features.feature import KEYS, Recipe
from gatecast.features.table import feature_schema, market_reader, write_rows
from gatecast.features.targets import build_targets
from tests.conftest import NO_PUBLICATIONS
from tests.features.definitions import defined, histories
from tests.features.markets import (
    HOLES,
    SYMBOLS,
    everything,
    market,
    random_publications,
    rough_candles,
    three_markets,
)

PUBLICATIONS = random_publications(900)
ACROSS = ("lead_return_1", "lead_return_6", "breadth", "relative_strength")


@pytest.fixture(scope="module")
def recipe(config: Config) -> Recipe:
    return everything(config)


@pytest.fixture(scope="module")
def candles() -> pl.DataFrame:
    return three_markets()


@pytest.fixture(scope="module")
def rows(candles: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    return build_features(candles, PUBLICATIONS, recipe)


def of(rows: pl.DataFrame, symbol: str) -> pl.DataFrame:
    return rows.filter(pl.col("symbol") == symbol)


def test_rows_are_the_bars_of_the_grid_in_their_order(candles: pl.DataFrame, rows: pl.DataFrame) -> None:
    assert rows.select("symbol", "ts", "bar", "close", "missing").equals(
        candles.select("symbol", "ts", "bar", "close", "missing")
    )


def test_columns_are_the_keys_and_the_features_in_the_order_of_the_catalogue(
    rows: pl.DataFrame, recipe: Recipe
) -> None:
    assert rows.columns == [*KEYS, *(entry.name for entry in catalogue(recipe))]
    assert set(rows.select(entry.name for entry in catalogue(recipe)).dtypes) == {pl.Float64()}


def test_markets_touch_each_other_through_features_across_markets_alone(
    candles: pl.DataFrame, rows: pl.DataFrame, recipe: Recipe
) -> None:
    prices = pl.col("open", "high", "low", "close")
    other = pl.when(pl.col("symbol") == SYMBOLS[1])
    changed = candles.with_columns(other.then(1 / prices).otherwise(prices).name.keep()).with_columns(
        high=other.then("low").otherwise("high"), low=other.then("high").otherwise("low")
    )
    rebuilt = build_features(changed, PUBLICATIONS, recipe)
    for symbol in (SYMBOLS[0], SYMBOLS[2]):
        before, after = of(rows, symbol), of(rebuilt, symbol)
        assert before.drop(ACROSS).equals(after.drop(ACROSS)), symbol
        assert not before["relative_strength"].equals(after["relative_strength"]), symbol


def test_a_market_alone_has_the_features_that_it_has_among_others(
    candles: pl.DataFrame, rows: pl.DataFrame, config: Config
) -> None:
    for symbol in SYMBOLS:
        alone = build_features(of(candles, symbol), PUBLICATIONS, everything(config, (symbol,)))
        assert alone.equals(of(rows, symbol).drop(ACROSS)), symbol


@pytest.mark.parametrize("lead", [None, *SYMBOLS])
def test_any_market_may_lead_whichever_bars_it_has(lead: str | None, candles: pl.DataFrame, config: Config) -> None:
    own = everything(config, lead_symbol=lead)
    built = build_features(candles, NO_PUBLICATIONS, own)
    for symbol, history in histories(candles, NO_PUBLICATIONS, own).items():
        there = of(built, symbol).filter(~pl.col("missing"))
        for name in ("lead_return_1", "lead_return_6"):
            definition = defined(name, history)
            assert [value is None for value in definition] == there[name].is_null().to_list()
            known = [value for value in definition if value is not None]
            np.testing.assert_allclose(there[name].drop_nulls(), known, rtol=1e-9, atol=1e-11)


def test_the_first_market_leads_where_there_is_no_bitcoin(candles: pl.DataFrame, config: Config) -> None:
    own = everything(config, SYMBOLS[1:])
    assert own.lead == SYMBOLS[1]
    lead = build_features(candles.filter(pl.col("symbol") != SYMBOLS[0]), NO_PUBLICATIONS, own)
    assert of(lead, SYMBOLS[1])["lead_return_1"].equals(of(lead, SYMBOLS[1])["return_1"].alias("lead_return_1"))


def test_markets_that_share_no_bar_say_nothing_of_each_other(config: Config) -> None:
    early = market(SYMBOLS[0], rough_candles(80, 1))
    late = market(SYMBOLS[1], rough_candles(80, 2, early["ts"][-1].replace(day=20)))
    rows = build_features(pl.concat([early, late]), NO_PUBLICATIONS, everything(config, SYMBOLS[:2], ()))
    after = of(rows, SYMBOLS[1]).drop_nulls("return_5")
    assert after["lead_return_1"].null_count() == len(after)
    assert after["relative_strength"].drop_nulls().abs().max() == 0
    assert set(after["breadth"].drop_nulls()) == {-0.5, 0.5}


def test_a_market_that_stands_still_has_not_risen(config: Config) -> None:
    prices = pl.col("open", "high", "low", "close")
    still = market(SYMBOLS[0], rough_candles(60, 1).with_columns(prices * 0 + 100))
    rising = market(
        SYMBOLS[1], rough_candles(60, 2).with_columns(prices * 0 + 1.01 ** pl.int_range(60).cast(pl.Float64))
    )
    rows = build_features(pl.concat([still, rising]), NO_PUBLICATIONS, everything(config, SYMBOLS[:2], ()))
    assert set(rows["breadth"].drop_nulls()) == {0.0}, "one of two"
    assert set(of(rows, SYMBOLS[0])["relative_strength"].drop_nulls().sign()) == {-1.0}


def test_a_market_at_a_time_gives_what_all_in_memory_give(
    candles: pl.DataFrame, rows: pl.DataFrame, recipe: Recipe
) -> None:
    read: list[str] = []

    def reader(symbol: str) -> pl.DataFrame:
        read.append(symbol)
        return of(candles, symbol)

    assert pl.concat(feature_rows(reader, SYMBOLS, PUBLICATIONS, recipe)).equals(rows)
    assert read == [*SYMBOLS, *SYMBOLS]


def test_the_same_candles_give_the_same_bytes(tmp_path: Path, candles: pl.DataFrame, recipe: Recipe) -> None:
    candles.write_parquet(tmp_path / "candles.parquet")
    read = market_reader(tmp_path / "candles.parquet")
    written = []
    for name in ("once.parquet", "again.parquet"):
        markets = (
            built.hstack(build_targets(built, (1, 6)))
            for built in feature_rows(read, SYMBOLS, PUBLICATIONS.sample(fraction=1, shuffle=True), recipe)
        )
        write_rows(tmp_path / name, lambda markets=markets: markets, feature_schema(recipe, (1, 6)))  # type: ignore[misc]  # the default binds it
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert pl.read_parquet(tmp_path / "once.parquet").schema == feature_schema(recipe, (1, 6))


def many_markets(n_markets: int, n_bars: int) -> pl.DataFrame:
    """All of them newest at the same bar, each with holes of its own."""
    return pl.concat(
        market(f"{number:02}/USDT", rough_candles(n_bars, number), [(hole * (number + 3)) % 800 for hole in HOLES])
        for number in range(n_markets)
    )


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("n_bars", [1, 10])
def test_the_newest_rows_of_many_markets_are_those_of_the_batch(n_bars: int, exactly: bool, config: Config) -> None:
    candles = many_markets(12, 820)
    own = everything(config, tuple(candles["symbol"].unique(maintain_order=True)))
    batch = build_features(candles, PUBLICATIONS, own)
    last = batch.filter(~pl.col("missing")).group_by("symbol", maintain_order=True).tail(n_bars)
    suffice = candles.group_by("symbol", maintain_order=True).tail(look_back(own) + n_bars + 60)  # holes are no candles
    newest = newest_features(suffice, PUBLICATIONS, own, n_bars, exactly=exactly)
    found = newest.filter(~pl.col("missing"))
    batch_keys = last.join(newest.select("symbol", "bar"), on=["symbol", "bar"], how="semi", maintain_order="left")
    assert found.select(KEYS[:5]).equals(batch_keys.select(KEYS[:5]))
    assert len(newest) == n_bars * 12
    for entry in catalogue(own):
        deviation = batch.group_by("symbol", maintain_order=True).agg(pl.col(entry.name).std())
        pair = batch_keys.select("symbol", there=entry.name).hstack([found[entry.name].alias("alone")])
        assert pair["there"].is_null().equals(pair["alone"].is_null()), entry.name
        far = pair.join(deviation, on="symbol").filter(
            (pl.col("there") - pl.col("alone")).abs() > 1e-6 * pl.col(entry.name)
        )
        assert far.is_empty(), f"{entry.name}: {far}"


@pytest.mark.parametrize("exactly", [False, True])
def test_a_market_that_lags_is_compared_with_the_others_at_its_own_bars(exactly: bool, config: Config) -> None:
    candles = many_markets(3, 820)
    lags = (pl.col("symbol") == "01/USDT") & (pl.col("bar") > candles["bar"].max() - 200)  # type: ignore[operator]
    candles = candles.filter(~lags)
    own = everything(config, ("00/USDT", "01/USDT", "02/USDT"))
    batch = build_features(candles, PUBLICATIONS, own)
    newest = newest_features(candles, PUBLICATIONS, own, 1, exactly=exactly)
    both = newest.join(batch, on=["symbol", "bar"], suffix="_batch", maintain_order="left")
    assert len(both) == 3
    assert both["bar"].n_unique() == 2
    for name in ("lead_return_1", "breadth", "relative_strength"):
        assert both[name].to_list() == pytest.approx(both[f"{name}_batch"].to_list(), abs=1e-6)


@pytest.mark.parametrize("use", [("rsi",), ("return_1",), ("breadth", "body"), ("news_*",)])
def test_any_choice_of_features_is_built_as_among_all(
    use: tuple[str, ...], candles: pl.DataFrame, rows: pl.DataFrame, config: Config
) -> None:
    few = everything(config, use=use)
    built, newest = build_features(candles, PUBLICATIONS, few), newest_features(candles, PUBLICATIONS, few, 5)
    assert built.equals(rows.select(built.columns))
    assert newest.columns == built.columns


def test_no_entry_is_lost_between_the_ways(rows: pl.DataFrame, candles: pl.DataFrame, recipe: Recipe) -> None:
    newest = newest_features(candles, PUBLICATIONS, recipe, 1)
    assert newest.columns == rows.columns
    assert {entry.name for entry in declared(recipe)} <= set(newest.columns)
