"""When what is published enters the bars, and when it is too old to count."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.features.build import build_features
from gatecast.features.catalogue import feature_names
from gatecast.features.feature import Recipe
from gatecast.market.candles import TS_TYPE, Market
from gatecast.market.cleaning import clean_grid
from gatecast.market.publications.table import FEAR_GREED, FUNDING, HEADLINES, SOURCES, as_publications, together
from gatecast.model.windows import Windows, build_panel, fit_scaler
from tests.conftest import NO_PUBLICATIONS, random_candles
from tests.features.definitions import defined, histories
from tests.features.markets import HOLES, START, SYMBOLS, everything, market, random_publications, rough_candles

HOUR, DAY, MOMENT = timedelta(hours=1), timedelta(days=1), timedelta(milliseconds=1)
PUBLISHED = ("fear_greed*", "news_*", "funding_rate*")
NEWEST = {FEAR_GREED: "fear_greed", HEADLINES: "news_sentiment", FUNDING: "funding_rate"}
ONE = SYMBOLS[:1]


def released(source: str, values: Sequence[tuple[datetime, float]], symbol: str | None = None) -> pl.DataFrame:
    rows = pl.DataFrame(values, schema={"published_at": TS_TYPE, "value": pl.Float64()}, orient="row")
    return as_publications(rows.with_columns(text=pl.format("headline {}", pl.int_range(pl.len()))), source, symbol)


def hourly(config: Config, publications: pl.DataFrame, n_bars: int = 100, half_life: int = 6) -> pl.DataFrame:
    """What is published on the hours from the first of January 2024 on."""
    recipe = everything(config, ONE, use=PUBLISHED, published_half_life=half_life)
    return build_features(market(ONE[0], rough_candles(n_bars, 1)), publications, recipe)


def sessions(config: Config, calendar: str | None = "XNYS") -> tuple[pl.DataFrame, Recipe]:
    """The candles of daily sessions, with holidays on 1 and 15 January 2024, and how their features are built."""
    raw = random_candles(40).with_columns(ts=pl.Series([START + day * DAY for day in range(40)], dtype=TS_TYPE))
    candles, _, _ = clean_grid(raw, Market("us", ONE[0], "1d"), START + 60 * DAY, calendar)
    return candles, Recipe(everything(config, ONE, use=PUBLISHED).spans, ONE, "1d", SOURCES)


def known(rows: pl.DataFrame, name: str) -> list[datetime]:
    """Open times of the bars at which a feature has a value."""
    return rows.filter(pl.col(name).is_not_null())["ts"].to_list()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("minutes", "enters"),
    [(0, 0), (1, 0), (59, 0), (60 - 1 / 60_000, 0), (60, 1), (60 + 1 / 60_000, 1), (90, 1)],
)
def test_a_value_enters_the_first_bar_that_closes_after_it_was_published(
    source: str, minutes: float, enters: int, config: Config
) -> None:
    # 60 minutes after a bar has opened it closes: what comes at that instant is of the next one
    opened = START + 12 * HOUR
    rows = hourly(config, released(source, [(opened + timedelta(minutes=minutes), 0.5)]))
    assert known(rows, NEWEST[source])[0] == opened + enters * HOUR


def test_a_value_of_the_day_enters_the_bar_of_the_next_day(config: Config) -> None:
    published = released(FEAR_GREED, [(START + day * DAY, 10.0 + day) for day in range(-8, 41)])
    candles, recipe = sessions(config, None)
    rows = build_features(candles, published, recipe)
    expected = [
        (10.0 + day) / 100 - 0.5 for day in range(40)
    ]  # of the day that opens the bar: the next one is too late
    assert rows["fear_greed"].to_list() == pytest.approx(expected)
    assert rows["fear_greed_change"].to_list() == pytest.approx([0.07] * 40)


@pytest.mark.parametrize(
    ("published_at", "session"),
    [
        (datetime(2024, 1, 5, 23, 59, tzinfo=UTC), 5),  # a Friday
        (datetime(2024, 1, 6, tzinfo=UTC), 8),  # at the very close of Friday's session
        (datetime(2024, 1, 7, 10, tzinfo=UTC), 8),  # on Sunday
        (datetime(2024, 1, 8, 12, tzinfo=UTC), 8),
        (datetime(2024, 1, 9, tzinfo=UTC), 9),
        (datetime(2024, 1, 13, 12, tzinfo=UTC), 16),  # on Saturday before a holiday: days before the next close
        (datetime(2024, 1, 15, 12, tzinfo=UTC), 16),  # on the holiday
    ],
)
def test_a_headline_of_a_weekend_enters_the_session_after_it(
    published_at: datetime, session: int, config: Config
) -> None:
    own = released(HEADLINES, [(published_at, 0.5)])
    candles, recipe = sessions(config)
    rows = build_features(candles, own, recipe)
    assert known(rows, "news_sentiment")[0] == datetime(2024, 1, session, tzinfo=UTC)


@pytest.mark.parametrize("calendar", ["XNYS", None])
def test_daily_bars_follow_the_slow_definitions(calendar: str | None, config: Config) -> None:
    publications = random_publications(40 * 24)
    candles, recipe = sessions(config, calendar)
    rows = build_features(candles, publications, recipe)
    history = histories(candles, publications, recipe)[ONE[0]]
    for name in feature_names(recipe):
        definition = defined(name, history)
        assert rows[name].is_null().to_list() == [value is None for value in definition], name
        assert rows[name].drop_nulls().to_list() == pytest.approx([v for v in definition if v is not None]), name
        assert rows[name].drop_nulls().n_unique() > 5, name


@pytest.mark.parametrize(("source", "hours"), [(FEAR_GREED, 25), (FUNDING, 8), (HEADLINES, 48)])
def test_a_value_that_no_other_follows_ages_out(source: str, hours: int, config: Config) -> None:
    published_at = START + 12 * HOUR
    rows = hourly(config, released(source, [(published_at, 0.5)]))
    told = {FEAR_GREED: ["fear_greed"], FUNDING: ["funding_rate", "funding_rate_average"]}
    for name in told.get(source, ["news_sentiment", "news_intensity"]):
        assert known(rows, name) == [published_at + n * HOUR for n in range(hours)], name


def test_a_source_that_falls_silent_is_a_mask_to_the_network_and_no_zero(config: Config) -> None:
    published = together(
        [
            released(FEAR_GREED, [(START + n * DAY, 60.0 + n) for n in range(-8, 3)]),  # none from the third day on
            released(FUNDING, [(START + 8 * n * HOUR, 1e-4) for n in range(-2, 30)], ONE[0]),
        ]
    )
    rows = hourly(config, published, 96)
    names = [name for name in rows.columns if name.startswith(("fear_greed", "funding_rate"))]
    assert rows["fear_greed"].null_count() == 96 - 73
    panel = build_panel(rows, names, (1,), fit_scaler(rows, names), list(rows["symbol"].unique()), Windows(8, 8))
    of_candles, of_index, of_funding = panel.inputs[8 : 8 + 96, -3:].T
    assert of_index.tolist() == [0.0] * 73 + [1.0] * 23
    assert of_funding.sum() == of_candles.sum() == 0


def test_headlines_are_a_mean_and_a_count_that_fade(config: Config) -> None:
    at = START + 10 * HOUR
    three = [(at, 0.5), (at + 59 * timedelta(minutes=1), -0.1), (at + 2 * HOUR, 1.0)]
    rows = hourly(config, released(HEADLINES, three), half_life=1)[10:14]
    assert rows["news_sentiment"].to_list() == pytest.approx([0.2, 0.2, (0.4 / 4 + 1) / 1.5, (0.4 / 8 + 0.5) / 0.75])
    counts = [2.0, 1 / 1.5, 1.5 / 1.75, 0.75 / 1.875]
    assert rows["news_intensity"].to_list() == pytest.approx([math.log1p(count) for count in counts])


def test_a_headline_before_the_first_candle_is_not_counted_again(config: Config) -> None:
    early = hourly(config, released(HEADLINES, [(START - MOMENT, 0.5)]))
    assert known(early, "news_sentiment") == []
    assert early["news_intensity"][0] == 0.0, "the source speaks, but not of these bars"
    assert known(hourly(config, released(HEADLINES, [(START, 0.5)])), "news_sentiment")[0] == START


def test_what_is_published_while_candles_are_missing_counts_when_they_are_back(config: Config) -> None:
    recipe = everything(config, ONE, use=PUBLISHED)
    during = START + 95 * HOUR
    publications = together(
        [
            released(FEAR_GREED, [(during, 80.0)]),
            released(HEADLINES, [(during, 0.5)]),
            released(FUNDING, [(START + 100 * HOUR, 1e-4)], ONE[0]),
        ]
    )
    gone = {90 + n for n in range(13)}
    assert gone < set(HOLES)
    rows = build_features(market(ONE[0], rough_candles(130, 1), HOLES), publications, recipe)
    for name in NEWEST.values():
        assert known(rows, name)[0] == START + 103 * HOUR, name
    assert rows["news_intensity"][103] == pytest.approx(
        math.log1p(0.5 ** (8 / 6) / sum(0.5 ** (n / 6) for n in range(9)))
    )


def test_the_funding_of_another_market_does_not_touch(config: Config) -> None:
    recipe = everything(config, SYMBOLS[:2], use=PUBLISHED)
    candles = pl.concat(market(symbol, rough_candles(50, 1)) for symbol in SYMBOLS[:2])
    rates = [(START + 8 * n * HOUR, 1e-4 * (n + 1)) for n in range(6)]
    rows = build_features(candles, released(FUNDING, rates, SYMBOLS[1]), recipe)
    own, other = (rows.filter(pl.col("symbol") == symbol) for symbol in SYMBOLS[:2])
    assert own["funding_rate"].null_count() == own["funding_rate_average"].null_count() == 50
    assert other["funding_rate"][:48].to_list() == pytest.approx([bar // 8 + 1 for bar in range(48)])
    assert other["funding_rate"][48:].null_count() == 2, "the seventh rate is missing"


def test_what_concerns_every_market_enters_each(config: Config) -> None:
    recipe = everything(config, SYMBOLS[:2], use=PUBLISHED)
    candles = pl.concat(market(symbol, rough_candles(50, 1)) for symbol in SYMBOLS[:2])
    both = together([released(FEAR_GREED, [(START, 70.0)]), released(HEADLINES, [(START, 0.5)])])
    rows = build_features(candles, both, recipe)
    own, other = (rows.filter(pl.col("symbol") == symbol).drop("symbol") for symbol in SYMBOLS[:2])
    assert own.equals(other)
    assert len(known(own, "fear_greed")) == 25


def test_where_nothing_is_published_there_is_no_value(config: Config) -> None:
    rows = hourly(config, NO_PUBLICATIONS)
    names = [name for name in rows.columns if name.startswith(("fear_greed", "news", "funding_rate"))]
    assert len(names) == 6
    assert rows.select(names).null_count().row(0) == (100,) * 6


def test_sources_that_the_run_has_not_are_not_looked_at(config: Config) -> None:
    recipe = everything(config, ONE, (FEAR_GREED,))
    candles = market(ONE[0], rough_candles(100, 1))
    publications = random_publications(100)
    index_alone = publications.filter(pl.col("source") == FEAR_GREED)
    assert build_features(candles, publications, recipe).equals(build_features(candles, index_alone, recipe))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 99))
def test_what_is_published_when_a_bar_closes_or_later_never_changes_it(config: Config, seed: int, cut: int) -> None:
    whole = random_publications(100, seed).sample(fraction=1, shuffle=True, seed=seed)
    closes = START + cut * HOUR
    before = pl.col("published_at") < closes
    at_the_close = together([released(FEAR_GREED, [(closes, 1.0)]), released(HEADLINES, [(closes, 1.0)])])
    changed = pl.concat([whole.filter(before), at_the_close])
    rows, rebuilt = hourly(config, whole), hourly(config, changed)
    assert rows[:cut].equals(rebuilt[:cut])
