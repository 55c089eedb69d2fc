"""What the baselines share: returns on a scale that is known, and the train part's quantiles of them."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, SYMBOL
from gatecast.model.predictions import LEVELS, Array, predictions

Baseline = Callable[[pl.DataFrame, Fold, Sequence[int]], pl.DataFrame]
Mask = npt.NDArray[np.bool_]


def markets_to_forecast(history: pl.DataFrame, fold: Fold) -> list[pl.DataFrame]:
    """The rows from train to test, market by market; one that ended before the test has nothing to be forecast."""
    markets = Span(fold.train.start, fold.test.end).rows(history).partition_by(SYMBOL, maintain_order=True)
    return [market for market in markets if not fold.test.rows(market).is_empty()]


def values(frame: pl.DataFrame, column: str) -> Array:
    """A column as numbers, NaN where null."""
    return frame[column].cast(pl.Float64).to_numpy()


def inside(market: pl.DataFrame, span: Span) -> Mask:
    """Which rows lie in a span."""
    return market[BAR].is_between(span.start, span.end, closed="left").to_numpy()


def bar_returns(market: pl.DataFrame) -> Array:
    """Log return of each bar, known at its close; NaN where its close or the one before it is missing."""
    moves = values(market.select(pl.col(CLOSE).log().diff()), CLOSE)
    return np.where(np.isfinite(moves), moves, np.nan)


def quantiles(sample: Array) -> Array:
    """Quantiles at all levels of what is finite, (Q,); NaN where nothing is."""
    known = sample[np.isfinite(sample)]
    return np.quantile(known, LEVELS) if known.size else np.full(len(LEVELS), np.nan)


def scaled_forecasts(baseline: str, market: pl.DataFrame, fold: Fold, horizon: int, volatility: Array) -> pl.DataFrame:
    """Volatility times the train part's quantiles of the return over it.

    The quantiles are the empirical ones of the return over the whole horizon: whatever the law of a bar's return, the
    sum over many bars has another (closer to normal, and skewed where the market is), and a volatility that is wrong by
    a factor is put right.

    Args:
        baseline: Its name, for the line of an error.
        market: Feature rows with targets of one market, (N).
        fold: The train span that the quantiles are of, and the test span.
        horizon: Bars ahead.
        volatility: Of the return over the horizon, known at each bar, in log return, (N,).

    Raises:
        DataError: No train bar has both a target and a volatility.
    """
    train, test = inside(market, fold.train), inside(market, fold.test)
    levels = quantiles(values(market, target_name(horizon))[train] / volatility[train])
    if np.isnan(levels).any():
        raise no_fit(baseline, market[SYMBOL][0], fold, f"no train bar has a return over {horizon} bars")
    known = np.where(market[CLOSE].is_not_null().to_numpy(), volatility, np.nan)[test]
    return predictions(market.filter(pl.Series(test)), horizon, known[:, None] * levels)


def no_fit(baseline: str, symbol: str, fold: Fold, reason: str) -> DataError:
    """The line for a baseline that cannot be fitted: without it a market would be missing from the comparison."""
    return DataError(
        f"baseline {baseline} cannot be fitted to {symbol} in fold {fold.number + 1}: {reason}; fetch a longer history,"
        f" or take {baseline} out of evaluate.baselines"
    )
