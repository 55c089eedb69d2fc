"""Spans of the calendar counted in bars: a day, a week, a season."""

from datetime import timedelta

import polars as pl

from gatecast.market.candles import BAR, TS

DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)


def bar_duration(train: pl.DataFrame) -> timedelta:
    """Time from one bar to the next, on average over train rows of one grid.

    The mean, not the usual distance: a market with closing days has five bars in a week and 21 in a month.

    Args:
        train: Rows with ts and bar, of two bars at least.
    """
    ends = train.select(
        first=pl.col(TS).min(), last=pl.col(TS).max(), n_bars=(pl.col(BAR).max() - pl.col(BAR).min()).cast(pl.Int64)
    )
    first, last, n_bars = ends.row(0)
    duration: timedelta = (last - first) / n_bars
    return duration


def bars_of(span: timedelta, duration: timedelta) -> int:
    """Bars of such a duration in a span, to the nearest, and one at least."""
    return max(1, round(span / duration))


def season(duration: timedelta) -> int:
    """Bars of a season: a day where it has several, else a week."""
    of_day = bars_of(DAY, duration)
    return of_day if of_day > 1 else bars_of(WEEK, duration)
