"""The peers of the features: the same indicators in pandas, by `ta` and, where it lacks one, by `pandas-ta-classic`.

Runs in an environment of its own (`make bench-peers`) on one market, a NumPy archive of open, high, low, close and
volume, and prints the median seconds of each indicator. Each gives what the feature of that name has at its core; what
the features add, scaling by the volatility, is left out.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandas_ta_classic as classic  # type: ignore[import-not-found]  # the peers have an environment of their own
import ta  # type: ignore[import-not-found]

N_TIMES = 5


def indicators(frame: Any) -> dict[str, Callable[[], Any]]:
    """The peer of each feature; two that follow from one object stand together, so that it is made once."""
    high, low, close, volume = (frame[name] for name in ("high", "low", "close", "volume"))
    log_close, log_volume = np.log(close), np.log1p(volume)

    def return_over(span: int) -> Callable[[], Any]:
        return lambda: ta.momentum.ROCIndicator(close, span).roc()

    def distance(span: int) -> Callable[[], Any]:
        return lambda: np.log(close / ta.trend.SMAIndicator(close, span).sma_indicator())

    def macd() -> Any:
        lines = ta.trend.MACD(log_close, 26, 12, 9)
        return lines.macd(), lines.macd_diff()

    def bollinger() -> Any:
        bands = ta.volatility.BollingerBands(close, 20, 2)
        return bands.bollinger_pband(), bands.bollinger_wband()

    return {
        "return_1": lambda: ta.others.DailyLogReturnIndicator(close).daily_log_return(),
        **{f"return_{span}": return_over(span) for span in (3, 6, 24, 72)},
        **{f"average_distance_{span}": distance(span) for span in (12, 48, 168)},
        "rsi": lambda: ta.momentum.RSIIndicator(log_close, 14).rsi(),
        "macd, macd_histogram": macd,
        "bollinger_position, bollinger_width": bollinger,
        "atr_ratio": lambda: ta.volatility.AverageTrueRange(high, low, close, 14).average_true_range() / close,
        "vwap_distance": lambda: np.log(
            close / ta.volume.VolumeWeightedAveragePrice(high, low, close, volume, 72).volume_weighted_average_price()
        ),
        "obv_slope": lambda: ta.volume.OnBalanceVolumeIndicator(close, volume).on_balance_volume(),
        "volume_z_72": lambda: classic.zscore(log_volume, 72),
        "skew": lambda: classic.skew(log_close.diff(), 72),
        "drawdown": lambda: classic.drawdown(close),
    }


def median_seconds(compute: Callable[[], Any]) -> float:
    """Of a few calls, the first of which is not counted."""
    compute()
    times = []
    for _ in range(N_TIMES):
        gc.collect()
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Time them all."""
    with np.load(Path(sys.argv[1])) as columns:
        frame = pd.DataFrame({name: columns[name] for name in columns.files})
    seconds = {name: median_seconds(compute) for name, compute in indicators(frame).items()}
    sys.stdout.write(json.dumps(seconds))


if __name__ == "__main__":
    main()
