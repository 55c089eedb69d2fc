"""Leaks of every kind are planted, and each is found and named; what is sound is found sound."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.features import prover
from gatecast.features.build import build_features
from gatecast.features.catalogue import feature_names, look_back
from gatecast.features.feature import Recipe
from gatecast.features.prover import Build, Proof, prove
from gatecast.features.targets import build_targets, target_name
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS, TS_TYPE
from gatecast.market.publications.table import (
    FEAR_GREED,
    FUNDING,
    HEADLINES,
    PUBLISHED_AT,
    VALUE,
    as_publications,
    together,
)
from tests.conftest import NO_PUBLICATIONS, clean_candles, random_candles, small_recipe

SYMBOLS = ("BTC/USDT", "ETH/USDT")
HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
HORIZONS = (1, 6)
REACH = 20
HELD = clean_candles(random_candles(300).filter(~pl.int_range(pl.len()).is_in([100, 101, 222])))
OTHER = clean_candles(random_candles(260, seed=1, start=START + 40 * HOUR)).with_columns(
    pl.lit(SYMBOLS[1]).alias(SYMBOL)
)
CANDLES = pl.concat([HELD, OTHER])


def published(source: str, stamps: list[datetime], scale: float, symbol: str | None = None) -> pl.DataFrame:
    values = np.random.default_rng(len(stamps)).random(len(stamps)) * scale
    rows = pl.DataFrame({PUBLISHED_AT: stamps, VALUE: values}, schema_overrides={PUBLISHED_AT: TS_TYPE})
    return as_publications(rows, source, symbol)


DAILY = published(FEAR_GREED, [START + timedelta(days=day) for day in range(-9, 14)], 100.0)
PUBLICATIONS = together(
    [
        DAILY,
        published(HEADLINES, [START + timedelta(minutes=97 * n) for n in range(-20, 190)], 1.0),
        *(published(FUNDING, [START + timedelta(hours=8 * n) for n in range(-3, 40)], 1e-4, each) for each in SYMBOLS),
    ]
)


def planted(feature: Callable[[pl.DataFrame, pl.DataFrame], pl.Series]) -> Build:
    """A feature table of one feature, and sound targets."""

    def build(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        column = feature(candles, publications).alias("planted")
        return candles.select(SYMBOL, TS, BAR, MISSING, CLOSE, column).hstack(build_targets(candles, HORIZONS))

    return build


def formula(expression: pl.Expr) -> Build:
    return planted(lambda candles, _: candles.select(expression.over(SYMBOL)).to_series())


def catalogue_of(recipe: Recipe) -> Build:
    def build(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        rows = build_features(candles, publications, recipe)
        return rows.hstack(build_targets(rows, HORIZONS))

    return build


def proof_of(
    build: Build, n_cuts: int = 12, rows_at_once: int = 1_000_000, publications: pl.DataFrame = DAILY
) -> Proof:
    return prove(CANDLES.lazy(), publications, build, HORIZONS, HOUR, n_cuts, REACH, rows_at_once)


def own_day(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.Series:
    """The index of a day, known when the day is over, on the rows of that day."""
    days = publications.select((pl.col(PUBLISHED_AT) - timedelta(days=1)).dt.date().alias("day"), VALUE)
    return candles.select(pl.col(TS).dt.date().alias("day")).join(days, on="day", how="left", maintain_order="left")[
        VALUE
    ]


def day_s_high(candles: pl.DataFrame, _: pl.DataFrame) -> pl.Series:
    """The high of a day, labelled with its begin, on the rows of that day."""
    days = candles.group_by_dynamic(TS, every="1d", group_by=SYMBOL, label="left").agg(
        pl.col("high").max().alias("most")
    )
    return candles.join_asof(days, on=TS, by=SYMBOL, check_sortedness=False)["most"]


def at_its_close(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.Series:
    """What is published at the very instant at which a bar closes, in that bar."""
    closes = candles.select((pl.col(TS) + HOUR).alias(PUBLISHED_AT), pl.int_range(pl.len()).alias("row"))
    return closes.sort(PUBLISHED_AT).join_asof(publications, on=PUBLISHED_AT).sort("row")[VALUE]


def other_s_next(candles: pl.DataFrame, _: pl.DataFrame) -> pl.Series:
    """The next close of the other market."""
    second = candles.filter(pl.col(SYMBOL) == SYMBOLS[1]).select(pl.col(BAR) - 1, pl.col(CLOSE).alias("next"))
    return candles.join(second, on=BAR, how="left", maintain_order="left")["next"]


def over_all_markets(candles: pl.DataFrame, _: pl.DataFrame) -> pl.Series:
    """The rank of a volume among those of every market and every time."""
    return candles["volume"].rank()


LEAKS = {
    "shift(-1)": formula(pl.col(CLOSE).shift(-1)),
    "a centred window": formula(pl.col(CLOSE).rolling_mean(5, center=True)),
    "a global mean": formula(pl.col(CLOSE) - pl.col(CLOSE).mean()),
    "a backward fill": formula(pl.col(CLOSE).backward_fill()),
    "a linear interpolation": formula(pl.col(CLOSE).interpolate()),
    "a scaler fitted on everything": formula((pl.col(CLOSE) - pl.col(CLOSE).min()) / pl.col(CLOSE).max()),
    "a rank over everything": planted(over_all_markets),
    "a daily value on its own day": planted(own_day),
    "a resample labelled on the wrong side": planted(day_s_high),
    "a publication in the bar that closes with it": planted(at_its_close),
    "the next bar of another market": planted(other_s_next),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("rows_at_once", [1_000_000, 200])
def test_a_planted_leak_is_caught_with_its_row_and_both_values_in_histories_short_and_long(
    leak: str, rows_at_once: int
) -> None:
    (breach,) = proof_of(LEAKS[leak], rows_at_once=rows_at_once).breaches
    assert breach.known != breach.after
    line = str(breach)
    for words in (
        f"planted of {breach.symbol} at {breach.ts} is {breach.known}",
        f"becomes {breach.after}",
        breach.cut,
    ):
        assert words in line
    assert breach.symbol in SYMBOLS
    at = datetime.fromisoformat(breach.ts)
    assert at < datetime.fromisoformat(breach.cut)
    if rows_at_once > len(CANDLES):
        rows = LEAKS[leak](CANDLES, DAILY).filter((pl.col(SYMBOL) == breach.symbol) & (pl.col(TS) == at))
        assert rows["planted"].to_list() == [breach.known]


def test_a_long_history_is_proven_in_stretches_that_have_the_reach_and_no_more_rows_than_they_may() -> None:
    seen: list[tuple[int, int]] = []

    def build(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        bars = candles[BAR].unique()
        seen.append((len(candles), len(bars)))
        return LEAKS["shift(-1)"](candles, publications)

    proof_of(build, n_cuts=4, rows_at_once=200)
    assert max(rows for rows, _ in seen) <= 200 + len(SYMBOLS)
    seen.clear()
    proof_of(build, n_cuts=4, rows_at_once=10)
    assert max(bars for _, bars in seen) == 2 * REACH + 1
    seen.clear()
    proof_of(build, n_cuts=4, rows_at_once=len(CANDLES))
    assert seen[0] == (len(CANDLES), len(HELD))


ONLY_UNDER = {
    # a feature that counts what is there, whatever it is
    "cut off": formula(pl.int_range(pl.len()).cast(pl.Float64) / pl.len()),
    # a crash or a rally ahead, beyond any that the other changes make
    "scrambled": formula((pl.col(CLOSE).shift(-1) / pl.col(CLOSE)).is_between(5, 100).fill_null(value=False)),
    # a large move ahead, unless it is so large that it counts as a bad tick
    "scaled": formula((pl.col(CLOSE).shift(-1) / pl.col(CLOSE)).is_between(1.3, 2).fill_null(value=False)),
    # a row that is taken only if the next one is sound
    "made NaN": formula(pl.col(CLOSE).shift(-1).is_finite().fill_null(value=True)),
}


@pytest.mark.parametrize("change", ONLY_UNDER)
def test_each_change_of_the_future_shows_a_leak_that_the_others_do_not(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (breach,) = proof_of(ONLY_UNDER[change]).breaches
    assert (breach.column, breach.change) == ("planted", change)
    monkeypatch.delitem(prover.CHANGES, change)
    assert proof_of(ONLY_UNDER[change]).breaches == ()


def test_every_change_is_needed_and_proven_to_be() -> None:
    assert set(ONLY_UNDER) == set(prover.CHANGES)


def test_a_target_that_reaches_further_than_it_says_is_caught() -> None:
    def build(candles: pl.DataFrame, _: pl.DataFrame) -> pl.DataFrame:
        reaching = build_targets(candles, (7,)).rename({target_name(7): target_name(6)})
        return candles.select(SYMBOL, TS, BAR).hstack(build_targets(candles, (1,))).hstack(reaching)

    assert [breach.column for breach in proof_of(build).breaches] == [target_name(6)]


def test_a_feature_that_waits_as_long_as_a_target_is_no_less_a_leak() -> None:
    build = planted(lambda candles, _: build_targets(candles, (1,)).to_series())
    assert [breach.column for breach in proof_of(build).breaches] == ["planted"]


@pytest.mark.parametrize("rows_at_once", [1_000_000, 300])
def test_the_catalogue_of_two_markets_and_every_source_and_the_targets_are_free_of_the_future(
    config: Config, rows_at_once: int
) -> None:
    recipe = small_recipe(config, SYMBOLS, (FEAR_GREED, HEADLINES, FUNDING))
    build = catalogue_of(recipe)
    whole = build(CANDLES, PUBLICATIONS)
    assert all(whole[name].count() > 100 for name in feature_names(recipe))
    bars = REACH if rows_at_once == 300 else look_back(recipe)
    proof = prove(CANDLES.lazy(), PUBLICATIONS, build, HORIZONS, HOUR, 6, bars, rows_at_once)
    assert proof.breaches == ()
    assert set(proof.columns) == {*feature_names(recipe), *map(target_name, HORIZONS), "volatility", CLOSE}


@pytest.mark.parametrize(
    ("source", "column"), [(FEAR_GREED, "fear_greed"), (FUNDING, "funding_rate"), (HEADLINES, "news_intensity")]
)
def test_a_source_that_enters_a_moment_early_is_caught_however_rarely_it_speaks(
    source: str, column: str, config: Config
) -> None:
    recipe = small_recipe(config, SYMBOLS[:1], (source,))
    early = timedelta(hours=1) if source == HEADLINES else timedelta(milliseconds=1)

    def build(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        return catalogue_of(recipe)(candles, publications.with_columns(pl.col(PUBLISHED_AT) - early))

    proof = prove(HELD.lazy(), PUBLICATIONS, build, HORIZONS, HOUR, 2, REACH)
    assert column in {breach.column for breach in proof.breaches}


def test_what_was_proven_is_counted_and_goes_into_json() -> None:
    proof = proof_of(formula(pl.col(CLOSE).shift(1)), n_cuts=3, publications=NO_PUBLICATIONS)
    first = int(CANDLES[BAR].min())  # type: ignore[arg-type]  # a number
    cuts = {first + n for n in (99 - 14, 199 - 7, 299)} | {first + n for n in (102, 223)}  # spaced, and after holes
    delays = {"planted": 0, CLOSE: 0, target_name(1): 1, target_name(6): 6}
    whole = formula(pl.col(CLOSE).shift(1))(CANDLES, NO_PUBLICATIONS)
    known = sum(whole.filter(pl.col(BAR) + delay < cut)[name].count() for cut in cuts for name, delay in delays.items())
    assert (proof.n_cuts, proof.n_values) == (len(cuts), known * len(prover.CHANGES))
    assert proof.breaches == ()
    content = json.loads(json.dumps(proof.as_dict(), allow_nan=False))
    assert content["n_columns"] == len(content["columns"]) == 4
    assert content["changes"] == list(prover.CHANGES)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_leak_of_what_is_no_number_goes_into_json_as_a_word(value: str) -> None:
    build = formula(pl.when(pl.col(CLOSE).shift(-1).is_nan()).then(float(value)).otherwise(pl.lit(1.0)))
    (breach,) = proof_of(build).breaches
    assert (breach.known, breach.after) == (1.0, value)
    assert json.dumps(proof_of(build).as_dict(), allow_nan=False)


@pytest.mark.parametrize("n_bars", [1, 2, 5])
def test_a_history_of_fewer_bars_than_cuts_is_proven_at_each_of_them(n_bars: int) -> None:
    candles, leak = HELD[:n_bars].lazy(), LEAKS["shift(-1)"]
    proof = prove(candles, DAILY, leak, HORIZONS, HOUR, 50, REACH)
    assert proof.n_cuts == n_bars - 1
    assert bool(proof.breaches) == (n_bars > 1)


def test_the_first_bars_of_a_history_are_no_leak_of_their_own(config: Config) -> None:
    recipe = small_recipe(config, SYMBOLS[:1], (FEAR_GREED, HEADLINES, FUNDING))
    proof = prove(HELD[:12].lazy(), PUBLICATIONS, catalogue_of(recipe), HORIZONS, HOUR, 50, REACH)
    assert (proof.n_cuts, proof.breaches) == (11, ())


def test_a_leak_within_a_day_is_caught_where_even_cuts_would_all_fall_at_midnight() -> None:
    hourly = clean_candles(random_candles(12 * 5 * 24 + 1))
    proof = prove(
        hourly.lazy(), NO_PUBLICATIONS, LEAKS["a resample labelled on the wrong side"], HORIZONS, HOUR, 12, 50
    )
    assert [breach.column for breach in proof.breaches] == ["planted"]


def test_a_zero_that_changes_its_sign_has_moved() -> None:
    ahead = pl.col(CLOSE).shift(-1) > pl.col(CLOSE)
    proof = proof_of(formula(pl.when(ahead).then(0.0).otherwise(-0.0)))
    assert [breach.column for breach in proof.breaches] == ["planted"]


def test_a_market_that_ends_before_another_begins_is_proven_in_stretches() -> None:
    early = CANDLES.filter((pl.col("symbol") == SYMBOLS[0]) & (pl.col(BAR) < int(CANDLES[BAR].min()) + 60))  # type: ignore[arg-type]
    late = CANDLES.filter((pl.col("symbol") == SYMBOLS[1]) & (pl.col(BAR) > int(CANDLES[BAR].min()) + 200))  # type: ignore[arg-type]
    both = pl.concat([early, late])
    proof = prove(both.lazy(), NO_PUBLICATIONS, LEAKS["shift(-1)"], HORIZONS, HOUR, 6, 10, rows_at_once=40)
    assert [breach.column for breach in proof.breaches] == ["planted"]
