"""Drift and seasonal naive against loops over their definitions, in hours with holes and in daily sessions."""

from math import log

import numpy as np
import polars as pl
import pytest

from gatecast.evaluation.baselines import Baseline, drift, seasonal_naive
from gatecast.evaluation.baselines.simple import DRIFT_HORIZONS, SEASONS_BACK
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, TS
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.evaluation.baselines.session_market import FIRST_SESSION, session_market
from tests.evaluation.small_market import FIRST_BAR, small_market

HOURLY = Fold(0, Span(FIRST_BAR, FIRST_BAR + 676), Span(FIRST_BAR + 700, FIRST_BAR + 900))
DAILY = Fold(0, Span(FIRST_SESSION, FIRST_SESSION + 480), Span(FIRST_SESSION + 500, FIRST_SESSION + 600))
GONE = (0, 300, 301, 702, 703, 704, 750, 774, 798)  # beside the hole of the market itself
N_HOURS, N_SESSIONS = 24, 5  # of a season


def hourly() -> pl.DataFrame:
    """One market with holes in train and test, one of them on the same hour of three days."""
    market = small_market(930, ("BTC/USDT",)).drop("target_1", "target_6")
    gone = (pl.col(BAR) - FIRST_BAR).is_in(GONE)
    market = market.with_columns(pl.when(~gone).then(pl.col(CLOSE)).alias(CLOSE))
    return market.hstack(build_targets(market, (1, 6, 24, 30)))


def daily() -> pl.DataFrame:
    return session_market(620)


def centre_of_drift(prices: list[float | None], place: int, horizon: int) -> float | None:
    """FPP3: the line through the first price and the present one goes on."""
    first = next(number for number, price in enumerate(prices) if price is not None)
    price, start, n_bars = prices[place], prices[first], place - first
    if price is None or start is None or n_bars < DRIFT_HORIZONS * horizon:
        return None
    return horizon * (price - start) / n_bars


def centre_of_season(prices: list[float | None], place: int, horizon: int, n_bars: int) -> float | None:
    """The return over the horizon, from the last bar of the same season whose end is known."""
    n_seasons = -(-horizon // n_bars)
    for number in range(n_seasons, n_seasons + SEASONS_BACK):
        start = place - number * n_bars
        if start >= 0 and prices[start] is not None and prices[start + horizon] is not None:
            return prices[start + horizon] - prices[start]  # type: ignore[operator]  # both are known
    return None


@pytest.mark.parametrize(
    ("rows", "fold", "n_bars", "horizon"),
    [
        *((hourly(), HOURLY, N_HOURS, horizon) for horizon in (1, 6, 24, 30)),
        *((daily(), DAILY, N_SESSIONS, horizon) for horizon in (1, 5, 20)),
    ],
)
@pytest.mark.parametrize("baseline", [drift, seasonal_naive])
def test_forecasts_are_the_centre_and_the_train_quantiles_of_what_is_left(
    baseline: Baseline, rows: pl.DataFrame, fold: Fold, n_bars: int, horizon: int
) -> None:
    prices = [None if close is None else log(close) for close in rows[CLOSE]]

    def centre(place: int) -> float | None:
        if baseline is drift:
            return centre_of_drift(prices, place, horizon)
        return centre_of_season(prices, place, horizon, n_bars)

    residuals = []
    for place in range(fold.train.n_bars):
        target, expected = rows[f"target_{horizon}"][place], centre(place)
        if target is not None and expected is not None:
            residuals.append(target - expected)
    levels = np.quantile(residuals, LEVELS)
    test = range(fold.test.start - fold.train.start, fold.test.end - fold.train.start)
    known = {place: centre(place) for place in test if prices[place] is not None}
    forecasts = baseline(fold.train.rows(rows), (horizon,))(rows, fold.test)
    assert forecasts[TS].to_list() == [rows[TS][place] for place in known]
    expected_quantiles = np.array([of_place + levels for of_place in known.values()])
    np.testing.assert_allclose(forecasts.select(QUANTILES).to_numpy(), expected_quantiles, rtol=1e-9, atol=1e-12)


def test_the_drift_is_the_mean_return_and_updated_bar_by_bar() -> None:
    rows = small_market(1620, ("BTC/USDT",)).filter(pl.col(BAR) > FIRST_BAR + 54)  # without a hole
    train, test = rows.head(1000), Span(FIRST_BAR + 1100, FIRST_BAR + 1200)
    forecasts = drift(train, (1,))(rows, test)
    returns = rows[CLOSE].log().diff()
    first = rows[BAR][0]
    means = [returns[: bar - first + 1].mean() for bar in range(test.start, test.end)]
    moves = forecasts["q0.5"] - forecasts["q0.5"][0]
    np.testing.assert_allclose(moves.to_numpy(), np.array(means) - means[0], atol=1e-15)
    assert moves.n_unique() == len(moves)


def test_a_season_that_repeats_is_forecast_without_an_error() -> None:
    market = small_market(930, ("BTC/USDT",)).drop("target_1", "target_6")
    price = 100 * np.exp(0.1 * np.sin(np.arange(930) * 2 * np.pi / 24))
    market = market.with_columns(pl.Series(CLOSE, price))
    rows = market.hstack(build_targets(market, (6,)))
    forecasts = seasonal_naive(HOURLY.train.rows(rows), (6,))(rows, HOURLY.test)
    target = HOURLY.test.rows(rows)["target_6"].to_numpy()
    for name in QUANTILES:
        np.testing.assert_allclose(forecasts[name].to_numpy(), target, atol=1e-12)


def test_where_every_season_that_is_tried_is_missing_there_is_no_forecast() -> None:
    market = small_market(930, ("BTC/USDT",)).drop("target_1", "target_6")
    place = pl.col(BAR) - FIRST_BAR
    hour = (place % 24 == 800 % 24) & place.is_between(800 - 24 * SEASONS_BACK, 799)
    market = market.with_columns(pl.when(~hour).then(pl.col(CLOSE)).alias(CLOSE))
    rows = market.hstack(build_targets(market, (1,)))
    forecasts = seasonal_naive(HOURLY.train.rows(rows), (1,))(rows, HOURLY.test)
    present = HOURLY.test.rows(rows).drop_nulls(CLOSE)
    absent = present.join(forecasts, on=TS, how="anti")[BAR] - FIRST_BAR
    assert absent.to_list() == [799, 800]  # whose return over a bar would end and begin at that hour
