"""Feature rows of two small markets, made without the catalogue: a proof of folds is about what is made of them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS, TS_TYPE

START = datetime(2024, 1, 1, tzinfo=UTC)
FIRST_BAR = int(START.timestamp()) // 3600
FEATURES = ("one", "two")
HORIZONS = (1, 6)


def small_market(n_bars: int = 420, symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")) -> pl.DataFrame:
    """Hourly rows with a hole, two features and the targets of `HORIZONS`; sorted by symbol and ts."""
    markets = [_market(symbol, n_bars, seed) for seed, symbol in enumerate(symbols)]
    rows = pl.concat(markets)
    return rows.hstack(build_targets(rows, HORIZONS))


def _market(symbol: str, n_bars: int, seed: int) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    place = np.arange(n_bars)
    gone = pl.Series((place > 50) & (place < 54))
    rows = pl.DataFrame(
        {
            SYMBOL: symbol,
            TS: pl.Series([START + timedelta(hours=hour) for hour in range(n_bars)], dtype=TS_TYPE),
            BAR: place + FIRST_BAR,
            CLOSE: 100 * np.exp(np.cumsum(0.01 * generator.standard_normal(n_bars))),
            MISSING: gone,
            "volatility": 0.01 + 0.005 * generator.random(n_bars),
            **{name: generator.standard_normal(n_bars) for name in FEATURES},
        }
    )
    return rows.with_columns(pl.when(~pl.col(MISSING)).then(pl.col(name)).alias(name) for name in (CLOSE, *FEATURES))
