"""Publications onto bars: a value enters the first bar that closes after it was published, and ages out."""

from collections.abc import Collection

import polars as pl

from gatecast.features.feature import (
    FEAR_GREED_BEFORE,
    FEAR_GREED_NOW,
    FUNDING_NOW,
    NEWS_COUNT,
    NEWS_SCORE,
    Recipe,
)
from gatecast.market.candles import SYMBOL, TS, timeframe_ms
from gatecast.market.publications.table import FEAR_GREED, FUNDING, HEADLINES, PUBLISHED_AT, SOURCE, VALUE

_KNOWN_AT = "_known_at"  # when a bar closes
_AGE = {FEAR_GREED: "1d1h", FUNDING: "8h1m", HEADLINES: "2d"}  # beyond it the next one is missing, and so is the value
_WEEK = "7d"


def with_publications(
    grid: pl.DataFrame, publications: pl.DataFrame, sources: Collection[str], recipe: Recipe
) -> pl.DataFrame:
    """The rows of one market with what has been published before each of them closed.

    What is published at the very instant at which a bar closes enters the next one. A value that has not been followed
    by another in due time is null from then on.

    Args:
        grid: Rows of one market, consecutive bars.
        publications: Scored publications of any market.
        sources: Which of them to join.
        recipe: Length of a bar.

    Returns:
        The rows in their order, with the columns of `gatecast.features.feature` that are about these sources.
    """
    if not sources:
        return grid
    own = publications.filter(pl.col(SYMBOL).is_null() | (pl.col(SYMBOL) == grid[SYMBOL][0])).sort(PUBLISHED_AT)
    length = pl.duration(milliseconds=timeframe_ms(recipe.timeframe))
    rows = grid.with_columns((pl.col(TS) + length).alias(_KNOWN_AT))
    if FEAR_GREED in sources:
        index = _of(own, FEAR_GREED)
        rows = _newest(rows, index, FEAR_GREED, FEAR_GREED_NOW)
        week_before = rows.select(pl.col(_KNOWN_AT).dt.offset_by(f"-{_WEEK}"))
        rows = rows.hstack(_newest(week_before, index, FEAR_GREED, FEAR_GREED_BEFORE).select(FEAR_GREED_BEFORE))
    if FUNDING in sources:
        rows = _newest(rows, _of(own, FUNDING), FUNDING, FUNDING_NOW)
    if HEADLINES in sources:
        rows = _counted(rows, _of(own, HEADLINES))
    return rows.drop(_KNOWN_AT)


def _of(publications: pl.DataFrame, source: str) -> pl.DataFrame:
    return publications.filter(pl.col(SOURCE) == source).select(PUBLISHED_AT, VALUE)


def _newest(rows: pl.DataFrame, values: pl.DataFrame, source: str, name: str) -> pl.DataFrame:
    return rows.join_asof(
        values.rename({VALUE: name}),
        left_on=_KNOWN_AT,
        right_on=PUBLISHED_AT,
        strategy="backward",
        allow_exact_matches=False,
        tolerance=_AGE[source],
        coalesce=False,
        check_sortedness=False,
    ).drop(PUBLISHED_AT)


def _counted(rows: pl.DataFrame, headlines: pl.DataFrame) -> pl.DataFrame:
    """Sum and number of the scores that were published during each bar."""
    bars = rows.select(_KNOWN_AT)
    entered = headlines.join_asof(
        bars, left_on=PUBLISHED_AT, right_on=_KNOWN_AT, strategy="forward", allow_exact_matches=False, coalesce=False
    ).drop_nulls(_KNOWN_AT)
    first = pl.col(PUBLISHED_AT) >= rows[TS][0]  # earlier ones entered a bar before these
    of_bar = (
        entered.filter(first)
        .group_by(_KNOWN_AT, maintain_order=True)
        .agg(pl.col(VALUE).sum().alias(NEWS_SCORE), pl.len().cast(pl.Float64).alias(NEWS_COUNT))
    )
    last = _newest(rows, headlines, HEADLINES, "_last")["_last"].is_not_null()
    counted = rows.join(of_bar, on=_KNOWN_AT, how="left", maintain_order="left")
    speaks = pl.lit(last) | pl.col(NEWS_COUNT).is_not_null()  # of a weekend, that session's bar is the first to tell
    return counted.with_columns(
        pl.when(speaks).then(pl.col(name).fill_null(0.0)).alias(name) for name in (NEWS_SCORE, NEWS_COUNT)
    )
