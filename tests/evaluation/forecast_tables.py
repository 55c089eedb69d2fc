"""Small tables of predictions whose truth is known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from scipy import stats

from gatecast.market.candles import TS_TYPE
from gatecast.model.predictions import LEVELS, QUANTILES

START = datetime(2024, 1, 1, tzinfo=UTC)
NORMAL = stats.norm.ppf(LEVELS)


def stamps(n_bars: int) -> pl.Series:
    """Hours."""
    return pl.Series([START + timedelta(hours=bar) for bar in range(n_bars)], dtype=TS_TYPE)


def forecasts(
    model: str,
    target: np.ndarray,
    scale: np.ndarray,
    *,
    centre: np.ndarray | float = 0.0,
    symbol: str = "BTC/USDT",
    horizon: int = 1,
    n_folds: int = 4,
    close: float = 100.0,
) -> pl.DataFrame:
    """Normal quantiles around a centre; a target that is not finite is not known yet."""
    n_bars = len(target)
    quantiles = np.broadcast_to(np.asarray(centre), n_bars)[:, None] + scale[:, None] * NORMAL
    table = pl.DataFrame(
        {
            "symbol": [symbol] * n_bars,
            "ts": stamps(n_bars),
            "horizon": [horizon] * n_bars,
            "model": [model] * n_bars,
            "fold": np.arange(n_bars) * n_folds // n_bars,
            "target": target,
            **dict(zip(QUANTILES, quantiles.T, strict=True)),
            "close": np.full(n_bars, close),
        }
    )
    return table.with_columns(pl.when(pl.col("target").is_finite()).then(pl.col("target")).alias("target"))


def unit_scales(predictions: pl.DataFrame) -> pl.DataFrame:
    """Scales of one for every market, horizon and fold of a table."""
    keys = predictions.select("symbol", "horizon", "fold").unique(maintain_order=True)
    return keys.with_columns(return_scale=pl.lit(1.0), price_scale=pl.lit(1.0))


def volatile_market(seed: int, n_bars: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, and the scale that each was drawn with."""
    generator = np.random.default_rng(seed)
    scale = np.exp(0.8 * np.sin(np.arange(n_bars) / 50))
    return scale * generator.standard_normal(n_bars), scale


def overlapping(generator: np.random.Generator, n_bars: int, horizon: int) -> np.ndarray:
    """Means of neighbouring draws, as losses of overlapping labels are."""
    noise = generator.standard_normal(n_bars + horizon - 1)
    return np.convolve(noise, np.ones(horizon) / horizon, "valid")


def persistent(generator: np.random.Generator, n_bars: int, memory: float, n_series: int = 1) -> np.ndarray:
    """Autoregressions of the first order with variance one, a column a series."""
    from scipy.signal import lfilter

    shocks = generator.standard_normal((n_bars + 500, n_series)) * np.sqrt(1 - memory**2)
    series: np.ndarray = lfilter([1.0], [1.0, -memory], shocks, axis=0)[500:]
    return series


def market(seed: int, skill: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes, the scales that a model knows, and the same scale everywhere."""
    target, true = volatile_market(seed)
    flat = np.full(1500, true.mean())
    noise = np.random.default_rng(seed + 100).standard_normal(1500)
    return target, (true if skill else flat * np.exp(0.1 * noise)), flat
