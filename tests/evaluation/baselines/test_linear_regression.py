"""The line against the normal equations, a planted line, and features that are missing."""

import warnings
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from gatecast.evaluation.baselines import linear, naive
from gatecast.evaluation.baselines.linear_regression import PENALTIES, _later_slices, fit_line
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.model.predictions import LEVELS, QUANTILES, Array
from tests.evaluation.small_market import FIRST_BAR, small_market

FOLD = Fold(0, Span(FIRST_BAR, FIRST_BAR + 1200), Span(FIRST_BAR + 1206, FIRST_BAR + 1306))
FEATURES = ("one", "two")
FIRST_ABSENT, LAST_ABSENT = 1208, 1215


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Feature one pulls the next return; feature two is unknown over some bars of train and test."""
    market = small_market(1330).drop("target_1", "target_6")
    pull = market["one"].fill_null(0).shift(1, fill_value=0) * 0.004
    moves = pl.Series("moves", np.random.default_rng(4).standard_normal(len(market)) * 0.01) + pull
    place = pl.col(BAR) - FIRST_BAR
    absent = place.is_between(FIRST_ABSENT, LAST_ABSENT) | place.is_between(600, 640)
    market = market.with_columns(moves).with_columns(
        pl.when(pl.col(CLOSE).is_not_null()).then(100 * pl.col("moves").cum_sum().over(SYMBOL).exp()).alias(CLOSE),
        pl.when(~absent).then(pl.col("two")).alias("two"),
    )
    market = market.drop("moves")
    return market.hstack(build_targets(market, (1, 6)))


def ridge(inputs: Array, target: Array, penalty: float) -> tuple[Array, float]:
    """The normal equations, the intercept free."""
    centred, mean = inputs - inputs.mean(axis=0), target.mean()
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(inputs.shape[1]), centred.T @ (target - mean))
    return weights, mean - inputs.mean(axis=0) @ weights


@pytest.mark.parametrize("horizon", [1, 6])
def test_forecasts_are_those_of_the_normal_equations_with_the_best_penalty(horizon: int, rows: pl.DataFrame) -> None:
    train = FOLD.train.rows(rows)
    scaled = train[f"target_{horizon}"].to_numpy() / (train["volatility"].to_numpy() * horizon**0.5)
    known = np.isfinite(scaled)
    raw = train.select(FEATURES).to_numpy()
    mean = np.nanmean(raw[known], axis=0)
    deviation = np.where(np.isfinite(raw), raw, mean)[known].std(axis=0)

    def standardised(features: Array) -> Array:
        return np.asarray((np.where(np.isfinite(features), features, mean) - mean) / deviation)

    inputs, target = standardised(raw)[known], scaled[known]
    place = train[BAR].to_numpy()[known] - FIRST_BAR
    first, end = place.min(), place.max() + 1
    half = (first + end) // 2
    edges = [half + int((end - half) * part / 4) for part in range(5)]
    errors = []
    for penalty in PENALTIES:
        of_slices = []
        for start, stop in pairwise(edges):
            weights, intercept = ridge(inputs[place + horizon < start], target[place + horizon < start], penalty)
            later = (place >= start) & (place < stop)
            of_slices.append(((target[later] - inputs[later] @ weights - intercept) ** 2).mean())
        errors.append(np.mean(of_slices))
    weights, intercept = ridge(inputs, target, PENALTIES[int(np.argmin(errors))])
    line = fit_line(train, horizon)
    np.testing.assert_allclose(line.weights, weights, rtol=1e-8)
    assert line.intercept == pytest.approx(intercept, rel=1e-8)

    forecasts = linear(train, (horizon,))(rows, FOLD.test)
    for symbol in ("BTC/USDT", "ETH/USDT"):
        of_market = (train[SYMBOL] == symbol).to_numpy()[known]
        residuals = (target - inputs @ weights - intercept)[of_market]
        test = FOLD.test.rows(rows).filter(pl.col(SYMBOL) == symbol)
        centre = standardised(test.select(FEATURES).to_numpy()) @ weights + intercept
        expected = (test["volatility"].to_numpy() * horizon**0.5)[:, None] * (
            centre[:, None] + np.quantile(residuals, LEVELS)
        )
        found = forecasts.filter(pl.col(SYMBOL) == symbol)
        assert len(found) == FOLD.test.n_bars
        np.testing.assert_allclose(found.select(QUANTILES).to_numpy(), expected, rtol=1e-8)


def test_a_planted_line_is_found_and_beats_the_random_walk(rows: pl.DataFrame) -> None:
    def loss(forecasts: pl.DataFrame) -> float:
        scored = forecasts.join(rows.select(SYMBOL, TS, "target_1"), on=[SYMBOL, TS]).drop_nulls("target_1")
        return mean_pinball(scored["target_1"].to_numpy(), scored.select(QUANTILES).to_numpy())

    train = FOLD.train.rows(rows)
    one, two = fit_line(train, 1).weights
    assert one > 5 * abs(two)
    assert loss(linear(train, (1,))(rows, FOLD.test)) < 0.97 * loss(naive(train, (1,))(rows, FOLD.test))


def test_a_missing_feature_counts_as_its_train_mean(rows: pl.DataFrame) -> None:
    train = FOLD.train.rows(rows)
    known = train.drop_nulls("target_1")
    fitted = linear(train, (1,))
    filled = rows.with_columns(pl.col("two").fill_null(known["two"].mean()))
    np.testing.assert_allclose(
        fitted(rows, FOLD.test).select(QUANTILES).to_numpy(),
        fitted(filled, FOLD.test).select(QUANTILES).to_numpy(),
        rtol=1e-12,
    )


@pytest.mark.parametrize("value", [None, 1.0, float("nan"), float("inf")])
def test_a_feature_that_is_never_known_or_always_the_same_has_no_weight(
    value: float | None, rows: pl.DataFrame
) -> None:
    bars = pl.col(BAR) < FOLD.test.start
    dull = rows.with_columns(pl.when(bars).then(pl.lit(value, pl.Float64)).otherwise(pl.col("one")).alias("three"))
    plain, more = (linear(FOLD.train.rows(some), (1,))(some, FOLD.test) for some in (rows, dull))
    np.testing.assert_allclose(more.select(QUANTILES).to_numpy(), plain.select(QUANTILES).to_numpy(), rtol=1e-9)


def test_a_bar_without_a_close_or_a_volatility_gets_no_forecast(rows: pl.DataFrame) -> None:
    place = pl.col(BAR) - FOLD.test.start
    holes = rows.with_columns(
        pl.when(~place.is_in([3, 4])).then(pl.col(CLOSE)).alias(CLOSE),
        pl.when(place == 5).then(0.0).when(place != 6).then(pl.col("volatility")).alias("volatility"),
    )
    table = linear(FOLD.train.rows(holes), (1,))(holes, FOLD.test).join(rows.select(SYMBOL, TS, BAR), on=[SYMBOL, TS])
    assert table.filter(pl.col(SYMBOL) == "BTC/USDT")[BAR].to_list()[:4] == [FOLD.test.start + k for k in (0, 1, 2, 7)]


def test_a_fit_is_silent(rows: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    dull = rows.with_columns(two=pl.lit(None, pl.Float64), one=0.0, three=pl.lit(float("inf")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear(FOLD.train.rows(dull), (1,))(dull, FOLD.test)
    assert capfd.readouterr() == ("", "")


def test_no_label_that_chooses_the_penalty_reaches_into_the_slice_that_judges_it() -> None:
    bars = np.repeat(np.arange(1000, 1400), 2)  # two markets
    for horizon in (1, 24):
        for fitted, judged in _later_slices(bars, horizon):
            assert bars[fitted].max() + horizon < bars[judged].min()
            assert bars[fitted].max() + horizon + 1 == bars[judged].min()  # and no more is dropped than has to be
