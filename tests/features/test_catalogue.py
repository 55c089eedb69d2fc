import math
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.errors import ConfigurationError
from gatecast.features.build import build_features
from gatecast.features.catalogue import catalogue, declared, feature_names
from gatecast.features.feature import Feature, Recipe
from gatecast.features.indicators.published import source_of
from gatecast.market.candles import PRICES
from gatecast.market.publications.table import SOURCES
from gatecast.model.windows import n_inputs
from tests.conftest import NO_PUBLICATIONS, clean_candles
from tests.features.definitions import DEFINITIONS, Values, defined, each, family_of, histories
from tests.features.markets import (
    HOLES,
    SYMBOLS,
    everything,
    market,
    random_publications,
    rough_candles,
    three_markets,
)

ONE = SYMBOLS[:1]
ROUNDING = 1e-9
# polars keeps running sums of the returns' powers, which leave a little behind
TOLERANCE = {"skew": 1e-7, "autocorrelation": 1e-7}

# Daily closes and the index from them that Wilder's definition gives, as ChartSchool of StockCharts prints them
CHARTED_CLOSES = (
    *(44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931),
    *(46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521),
    *(45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314),
)
CHARTED_RSI = (
    *(70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38),
    *(54.71, 50.42, 39.99, 41.46, 41.87, 45.46, 37.30, 33.08, 37.77),
)
# Closes, the middle of the bands and half their width, 20 days and 2 deviations, of the same
BANDED_CLOSES = (
    *(86.1557, 89.0867, 88.7829, 90.3228, 89.0671, 91.1453, 89.4397, 89.1750, 86.9302, 87.6752, 86.9596, 89.4299),
    *(89.3221, 88.7241, 87.4497, 87.2634, 89.4985, 87.9006, 89.1260, 90.7043, 92.9001, 92.9784, 91.8021, 92.6647),
)
BANDS = (
    (88.70794, 91.291862),
    (89.04516, 91.949268),
    (89.239745, 92.612595),
    (89.390705, 92.9342),
    (89.5078, 93.31195),
)
# High, low, close and the average true range over 14 days, of the same
RANGED = (
    *((48.70, 47.79, 48.16), (48.72, 48.14, 48.61), (48.90, 48.39, 48.75), (48.87, 48.37, 48.63)),
    *((48.82, 48.24, 48.74), (49.05, 48.635, 49.03), (49.20, 48.94, 49.07), (49.35, 48.86, 49.32)),
    *((49.92, 49.50, 49.91), (50.19, 49.87, 50.13), (50.12, 49.20, 49.53), (49.66, 48.90, 49.50)),
    *((49.88, 49.43, 49.75), (50.19, 49.725, 50.03), (50.36, 49.26, 50.31), (50.57, 50.09, 50.52)),
    *((50.65, 50.30, 50.41), (50.43, 49.21, 49.34), (49.63, 48.98, 49.37), (50.33, 49.61, 50.23)),
)
AVERAGE_RANGES = (0.555, 0.5939285714, 0.5857908163, 0.5689486152, 0.6154522855, 0.6179199794, 0.6423542666)


@pytest.fixture(scope="module")
def recipe(config: Config) -> Recipe:
    return everything(config)


@pytest.fixture(scope="module")
def candles() -> pl.DataFrame:
    return three_markets()


@pytest.fixture(scope="module")
def rows(candles: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    return build_features(candles, random_publications(), recipe)


def column(rows: pl.DataFrame, symbol: str, name: str) -> Values:
    """A feature at the candles that are there."""
    return rows.filter((pl.col("symbol") == symbol) & ~pl.col("missing"))[name].to_list()


def assert_as_defined(name: str, found: Values, definition: Values) -> None:
    gaps = [
        place
        for place, pair in enumerate(zip(found, definition, strict=True))
        if (pair[0] is None) != (pair[1] is None)
    ]
    assert not gaps, f"{name}: only one of feature and definition has a value at candles {gaps[:10]}"
    tolerance = TOLERANCE.get(family_of(name)[0], 1e-9)
    ours, theirs = (np.array(values, dtype=float) for values in (found, definition))
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-11, err_msg=name)


def test_every_entry_has_a_slow_definition_and_every_definition_an_entry(recipe: Recipe) -> None:
    families = {family_of(entry.name)[0] for entry in declared(recipe)}
    absent = sorted(families - DEFINITIONS.keys())
    assert not absent, f"write the definition of {', '.join(absent)} into tests/features/definitions.py"
    assert not DEFINITIONS.keys() - families


@pytest.mark.parametrize("family", sorted(DEFINITIONS))
def test_features_follow_their_slow_definition_across_holes(
    family: str, candles: pl.DataFrame, rows: pl.DataFrame, recipe: Recipe
) -> None:
    entries = [entry for entry in catalogue(recipe) if family_of(entry.name)[0] == family]
    assert entries
    for symbol, history in histories(candles, random_publications(), recipe).items():
        for entry in entries:
            definition = defined(entry.name, history)
            assert_as_defined(entry.name, column(rows, symbol, entry.name), definition)
            if not (entry.published == "funding" and symbol == SYMBOLS[2]):
                assert len({value for value in definition if value is not None}) > 1, "nothing was compared"


def test_the_volatility_follows_its_slow_definition(candles: pl.DataFrame, rows: pl.DataFrame, recipe: Recipe) -> None:
    for symbol, history in histories(candles, NO_PUBLICATIONS, recipe).items():
        assert_as_defined("volatility", column(rows, symbol, "volatility"), history.volatility)


def test_a_missing_bar_has_no_value(rows: pl.DataFrame, recipe: Recipe) -> None:
    missing = rows.filter("missing").select(feature_names(recipe))
    assert len(missing) > 3 * len(HOLES) / 2
    assert missing.null_count().row(0) == (len(missing),) * len(missing.columns)


def charted(closes: tuple[float, ...], highs: tuple[float, ...] = (), lows: tuple[float, ...] = ()) -> pl.DataFrame:
    raw = rough_candles(len(closes), 0).with_columns(close=pl.Series(closes), open=pl.Series(closes))
    high, low = (pl.Series(values or closes) for values in (highs, lows))
    return clean_candles(raw.with_columns(open=pl.max_horizontal(low, "open"), high=high, low=low))


def test_the_relative_strength_is_the_published_one(config: Config) -> None:
    # of log closes: those of exp(close / 10) are the published closes but for their unit, which it does not depend on
    candles = charted(tuple(math.exp(close / 10) for close in CHARTED_CLOSES))
    found = build_features(candles, NO_PUBLICATIONS, everything(config, ONE, (), rsi_bars=14))["rsi"]
    np.testing.assert_allclose((found.drop_nulls() + 0.5) * 100, CHARTED_RSI, atol=0.005)


def test_the_bands_are_the_published_ones(config: Config) -> None:
    found = build_features(charted(BANDED_CLOSES), NO_PUBLICATIONS, everything(config, ONE, (), bollinger_bars=20))
    published = [
        (close - middle) / (upper - middle) for close, (middle, upper) in zip(BANDED_CLOSES[19:], BANDS, strict=True)
    ]
    np.testing.assert_allclose(found["bollinger_position"].drop_nulls(), published, rtol=1e-5)


def test_the_average_true_range_is_the_published_one(config: Config) -> None:
    # theirs has a true range of the first candle alone, its width: so has a candle after one that closes within it
    highs, lows, closes = zip((48.0, 47.8, 47.9), *RANGED, strict=True)
    candles = charted(closes, highs, lows)
    rows = build_features(candles, NO_PUBLICATIONS, everything(config, ONE, (), atr_bars=14))
    found = rows.select((pl.col("atr_ratio").exp() * pl.col("volatility") * pl.col("close")).drop_nulls())
    np.testing.assert_allclose(found["atr_ratio"], AVERAGE_RANGES, rtol=1e-9)


def test_every_entry_says_what_it_is(config: Config, recipe: Recipe) -> None:
    for spans in (config.features, recipe.spans):
        entries = declared(replace(recipe, spans=spans))
        assert [name for name, count in Counter(entry.name for entry in entries).items() if count > 1] == []
        for entry in entries:
            assert entry.unit and entry.formula and entry.source, entry.name
            assert entry.warm_up >= 1, entry.name
            assert entry.warm_up <= entry.look_back, entry.name
            assert entry.bounds[0] < entry.bounds[1], entry.name


def first_values(entries: tuple[Feature, ...], rows: pl.DataFrame) -> dict[str, int]:
    """Number of the candle, from 1, at which each feature has its first value."""
    return {entry.name: 1 + int(rows[entry.name].is_not_null().arg_true()[0]) for entry in entries}


@pytest.mark.parametrize("shipped", [True, False])
def test_the_first_value_stands_where_warm_up_says(config: Config, recipe: Recipe, shipped: bool) -> None:
    spans = config.features.model_copy(update={"use": ("*",)}) if shipped else recipe.spans
    own = Recipe(spans, SYMBOLS[:2], "1h")
    markets = pl.concat(market(symbol, rough_candles(400, seed)) for seed, symbol in enumerate(own.symbols))
    entries = catalogue(own)
    rows = build_features(markets, NO_PUBLICATIONS, own).filter(pl.col("symbol") == SYMBOLS[1])
    assert first_values(entries, rows) == {entry.name: entry.warm_up for entry in entries}
    for entry in entries:
        assert rows[entry.name][entry.warm_up - 1 :].null_count() == 0, entry.name


_PRICES = pl.col(PRICES)
_FROM_120, _AT_120 = pl.int_range(pl.len()) >= 120, pl.int_range(pl.len()) == 120
_FALL = (-pl.col("volume") / 1e4).cum_sum().exp() * 100
# what is done to a rough market of its own, candle by candle
NASTY: dict[str, pl.Expr] = {
    "all prices equal": pl.when(_FROM_120).then(100.0).otherwise(_PRICES).name.keep(),
    "never a move": _PRICES * 0 + 100,
    "no volume": pl.when(_FROM_120).then(0.0).otherwise("volume").alias("volume"),
    "never a volume": pl.col("volume") * 0,
    "one candle a thousandfold": pl.when(_AT_120).then(_PRICES * 1000).otherwise(_PRICES).name.keep(),
    "all later prices a millionth": pl.when(_FROM_120).then(_PRICES / 1e6).otherwise(_PRICES).name.keep(),
    "one volume of 1e15": pl.when(_AT_120).then(1e15).otherwise("volume").alias("volume"),
    "falls only": _PRICES * 0 + _FALL,
    "tiny prices": _PRICES * 1e-10,
    "huge prices": _PRICES * 1e7,
}


def nasty(kind: str) -> pl.DataFrame:
    return rough_candles(600, 4).with_columns(NASTY[kind])


@pytest.mark.parametrize("kind", ["nothing", *NASTY])
def test_values_are_finite_and_within_their_bounds_whatever_a_market_does(kind: str, recipe: Recipe) -> None:
    raw = rough_candles(600, 4) if kind == "nothing" else nasty(kind)
    markets = pl.concat([market(SYMBOLS[0], raw, HOLES), market(SYMBOLS[1], rough_candles(600, 5), HOLES)])
    own = replace(recipe, symbols=SYMBOLS[:2])
    rows = build_features(markets, random_publications(600), own)
    for entry in catalogue(own):
        values = rows[entry.name].drop_nulls()
        low, high = entry.bounds
        wrong = values.filter(~values.is_finite() | ~values.is_between(low - ROUNDING, high + ROUNDING))
        assert wrong.is_empty(), f"{entry.name} is {wrong[0]}, beyond {entry.bounds}"


@pytest.mark.parametrize("kind", list(NASTY))
def test_nasty_markets_follow_their_slow_definitions_too(kind: str, config: Config) -> None:
    own = everything(config, ONE, ())
    candles = market(SYMBOLS[0], nasty(kind)[:470], HOLES)
    rows = build_features(candles, NO_PUBLICATIONS, own)
    history = histories(candles, NO_PUBLICATIONS, own)[SYMBOLS[0]]
    for entry in catalogue(own):
        found, definition = column(rows, SYMBOLS[0], entry.name), defined(entry.name, history)
        assert [value is None for value in found] == [value is None for value in definition], entry.name
        spread = float(np.std([value for value in definition if value is not None] or [0.0]))
        # what running sums leave of a level that is gone counts by how much a feature varies
        far = [
            error
            for error in each(lambda a, b: abs(a - b), found, definition)
            if error and error > 1e-7 * spread + 1e-9
        ]
        assert not far, f"{entry.name} is off by {max(far)}, of a deviation of {spread}"


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20, 1e-6, 1e6])
def test_the_unit_of_the_price_does_not_matter(factor: float, candles: pl.DataFrame, recipe: Recipe) -> None:
    own = replace(recipe, sources=())
    rows, scaled = (
        build_features(each_of, NO_PUBLICATIONS, own)
        for each_of in (candles, candles.with_columns(pl.col(PRICES) * factor))
    )
    for name in feature_names(own):
        assert rows[name].is_null().equals(scaled[name].is_null()), name
        np.testing.assert_allclose(
            scaled[name].drop_nulls(), rows[name].drop_nulls(), rtol=1e-6, atol=1e-9, err_msg=name
        )


def names_of(recipe: Recipe, *patterns: str) -> tuple[str, ...]:
    return feature_names(replace(recipe, spans=recipe.spans.model_copy(update={"use": patterns})))


def test_use_names_features_by_name_or_pattern_in_the_order_of_the_catalogue(recipe: Recipe) -> None:
    assert names_of(recipe, "rsi", "return_*") == ("return_1", "return_5", "rsi")
    assert names_of(recipe, "*_ratio_12", "volatility_ratio_*") == (
        *("volatility_ratio_3", "volatility_ratio_12"),
        *("parkinson_ratio_12", "garman_klass_ratio_12", "yang_zhang_ratio_12"),
    )
    assert names_of(recipe, "*") == tuple(entry.name for entry in declared(recipe))


def test_a_feature_that_there_is_not_is_named_with_those_that_are_near(recipe: Recipe) -> None:
    with pytest.raises(ConfigurationError, match=r"'retrun_5', which fits no feature.*did you mean .*return_5"):
        names_of(recipe, "rsi", "retrun_5")
    with pytest.raises(ConfigurationError, match=r"'qqq\*', which fits no feature.*features --list"):
        names_of(recipe, "qqq*")


def test_what_is_published_is_left_out_unless_the_run_has_its_source(recipe: Recipe) -> None:
    for source in SOURCES:
        own = catalogue(replace(recipe, sources=(source,)))
        assert {entry.published for entry in own} == {"", source}
    assert {entry.published for entry in catalogue(replace(recipe, sources=()))} == {""}
    with pytest.raises(ConfigurationError, match=r"news_\* leaves no feature"):
        names_of(replace(recipe, sources=()), "news_*")


def test_the_source_of_a_feature_is_told_by_its_name(config: Config, recipe: Recipe) -> None:
    for spans in (config.features, recipe.spans):
        for entry in declared(replace(recipe, spans=spans)):
            assert source_of(entry.name) == entry.published, entry.name


def test_features_across_markets_need_a_second_market(recipe: Recipe) -> None:
    across = {"lead_return_1", "lead_return_6", "breadth", "relative_strength"}
    assert across <= set(feature_names(replace(recipe, symbols=SYMBOLS[:2])))
    assert not across & set(feature_names(replace(recipe, symbols=ONE)))


def test_the_network_has_a_mask_for_candles_and_one_more_for_each_source(recipe: Recipe) -> None:
    for n_sources in range(len(SOURCES) + 1):
        names = feature_names(replace(recipe, sources=SOURCES[:n_sources]))
        assert n_inputs(names) == len(names) + 1 + n_sources


def test_two_features_of_one_span_are_never_of_one_name(recipe: Recipe) -> None:
    own = replace(recipe, spans=recipe.spans.model_copy(update={"universe_bars": 1}))
    names = [entry.name for entry in declared(own)]
    assert len(set(names)) == len(names)
