"""The catalogue of features: each indicator is one entry with its formula, unit and look-back.

Every formula runs on one market at a time, over a regular grid of bars in which missing bars are null. A value at `ts`
uses candles up to and including `ts`, so it is known at `ts + timeframe`. Only operations whose result is the same from
run to run to the last bit are used (shift, rolling, exponential averages), always through `over` the symbol.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from gatecast.config import FeaturesConfig
from gatecast.market.candles import BAR, CLOSE, HIGH, LOW, MISSING, SYMBOL, TS, VOLUME

VOLATILITY = "volatility"  # of one bar, as log return: scales the target
KEYS = (SYMBOL, TS, BAR, CLOSE, MISSING, VOLATILITY)  # columns of a feature frame that are not features
_HALF_LIVES = 24  # an exponential average forgets 2**-24 (6e-8) of what came before so many half-lives
_LOG_RETURN = "_log_return"
_HOUR_MS = 3_600_000
_LEAST_SPREAD = 1e-9  # of log volume: below it the volume has not moved


@dataclass(frozen=True)
class Feature:
    """One entry of the catalogue.

    Attributes:
        name: Column name.
        expression: Formula over the candle columns, `_log_return` and `volatility` of one market.
        unit: What the numbers count.
        look_back: Bars, the present one included, from which the value follows to 1e-6 of its standard deviation.
        formula: The definition in words, for people.
        bounds: Smallest and largest value that the definition allows.
    """

    name: str
    expression: pl.Expr
    unit: str
    look_back: int
    formula: str
    bounds: tuple[float, float] = (-math.inf, math.inf)


def catalogue(spans: FeaturesConfig) -> tuple[Feature, ...]:
    """All features for the given spans, in the order of the network's inputs."""
    scale_bars = spans.scale_half_life * _HALF_LIVES
    return (
        *(_span_return(span, scale_bars) for span in spans.return_spans),
        *(_volatility_ratio(half_life, scale_bars) for half_life in spans.volatility_half_lives),
        Feature(
            "log_volatility",
            pl.col(VOLATILITY).log(),
            "log of log return",
            scale_bars + 1,
            "log of the EWMA volatility",
            (math.log(spans.volatility_floor), math.inf),
        ),
        _range_ratio(spans.scale_half_life),
        _close_position(),
        _rsi(spans.rsi_bars),
        _volume_z(spans.volume_bars),
        *_calendar(),
    )


def feature_names(spans: FeaturesConfig) -> tuple[str, ...]:
    """Names of the features, in the order of the network's inputs."""
    return tuple(feature.name for feature in catalogue(spans))


def look_back(spans: FeaturesConfig) -> int:
    """Bars from which every feature of the last bar follows."""
    return max(feature.look_back for feature in catalogue(spans))


def build_features(candles: pl.DataFrame, spans: FeaturesConfig) -> pl.DataFrame:
    """Feature rows of a clean grid.

    Args:
        candles: Clean candles (regular grid, missing bars null), sorted by symbol and ts; any number of markets.
        spans: Spans in bars.

    Returns:
        A row a bar in the same order: symbol, ts, bar, close, missing, volatility (of one bar, as log return), then a
        column a feature. Null where a bar is missing or too little came before it.
    """
    log_close = pl.col(CLOSE).log()
    entries = catalogue(spans)
    return (
        candles.with_columns((log_close - log_close.shift(1)).over(SYMBOL).alias(_LOG_RETURN))
        .with_columns(_volatility(spans).over(SYMBOL).alias(VOLATILITY))
        .with_columns(_of_present(entry.expression).over(SYMBOL).alias(entry.name) for entry in entries)
        .select(*KEYS, *(entry.name for entry in entries))
    )


def _of_present(expression: pl.Expr) -> pl.Expr:
    return pl.when(~pl.col(MISSING)).then(expression)


def _ewm(values: pl.Expr, half_life: int) -> pl.Expr:
    """Exponential average over the bars that are there, carried over those that are not."""
    return values.ewm_mean(half_life=half_life, ignore_nulls=True, min_samples=half_life).forward_fill()


def _volatility(spans: FeaturesConfig) -> pl.Expr:
    """EWMA volatility with a floor (RiskMetrics Technical Document, 4th ed., 1996, section 5.2)."""
    variance = _ewm(pl.col(_LOG_RETURN) ** 2, spans.scale_half_life)
    return pl.max_horizontal(variance.sqrt(), pl.when(variance.is_not_null()).then(pl.lit(spans.volatility_floor)))


def _span_return(span: int, scale_bars: int) -> Feature:
    value = (pl.col(CLOSE).log() - pl.col(CLOSE).log().shift(span)) / (pl.col(VOLATILITY) * math.sqrt(span))
    return Feature(
        f"return_{span}",
        value,
        "volatilities",
        max(span, scale_bars) + 1,
        f"log(close / close {span} bars ago) / (volatility sqrt {span})",
    )


def _volatility_ratio(half_life: int, scale_bars: int) -> Feature:
    # the tiny floor keeps the logarithm finite through a stretch of equal closes
    variance = _ewm(pl.col(_LOG_RETURN) ** 2, half_life).clip(1e-12)
    value = (variance.sqrt() / pl.col(VOLATILITY)).log()
    bars = max(half_life * _HALF_LIVES, scale_bars) + 1
    return Feature(
        f"volatility_ratio_{half_life}",
        value,
        "log ratio",
        bars,
        f"log(EWMA volatility of half-life {half_life} / volatility)",
    )


def _range_ratio(half_life: int) -> Feature:
    """Parkinson's range volatility over the close-to-close one (Parkinson 1980, J. Business 53(1))."""
    squared_range = (pl.col(HIGH) / pl.col(LOW)).log() ** 2 / (4 * math.log(2))
    value = (_ewm(squared_range, max(half_life // 4, 1)).clip(1e-12).sqrt() / pl.col(VOLATILITY)).log()
    return Feature(
        "range_ratio", value, "log ratio", half_life * _HALF_LIVES + 1, "log(EWMA Parkinson volatility / volatility)"
    )


def _close_position() -> Feature:
    width = pl.col(HIGH) - pl.col(LOW)
    value = pl.when(width > 0).then((pl.col(CLOSE) - pl.col(LOW)) / width - 0.5).otherwise(0.0)
    return Feature(
        "close_position",
        value,
        "share of the range",
        1,
        "(close - low) / (high - low) - 1/2; 0 without a range",
        (-0.5, 0.5),
    )


def _rsi(bars: int) -> Feature:
    """Relative strength index (Wilder 1978), Wilder's smoothing being an exponential average with alpha 1/bars."""
    gain = _wilder(pl.col(_LOG_RETURN).clip(lower_bound=0), bars)
    move = _wilder(pl.col(_LOG_RETURN).abs(), bars)
    value = pl.when(move > 0).then(gain / move - 0.5).when(move == 0).then(0.0)
    half_life = math.ceil(math.log(2) / -math.log1p(-1 / bars))
    return Feature(
        "rsi",
        value,
        "share",
        half_life * _HALF_LIVES + 1,
        f"smoothed gains / smoothed moves over {bars} bars - 1/2",
        (-0.5, 0.5),
    )


def _wilder(values: pl.Expr, bars: int) -> pl.Expr:
    return values.ewm_mean(alpha=1 / bars, ignore_nulls=True, min_samples=bars).forward_fill()


def _volume_z(half_life: int) -> Feature:
    log_volume = pl.col(VOLUME).log1p()
    mean = _ewm(log_volume, half_life)
    spread = _ewm((log_volume - mean) ** 2, half_life).sqrt()
    value = pl.when(spread > _LEAST_SPREAD).then((log_volume - mean) / spread).when(spread.is_not_null()).then(0.0)
    # the spread averages over a mean that itself looks back: twice the half-lives
    return Feature(
        "volume_z",
        value,
        "deviations",
        2 * half_life * _HALF_LIVES,
        f"z-score of log volume, half-life {half_life} bars",
    )


def _calendar() -> Iterable[Feature]:
    milliseconds = pl.col(TS).dt.epoch("ms")
    for name, period in (("day", 24 * _HOUR_MS), ("week", 7 * 24 * _HOUR_MS)):
        angle = (milliseconds % period).cast(pl.Float64) * (2 * math.pi / period)
        yield Feature(f"{name}_sine", angle.sin(), "sine", 1, f"sine of the open time within the {name}", (-1, 1))
        yield Feature(f"{name}_cosine", angle.cos(), "cosine", 1, f"cosine of the open time within the {name}", (-1, 1))
