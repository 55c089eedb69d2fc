"""Bar numbers with and without a calendar, and daily stocks from their file to the times of their forecasts."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import cast

import exchange_calendars
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import CleanConfig, Config
from gatecast.errors import ConfigurationError, DataError
from gatecast.features.targets import build_targets, known_before
from gatecast.forecasts.issue import issue_forecast
from gatecast.market.candles import SYMBOL, TS, TS_TYPE, Market
from gatecast.market.cleaning import clean_market
from gatecast.market.coverage import coverage
from gatecast.market.grid import Grid
from gatecast.market.store import Store, merge_candles
from gatecast.model.fitted import FittedModel
from gatecast.model.folder import ModelCard
from gatecast.model.predictions import HORIZON, QUANTILES
from gatecast.model.windows import Windows
from gatecast.params import configure, read_config
from gatecast.steps import clean, features, ingest, validate
from gatecast.steps.stage import section_arguments
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.conftest import NO_PUBLICATIONS, random_candles
from tests.market.real_candles import real_candles, real_file

HOURLY, NEW_YORK = Grid("1h"), Grid("1d", "XNYS")
STOCK = Market("us", "IBM", "1d")
DAY = timedelta(days=1)
SETTINGS = CleanConfig(outlier_bars=60, outlier_deviations=12.0)
STOCKS = {"IBM": "us_IBM_1d", "AAPL": "us_AAPL_1d__2019_2024"}


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def stamped(stamps: Sequence[datetime]) -> pl.DataFrame:
    return random_candles(len(stamps)).with_columns(pl.Series(TS, stamps, dtype=TS_TYPE))


@lru_cache
def sessions() -> list[datetime]:
    """The sessions of New York, as the library gives them in a span of another length."""
    found = exchange_calendars.get_calendar("XNYS", start="1995-01-01", end="2030-12-31").sessions
    return [each.to_pydatetime().replace(tzinfo=UTC) for each in found]


@given(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_without_a_calendar_a_bar_is_a_multiple_of_the_timeframe_since_the_epoch(instant: datetime) -> None:
    instant = instant.replace(microsecond=0)
    whole, rest = divmod(int(instant.timestamp()), 3600)
    assert HOURLY.bar_of(instant) == HOURLY.first_open(instant) == whole
    assert HOURLY.first_from(instant) == whole + (rest > 0)
    stamps = pl.Series([instant, HOURLY.opens_at(whole)], dtype=TS_TYPE)
    assert HOURLY.numbers(stamps).to_list() == [None if rest else whole, whole]
    assert HOURLY.opens_at(whole) <= instant < HOURLY.closes_at(whole)


@settings(deadline=None)
@given(when=st.datetimes(datetime(1996, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)), at_midnight=st.booleans())
def test_with_a_calendar_a_bar_is_a_session_as_counting_them_one_by_one_gives(
    when: datetime, at_midnight: bool
) -> None:
    opens = sessions()
    instant = when.replace(hour=0, minute=0, second=0, microsecond=0) if at_midnight else when.replace(microsecond=0)
    bar_0 = sum(each < day("2000-01-01") for each in opens)
    assert NEW_YORK.bar_of(instant) == sum(each <= instant for each in opens) - 1 - bar_0
    assert NEW_YORK.first_from(instant) == sum(each < instant for each in opens) - bar_0
    assert NEW_YORK.first_open(instant) == sum(each + DAY <= instant for each in opens) - bar_0
    number = NEW_YORK.numbers(pl.Series([instant], dtype=TS_TYPE))[0]
    assert number == (opens.index(instant) - bar_0 if instant in opens else None)
    assert NEW_YORK.stamps(pl.Series([NEW_YORK.bar_of(instant)]))[0] == max(e for e in opens if e <= instant)


def test_a_bar_number_depends_neither_on_the_day_of_the_run_nor_on_where_the_data_begins() -> None:
    days = ("1999-12-31", "2000-01-03", "2024-07-05")
    assert [NEW_YORK.bar_of(day(each)) for each in days] == [-1, 0, 6164]  # anchored blocks stand on these
    assert NEW_YORK.numbers(pl.Series([day(days[2])], dtype=TS_TYPE)).to_list() == [6164]


def test_a_horizon_counts_sessions_also_those_to_come() -> None:
    friday = day("2026-11-27")
    (monday,) = NEW_YORK.stamps(pl.Series([NEW_YORK.bar_of(friday) + 1]))
    assert monday == day("2026-11-30")
    in_a_year = NEW_YORK.closes_at(NEW_YORK.bar_of(friday) + 252)
    assert timedelta(days=360) < in_a_year - friday < timedelta(days=371)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("XNYZ", "did you mean .*XNYS"),
        ("nyse", "did you mean NYSE"),
        ("moonbase-alpha", "known are .*XNYS"),
    ],
)
def test_an_unknown_calendar_is_one_line_with_near_matches(code: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"ingest.calendar = '{code}' is not a calendar.*{words}") as error:
        Grid("1d", code).bar_of(day("2024-01-02"))
    assert "\n" not in str(error.value)


def test_an_unknown_calendar_stops_ingest_before_anything_is_stored(tmp_path: Path) -> None:
    copy_workspace(tmp_path)
    workspace = Workspace(tmp_path.resolve())
    random_candles(100).write_parquet(tmp_path / "x.parquet")
    settings = ["ingest.timeframe=1d", "ingest.calendar=XNYZ", "ingest.source=files", "ingest.files=x.parquet"]
    configure(workspace, None, settings)
    with pytest.raises(ConfigurationError, match="'XNYZ' is not a calendar"):
        ingest.run(workspace, read_config(workspace), lambda _: None)
    assert not workspace.candles.exists()


def test_what_lies_beyond_the_calendar_is_named_and_not_guessed() -> None:
    shanghai = Grid("1d", "XSHG")  # its holidays are announced a year ahead
    last = shanghai.bar_of(day("2026-12-31"))
    with pytest.raises(
        DataError, match=r"calendar XSHG is known from 1990-12-03T00:00Z to .* update exchange_calendars"
    ):
        shanghai.opens_at(last + 1)
    with pytest.raises(DataError, match="lies outside"):
        NEW_YORK.first_open(day("2070-01-01"))


def test_closed_days_are_no_holes_and_a_candle_on_one_goes_to_quarantine() -> None:
    days = [day("2001-09-06") + DAY * n for n in range(14)]
    raw = stamped(days)
    closed = {8, 9, 11, 12, 13, 14, 15, 16}  # two weekends, and the days after the attacks
    result = clean_market(raw, STOCK, day("2002-01-01"), SETTINGS, "XNYS")
    assert {ts.day for ts in result.quarantine[TS]} == closed
    assert set(result.quarantine["reason"]) == {"open time is off the grid: market closed that day"}
    assert result.counts["missing"] == 0
    assert result.candles["bar"].to_list() == list(range(result.candles["bar"][0], result.candles["bar"][0] + 6))
    without = clean_market(raw.filter(~pl.col(TS).dt.day().is_in(closed)), STOCK, day("2002-01-01"), SETTINGS)
    assert without.counts["missing"] == len(closed)  # the fault that a calendar mends
    late = raw.with_columns(
        pl.when(pl.col(TS) == days[0]).then(days[0] + DAY / 2).otherwise(TS).alias(TS).cast(TS_TYPE)
    )
    reasons = clean_market(late, STOCK, day("2002-01-01"), SETTINGS, "XNYS").counts["reasons"]
    assert reasons == {"open time is off the grid": 1, "open time is off the grid: market closed that day": len(closed)}


def test_a_session_that_has_no_candle_is_a_hole() -> None:
    week = [day(f"2024-01-{n:02}") for n in (8, 9, 11, 12)]
    result = clean_market(stamped(week), STOCK, day("2024-02-01"), SETTINGS, "XNYS")
    assert result.candles.filter("missing")[TS].to_list() == [day("2024-01-10")]
    assert result.counts["by_month"] == {"2024-01": {"bars": 5, "missing": 1, "quarantined": 0, "raw": 4}}


def test_what_is_known_at_a_boundary_is_counted_in_sessions() -> None:
    days = [each for each in sessions() if day("2024-01-01") <= each < day("2024-03-01")]
    candles = clean_market(stamped(days), STOCK, day("2024-04-01"), SETTINGS, "XNYS").candles
    rows = candles.hstack(build_targets(candles, (1, 5)))
    monday = day("2024-02-05")
    known = known_before(rows, (1, 5), NEW_YORK.first_open(monday))
    assert known[TS][-1] == day("2024-02-02")  # Friday's candle is known on Saturday
    with_target = known.filter(pl.col("target_5").is_not_null())[TS]
    assert with_target[-1] == day("2024-01-26")  # five sessions later is that Friday


class _Still:
    """Stands in for a model: every quantile of every horizon is nought."""

    windows = Windows(stride=8, burn_in=4)

    def predict_newest(self, rows: pl.DataFrame) -> pl.DataFrame:
        horizons = pl.DataFrame({HORIZON: [1, 5]})
        noughts = (pl.lit(0.0).alias(name) for name in QUANTILES)
        return rows.select(SYMBOL, TS).tail(1).join(horizons, how="cross").with_columns(*noughts)


def test_a_forecast_issued_after_friday_aims_at_the_close_of_monday(config: Config) -> None:
    friday = day("2024-05-24")  # and Monday the 27th is a holiday
    days = [each for each in sessions() if day("2020-01-01") <= each <= friday]
    card = ModelCard(
        "us", ("IBM",), "1d", "XNYS", {"IBM": "2020-01-02T00:00Z"}, {"IBM": "2024-01-01T00:00Z"}, config.features, ()
    )
    candles = stamped(days).with_columns(pl.lit("IBM").alias(SYMBOL))
    forecast = issue_forecast(cast(FittedModel, _Still()), card, candles, NO_PUBLICATIONS)
    assert set(forecast["issued_at"]) == {friday + DAY}
    aims = dict(forecast.select(HORIZON, "target_at").unique().iter_rows())
    assert aims == {1: day("2024-05-28") + DAY, 5: day("2024-06-03") + DAY}
    assert forecast.schema["target_at"] == forecast.schema["issued_at"] == TS_TYPE


def test_status_counts_no_closed_day_as_a_hole(tmp_path: Path) -> None:
    store = Store(tmp_path / "candles", tmp_path / "ledger")
    days = [each for each in sessions() if day("2024-01-01") <= each < day("2024-03-01")]
    merge_candles(store, STOCK, stamped([each for each in days if each != day("2024-02-13")]))
    found = coverage(store, STOCK, None, None, "XNYS")
    assert found["holes"]["ours"] == {"n": 1, "bars": 1}
    assert found["covered"] == (len(days) - 1) / len(days)
    assert found["age_bars"] == NEW_YORK.first_open(datetime.now(UTC)) - NEW_YORK.bar_of(days[-1]) - 1
    assert coverage(store, STOCK, None, None)["holes"]["ours"]["bars"] > 15  # the fault that a calendar mends


@pytest.mark.parametrize("symbol", STOCKS)
def test_a_real_daily_stock_has_no_missing_bar(symbol: str) -> None:
    raw = real_candles(STOCKS[symbol], "stocks")
    result = clean_market(raw, Market("us", symbol, "1d"), raw[TS][-1] + DAY, SETTINGS, "XNYS")
    assert (result.counts["missing"], result.counts["quarantined"]) == (0, 0)
    assert result.counts["clean"] == len(raw)
    september = result.candles.filter(pl.col(TS).is_between(day("2001-09-10"), day("2001-09-17")))[TS].dt.date()
    assert september.to_list() == ([date(2001, 9, 10), date(2001, 9, 17)] if symbol == "IBM" else [])


@pytest.mark.parametrize("symbol", STOCKS)
def test_a_real_daily_stock_goes_from_its_file_to_its_features(symbol: str, tmp_path: Path) -> None:
    path = real_file(STOCKS[symbol], "stocks")
    copy_workspace(tmp_path)
    workspace = Workspace(tmp_path.resolve())
    configure(workspace, "stocks-daily", [f"ingest.symbols=[{symbol}]", f"ingest.files={path}"])
    ingest.run(workspace, read_config(workspace), lambda _: None)
    config = read_config(workspace)
    for step in (clean, validate, features):
        step.run(workspace, **section_arguments(step.run, config))
    raw, rows = pl.read_parquet(path), pl.read_parquet(workspace.all_features)
    assert rows[TS].to_list() == raw[TS].to_list()
    close = raw["close"].to_list()
    expected = [later / now for now, later in zip(close, close[5:], strict=False)]
    assert rows["target_5"].exp().to_list()[:-5] == pytest.approx(expected)
    boundary = config.split.resolved[0]
    development = pl.read_parquet(workspace.development_features)
    assert development[TS][-1] < boundary
    assert NEW_YORK.opens_at(NEW_YORK.first_from(boundary)) == boundary
