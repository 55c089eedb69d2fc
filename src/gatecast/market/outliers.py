"""Which bars move by far more than those before them."""

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.config import CleanConfig
from gatecast.market.candles import CLOSE, OUTLIER

Returns = npt.NDArray[np.float64]

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_CHUNK = 4096  # windows judged at once: they fit the processor's cache


def mark_outliers(candles: pl.DataFrame, config: CleanConfig) -> pl.DataFrame:
    """The candles with the column `outlier`, known at the bar's own close; no price is changed.

    Hampel's identifier on log returns: a bar is marked whose return lies further from the median of the returns before
    it than so many of their scaled median absolute deviations. Median and deviations are of one and the same window,
    the last `outlier_bars` returns that are known (fewer at the beginning, at least half), and the bar itself is not
    in it. A return is known where both its closes are, so neither a missing bar nor the one after it is marked.

    Where more than half of the window is one and the same value the deviation is zero, and says nothing about how far
    is far: no bar is marked then.

    Args:
        candles: Bars of one market on its grid, in order.
        config: Length of the window and how far is too far.

    Source:
        Hampel (1974), The Influence Curve and Its Role in Robust Estimation, JASA 69(346).
    """
    log_return = candles.select(pl.col(CLOSE).log().diff())[CLOSE]
    known = log_return.is_not_null().to_numpy()
    marks = np.zeros(len(candles), dtype=bool)
    marks[known] = _far(log_return.drop_nulls().to_numpy(), config.outlier_bars, config.outlier_deviations)
    return candles.with_columns(pl.Series(OUTLIER, marks))


def _far(returns: Returns, window: int, limit: float) -> npt.NDArray[np.bool_]:
    """Whether each return is further than `limit` deviations from the median of the `window` before it, (N,)."""
    marks = np.zeros(len(returns), dtype=bool)
    for end in range(window // 2, min(window, len(returns))):  # the beginning: windows that still grow
        marks[end] = _beyond(returns[None, :end], returns[end : end + 1], limit)[0]
    if len(returns) <= window:
        return marks
    before = np.lib.stride_tricks.sliding_window_view(returns, window)  # (N - window + 1, window), a view
    for first in range(window, len(returns), _CHUNK):
        last = min(first + _CHUNK, len(returns))
        marks[first:last] = _beyond(before[first - window : last - window], returns[first:last], limit)
    return marks


def _beyond(windows: Returns, returns: Returns, limit: float) -> npt.NDArray[np.bool_]:
    middle = _median(windows)
    deviation = _median(np.abs(windows - middle[:, None]))
    far = np.abs(returns - middle) > limit * _MAD_TO_DEVIATION * deviation
    return far & (deviation > 0)


def _median(rows: Returns) -> Returns:
    """Median of each row; sorting whole rows is vectorised, and three to four times as fast as selecting (measured)."""
    ordered = np.sort(rows, axis=1)
    half = rows.shape[1] // 2
    return (ordered[:, -half - 1] + ordered[:, half]) / 2
