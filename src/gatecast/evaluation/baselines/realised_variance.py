"""HAR: the variance to come is regressed on that of the last hour, day, week and month."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.evaluation.baselines.calendar_spans import DAY, WEEK, bar_duration, bars_of
from gatecast.evaluation.baselines.location_scale import (
    Forecaster,
    Rule,
    bar_returns,
    market_by_market,
    moving_returns,
    no_fit,
)
from gatecast.market.candles import SYMBOL
from gatecast.model.predictions import Array

HAR_SPANS = (timedelta(hours=6), DAY, WEEK, timedelta(days=30))  # after the bar itself
_FLOOR = 1e-4  # of the train part's mean square: a hundredth of its volatility, since a still market has no logarithm
_MIN_ROWS = 250  # fewer say little about six coefficients

Places = npt.NDArray[np.int64]


def har(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """Log-HAR: least squares of the log variance over the horizon on the logs over trailing spans.

    The spans are a bar and `HAR_SPANS`, counted in bars with a return, each number once: hourly 1, 6, 24, 168 and 720,
    and 1, 5 and 21 daily sessions. A forecast stays within what the train part has shown: a fit to few rows that was
    extrapolated lost twenty times as much. Variance is the mean square of close-to-close returns, the only prices that
    feature rows hold; bars without a return are left out of every span. Market by market, horizon by horizon; what
    `exp` of a mean log lacks the quantiles supply. Arguments and result as for `naive`.

    Raises:
        DataError: Too few train bars with all spans behind them and the horizon before them, or no return that moves.

    Source:
        Corsi (2009), A Simple Approximate Long-Memory Model of Realized Volatility, Journal of Financial Econometrics
        7(2); in logs: Andersen, Bollerslev and Diebold (2007), Roughing It Up, Review of Economics and Statistics
        89(4); kept within what was seen: Swanson and White (1997), JBES 13(3).
    """

    def fit(market: pl.DataFrame) -> Rule:
        returns = moving_returns("har", market)
        spans, floor = har_spans(bar_duration(market)), variance_floor(returns)
        inputs = past_log_variances(returns, spans, floor)
        labels = [log_variance_to_come(returns, horizon, floor) for horizon in horizons]
        fits = [_fit(market[SYMBOL][0], inputs, *each, spans) for each in zip(labels, horizons, strict=True)]

        def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
            columns = past_log_variances(bar_returns(rows), spans, floor)
            pairs = []
            for horizon, label, weights in zip(horizons, labels, fits, strict=True):
                # term by term: a matrix product may round otherwise where it has another number of rows
                log_variance = sum(weight * column for weight, column in zip(weights, columns, strict=True))
                within = np.clip(log_variance, np.nanmin(label), np.nanmax(label))
                pairs.append((np.zeros(len(rows)), np.sqrt(horizon * np.exp(within))))
            return pairs

        return rule

    return market_by_market("har", train, horizons, fit)


def har_spans(duration: timedelta) -> tuple[int, ...]:
    """The trailing spans, in bars of a duration."""
    return tuple(sorted({1, *(bars_of(span, duration) for span in HAR_SPANS)}))


def variance_floor(returns: Array) -> float:
    """The least mean square that a logarithm is taken of, from train returns, (N,)."""
    return float(_FLOOR * (returns[np.isfinite(returns)] ** 2).mean())


def past_log_variances(returns: Array, spans: Sequence[int], floor: float) -> Array:
    """What is regressed on.

    Args:
        returns: Of consecutive bars, in log return, NaN where there is none, (N,).
        spans: In bars with a return.
        floor: Least variance of a bar.

    Returns:
        A row of ones and one a span, known at the close of each bar, (1 + S, N), NaN while a span is not full.
    """
    sums, place = _running(returns)
    past = [_log_mean(sums, place - span, place, floor) for span in spans]
    return np.stack([np.ones(len(returns)), *past])


def log_variance_to_come(returns: Array, horizon: int, floor: float) -> Array:
    """What is regressed: of the next bars with a return, (N,), NaN where fewer follow. Arguments as above."""
    sums, place = _running(returns)
    return _log_mean(sums, place, place + horizon, floor)


def _fit(symbol: str, inputs: Array, label: Array, horizon: int, spans: Sequence[int]) -> Array:
    usable = np.isfinite(label) & np.isfinite(inputs).all(axis=0)
    if usable.sum() < _MIN_ROWS:
        found = f"{usable.sum()} train bars with {spans[-1]} returns behind them and {horizon} before them"
        raise no_fit("har", symbol, f"{found}, {_MIN_ROWS} are needed")
    return np.asarray(np.linalg.lstsq(inputs[:, usable].T, label[usable])[0], dtype=np.float64)


def _running(returns: Array) -> tuple[Array, Places]:
    """Sums of the squares there are, from 0 on, and how many returns there are up to each bar."""
    known = np.isfinite(returns)
    # running sums, since what is added later cannot change the rounding of an earlier one
    return np.concatenate([[0.0], (returns[known] ** 2).cumsum()]), known.cumsum()


def _log_mean(sums: Array, first: Places, last: Places, floor: float) -> Array:
    """Log of the mean square of returns number first + 1 to last, NaN where some of them are not there."""
    there = (first >= 0) & (last < len(sums))
    total = sums[np.where(there, last, 0)] - sums[np.where(there, first, 0)]
    return np.where(there, np.log(np.maximum(total / (last - first), floor)), np.nan)
