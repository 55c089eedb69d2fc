"""The random walk, and volatility as an exponentially weighted average. Market by market, horizon by horizon."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gatecast.evaluation.baselines.scaled_returns import inside, quantiles, values
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold
from gatecast.features.targets import target_name
from gatecast.market.candles import CLOSE, SYMBOL
from gatecast.model.predictions import Array, predictions

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


def naive(history: pl.DataFrame, fold: Fold, horizons: Sequence[int]) -> pl.DataFrame:
    """The random walk: every bar is forecast with the quantiles of the train part's returns.

    Args:
        history: Feature rows with targets, up to the end of the test span.
        fold: The train and test spans.
        horizons: Bars ahead.

    Returns:
        Predictions of the test bars: symbol, ts, horizon and a column a level, in log returns.
    """
    tables = []
    for market in history.partition_by(SYMBOL, maintain_order=True):
        train, test = fold.train.rows(market), fold.test.rows(market)
        for horizon in horizons:
            levels = quantiles(values(train, target_name(horizon)))
            present = test.filter(pl.col(CLOSE).is_not_null())
            tables.append(predictions(present, horizon, np.tile(levels, (len(present), 1))))
    return pl.concat(tables)


def ewma(history: pl.DataFrame, fold: Fold, horizons: Sequence[int]) -> pl.DataFrame:
    """Volatility times the train part's quantiles of the scaled return.

    The volatility is exponentially weighted; its half-life is the one of `EWMA_HALF_LIVES` with the least pinball loss
    on the train part. Arguments and result as for `naive`.

    Source:
        J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, 4th ed.; empirical, not normal quantiles.
    """
    tables = []
    for market in history.partition_by(SYMBOL, maintain_order=True):
        volatilities = _volatilities(market)
        in_train, in_test = inside(market, fold.train), inside(market, fold.test)
        test = market.filter(pl.Series(in_test))
        for horizon in horizons:
            target = values(market, target_name(horizon))[in_train]
            fits = [_fit_scaled(target, volatility[in_train]) for volatility in volatilities]
            best = min(range(len(fits)), key=lambda i: fits[i][0])
            present = np.where(test[CLOSE].is_not_null().to_numpy(), volatilities[best][in_test], np.nan)
            tables.append(predictions(test, horizon, present[:, None] * fits[best][1]))
    return pl.concat(tables)


def _volatilities(market: pl.DataFrame) -> list[Array]:
    squared = pl.col(CLOSE).log().diff() ** 2
    table = market.select(
        squared.ewm_mean(half_life=half_life, ignore_nulls=True, min_samples=_MIN_SAMPLES)
        .forward_fill()
        .sqrt()
        .alias(f"{half_life}")
        for half_life in EWMA_HALF_LIVES
    )
    return [values(table, f"{half_life}") for half_life in EWMA_HALF_LIVES]


def _fit_scaled(target: Array, volatility: Array) -> tuple[float, Array]:
    """Train loss and quantiles of the scaled return under one volatility."""
    usable = np.isfinite(target) & np.isfinite(volatility) & (volatility > 0)
    known, scale = target[usable], volatility[usable]
    levels = quantiles(known / scale)
    loss = mean_pinball(known, np.outer(levels, scale).T) if usable.any() else np.inf
    return float(loss), levels
