"""Features of what others publish: fear and greed, headlines, funding. Each is off unless the run has its source."""

import math
from collections.abc import Iterator
from typing import Final

import polars as pl

from gatecast.features.feature import (
    FEAR_GREED_BEFORE,
    FEAR_GREED_NOW,
    FUNDING_NOW,
    NEWS_COUNT,
    NEWS_SCORE,
    Feature,
    Recipe,
    decay,
)
from gatecast.market.publications.table import FEAR_GREED, FUNDING, HEADLINES

_PREFIXES: Final = {FEAR_GREED: "fear_greed", HEADLINES: "news_", FUNDING: "funding_rate"}
_LEAST_COUNT = 1e-5  # headlines a bar: about a dozen half-lives after the last one, which then says nothing
_BASIS_POINTS = 1e4
_SHARE = 0.01  # a factor: polars divides a column of one row and a longer one by other means, a bit apart


def source_of(feature: str) -> str:
    """The published source of a feature, told by how its name begins; empty for those of candles."""
    return next((source for source, prefix in _PREFIXES.items() if feature.startswith(prefix)), "")


def fear_greed(_: Recipe) -> Iterator[Feature]:
    """The daily index."""
    yield Feature(
        "fear_greed",
        pl.col(FEAR_GREED_NOW) * _SHARE - 0.5,
        unit="share",
        formula="the newest index published / 100 - 1/2",
        source="Baker and Wurgler (2006), J. Finance 61(4)",
        look_back=1,
        warm_up=1,
        bounds=(-0.5, 0.5),
        rows="grid",
        published=FEAR_GREED,
    )
    yield Feature(
        "fear_greed_change",
        (pl.col(FEAR_GREED_NOW) - pl.col(FEAR_GREED_BEFORE)) * _SHARE,
        unit="share",
        formula="the newest index published, less that of a week before, / 100",
        source="Baker and Wurgler (2006), J. Finance 61(4)",
        look_back=1,
        warm_up=1,
        bounds=(-1.0, 1.0),
        rows="grid",
        published=FEAR_GREED,
    )


def headlines(recipe: Recipe) -> Iterator[Feature]:
    """What headlines sound like, and how many there are."""
    half_life = recipe.spans.published_half_life
    silent = pl.col(NEWS_COUNT).is_null()
    count, score = (_decayed(pl.col(name), half_life) for name in (NEWS_COUNT, NEWS_SCORE))
    yield Feature(
        "news_sentiment",
        pl.when(~silent & (count > _LEAST_COUNT)).then(score / count),
        unit="score",
        formula=f"mean VADER score of the headlines, weights halved every {half_life} bars",
        source="Hutto and Gilbert (2014), VADER, ICWSM 8",
        look_back=_memory(half_life),
        warm_up=1,
        bounds=(-1.0, 1.0),
        rows="grid",
        published=HEADLINES,
    )
    yield Feature(
        "news_intensity",
        pl.when(~silent).then(count.log1p()),
        unit="log of headlines a bar",
        formula=f"log(1 + headlines a bar), weights halved every {half_life} bars",
        source="Tetlock (2007), J. Finance 62(3)",
        look_back=_memory(half_life),
        warm_up=1,
        bounds=(0.0, math.inf),
        rows="grid",
        published=HEADLINES,
    )


def funding(recipe: Recipe) -> Iterator[Feature]:
    """What holders of perpetual contracts pay each other."""
    half_life = recipe.spans.published_half_life
    yield Feature(
        "funding_rate",
        pl.col(FUNDING_NOW) * _BASIS_POINTS,
        unit="basis points a period",
        formula="the newest funding rate settled",
        source="Alexander, Choi, Park and Sohn (2020), J. Futures Markets 40(1)",
        look_back=1,
        warm_up=1,
        rows="grid",
        published=FUNDING,
    )
    yield Feature(
        "funding_rate_average",
        pl.when(pl.col(FUNDING_NOW).is_not_null()).then(_decayed(pl.col(FUNDING_NOW), half_life) * _BASIS_POINTS),
        unit="basis points a period",
        formula=f"mean funding rate over the bars, weights halved every {half_life} bars",
        source="Alexander, Choi, Park and Sohn (2020), J. Futures Markets 40(1)",
        look_back=_memory(half_life),
        warm_up=1,
        rows="grid",
        published=FUNDING,
    )


def _memory(half_life: int) -> int:
    return decay(1.25 * half_life)  # after a silence old publications count for more


def _decayed(values: pl.Expr, half_life: int) -> pl.Expr:
    """Exponential average by time: bars in which the source was silent age what came before them."""
    return values.ewm_mean(half_life=half_life, ignore_nulls=False)
