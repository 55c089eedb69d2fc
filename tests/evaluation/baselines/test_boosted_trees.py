"""LightGBM where one feature sets the volatility, and nothing else tells it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gatecast.errors import DataError, GatecastError
from gatecast.evaluation.baselines import BASELINES, lightgbm
from gatecast.evaluation.baselines.boosted_trees import fit_boosters
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, SYMBOL
from gatecast.model.predictions import QUANTILES
from tests.evaluation.small_market import FIRST_BAR, small_market

FOLD = Fold(0, Span(FIRST_BAR, FIRST_BAR + 2000), Span(FIRST_BAR + 2001, FIRST_BAR + 2601))
SYMBOLS = ("BTC/USDT", "ETH/USDT")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """The volatility of the next bar is threefold where feature one is positive, and that of ETH is double."""
    generator = np.random.default_rng(9)
    market = small_market(2602, SYMBOLS).drop("target_1", "target_6")
    scale = 0.01 * np.where(market["one"].fill_null(0) > 0, 3, 1) * np.where(market[SYMBOL] == "ETH/USDT", 2, 1)
    moves = pl.Series("moves", np.roll(scale, 1) * generator.standard_normal(len(market)))
    close = 100 * pl.col("moves").cum_sum().over(SYMBOL).exp()
    market = market.with_columns(moves).with_columns(
        pl.when(pl.col(CLOSE).is_not_null()).then(close).alias(CLOSE), volatility=pl.lit(0.02)
    )
    return market.drop("moves").hstack(build_targets(market, (1,)))


def forecasts_of(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    return BASELINES[name](FOLD.train.rows(rows), (1,))(rows, FOLD.test)


@pytest.fixture(scope="module")
def forecasts(rows: pl.DataFrame) -> pl.DataFrame:
    return forecasts_of("lightgbm", rows)


def test_a_feature_that_sets_the_volatility_is_found(rows: pl.DataFrame, forecasts: pl.DataFrame) -> None:
    def loss(table: pl.DataFrame) -> float:
        scored = table.join(rows.select("symbol", "ts", "target_1"), on=["symbol", "ts"]).drop_nulls("target_1")
        return mean_pinball(scored["target_1"].to_numpy(), scored.select(QUANTILES).to_numpy())

    for rival in ("naive", "ewma"):
        assert loss(forecasts) < 0.95 * loss(forecasts_of(rival, rows))


def test_markets_are_told_apart(rows: pl.DataFrame, forecasts: pl.DataFrame) -> None:
    widths = forecasts.join(rows.select("symbol", "ts", "one"), on=["symbol", "ts"]).select(
        SYMBOL, pl.col("one") > 0, width=pl.col("q0.95") - pl.col("q0.05")
    )
    mean = {key: table["width"].mean() for key, table in widths.group_by(SYMBOL, "one")}
    for high in (True, False):
        assert mean["ETH/USDT", high] > 1.5 * mean["BTC/USDT", high]  # type: ignore[operator]


def test_quantiles_do_not_cross(forecasts: pl.DataFrame) -> None:
    assert len(forecasts) == 1200
    assert (np.diff(forecasts.select(QUANTILES).to_numpy()) >= 0).all()


def test_a_bar_without_a_close_or_a_volatility_gets_no_forecast(rows: pl.DataFrame) -> None:
    place = pl.col(BAR) - FOLD.test.start
    holes = rows.with_columns(
        pl.when(~place.is_in([3, 4])).then(pl.col(CLOSE)).alias(CLOSE),
        pl.when(place == 5).then(0.0).when(place != 6).then(pl.col("volatility")).alias("volatility"),
    )
    table = forecasts_of("lightgbm", holes).join(rows.select("symbol", "ts", BAR), on=["symbol", "ts"])
    assert table.filter(pl.col(SYMBOL) == "BTC/USDT")[BAR].to_list()[:4] == [FOLD.test.start + k for k in (0, 1, 2, 7)]


def test_markets_are_fitted_together_so_that_a_young_one_is_forecast_by_the_others(rows: pl.DataFrame) -> None:
    young = rows.filter((pl.col(SYMBOL) == "BTC/USDT") | (pl.col(BAR) >= FOLD.test.start))
    assert forecasts_of("lightgbm", young)[SYMBOL].value_counts()["count"].to_list() == [600, 600]


def test_the_least_leaf_is_a_third_of_a_short_history_and_grows_with_the_horizon(rows: pl.DataFrame) -> None:
    def least_leaf(n_bars: int, horizon: int) -> int:
        train = rows.filter(pl.col(BAR) < FIRST_BAR + n_bars).rename({"target_1": f"target_{horizon}"})
        (boosters,) = fit_boosters(train, (horizon,))
        return min(int(leaf["leaf_count"]) for booster in boosters for leaf in leaves(booster.dump_model()))

    n_known = 2 * (300 - 4)  # less the hole and the bar before it
    assert n_known // 3 <= least_leaf(300, 1) < n_known // 2
    assert 500 <= least_leaf(2000, 1) < 900
    assert int(500 * 6**0.5) <= least_leaf(2000, 6) < 1700


def leaves(node: Any) -> Iterator[dict[str, Any]]:
    """Of all trees of a dumped model."""
    if isinstance(node, list):
        for part in node:
            yield from leaves(part)
    elif isinstance(node, dict):
        if "leaf_count" in node:
            yield node
        for part in node.values():
            yield from leaves(part)


def test_no_train_bar_at_all_is_one_line(rows: pl.DataFrame) -> None:
    with pytest.raises(DataError, match=r"lightgbm cannot be fitted to no market: 0 train bars .* 250 are needed"):
        lightgbm(rows.clear(), (1,))


def test_a_test_without_a_bar_has_no_forecast(rows: pl.DataFrame) -> None:
    assert lightgbm(FOLD.train.rows(rows), (1,))(FOLD.train.rows(rows), FOLD.test).is_empty()


def test_a_missing_openmp_library_is_one_line_with_the_remedy(
    rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lightgbm"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm")
    with pytest.raises(GatecastError) as error:
        lightgbm(FOLD.train.rows(rows), (1,))
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    for part in ("baseline lightgbm", "libgomp.so.1: cannot open", "apt-get install libgomp1", "evaluate.baselines"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fit_is_silent(rows: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    forecasts_of("lightgbm", rows.with_columns(one=0.0))
    assert capfd.readouterr() == ("", "")
