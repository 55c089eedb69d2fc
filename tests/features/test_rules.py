"""The feature suite: every rule is broken once by a planted fault, and no fault breaks two."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, ValidateConfig
from gatecast.config_types import Limits
from gatecast.errors import GateRefused
from gatecast.features.build import build_features
from gatecast.features.catalogue import catalogue, feature_names
from gatecast.features.feature import VOLATILITY, Recipe
from gatecast.features.rules import feature_facts, feature_suites
from gatecast.features.targets import build_targets, target_name
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS, TS_TYPE
from gatecast.market.expectations import Finding, Suite
from gatecast.market.gate import require_expected
from gatecast.market.publications.table import FEAR_GREED, PUBLISHED_AT, VALUE, as_publications
from gatecast.market.quality import check
from tests.conftest import clean_candles, random_candles, small_recipe

SYMBOLS = ("BTC/USDT", "ETH/USDT")
HORIZONS = (1, 6)
TARGETS = tuple(map(target_name, HORIZONS))
HOLE = range(300, 303)
N_BARS = 500
START = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMA = "columns_of_features"
WARNINGS = {"feature_null_share.warn", "published_null_share.warn", "features_vary"}
Fault = Callable[[pl.DataFrame], pl.DataFrame]
Markets = list[pl.DataFrame]


@pytest.fixture(scope="module")
def recipe(config: Config) -> Recipe:
    return small_recipe(config, SYMBOLS, (FEAR_GREED,))


@pytest.fixture(scope="module")
def limits(config: Config) -> ValidateConfig:
    return config.validate_.model_copy(update={"feature_null_share": Limits(warn=0.1, fail=0.3)})


@pytest.fixture(scope="module")
def markets(recipe: Recipe) -> Markets:
    first = clean_candles(random_candles(N_BARS).filter(~pl.int_range(pl.len()).is_in(list(HOLE))))
    second = clean_candles(random_candles(N_BARS, seed=1)).with_columns(pl.lit(SYMBOLS[1]).alias(SYMBOL))
    candles = pl.concat([first, second])
    index = pl.DataFrame(
        {PUBLISHED_AT: [START + timedelta(days=day) for day in range(-9, 25)], VALUE: [40.0, 60.0] * 17},
        schema_overrides={PUBLISHED_AT: TS_TYPE},
    )
    rows = build_features(candles, as_publications(index, FEAR_GREED), recipe)
    return rows.hstack(build_targets(rows, HORIZONS)).partition_by(SYMBOL, maintain_order=True)


def at(row: int | range, name: str, value: float | None) -> Fault:
    chosen = pl.int_range(pl.len()).is_in([row] if isinstance(row, int) else list(row))
    return lambda frame: frame.with_columns(pl.when(chosen).then(pl.lit(value)).otherwise(pl.col(name)).alias(name))


def recast(name: str, kind: type[pl.DataType]) -> Fault:
    return lambda frame: frame.with_columns(pl.col(name).cast(kind))


FAULTS: dict[str, Fault] = {
    SCHEMA: lambda frame: frame.drop("rsi"),
    "symbol.type": recast(SYMBOL, pl.Categorical),
    "ts.type": lambda frame: frame.with_columns(pl.col(TS).dt.replace_time_zone(None)),
    "bar.type": recast(BAR, pl.Int32),
    "missing.type": recast(MISSING, pl.Int8),
    "keys.n_empty": at(400, SYMBOL, None),
    "keys.n_doubled": lambda frame: pl.concat([frame[:401], frame[400:]]),
    "keys.n_backward": lambda frame: pl.concat([frame[:400], frame[401:402], frame[400:401], frame[402:]]),
    "values_in_range": at(400, "rsi", 0.51),
    "target_closes": at(N_BARS - 3, TARGETS[1], 0.1),  # its other close is still to come
    "feature_null_share.fail": at(range(100, 300), "return_1", None),
    "feature_null_share.warn": at(range(100, 180), "return_1", None),
    "published_null_share.warn": at(range(100, 180), "fear_greed", None),
    "features_vary": lambda frame: frame.with_columns(close_position=pl.lit(0.25)),
}


def types_of_numbers(recipe: Recipe) -> list[str]:
    return [f"{name}.type" for name in (CLOSE, VOLATILITY, *feature_names(recipe), *TARGETS)]


# A column that is not there has no type.
TOGETHER = {SCHEMA: {"rsi.type"}}


def suites_of(markets: Markets, recipe: Recipe, limits: ValidateConfig) -> list[Suite]:
    facts = (feature_facts(rows, recipe, HORIZONS) for rows in markets)
    return feature_suites(facts, recipe, HORIZONS, limits)


def fired(markets: Markets, recipe: Recipe, limits: ValidateConfig) -> dict[str, Finding]:
    found = check(suites_of(markets, recipe, limits), None, "features")
    return {each.rule: each for each in found if not each.success}


def test_good_features_of_several_markets_break_no_rule(
    markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    assert fired(markets, recipe, limits) == {}


def test_every_rule_has_a_planted_fault(markets: Markets, recipe: Recipe, limits: ValidateConfig) -> None:
    rules = [rule.name for suite in suites_of(markets, recipe, limits) for rule in suite.rules]
    assert len(rules) == len(set(rules))
    assert set(rules) == {*FAULTS, *types_of_numbers(recipe)}


@pytest.mark.parametrize("market", [0, 1])
def test_a_planted_fault_of_any_market_breaks_exactly_its_rule(
    market: int, markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    for rule, plant in FAULTS.items():
        spoiled = [plant(rows) if place == market else rows for place, rows in enumerate(markets)]
        found = fired(spoiled, recipe, limits)
        assert set(found) == {rule, *TOGETHER.get(rule, ())}, rule
        finding = found[rule]
        assert finding.severity == ("warn" if rule in WARNINGS else "fail")
        assert finding.error == ""
        if not rule.endswith(".type") and rule != SCHEMA:
            assert [row[SYMBOL] for row in finding.rows] == [SYMBOLS[market]], "a person has to see where"


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_of_numbers_of_another_type_breaks_exactly_the_rule_of_its_type(
    first: int, markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    rules = types_of_numbers(recipe)[first::2]
    recasts = [pl.col(rule.removesuffix(".type")).cast(pl.Float32) for rule in rules]
    assert set(fired([markets[0].with_columns(recasts), markets[1]], recipe, limits)) == set(rules)


@pytest.mark.parametrize("name", [SYMBOL, TS, BAR, MISSING])
def test_a_key_that_is_empty_is_counted_and_one_that_is_empty_throughout_has_no_type(
    name: str, markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    found = fired([at(400, name, None)(markets[0]), markets[1]], recipe, limits)
    assert set(found) == {"keys.n_empty"}
    assert found["keys.n_empty"].rows == [{SYMBOL: SYMBOLS[0], "n_empty": 1}]
    nothing = markets[0].with_columns(pl.lit(None).alias(name))
    assert set(fired([nothing, markets[1]], recipe, limits)) == {f"{name}.type"}


@pytest.mark.parametrize("place", [0, 1])
def test_a_market_whose_column_has_another_type_is_a_clear_line_and_no_value_is_judged(
    place: int, markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    spoiled = [recast("rsi", pl.Float32)(rows) if n == place else rows for n, rows in enumerate(markets)]
    assert [suite.name for suite in suites_of(spoiled, recipe, limits)] == ["schema"]
    line = str(fired(spoiled, recipe, limits)["rsi.type"])
    assert line == "it does not hold that rsi is of type float64: the table as a whole [rule rsi.type]"


def test_a_column_more_than_the_catalogue_has_hides_no_fault(
    markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    wider = [rows.with_columns(more=pl.lit(1.0)) for rows in markets]
    assert fired(wider, recipe, limits) == {}
    assert set(fired([at(400, "rsi", 9.0)(wider[0]), wider[1]], recipe, limits)) == {"values_in_range"}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("rsi", 0.51, "rsi 0.51 -0.5 0.5"),
        ("day_sine", -1.01, "day_sine -1.01 -1 1"),
        ("close_position", 0.6, "close_position 0.6 -0.5 0.5"),
        ("drawdown", 0.01, "drawdown 0.01 -inf 0"),
        ("fear_greed", 0.6, "fear_greed 0.6 -0.5 0.5"),
        ("volatility", 0.00001, "volatility 1e-05 0.0001 inf"),
        ("return_1", math.nan, "return_1 nan -inf inf"),
        ("return_5", math.inf, "return_5 inf -inf inf"),
        ("target_6", -math.inf, "target_6 -inf -inf inf"),
    ],
)
def test_a_value_outside_the_range_of_its_definition_is_named_with_row_value_and_range(
    name: str, value: float, shown: str, markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    found = fired([at(range(400, 402), name, value)(markets[0]), markets[1]], recipe, limits)
    assert set(found) == {"values_in_range"}
    (row,) = found["values_in_range"].rows
    assert row["ts"] == "2024-01-17T16:00Z"  # the first of the two
    line = str(found["values_in_range"])
    assert "every value is finite and within the range of its definition" in line
    assert f"BTC/USDT 2024-01-17T16:00Z {shown}" in line


def test_a_value_at_the_edge_of_its_range_passes_whatever_rounding_does(
    markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    edge = at(400, "rsi", 0.5 + 1e-12)(at(401, "rsi", -0.5)(markets[0]))
    assert fired([edge, markets[1]], recipe, limits) == {}


def test_a_feature_without_a_declared_range_may_be_as_large_as_it_is(
    markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    assert next(each.bounds for each in catalogue(recipe) if each.name == "return_1") == (-math.inf, math.inf)
    assert fired([at(400, "return_1", 1e12)(markets[0]), markets[1]], recipe, limits) == {}


def test_a_source_that_is_silent_throughout_warns_and_stops_nothing(
    markets: Markets, recipe: Recipe, limits: ValidateConfig
) -> None:
    published = [each.name for each in catalogue(recipe) if each.published]
    silent = [rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in published) for rows in markets]
    found = fired(silent, recipe, limits)
    assert set(found) == {"published_null_share.warn", "features_vary"}
    assert {each.severity for each in found.values()} == {"warn"}
    assert len(found["published_null_share.warn"].rows) == len(published) * len(SYMBOLS)
    line = str(found["published_null_share.warn"])
    assert "is 1, above the limit 0.1 (change it with validate.feature_null_share.warn)" in line


def test_a_target_that_reaches_over_a_hole_is_seen(markets: Markets, recipe: Recipe, limits: ValidateConfig) -> None:
    # what a forward fill of closes would do
    filled = pl.col(CLOSE).forward_fill().log()
    reaching = [rows.with_columns((filled.shift(-6) - filled).alias(TARGETS[1])) for rows in markets]
    found = fired(reaching, recipe, limits)
    assert set(found) == {"target_closes"}
    (row,) = found["target_closes"].rows
    assert row == {SYMBOL: SYMBOLS[0], "ts": "2024-01-13T06:00Z", "feature": TARGETS[1], "n_stray": 2 * len(HOLE)}


def test_the_gate_refuses_features_that_break_a_rule_and_names_rule_row_and_docs(
    markets: Markets, recipe: Recipe, limits: ValidateConfig, tmp_path: Path
) -> None:
    spoiled = [at(400, "rsi", 3.0)(markets[0]), markets[1]]
    found = check(suites_of(spoiled, recipe, limits), tmp_path / "docs", "features")
    with pytest.raises(GateRefused) as error:
        require_expected(found, "features", "reports/feature_docs/index.html")
    assert error.value.exit_status == 3
    line = str(error.value)
    for words in ("range of its definition", "BTC/USDT 2024-01-17T16:00Z rsi 3.0 -0.5 0.5", "feature_docs/index.html"):
        assert words in line
    assert "\n" not in line
    assert json.dumps([each.rows for each in found], allow_nan=False)
