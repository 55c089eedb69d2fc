"""Feature rows of daily sessions: weekends and holidays are no bars."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS
from gatecast.market.grid import Grid

GRID = Grid("1d", "XNYS")
FIRST_SESSION = GRID.first_from(datetime(2019, 1, 1, tzinfo=UTC))
SESSION_HORIZONS = (1, 5, 20)


def session_market(n_bars: int = 1000, symbols: tuple[str, ...] = ("AAPL",)) -> pl.DataFrame:
    """Daily rows with two features and the targets of `SESSION_HORIZONS`, volatility in waves; sorted."""
    rows = pl.concat(_market(symbol, n_bars, seed) for seed, symbol in enumerate(symbols))
    return rows.hstack(build_targets(rows, SESSION_HORIZONS))


def _market(symbol: str, n_bars: int, seed: int) -> pl.DataFrame:
    generator, place = np.random.default_rng(seed), np.arange(n_bars)
    volatility = 0.015 * np.exp(0.5 * np.sin(place / 30))
    numbers = pl.Series(BAR, place + FIRST_SESSION)
    return pl.DataFrame(
        {
            SYMBOL: symbol,
            TS: GRID.stamps(numbers),
            BAR: numbers,
            CLOSE: 100 * np.exp(np.cumsum(volatility * generator.standard_normal(n_bars))),
            MISSING: False,
            "volatility": volatility,
            "one": generator.standard_normal(n_bars),
            "two": np.ones(n_bars),  # as the hour of a session is
        }
    )
