"""The baselines: what any model has to beat before it deserves a word.

Each takes the history up to the end of the test span, fits on the bars before `train_end` only, and forecasts the bars
from `test_start` on. Market by market, horizon by horizon.
"""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, SYMBOL
from gatecast.model.predictions import LEVELS, Array, predictions

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
_LEVELS = np.array(LEVELS)

Baseline = Callable[[pl.DataFrame, Fold, Sequence[int]], pl.DataFrame]


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
            levels = _quantiles(_values(train, target_name(horizon)))
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
        in_train = _inside(market, fold.train.start, fold.train.end)
        in_test = _inside(market, fold.test.start, fold.test.end)
        test = market.filter(pl.Series(in_test))
        for horizon in horizons:
            target = _values(market, target_name(horizon))[in_train]
            fits = [_fit_scaled(target, volatility[in_train]) for volatility in volatilities]
            best = min(range(len(fits)), key=lambda i: fits[i][0])
            present = np.where(test[CLOSE].is_not_null().to_numpy(), volatilities[best][in_test], np.nan)
            tables.append(predictions(test, horizon, present[:, None] * fits[best][1]))
    return pl.concat(tables)


BASELINES: dict[str, Baseline] = {"naive": naive, "ewma": ewma}


def _values(frame: pl.DataFrame, column: str) -> Array:
    return frame[column].cast(pl.Float64).to_numpy()


def _inside(market: pl.DataFrame, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return market[BAR].is_between(start, end, closed="left").to_numpy()


def _quantiles(values: Array) -> Array:
    known = values[np.isfinite(values)]
    return np.quantile(known, _LEVELS) if known.size else np.full(len(LEVELS), np.nan)


def _volatilities(market: pl.DataFrame) -> list[Array]:
    squared = pl.col(CLOSE).log().diff() ** 2
    table = market.select(
        squared.ewm_mean(half_life=half_life, ignore_nulls=True, min_samples=_MIN_SAMPLES)
        .forward_fill()
        .sqrt()
        .alias(f"{half_life}")
        for half_life in EWMA_HALF_LIVES
    )
    return [_values(table, f"{half_life}") for half_life in EWMA_HALF_LIVES]


def _fit_scaled(target: Array, volatility: Array) -> tuple[float, Array]:
    """Train loss and quantiles of the scaled return under one volatility."""
    usable = np.isfinite(target) & np.isfinite(volatility) & (volatility > 0)
    known, scale = target[usable], volatility[usable]
    levels = _quantiles(known / scale)
    loss = mean_pinball(known, np.outer(levels, scale).T) if usable.any() else np.inf
    return float(loss), levels
