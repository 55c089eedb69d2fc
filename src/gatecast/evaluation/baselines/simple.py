"""Rules of thumb: the random walk, its drift, the last season, and volatility as an exponential average."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gatecast.evaluation.baselines.calendar_spans import bar_duration, season
from gatecast.evaluation.baselines.location_scale import (
    Forecaster,
    Rule,
    log_closes,
    market_by_market,
    moving_returns,
    quantiles,
    values,
)
from gatecast.evaluation.metrics import mean_pinball
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE
from gatecast.model.predictions import Array

EWMA_HALF_LIVES = (
    6,
    12,
    24,
    48,
    96,
    168,
    336,
    720,
)  # bars; the train part picks one a horizon, so that the baseline is at its best
_MIN_SAMPLES = 24  # bars before an average counts as known
DRIFT_HORIZONS = 10  # horizons before a drift counts as known: it then adds 5 % to the spread of a random walk
SEASONS_BACK = 7  # that are tried one after the other where a close is missing


def naive(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """The random walk: every bar is forecast with the quantiles of the train part's returns, market by market.

    Args:
        train: Purged train rows with targets, sorted by symbol and ts.
        horizons: Bars ahead.

    Returns:
        What forecasts the bars of a test span.
    """

    def fit(_: pl.DataFrame) -> Rule:
        return lambda market: [(np.zeros(len(market)), np.ones(len(market))) for _ in horizons]

    return market_by_market("naive", train, horizons, fit, may_lack=True)


def drift(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """The random walk with drift: the centre goes on as the price has gone from the first train bar up to the forecast.

    The drift is the mean log return of a bar, updated bar by bar: the way from the first close to the last over the
    bars between them, so that a gap counts as the move that it was. Arguments and result as for `naive`.

    Raises:
        DataError: No train bar has a return over the horizon and `DRIFT_HORIZONS` horizons before it, or a close that
            does not move.

    Source:
        Hyndman and Athanasopoulos (2021), Forecasting: Principles and Practice, 3rd ed., 5.2.
    """

    def fit(market: pl.DataFrame) -> Rule:
        moving_returns("drift", market)
        known = market.drop_nulls(CLOSE).head(1)
        first_bar, (first_price,) = known[BAR][0], log_closes(known)

        def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
            n_bars = (rows[BAR] - first_bar).cast(pl.Float64).to_numpy()
            risen, flat = log_closes(rows) - first_price, np.ones(len(rows))
            pairs = []
            for horizon in horizons:
                long = n_bars >= DRIFT_HORIZONS * horizon
                pairs.append((np.where(long, horizon * (risen / np.where(long, n_bars, np.nan)), np.nan), flat))
            return pairs

        return rule

    return market_by_market("drift", train, horizons, fit)


def seasonal_naive(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """The return over the horizon is that of one season ago: of as many whole seasons as the horizon takes.

    With seasons of m bars and the least k with km >= h it is the return from t - km to t - km + h, known at t. Where
    one of its closes is missing it is that of a season earlier, up to `SEASONS_BACK` tries in all. A season is a day
    where that has several bars, else a week. Arguments and result as for `naive`.

    Raises:
        DataError: No train bar has a return over the horizon and a season before it, or a close that does not move.

    Source:
        Hyndman and Athanasopoulos (2021), Forecasting: Principles and Practice, 3rd ed., 5.2.
    """

    def fit(market: pl.DataFrame) -> Rule:
        moving_returns("seasonal_naive", market)
        n_bars = season(bar_duration(market))

        def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
            price, flat = pl.Series(log_closes(rows), nan_to_null=True), np.ones(len(rows))
            return [(_last_season(price, horizon, n_bars), flat) for horizon in horizons]

        return rule

    return market_by_market("seasonal_naive", train, horizons, fit)


def _last_season(price: pl.Series, horizon: int, n_bars: int) -> Array:
    """The last return over the horizon that is whole seasons old, known at each bar, (N,)."""
    back = -(-horizon // n_bars) * n_bars - horizon  # from a bar to the end of the return
    moves = (price - price.shift(horizon)).alias("move").to_frame()
    tries = [pl.col("move").shift(back + number * n_bars) for number in range(SEASONS_BACK)]
    return values(moves.select(pl.coalesce(tries).alias("move")), "move")


def ewma(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """Volatility times the train part's quantiles of the scaled return, market by market.

    The volatility is exponentially weighted; its half-life is the one of `EWMA_HALF_LIVES` with the least pinball loss
    on the train part, for each horizon. Arguments and result as for `naive`.

    Source:
        J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, 4th ed.; empirical, not normal quantiles.
    """

    def fit(market: pl.DataFrame) -> Rule:
        candidates = {half_life: volatility(market, half_life) for half_life in EWMA_HALF_LIVES}
        best = []
        for horizon in horizons:
            target = values(market, target_name(horizon))
            best.append(min(EWMA_HALF_LIVES, key=lambda half_life: _loss(target, candidates[half_life])))
        return lambda rows: [(np.zeros(len(rows)), volatility(rows, half_life)) for half_life in best]

    return market_by_market("ewma", train, horizons, fit, may_lack=True)


def volatility(market: pl.DataFrame, half_life: int) -> Array:
    """Of one bar, known at the close of each, as log return, (N,)."""
    squared = pl.col(CLOSE).log().diff() ** 2
    average = squared.ewm_mean(half_life=half_life, ignore_nulls=True, min_samples=_MIN_SAMPLES)
    return values(market.select(average.forward_fill().sqrt()), CLOSE)


def _loss(target: Array, scale: Array) -> float:
    """Train loss of the scaled return's own quantiles under a volatility."""
    usable = np.isfinite(target) & np.isfinite(scale) & (scale > 0)
    known, spread = target[usable], scale[usable]
    return mean_pinball(known, np.outer(quantiles(known / spread), spread).T) if usable.any() else np.inf
