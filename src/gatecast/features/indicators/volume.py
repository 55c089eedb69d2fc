"""Features of volume: how much is traded, at which price, and on which side."""

import math
from collections.abc import Iterator

import polars as pl

from gatecast.features.feature import LOG_RETURN, VOLATILITY, Feature, Recipe, decay, ewm
from gatecast.market.candles import CLOSE, HIGH, LOW, VOLUME

_LEAST_SPREAD = 1e-5  # of log volume: below it the volume has not moved
_LEAST_VOLUME = 1e-250  # below it weights of long ago are all there is


def volume(recipe: Recipe) -> Iterator[Feature]:
    """Exponentially weighted throughout: rolling sums keep a rest of rounding once a large volume has left them."""
    log_volume = pl.col(VOLUME).log1p()
    for half_life in recipe.spans.volume_half_lives:
        mean = ewm(log_volume, half_life, gapless=True)
        spread = (ewm(log_volume**2, half_life, gapless=True) - mean**2).clip(0).sqrt()
        yield Feature(
            f"volume_z_{half_life}",
            (log_volume - mean) / pl.max_horizontal(spread, _LEAST_SPREAD),
            unit="deviations",
            formula=f"(log(1 + volume) - its mean) / its standard deviation, half-life {half_life}; at least 1e-5",
            source="Karpoff (1987), J. Financial and Quantitative Analysis 22(1)",
            look_back=decay(1.25 * half_life),
            warm_up=half_life,
        )
    half_life = recipe.spans.volume_half_lives[-1]
    memory = decay(1.25 * half_life)  # volumes differ by more orders of magnitude than squared returns
    typical = (pl.col(HIGH) + pl.col(LOW) + pl.col(CLOSE)) / 3
    traded = ewm(pl.col(VOLUME), half_life, gapless=True)
    paid = ewm(pl.col(VOLUME) * typical, half_life, gapless=True) / traded
    yield Feature(
        "vwap_distance",
        pl.when(traded > _LEAST_VOLUME).then(
            (pl.col(CLOSE) / paid).log() / (pl.col(VOLATILITY) * math.sqrt(half_life))
        ),
        unit="volatilities",
        formula=f"log(close / volume-weighted typical price of half-life {half_life}) / (volatility √{half_life})",
        source="Berkowitz, Logue and Noser (1988), J. Finance 43(1)",
        look_back=max(memory, recipe.scale_bars),
        warm_up=max(half_life, recipe.scale_warm_up),
    )
    signed = pl.col(VOLUME) * pl.col(LOG_RETURN).sign()
    compared = pl.when(pl.col(LOG_RETURN).is_not_null()).then(pl.col(VOLUME))
    yield Feature(
        "obv_slope",
        pl.when(ewm(compared, half_life) > _LEAST_VOLUME).then(ewm(signed, half_life) / ewm(compared, half_life)),
        unit="share of the volume",
        formula=f"weighted mean step of on-balance volume / weighted mean volume, half-life {half_life}",
        source="Granville (1963), Granville's New Key to Stock Market Profits",
        look_back=memory + 1,
        warm_up=half_life + 1,
        bounds=(-1.0, 1.0),
    )
