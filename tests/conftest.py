"""What tests share: the shipped configuration, shrunk, and small markets of known shape."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

# before PyTorch is imported, here or in a process that a test starts: two workers whose threads wait for each other by
# spinning take ten times as long
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from gatecast.config import Config
from gatecast.config_parsing import parse_config
from gatecast.features.build import build_features
from gatecast.features.feature import Recipe
from gatecast.features.targets import build_targets
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market
from gatecast.market.cleaning import clean_grid
from gatecast.market.publications.table import PUBLICATION_SCHEMA

REPOSITORY = Path(__file__).resolve().parent.parent
MARKET = Market("binance", "BTC/USDT", "1h")
NO_PUBLICATIONS = pl.DataFrame(schema=PUBLICATION_SCHEMA)
SMALL_SPANS = {  # every feature, so that a few hundred candles suffice
    "use": ("*",),
    "return_spans": (1, 5),
    "average_spans": (4, 9),
    "volatility_half_lives": (3, 12),
    "volume_half_lives": (4, 6),
    "macd_bars": (4, 9, 3),
    "bollinger_bars": 8,
    "window_bars": 12,
    "universe_bars": 6,
    "published_half_life": 6,
    "scale_half_life": 8,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow files first, so that no worker begins one when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def config() -> Config:
    """The shipped configuration."""
    return parse_config(YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml"), "conf/params.yaml")


def random_candles(
    n_bars: int = 400, seed: int = 0, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
) -> pl.DataFrame:
    """A random walk of hourly candles whose volatility comes in waves."""
    generator = np.random.default_rng(seed)
    volatility = 0.01 * np.exp(0.6 * np.sin(np.arange(n_bars) / 40))
    close = 100 * np.exp(np.cumsum(volatility * generator.standard_normal(n_bars)))
    opened = np.concatenate([[100.0], close[:-1]])
    wick = np.exp(np.abs(generator.standard_normal((2, n_bars))) * volatility / 2)
    return pl.DataFrame(
        {
            TS: [start + timedelta(hours=i) for i in range(n_bars)],
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": np.exp(generator.standard_normal(n_bars)) * 10,
        },
        schema=CANDLE_SCHEMA,
    )


def clean_candles(raw: pl.DataFrame, market: Market = MARKET) -> pl.DataFrame:
    """The grid of raw candles as `clean` writes it."""
    grid, _, _ = clean_grid(raw, market, raw[TS].sort()[-1] + timedelta(days=1))
    return grid.with_columns(outlier=pl.lit(value=False))


def small_recipe(config: Config, symbols: tuple[str, ...] = (MARKET.symbol,), sources: tuple[str, ...] = ()) -> Recipe:
    """The shipped features with short spans, of hourly markets."""
    return Recipe(config.features.model_copy(update=SMALL_SPANS), symbols, MARKET.timeframe, sources)


def feature_table(candles: pl.DataFrame, recipe: Recipe, horizons: tuple[int, ...]) -> pl.DataFrame:
    """Feature rows with targets, as the stage writes them."""
    rows = build_features(candles, NO_PUBLICATIONS, recipe)
    return rows.hstack(build_targets(rows, horizons))
