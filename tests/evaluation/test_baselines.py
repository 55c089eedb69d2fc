import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.splits import Fold, Span, bars_of
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe

HORIZONS = (1, 6)


@pytest.fixture(scope="module")
def rows(config: Config) -> pl.DataFrame:
    candles = clean_candles(random_candles(1500).filter(~pl.int_range(pl.len()).is_in([1200, 1201])))
    return feature_table(candles, small_recipe(config), HORIZONS)


@pytest.fixture(scope="module")
def fold(rows: pl.DataFrame) -> Fold:
    start = bars_of(rows).start
    return Fold(0, Span(start, start + 994), Span(start + 1000, start + 1500))


def test_naive_answers_with_the_quantiles_of_the_train_returns(rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES["naive"](rows, fold, HORIZONS)
    expected = np.quantile(rows["target_6"][:994].drop_nulls().to_numpy(), LEVELS)
    six = forecasts.filter(pl.col("horizon") == 6)
    assert len(six) == 498
    np.testing.assert_allclose(six.select(QUANTILES).unique().to_numpy(), expected[None])


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_is_fitted_on_train_bars_and_sees_no_future(name: str, rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES[name](rows, fold, HORIZONS)
    cut = fold.test.start + 200
    after, targets = pl.col("bar") > cut, [f"target_{h}" for h in HORIZONS]
    changed = rows.with_columns(
        pl.when(after).then(pl.col("close") * 5).otherwise("close").alias("close"),
        *(pl.when(pl.col("bar") >= fold.train.end).then(9.0).otherwise(target).alias(target) for target in targets),
    )
    again = BASELINES[name](changed, fold, HORIZONS)
    known = forecasts["ts"] <= rows.filter(pl.col("bar") == cut)["ts"][0]
    assert known.sum() > 300
    assert again.filter(known).equals(forecasts.filter(known))


def test_ewma_scales_with_the_volatility_of_its_best_half_life(rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES["ewma"](rows, fold, HORIZONS).filter(pl.col("horizon") == 1)
    squares = rows["close"].log().diff().to_list()
    widths = (forecasts["q0.95"] - forecasts["q0.05"]).to_list()
    candidates = []
    for half_life in (6, 12, 24, 48, 96, 168, 336, 720):
        mean, weight, volatility = 0.0, 0.0, []
        for move in squares:
            if move is not None:
                mean, weight = mean * 0.5 ** (1 / half_life) + move**2, weight * 0.5 ** (1 / half_life) + 1
            volatility.append((mean / weight) ** 0.5 if weight else float("nan"))
        ratio = np.array(widths) / np.array(volatility)[rows["ts"].is_in(forecasts["ts"].implode()).to_numpy()]
        candidates.append(np.ptp(ratio) / ratio.mean())
    assert min(candidates) < 1e-9
