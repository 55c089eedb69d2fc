import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config, FeaturesConfig
from gatecast.features.catalogue import build_features, catalogue, look_back
from tests.conftest import clean_candles, random_candles

HOLES = [*range(70, 73), 90, 200]
NAN = math.nan


@pytest.fixture(scope="module")
def spans(config: Config) -> FeaturesConfig:
    small = {"return_spans": (1, 5), "volatility_half_lives": (3, 12), "scale_half_life": 8, "volume_bars": 6}
    return config.features.model_copy(update=small)


@pytest.fixture(scope="module")
def candles() -> pl.DataFrame:
    raw = random_candles(420)
    return clean_candles(raw.filter(~pl.int_range(pl.len()).is_in(HOLES)))


def slow_ewma(values: list[float], half_life: float, least: int) -> list[float]:
    """The definition: weights halve every half-life over the values that are there, carried over those that are not."""
    averages: list[float] = []
    seen: list[float] = []
    for value in values:
        if not math.isnan(value):
            seen.append(value)
        weights = [0.5 ** ((len(seen) - 1 - i) / half_life) for i in range(len(seen))]
        known = len(seen) >= least
        averages.append(sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights) if known else NAN)
    return averages


def values_of(column: pl.Series) -> list[float]:
    """A column with NaN for null, so that a step through a hole yields NaN by itself."""
    return column.fill_null(NAN).to_list()


def assert_equal(column: pl.Series, oracle: list[float], missing: pl.Series) -> None:
    expected = [NAN if gone else value for value, gone in zip(oracle, missing, strict=True)]
    assert column.is_null().to_list() == [math.isnan(value) for value in expected]
    np.testing.assert_allclose(values_of(column), expected, rtol=1e-9, atol=1e-11)


def test_indicators_follow_their_slow_definitions(candles: pl.DataFrame, spans: FeaturesConfig) -> None:
    rows = build_features(candles, spans)
    close, missing = values_of(candles["close"]), candles["missing"]
    moves = [NAN, *(math.log(b / a) for a, b in pairwise(close))]
    squares = [move**2 for move in moves]
    variance = slow_ewma(squares, spans.scale_half_life, spans.scale_half_life)
    volatility = [v if math.isnan(v) else max(math.sqrt(v), spans.volatility_floor) for v in variance]
    np.testing.assert_allclose(values_of(rows["volatility"]), volatility, rtol=1e-9)
    span = list(zip(close, [NAN] * 5 + close[:-5], volatility, strict=True))
    returns = [math.log(now / then) / (scale * math.sqrt(5)) for now, then, scale in span]
    assert_equal(rows["return_5"], returns, missing)
    quick = slow_ewma(squares, 3, 3)
    ratios = [math.log(math.sqrt(q) / v) for q, v in zip(quick, volatility, strict=True)]
    assert_equal(rows["volatility_ratio_3"], ratios, missing)
    half_life = math.log(2) / -math.log1p(-1 / spans.rsi_bars)
    gains = slow_ewma([m if math.isnan(m) else max(m, 0.0) for m in moves], half_life, spans.rsi_bars)
    sizes = slow_ewma([abs(m) for m in moves], half_life, spans.rsi_bars)
    assert_equal(rows["rsi"], [gain / size - 0.5 for gain, size in zip(gains, sizes, strict=True)], missing)


def test_volume_and_range_follow_their_slow_definitions(candles: pl.DataFrame, spans: FeaturesConfig) -> None:
    rows = build_features(candles, spans)
    missing = candles["missing"]
    logs = [math.log1p(volume) for volume in values_of(candles["volume"])]
    mean = slow_ewma(logs, spans.volume_bars, spans.volume_bars)
    squares = [(value - middle) ** 2 for value, middle in zip(logs, mean, strict=True)]
    spread = slow_ewma(squares, spans.volume_bars, spans.volume_bars)
    z = [(value - middle) / math.sqrt(s) for value, middle, s in zip(logs, mean, spread, strict=True)]
    assert_equal(rows["volume_z"], z, missing)
    columns = zip(*(values_of(candles[name]) for name in ("close", "low", "high")), strict=True)
    assert_equal(rows["close_position"], [(c - low) / (high - low) - 0.5 for c, low, high in columns], missing)


def test_the_last_bar_from_its_look_back_alone_equals_the_batch(candles: pl.DataFrame, spans: FeaturesConfig) -> None:
    rows = build_features(candles, spans)
    bars = look_back(spans)
    for end in (bars + 10, bars + 40, len(candles)):
        tail = build_features(candles[end - bars : end], spans)
        for feature in catalogue(spans):
            whole, alone = rows[feature.name][end - 1], tail[feature.name][-1]
            if whole is None:
                assert alone is None, feature.name
                continue
            tolerance = 1e-6 * float(np.nanstd(rows[feature.name].to_numpy()))
            assert abs(whole - alone) <= tolerance, f"{feature.name} at {end}: {whole} in the batch, {alone} alone"


def test_markets_do_not_touch_each_other(candles: pl.DataFrame, spans: FeaturesConfig) -> None:
    other = candles.with_columns(symbol=pl.lit("ETH/USDT"), close=pl.col("close") * 2, high=pl.col("high") * 3)
    together = build_features(pl.concat([candles, other]).sort("symbol", "ts"), spans)
    assert together.filter(pl.col("symbol") == "BTC/USDT").equals(build_features(candles, spans))


def test_every_entry_says_what_it_is(spans: FeaturesConfig) -> None:
    entries = catalogue(spans)
    assert len({entry.name for entry in entries}) == len(entries)
    assert all(entry.unit and entry.formula and entry.look_back >= 1 for entry in entries)
