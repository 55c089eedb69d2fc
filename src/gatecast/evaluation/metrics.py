"""Figures of merit of quantile forecasts."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from gatecast.evaluation.statistics import MIN_HORIZONS, is_constant, mean_t
from gatecast.market.candles import CLOSE, SYMBOL, TS
from gatecast.model.predictions import LEVELS, QUANTILES, TARGET, Array

RETURN_SCALE: Final = "return_scale"
PRICE_SCALE: Final = "price_scale"
RANGES: Final = {
    "50": (0.25, 0.75),
    "80": (0.1, 0.9),
    "90": (0.05, 0.95),
}  # central ranges, by their nominal coverage in percent
METRICS: Final = (
    "pinball", "crps", "mae", "rmse", "mase", "price_mae", "price_rmse", "price_mase",
    "direction_accuracy", "ic", "ic_t",
    *(f"coverage_{name}" for name in RANGES), *(f"width_{name}" for name in RANGES), "n",
)  # fmt: skip
_MEDIAN: Final = LEVELS.index(0.5)
Scores = dict[str, float | None]


def pinball(target: Array, quantiles: Array) -> Array:
    """Quantile loss of each forecast, averaged over the levels.

    Args:
        target: Realised log returns, (N,).
        quantiles: Forecast log returns a level, (N, Q).

    Returns:
        (N,), in log return.

    Source:
        Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1).
    """
    return _level_losses(target, quantiles, np.ones(len(LEVELS))) / len(LEVELS)


def crps(target: Array, quantiles: Array) -> Array:
    """Continuous ranked probability score of each forecast: twice the quantile loss, integrated over the levels.

    Trapezoids from level to level, and down to nothing at the levels 0 and 1. The plain mean over levels that are dense
    in the tails, as scoringrules takes it, would be a fifth too low; this is 3 % below the true integral of a normal
    forecast.

    Args:
        target: Realised log returns, (N,).
        quantiles: Forecast log returns a level, (N, Q).

    Returns:
        (N,), in log return.

    Source:
        Gneiting and Ranjan (2011), JBES 29(3).
    """
    ends = np.array([0.0, *LEVELS, 1.0])
    return 2 * _level_losses(target, quantiles, (ends[2:] - ends[:-2]) / 2)


def mean_pinball(target: Array, quantiles: Array) -> float:
    """Quantile loss averaged over forecasts and levels, in log return."""
    return float(pinball(target, quantiles).mean())


def scores(forecasts: pl.DataFrame, horizon: int) -> Scores:
    """All figures of one model at one horizon, `METRICS`; None where one has no value.

    Args:
        forecasts: symbol, ts, target (log return, known), a column a level (log return), close (price at ts) and the
            scales of `naive_scales`; N rows, at least 1, a row a market and bar.
        horizon: Bars ahead, by which neighbouring outcomes overlap.

    Returns:
        pinball, crps, mae and rmse of the median and the widths of the central ranges, in log return; price_mae and
        price_rmse of the median as a price; mase and price_mase, each error over the scale of its own market and fold;
        direction_accuracy of the median among bars that moved and coverage of the central ranges, as shares; ic and
        ic_t, as `information_coefficient`; n, forecasts scored.

    Source:
        Hyndman and Koehler (2006), International Journal of Forecasting 22(4), for the scaled errors.
    """
    target, quantiles = forecasts[TARGET].to_numpy(), forecasts.select(QUANTILES).to_numpy()
    close, return_scale, price_scale = (_values(forecasts, name) for name in (CLOSE, RETURN_SCALE, PRICE_SCALE))
    median = quantiles[:, _MEDIAN]
    error = np.abs(target - median)
    price_error = close * np.abs(np.exp(target) - np.exp(median))
    ic, ic_t = information_coefficient(forecasts[SYMBOL], forecasts[TS], median, target, horizon)
    return {
        "pinball": mean_pinball(target, quantiles),
        "crps": _mean(crps(target, quantiles)),
        "mae": _mean(error),
        "rmse": _root(_mean(error**2)),
        "mase": _mean(error / return_scale),
        "price_mae": _mean(price_error),
        "price_rmse": _root(_mean(price_error**2)),
        "price_mase": _mean(price_error / price_scale),
        "direction_accuracy": direction_accuracy(target, median),
        "ic": ic,
        "ic_t": ic_t,
        **_ranges(target, quantiles),
        "n": len(target),
    }


def direction_accuracy(target: Array, median: Array) -> float | None:
    """Share of the bars that moved whose direction the median had; None where nothing moved or no direction was named.

    Args:
        target: Realised log returns, (N,).
        median: Forecast log returns, (N,); a zero names no direction and counts for neither side.
    """
    moved = (target != 0) & (median != 0)
    return float((np.sign(target) == np.sign(median))[moved].mean()) if moved.any() else None


def information_coefficient(
    symbols: pl.Series, ts: pl.Series, median: Array, target: Array, horizon: int
) -> tuple[float | None, float | None]:
    """Rank correlation of forecast and outcome within each market, and its t made for outcomes that overlap.

    The product of the two standardised ranks is averaged over the markets of each bar and then over the bars: with one
    market that is Spearman's correlation. A market in which the median or the outcome never changes is left out.

    Args:
        symbols: The market of each forecast, (N,).
        ts: Its bar, (N,).
        median: Forecast log returns, (N,).
        target: Realised log returns, (N,).
        horizon: Bars ahead.

    Returns:
        The mean, and the mean over its long-run standard error; None and None where no market is left, or it has fewer
        bars than ten horizons.

    Source:
        Grinold and Kahn (2000), Active Portfolio Management, 2nd ed., for the coefficient; the error is that of
        `statistics.diebold_mariano`.
    """
    bars, place = np.unique(ts.to_physical().to_numpy(), return_inverse=True)
    total, count = np.zeros(len(bars)), np.zeros(len(bars))
    names = symbols.to_numpy()
    for symbol in symbols.unique().sort():
        own = names == symbol
        if np.ptp(median[own]) > 0 and np.ptp(target[own]) > 0:
            total[place[own]] += _standard_ranks(median[own]) * _standard_ranks(target[own])
            count[place[own]] += 1
    product = total[count > 0] / count[count > 0]  # (T,), in time order
    if len(product) < MIN_HORIZONS * horizon:
        return None, None
    return float(product.mean()), None if is_constant(product) else mean_t(product, horizon)


def pit_shares(target: Array, quantiles: Array) -> Array:
    """Shares of the outcomes between neighbouring levels, from those at or below the lowest, (Q + 1,).

    Args:
        target: Realised log returns, (N,).
        quantiles: Forecast log returns a level, (N, Q), non-decreasing in Q.

    Source:
        Diebold, Gunther and Tay (1998), International Economic Review 39(4).
    """
    n_below = (target[:, None] > quantiles).sum(axis=1)
    return np.bincount(n_below, minlength=len(LEVELS) + 1) / len(target)


def nominal_shares(levels: Sequence[float] = LEVELS) -> Array:
    """What `pit_shares` is for a forecast that is calibrated."""
    return np.diff([0.0, *levels, 1.0])


def _level_losses(target: Array, quantiles: Array, weights: Array) -> Array:
    """Quantile loss of each forecast, summed over the levels with their weights, (N,)."""
    loss = np.zeros(len(target))
    # level by level: eight times as fast as a matrix, and over ten times as fast as scoringrules and scikit-learn
    for level, quantile, weight in zip(LEVELS, quantiles.T, weights, strict=True):
        error = target - quantile  # (N,)
        loss += weight * np.maximum(level * error, (level - 1) * error)
    return loss


def _ranges(target: Array, quantiles: Array) -> Scores:
    coverage, width = {}, {}
    for name, (low, high) in RANGES.items():
        lower, upper = quantiles[:, LEVELS.index(low)], quantiles[:, LEVELS.index(high)]
        coverage[f"coverage_{name}"] = float(((target >= lower) & (target <= upper)).mean())
        width[f"width_{name}"] = float((upper - lower).mean())
    return {**coverage, **width}


def _standard_ranks(values: Array) -> Array:
    from scipy.stats import rankdata  # half a second that a search has no use for

    ranks = rankdata(values)
    standard: Array = (ranks - ranks.mean()) / ranks.std()
    return standard


def _values(frame: pl.DataFrame, column: str) -> Array:
    return frame[column].cast(pl.Float64).to_numpy()


def _mean(values: Array) -> float | None:
    """None where a value is unknown: the mean of the others would be of another sample than the figures beside it."""
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None


def _root(value: float | None) -> float | None:
    return None if value is None else float(np.sqrt(value))
