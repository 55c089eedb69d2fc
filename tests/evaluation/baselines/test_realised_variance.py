"""HAR against sums by hand and numpy's least squares."""

from datetime import timedelta
from math import log

import numpy as np
import polars as pl
import pytest

from gatecast.evaluation.baselines import har
from gatecast.evaluation.baselines.calendar_spans import bar_duration
from gatecast.evaluation.baselines.realised_variance import (
    har_spans,
    log_variance_to_come,
    past_log_variances,
    variance_floor,
)
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.evaluation.baselines.session_market import session_market
from tests.evaluation.small_market import FIRST_BAR, small_market

FOLD = Fold(0, Span(FIRST_BAR, FIRST_BAR + 1194), Span(FIRST_BAR + 1200, FIRST_BAR + 1300))
SPANS = (1, 6, 24, 168, 720)
GONE = (900, 901, 1250, 1251)  # beside the hole of the market itself


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    market = small_market(1320, ("BTC/USDT",)).drop("target_1", "target_6")
    gone = (pl.col(BAR) - FIRST_BAR).is_in(GONE)
    market = market.with_columns(pl.when(~gone).then(pl.col(CLOSE)).alias(CLOSE))
    return market.hstack(build_targets(market, (1, 6)))


@pytest.mark.parametrize("horizon", [1, 6])
def test_forecasts_are_those_of_a_regression_by_hand(horizon: int, rows: pl.DataFrame) -> None:
    closes = rows[CLOSE].to_list()
    squares: list[float] = []  # of the bars with a return
    n_before = []  # how many of them are known at each bar
    for before, after in zip([None, *closes[:-1]], closes, strict=True):
        if before is not None and after is not None:
            squares.append(log(after / before) ** 2)
        n_before.append(len(squares))
    n_train = n_before[1193]
    floor = 1e-4 * sum(squares[:n_train]) / n_train

    def log_mean(some: list[float]) -> float:
        return log(max(sum(some) / len(some), floor))

    inputs = {
        place: [1.0, *(log_mean(squares[n - span : n]) for span in SPANS)]
        for place, n in enumerate(n_before)
        if n >= max(SPANS)
    }
    labels = {
        place: log_mean(squares[n : n + horizon]) for place, n in enumerate(n_before[:1194]) if n + horizon <= n_train
    }
    fitted = sorted(set(inputs) & set(labels))
    assert len(fitted) > 400
    x, y = np.array([inputs[place] for place in fitted]), np.array([labels[place] for place in fitted])
    coefficients = np.linalg.lstsq(x, y)[0]
    volatility = {place: np.exp(coefficients @ values) ** 0.5 * horizon**0.5 for place, values in inputs.items()}
    targets = rows[f"target_{horizon}"].to_list()
    scaled = [targets[p] / volatility[p] for p in volatility if p < 1194 and targets[p] is not None]
    present = [place for place in range(1200, 1300) if closes[place] is not None]
    expected = np.outer([volatility[place] for place in present], np.quantile(scaled, LEVELS))
    forecasts = har(FOLD.train.rows(rows), (horizon,))(rows, FOLD.test)
    assert len(forecasts) == len(present) == 98
    np.testing.assert_allclose(forecasts.select(QUANTILES).to_numpy(), expected, rtol=1e-8)


def test_no_label_ends_after_the_train_span_even_where_the_horizon_is_longer_than_the_purge() -> None:
    label = log_variance_to_come(np.random.default_rng(0).standard_normal(900), 24, 1e-9)
    assert np.flatnonzero(np.isfinite(label)).tolist() == list(range(900 - 24))


def test_a_standstill_in_the_train_span_has_a_logarithm() -> None:
    returns = np.random.default_rng(0).standard_normal(1000)
    returns[800:840] = 0
    floor = variance_floor(returns)
    inputs, label = past_log_variances(returns, SPANS, floor), log_variance_to_come(returns, 6, floor)
    assert np.isfinite(inputs[:, 720:]).all()
    assert label[810] == inputs[1, 810] == pytest.approx(log(1e-4 * (returns**2).mean()))


@pytest.mark.parametrize(
    ("duration", "spans"),
    [
        (timedelta(minutes=15), (1, 24, 96, 672, 2880)),
        (timedelta(hours=1), SPANS),
        (timedelta(hours=4), (1, 2, 6, 42, 180)),
        (timedelta(days=1), (1, 7, 30)),
    ],
)
def test_the_spans_are_times_and_each_number_of_bars_stands_once(duration: timedelta, spans: tuple[int, ...]) -> None:
    assert har_spans(duration) == spans


def test_of_daily_sessions_a_week_has_five_and_a_month_21() -> None:
    assert har_spans(bar_duration(session_market())) == (1, 5, 21)


def test_a_forecast_stays_within_the_variances_that_the_train_part_has_shown() -> None:
    generator = np.random.default_rng(5)
    bars = small_market(1300, ("BTC/USDT",))
    waves = 0.01 * np.exp(np.sin(np.arange(1300) / 60)) * generator.standard_normal(1300)  # volatility that persists
    places = bars[BAR].to_numpy() - FIRST_BAR

    def forecast(storm: float) -> pl.DataFrame:
        moves = np.where(places >= 1200, storm, 1.0) * waves
        rows = bars.drop("target_1", "target_6").with_columns(pl.Series(CLOSE, 100 * np.exp(np.cumsum(moves))))
        rows = rows.hstack(build_targets(rows, (1,)))
        return har(FOLD.train.rows(rows), (1,))(rows, FOLD.test).tail(20)  # the storm fills all but the longest spans

    stormy, wild = (forecast(storm) for storm in (1e3, 1e5))
    assert wild.equals(stormy)  # both beyond all that was seen, and both held to it
