"""Markets for the tests of features: rough ones with holes, and what is published about them."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from gatecast.config import Config
from gatecast.features.feature import Recipe
from gatecast.market.candles import TS_TYPE, Market
from gatecast.market.publications.table import FEAR_GREED, FUNDING, HEADLINES, SOURCES, as_publications, together
from tests.conftest import clean_candles, random_candles, small_recipe

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
START = datetime(2024, 1, 1, tzinfo=UTC)
HOLES = (1, 40, 41, 42, *range(90, 103), 130, 132, 134, 250)  # single bars, and runs shorter and longer than spans


def everything(
    config: Config, symbols: tuple[str, ...] = SYMBOLS, sources: tuple[str, ...] = SOURCES, **spans: Any
) -> Recipe:
    """Every entry of the catalogue with short spans, whatever the shipped configuration uses."""
    small = small_recipe(config, symbols, sources)
    return replace(small, spans=small.spans.model_copy(update={"use": ("*",), **spans}))


def rough_candles(n_bars: int, seed: int, start: datetime = START) -> pl.DataFrame:
    """Random candles that open away from the close before, some without a volume and some without any move."""
    generator = np.random.default_rng(seed)
    candles = random_candles(n_bars, seed, start)
    jump = pl.Series(np.exp(0.002 * generator.standard_normal(n_bars)))
    still, silent = (pl.Series(generator.random(n_bars) < share) for share in (0.05, 0.1))
    opened = pl.col("open") * jump
    close = pl.when(still).then(pl.col("close").shift(1)).otherwise("close").fill_null(pl.col("close"))
    return candles.with_columns(
        open=opened, close=close, volume=pl.when(silent).then(0.0).otherwise("volume")
    ).with_columns(high=pl.max_horizontal("open", "high", "close"), low=pl.min_horizontal("open", "low", "close"))


def market(symbol: str, raw: pl.DataFrame, holes: Collection[int] = ()) -> pl.DataFrame:
    """The grid of a market whose candles of these numbers are not there."""
    there = ~pl.int_range(pl.len()).is_in(list(holes))
    return clean_candles(raw.filter(there), Market("binance", symbol, "1h"))


def three_markets(n_bars: int = 300) -> pl.DataFrame:
    """Three with holes at different bars; the second begins and the third ends earlier."""
    later = START + timedelta(hours=30)
    return pl.concat(
        [
            market(SYMBOLS[0], rough_candles(n_bars, 1), HOLES),
            market(SYMBOLS[1], rough_candles(n_bars - 30, 2, later), [hole + 7 for hole in HOLES]),
            market(SYMBOLS[2], rough_candles(n_bars - 20, 3), [hole + 3 for hole in HOLES]),
        ]
    )


def published_at(instants: list[datetime]) -> pl.Series:
    return pl.Series("published_at", instants, dtype=TS_TYPE)


def random_publications(n_bars: int = 300, seed: int = 0) -> pl.DataFrame:
    """All sources over so many hours and a week before, each of them silent for a while."""
    generator = np.random.default_rng(seed)
    hours = np.arange(-10 * 24, n_bars)
    days = [START + timedelta(hours=int(hour)) for hour in hours[::24] if not 100 < hour < 160]
    index = pl.DataFrame([published_at(days), pl.Series("value", generator.uniform(0, 100, len(days)))])
    news = [START + timedelta(hours=float(hour)) for hour in generator.uniform(-240, n_bars, n_bars // 3)]
    news = [instant for instant in news if not 60 < (instant - START) / timedelta(hours=1) < 150]
    scores = pl.Series("value", generator.uniform(-1, 1, len(news)))
    texts = pl.Series("text", [f"headline {number}" for number in range(len(news))])
    frames = [
        as_publications(index, FEAR_GREED),
        as_publications(pl.DataFrame([published_at(news), scores, texts]), HEADLINES),
    ]
    for symbol in SYMBOLS[:2]:  # of the third there is no contract
        settled = [START + timedelta(hours=int(hour)) for hour in hours[::8] if not 40 < hour < 60]
        rates = pl.Series("value", 1e-4 * generator.standard_normal(len(settled)))
        frames.append(as_publications(pl.DataFrame([published_at(settled), rates]), FUNDING, symbol))
    return together(frames)
