"""Features of volatility: its level, and estimators of other half-lives and of whole candles against it."""

import math
from collections.abc import Iterator

import polars as pl
import polars_talib as talib

from gatecast.features.feature import LOG_RETURN, VOLATILITY, Feature, Recipe, decay, ewm
from gatecast.market.candles import CLOSE, HIGH, LOW, OPEN

_LEAST_VARIANCE = 1e-12  # keeps logarithms finite through a stretch of equal prices


def scale_volatility(half_life: int, floor: float) -> pl.Expr:
    """EWMA volatility of one bar with a floor; what scales the target.

    Source:
        RiskMetrics Technical Document, 4th ed. (1996), sec. 5.2.
    """
    variance = ewm(pl.col(LOG_RETURN) ** 2, half_life)
    return pl.max_horizontal(variance.sqrt(), pl.when(variance.is_not_null()).then(pl.lit(floor)))


def level(recipe: Recipe) -> Iterator[Feature]:
    """How much the market moves, for itself."""
    yield Feature(
        "log_volatility",
        pl.col(VOLATILITY).log(),
        unit="log of log return",
        formula=f"log of the EWMA volatility of half-life {recipe.spans.scale_half_life}",
        source="RiskMetrics Technical Document, 4th ed. (1996), sec. 5.2",
        look_back=recipe.scale_bars,
        warm_up=recipe.scale_warm_up,
        bounds=(math.log(recipe.spans.volatility_floor), math.inf),
    )
    bars = recipe.spans.atr_bars
    true_range = talib.atr(pl.col(HIGH), pl.col(LOW), pl.col(CLOSE), bars).fill_nan(None) / pl.col(CLOSE)
    yield Feature(
        "atr_ratio",
        (true_range.clip(math.sqrt(_LEAST_VARIANCE)) / pl.col(VOLATILITY)).log(),
        unit="log ratio",
        formula=f"log(average true range of {bars} candles / close / volatility)",
        source="Wilder (1978), New Concepts in Technical Trading Systems, sec. III",
        look_back=max(bars + decay(math.log(2) / -math.log1p(-1 / bars)) + 1, recipe.scale_bars),
        warm_up=max(bars + 1, recipe.scale_warm_up),
    )


def ratios(recipe: Recipe) -> Iterator[Feature]:
    """Four estimators at each half-life, as log ratios to the volatility that scales."""
    to_high, to_low = (pl.col(HIGH) / pl.col(OPEN)).log(), (pl.col(LOW) / pl.col(OPEN)).log()
    to_close = (pl.col(CLOSE) / pl.col(OPEN)).log()
    width = to_high - to_low
    parkinson = width**2 / (4 * math.log(2))
    garman_klass = 0.5 * width**2 - (2 * math.log(2) - 1) * to_close**2
    rogers_satchell = to_high * (to_high - to_close) + to_low * (to_low - to_close)
    opening = pl.when(pl.col(LOG_RETURN).is_not_null()).then(pl.col(LOG_RETURN) - to_close)
    for half_life in recipe.spans.volatility_half_lives:
        squares = {
            "volatility": (ewm(pl.col(LOG_RETURN) ** 2, half_life), "close-to-close", 1, _RISKMETRICS),
            "parkinson": (ewm(parkinson, half_life, gapless=True), "Parkinson's", 0, _PARKINSON),
            "garman_klass": (ewm(garman_klass, half_life, gapless=True), "Garman and Klass's", 0, _GARMAN_KLASS),
            "yang_zhang": (
                _yang_zhang(opening, to_close, rogers_satchell, half_life),
                "Yang and Zhang's",
                1,
                _YANG_ZHANG,
            ),
        }
        for name, (variance, words, extra, source) in squares.items():
            yield Feature(
                f"{name}_ratio_{half_life}",
                (variance.clip(_LEAST_VARIANCE).sqrt() / pl.col(VOLATILITY)).log(),
                unit="log ratio",
                formula=f"log({words} volatility of half-life {half_life} / volatility)",
                source=source,
                look_back=max(decay(half_life) + extra, recipe.scale_bars),
                warm_up=max(half_life + extra, recipe.scale_warm_up),
            )


_RISKMETRICS = "RiskMetrics Technical Document, 4th ed. (1996), sec. 5.2"
_PARKINSON = "Parkinson (1980), J. Business 53(1)"
_GARMAN_KLASS = "Garman and Klass (1980), J. Business 53(1)"
_YANG_ZHANG = "Yang and Zhang (2000), J. Business 73(3)"


def _yang_zhang(opening: pl.Expr, to_close: pl.Expr, rogers_satchell: pl.Expr, half_life: int) -> pl.Expr:
    """Exponentially weighted, with the span of the weights as number of bars in its factor k."""
    alpha = -math.expm1(-math.log(2) / half_life)
    span = max(2 / alpha - 1, 2.0)
    k = 0.34 / (1.34 + (span + 1) / (span - 1))
    of_opening = ewm(opening**2, half_life) - ewm(opening, half_life) ** 2
    squares = ewm(k * to_close**2 + (1 - k) * rogers_satchell, half_life, gapless=True)
    return of_opening + squares - k * ewm(to_close, half_life, gapless=True) ** 2
