"""Bars of a day, a week and a season, from the rows alone."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from gatecast.evaluation.baselines.calendar_spans import DAY, WEEK, bar_duration, bars_of, season
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.market.grid import Grid
from tests.evaluation.baselines.session_market import session_market
from tests.evaluation.small_market import small_market


@pytest.mark.parametrize(
    ("timeframe", "bars"), [("15m", 96), ("1h", 24), ("4h", 6), ("12h", 2), ("1d", 7), ("7d", 1), ("30d", 1)]
)
def test_a_season_is_a_day_where_that_has_several_bars_else_a_week(timeframe: str, bars: int) -> None:
    grid = Grid(timeframe)
    first = grid.first_from(datetime(2024, 1, 1, tzinfo=UTC))
    numbers = pl.Series(BAR, range(first, first + 50))
    rows = pl.DataFrame({TS: grid.stamps(numbers), BAR: numbers})
    assert bar_duration(rows) == timedelta(milliseconds=grid.length)
    assert season(bar_duration(rows)) == bars


def test_a_hole_does_not_lengthen_a_bar() -> None:
    rows = small_market(300)
    some = rows.filter(~pl.col(BAR).is_between(rows[BAR][10], rows[BAR][200]))
    assert bar_duration(some) == timedelta(hours=1)


def test_markets_of_different_age_have_bars_of_one_length() -> None:
    rows = small_market(300)
    young = rows.filter((pl.col(SYMBOL) == "BTC/USDT") | (pl.col(BAR) > rows[BAR][200]))
    assert bar_duration(young) == timedelta(hours=1)


@pytest.mark.parametrize("n_bars", [60, 250, 480, 1000])
def test_of_daily_sessions_a_season_is_a_week_of_five(n_bars: int) -> None:
    duration = bar_duration(session_market(n_bars))
    assert DAY < duration < 2 * DAY
    assert season(duration) == bars_of(WEEK, duration) == 5
    assert bars_of(DAY, duration) == 1
