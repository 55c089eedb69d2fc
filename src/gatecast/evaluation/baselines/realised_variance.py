"""HAR: the variance to come is regressed on that of the last hour, day, week and month."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.evaluation.baselines.scaled_returns import (
    Mask,
    bar_returns,
    inside,
    markets_to_forecast,
    no_fit,
    scaled_forecasts,
)
from gatecast.evaluation.splits import Fold
from gatecast.market.candles import SYMBOL
from gatecast.model.predictions import Array

HAR_SPANS = (1, 6, 24, 168, 720)  # bars with a return; hourly: an hour, a quarter of a day, a day, a week and a month
_FLOOR = 1e-4  # of the train part's mean square: a hundredth of its volatility, since a still market has no logarithm
_MIN_ROWS = 250  # fewer say little about six coefficients

Places = npt.NDArray[np.int64]


def har(history: pl.DataFrame, fold: Fold, horizons: Sequence[int]) -> pl.DataFrame:
    """Log-HAR: least squares of the log variance over the horizon on the logs over the trailing `HAR_SPANS`.

    Variance is the mean square of close-to-close returns, the only prices that feature rows hold; bars without a return
    are left out of every span. Market by market, horizon by horizon; what `exp` of a mean log lacks the quantiles
    supply. Arguments and result as for `naive`.

    Raises:
        DataError: Too few train bars with all spans behind them and the horizon before them, or no return that moves.

    Source:
        Corsi (2009), A Simple Approximate Long-Memory Model of Realized Volatility, Journal of Financial Econometrics
        7(2); in logs: Andersen, Bollerslev and Diebold (2007), Roughing It Up, Review of Economics and Statistics
        89(4).
    """
    tables = []
    for market in markets_to_forecast(history, fold):
        returns, in_train = bar_returns(market), inside(market, fold.train)
        moves = returns[in_train & np.isfinite(returns)]
        if not moves.any():
            raise no_fit("har", market[SYMBOL][0], fold, f"its close does not move in {len(moves)} train bars")
        for horizon in horizons:
            inputs, label = log_variances(returns, in_train, horizon)
            usable = in_train & np.isfinite(label) & np.isfinite(inputs).all(axis=0)
            if usable.sum() < _MIN_ROWS:
                found = f"{usable.sum()} train bars with {HAR_SPANS[-1]} returns behind them and {horizon} before them"
                raise no_fit("har", market[SYMBOL][0], fold, f"{found}, {_MIN_ROWS} are needed")
            coefficients = np.linalg.lstsq(inputs[:, usable].T, label[usable])[0]
            # term by term: a matrix product may round otherwise where it has another number of rows
            log_variance = sum(weight * column for weight, column in zip(coefficients, inputs, strict=True))
            tables.append(scaled_forecasts("har", market, fold, horizon, np.sqrt(horizon * np.exp(log_variance))))
    return pl.concat(tables)


def log_variances(returns: Array, in_train: Mask, horizon: int) -> tuple[Array, Array]:
    """What is regressed on what.

    Args:
        returns: Of consecutive bars from the first of the train span, in log return, NaN where there is none, (N,).
        in_train: Which bars are of the train span, one with a return among them, (N,): they alone set the floor and
            give labels.
        horizon: Bars ahead.

    Returns:
        A row of ones and one a span of `HAR_SPANS`, known at the close of each bar, (1 + S, N), NaN while a span is
        not full; and the log variance over the horizon, (N,), NaN where it ends after the train span.
    """
    known = np.isfinite(returns)
    squares = np.where(known, returns, 0.0) ** 2
    # running sums, since what is added later cannot change the rounding of an earlier one
    sums = np.concatenate([[0.0], squares[known].cumsum()])
    place = known.cumsum()  # returns up to each bar
    n_train = place[in_train].max()
    floor = _FLOOR * squares[in_train & known].mean()
    past = [_log_mean(sums, place - span, place, floor) for span in HAR_SPANS]
    return np.stack([np.ones(len(returns)), *past]), _log_mean(sums[: n_train + 1], place, place + horizon, floor)


def _log_mean(sums: Array, first: Places, last: Places, floor: float) -> Array:
    """Log of the mean square of returns number first + 1 to last, NaN where some of them are not there."""
    there = (first >= 0) & (last < len(sums))
    total = sums[np.where(there, last, 0)] - sums[np.where(there, first, 0)]
    return np.where(there, np.log(np.maximum(total / (last - first), floor)), np.nan)
