"""What the baselines share: a centre and a scale that are known, and the train part's quantiles of what is left."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.splits import Span
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, SYMBOL
from gatecast.model.predictions import LEVELS, Array, predictions

Forecaster = Callable[[pl.DataFrame, Span], pl.DataFrame]
"""Feature rows with targets, from the first train bar up to at most the end of a test span, and that span: predictions
of its bars, symbol, ts, horizon and a column a level in log returns. What is said of a bar follows from the fit and
from rows up to that bar, to the last bit."""

Baseline = Callable[[pl.DataFrame, Sequence[int]], Forecaster]
"""A fit: purged train rows of all markets, with targets, sorted by symbol and ts, and the horizons in bars."""

Rule = Callable[[pl.DataFrame], Sequence[tuple[Array, Array]]]
"""Rows of one market from its first train bar on: for each horizon the centre and the scale of the return over it,
known at each bar, in log return, both (N,), NaN where there is none."""


def market_by_market(
    baseline: str,
    train: pl.DataFrame,
    horizons: Sequence[int],
    fit: Callable[[pl.DataFrame], Rule],
    *,
    may_lack: bool = False,
) -> Forecaster:
    """Fits a rule to each market, and forecasts its centre plus its scale times the train part's quantiles.

    The quantiles are the empirical ones of (target - centre) / scale over the whole horizon: whatever the law of a
    bar's return, the sum over many bars has another (closer to normal, and skewed where the market is), and a scale
    that is wrong by a factor is put right.

    A market that ended before the last train bar is not fitted, since nothing of it is to be forecast; one without a
    train row, and a bar without a close, get no forecast.

    Args:
        baseline: Its name, for the line of an error.
        train: Train rows of all markets.
        horizons: Bars ahead.
        fit: From the train rows of one market to its rule.
        may_lack: A market too young to have a target is left out. Otherwise it is an error.

    Raises:
        DataError: No train bar of a market has both a target and a scale.
    """
    fitted: dict[str, tuple[Rule, list[Array]]] = {}
    last_bar = train[BAR].max()
    for market in train.partition_by(SYMBOL, maintain_order=True):
        if market[BAR][-1] != last_bar:
            continue
        symbol, rule = market[SYMBOL][0], fit(market)
        levels = []
        for horizon, (centre, scale) in zip(horizons, rule(market), strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):  # a scale of zero has no quantile
                levels.append(quantiles((values(market, target_name(horizon)) - centre) / scale))
            if np.isnan(levels[-1]).any() and not may_lack:
                reason = f"no train bar has both a return over {horizon} bars and the history before it that is needed"
                raise no_fit(baseline, symbol, reason)
        fitted[symbol] = rule, levels

    def forecast(history: pl.DataFrame, test: Span) -> pl.DataFrame:
        tables = [predictions(history.clear(), 0, np.empty((0, len(LEVELS))))]  # where no market is left
        for market in history.partition_by(SYMBOL, maintain_order=True):
            inside = market[BAR].is_between(test.start, test.end, closed="left")
            if market[SYMBOL][0] not in fitted or not inside.any():
                continue
            rule, levels = fitted[market[SYMBOL][0]]
            known = inside & market[CLOSE].is_not_null()
            rows, chosen = market.filter(known), known.to_numpy()
            for horizon, of_horizon, (centre, scale) in zip(horizons, levels, rule(market), strict=True):
                spread = scale[chosen, None] * of_horizon
                tables.append(predictions(rows, horizon, centre[chosen, None] + spread))
        return pl.concat(tables)

    return forecast


def values(frame: pl.DataFrame, column: str) -> Array:
    """A column as numbers, NaN where null."""
    return frame[column].cast(pl.Float64).to_numpy()


def log_closes(market: pl.DataFrame) -> Array:
    """Log price of each bar, known at its close; NaN where it is missing."""
    prices = values(market.select(pl.col(CLOSE).log()), CLOSE)
    return np.where(np.isfinite(prices), prices, np.nan)


def bar_returns(market: pl.DataFrame) -> Array:
    """Log return of each bar, known at its close; NaN where its close or the one before it is missing."""
    moves = values(market.select(pl.col(CLOSE).log().diff()), CLOSE)
    return np.where(np.isfinite(moves), moves, np.nan)


def moving_returns(baseline: str, market: pl.DataFrame) -> Array:
    """As `bar_returns`, of train rows.

    Raises:
        DataError: None of them moves.
    """
    moves = bar_returns(market)
    known = moves[np.isfinite(moves)]
    if not known.any():
        raise no_fit(baseline, market[SYMBOL][0], f"its close does not move in {len(known)} train bars")
    return moves


def quantiles(sample: Array) -> Array:
    """Quantiles at all levels of what is finite, (Q,); NaN where nothing is."""
    known = sample[np.isfinite(sample)]
    return np.quantile(known, LEVELS) if known.size else np.full(len(LEVELS), np.nan)


def no_fit(baseline: str, symbol: str, reason: str) -> DataError:
    """The line for a baseline that cannot be fitted: without it a market would be missing from the comparison."""
    return DataError(
        f"baseline {baseline} cannot be fitted to {symbol}: {reason}; fetch a longer history, or take {baseline} out of"
        " evaluate.baselines or the market out of ingest.symbols"
    )
