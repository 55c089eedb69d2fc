"""Features of prices: returns, averages, momentum, bands, the shape of a candle, drawdown and what returns remember."""

import math
from collections.abc import Iterator
from itertools import pairwise

import polars as pl
import polars_talib as talib

from gatecast.features.feature import LOG_CLOSE, LOG_RETURN, VOLATILITY, Feature, Recipe, decay
from gatecast.market.candles import CLOSE, HIGH, LOW, OPEN

_LEAST_RANGE = 1e-12  # of log prices: below it a candle is a dash


def returns(recipe: Recipe) -> Iterator[Feature]:
    """How far the price has come."""
    log_close = pl.col(LOG_CLOSE)
    for span in recipe.spans.return_spans:
        yield Feature(
            f"return_{span}",
            (log_close - log_close.shift(span)) / _scale(span),
            unit="volatilities",
            formula=f"log(close / close {span} bars ago) / (volatility √{span})",
            source="Campbell, Lo and MacKinlay (1997), The Econometrics of Financial Markets, ch. 1",
            look_back=max(span + 1, recipe.scale_bars),
            warm_up=max(span + 1, recipe.scale_warm_up),
            rows="grid",
        )


def averages(recipe: Recipe) -> Iterator[Feature]:
    """Where the price stands against its moving averages, and they against each other."""
    spans = recipe.spans.average_spans
    for span in spans:
        yield Feature(
            f"average_distance_{span}",
            (pl.col(CLOSE) / _average(span)).log() / _scale(span),
            unit="volatilities",
            formula=f"log(close / mean close of {span} candles) / (volatility √{span})",
            source="Brock, Lakonishok and LeBaron (1992), J. Finance 47(5)",
            look_back=max(span, recipe.scale_bars),
            warm_up=max(span, recipe.scale_warm_up),
        )
    for short, long in pairwise(spans):
        yield Feature(
            f"average_cross_{short}_{long}",
            (_average(short) / _average(long)).log() / _scale(long),
            unit="volatilities",
            formula=f"log(mean close of {short} / mean close of {long} candles) / (volatility √{long})",
            source="Brock, Lakonishok and LeBaron (1992), J. Finance 47(5)",
            look_back=max(long, recipe.scale_bars),
            warm_up=max(long, recipe.scale_warm_up),
        )


def momentum(recipe: Recipe) -> Iterator[Feature]:
    """RSI and MACD, by TA-Lib, of log closes: neither then depends on the unit of the price."""
    bars = recipe.spans.rsi_bars
    memory = bars + decay(math.log(2) / -math.log1p(-1 / bars))
    farthest = (pl.col(LOG_CLOSE) - pl.col(LOG_CLOSE).shift(1)).abs().rolling_max(memory, min_samples=1)
    strength = _known(talib.rsi(pl.col(LOG_CLOSE), bars))
    yield Feature(
        "rsi",
        # TA-Lib answers 0, as if all had been losses, once the averages of a flat market have faded
        pl.when(strength.is_not_null() & (farthest == 0)).then(0.0).otherwise(strength / 100 - 0.5),
        unit="share",
        formula=f"smoothed gains / smoothed moves of log close over {bars} candles - 1/2; 0 where nothing moves",
        source="Wilder (1978), New Concepts in Technical Trading Systems, sec. VI",
        look_back=memory + 1,
        warm_up=bars + 1,
        bounds=(-0.5, 0.5),
    )
    fast, slow, signal = recipe.spans.macd_bars
    lines = talib.macd(pl.col(LOG_CLOSE), fast, slow, signal)
    words = f"difference of the exponential averages of log close over {fast} and {slow} candles"
    memory = slow + decay(_half_life(slow)) + signal + decay(_half_life(signal))
    for name, line, formula in (
        ("macd", "macd", f"{words} / volatility"),
        ("macd_histogram", "macdhist", f"{words}, less its own over {signal} candles, / volatility"),
    ):
        yield Feature(
            name,
            _known(lines.struct.field(line)) / pl.col(VOLATILITY),
            unit="volatilities",
            formula=formula,
            source="Appel (2005), Technical Analysis, ch. 6-8",
            look_back=max(memory, recipe.scale_bars),
            warm_up=max(slow + signal - 1, recipe.scale_warm_up),
        )


def bands(recipe: Recipe) -> Iterator[Feature]:
    """Bollinger bands; TA-Lib's drift by 3e-5 after a fall of the price's level, polars' rolling moments do not."""
    bars, floor = recipe.spans.bollinger_bars, recipe.spans.volatility_floor
    mean = _average(bars)
    spread = pl.max_horizontal(pl.col(CLOSE).rolling_std(bars, ddof=0) / mean, pl.lit(floor))  # of the mean
    yield Feature(
        "bollinger_position",
        (pl.col(CLOSE) / mean - 1) / (2 * spread),
        unit="half widths",
        formula=f"(close - mean of {bars} closes) / (2 standard deviations, each at least the floor of volatility)",
        source="Bollinger (2001), Bollinger on Bollinger Bands, ch. 7",
        look_back=bars,
        warm_up=bars,
    )
    yield Feature(
        "bollinger_width",
        (spread / _scale(bars)).log(),
        unit="log ratio",
        formula=f"log(the same standard deviation / mean of {bars} closes / (volatility √{bars}))",
        source="Bollinger (2001), Bollinger on Bollinger Bands, ch. 8",
        look_back=max(bars, recipe.scale_bars),
        warm_up=max(bars, recipe.scale_warm_up),
    )


def candle_shape(_: Recipe) -> Iterator[Feature]:
    """How a candle looks: where it closes, how long its body and its shadows are."""
    top, bottom = pl.max_horizontal(OPEN, CLOSE), pl.min_horizontal(OPEN, CLOSE)
    shapes = {
        "close_position": (pl.col(CLOSE) - pl.col(LOW), "(close - low) / (high - low) - 1/2", 0.5, (-0.5, 0.5)),
        "body": (pl.col(CLOSE) - pl.col(OPEN), "(close - open) / (high - low)", 0.0, (-1.0, 1.0)),
        "upper_shadow": (pl.col(HIGH) - top, "(high - larger of open and close) / (high - low)", 0.0, (0.0, 1.0)),
        "lower_shadow": (bottom - pl.col(LOW), "(smaller of open and close - low) / (high - low)", 0.0, (0.0, 1.0)),
    }
    width = pl.col(HIGH) - pl.col(LOW)
    least = pl.max_horizontal(width, _LEAST_RANGE * pl.col(HIGH))
    for name, (part, formula, centre, bounds) in shapes.items():
        yield Feature(
            name,
            (part - centre * width) / least,
            unit="share of the range",
            formula=f"{formula}; 0 without a range",
            source="Nison (1991), Japanese Candlestick Charting Techniques",
            look_back=1,
            warm_up=1,
            bounds=bounds,
        )


def memory(recipe: Recipe) -> Iterator[Feature]:
    """What the last candles leave behind: the way down from their top, their skew, what a return says of the next."""
    bars, floor = recipe.spans.window_bars, recipe.spans.volatility_floor
    least = bars // 2  # of the returns in a window: a hole takes one of them
    log_return = pl.col(LOG_RETURN)
    variance = (log_return**2).rolling_mean(bars, min_samples=least)
    spread = log_return.rolling_std(bars, min_samples=least)
    yield Feature(
        "drawdown",
        (pl.col(CLOSE) / pl.col(CLOSE).rolling_max(bars)).log() / _scale(bars),
        unit="volatilities",
        formula=f"log(close / highest close of {bars} candles) / (volatility √{bars})",
        source="Magdon-Ismail and Atiya (2004), Risk Magazine 17(10)",
        look_back=max(bars, recipe.scale_bars),
        warm_up=max(bars, recipe.scale_warm_up),
        bounds=(-math.inf, 0.0),
    )
    yield Feature(
        "skew",
        pl.when(spread <= floor / 100).then(0.0).otherwise(log_return.rolling_skew(bars, min_samples=least)),
        unit="skewness",
        formula=f"third standardised moment of {bars} log returns; 0 where all are equal",
        source="Harvey and Siddique (2000), J. Finance 55(3)",
        look_back=bars + 1,
        warm_up=least + 1,
    )
    yield Feature(
        "autocorrelation",
        # where nothing moves, what the rolling sums leave of rounding would be all there is
        pl.when(variance <= (floor / 100) ** 2)
        .then(0.0)
        .otherwise((log_return * log_return.shift(1)).rolling_mean(bars, min_samples=least) / variance),
        unit="correlation",
        formula=f"mean product of neighbouring log returns / mean square, of {bars} candles; 0 where nothing moves",
        source="Lo and MacKinlay (1988), Review of Financial Studies 1(1)",
        look_back=bars + 2,
        warm_up=least + 2,
    )


def _average(span: int) -> pl.Expr:
    return pl.col(CLOSE).rolling_mean(span)


def _scale(span: int) -> pl.Expr:
    return pl.col(VOLATILITY) * math.sqrt(span)


def _half_life(span: int) -> float:
    """Of TA-Lib's exponential average, whose alpha is 2 / (span + 1)."""
    return math.log(2) / -math.log1p(-2 / (span + 1))


def _known(values: pl.Expr) -> pl.Expr:
    """TA-Lib warms up with NaN where others have null."""
    return values.fill_nan(None)
