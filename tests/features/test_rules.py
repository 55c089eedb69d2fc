"""The feature suite: every rule is broken once by a planted fault, and no fault breaks two."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, FeaturesConfig, ValidateConfig
from gatecast.config_types import Limits
from gatecast.errors import GateRefused
from gatecast.features.catalogue import build_features, catalogue
from gatecast.features.rules import feature_suites
from gatecast.features.targets import build_targets, target_name
from gatecast.market.candles import MISSING, SYMBOL, TS
from gatecast.market.expectations import Finding
from gatecast.market.gate import require_expected
from gatecast.market.quality import check
from tests.conftest import clean_candles, random_candles

HORIZONS = (1, 6)
HOLE = range(300, 303)
N_BARS = 500
Fault = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def spans(config: Config) -> FeaturesConfig:
    small = {"return_spans": (1,), "volatility_half_lives": (3,), "scale_half_life": 8, "volume_bars": 6}
    return config.features.model_copy(update=small)


@pytest.fixture(scope="module")
def limits(config: Config) -> ValidateConfig:
    return config.validate_.model_copy(update={"feature_null_share": Limits(warn=0.1, fail=0.3)})


@pytest.fixture(scope="module")
def rows(spans: FeaturesConfig) -> pl.DataFrame:
    first = clean_candles(random_candles(N_BARS).filter(~pl.int_range(pl.len()).is_in(list(HOLE))))
    second = clean_candles(random_candles(N_BARS, seed=1)).with_columns(pl.lit("ETH/USDT").alias(SYMBOL))
    candles = pl.concat([first, second])
    return build_features(candles, spans).hstack(build_targets(candles, HORIZONS))


def at(row: int | range, name: str, value: float | None) -> Fault:
    chosen = pl.int_range(pl.len()).is_in([row] if isinstance(row, int) else list(row))
    return lambda frame: frame.with_columns(pl.when(chosen).then(pl.lit(value)).otherwise(pl.col(name)).alias(name))


def recast(name: str, kind: type[pl.DataType]) -> Fault:
    return lambda frame: frame.with_columns(pl.col(name).cast(kind))


def faults(spans: FeaturesConfig) -> dict[str, Fault]:
    names = [feature.name for feature in catalogue(spans)]
    targets = [target_name(horizon) for horizon in HORIZONS]
    planted: dict[str, Fault] = {
        "columns_of_features": lambda frame: frame.drop("rsi"),
        "symbol.type": recast(SYMBOL, pl.Categorical),
        "ts.type": lambda frame: frame.with_columns(pl.col(TS).dt.replace_time_zone(None)),
        "bar.type": recast("bar", pl.Int32),
        "missing.type": recast(MISSING, pl.Int8),
        **{f"{name}.type": recast(name, pl.Float32) for name in ("close", "volatility", *names, *targets)},
        **{f"{name}.present": at(400, name, None) for name in (SYMBOL, TS, "bar", MISSING)},
        "keys_unique": lambda frame: pl.concat([frame[:401], frame[400:]]),
        "bars_increase": lambda frame: pl.concat([frame[:400], frame[401:402], frame[400:401], frame[402:]]),
        "volatility.range": at(400, "volatility", -0.1),
        **{f"{target}.range": at(400, target, math.inf) for target in targets},
        # at a missing bar, and so many bars before one
        **{f"{target}.closes": at(300 - h, target, 0.1) for target, h in zip(targets, HORIZONS, strict=True)},
        "feature_null_share.fail": at(range(100, 300), "return_1", None),
        "feature_null_share.warn": at(range(100, 180), "return_1", None),
        "features_vary": lambda frame: frame.with_columns(close_position=pl.lit(0.25)),
    }
    wild = (math.nan, math.inf, -math.inf)
    planted |= {f"{name}.range": at(400, name, wild[n % 3]) for n, name in enumerate(names)}
    return planted


# A column that is not there has no type.
TOGETHER = {"columns_of_features": {"rsi.type"}}


def fired(rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig) -> dict[str, Finding]:
    found = check(feature_suites(rows, spans, HORIZONS, limits), None, "features")
    return {each.rule: each for each in found if not each.success}


def test_good_features_break_no_rule(rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig) -> None:
    assert fired(rows, spans, limits) == {}


def test_every_rule_has_a_planted_fault(rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig) -> None:
    rules = [rule.name for suite in feature_suites(rows, spans, HORIZONS, limits) for rule in suite.rules]
    assert len(rules) == len(set(rules))
    assert set(rules) == set(faults(spans))


def test_a_planted_fault_breaks_exactly_its_rule(
    rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig
) -> None:
    for rule, plant in faults(spans).items():
        found = fired(plant(rows), spans, limits)
        assert set(found) == {rule, *TOGETHER.get(rule, ())}, rule
        finding = found[rule]
        assert finding.error == ""
        assert finding.severity == ("warn" if rule in ("feature_null_share.warn", "features_vary") else "fail")
        if not rule.endswith(".type") and rule != "columns_of_features":
            assert finding.rows, f"{rule}: a person has to see where"


@pytest.mark.parametrize(("name", "value"), [("rsi", 0.51), ("day_sine", -1.01), ("close_position", 0.6)])
def test_a_value_outside_the_range_of_its_definition_is_named_with_row_and_range(
    name: str, value: float, rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig
) -> None:
    found = fired(at(400, name, value)(rows), spans, limits)
    low, high = next(feature.bounds for feature in catalogue(spans) if feature.name == name)
    line = str(found[f"{name}.range"])
    assert f"{name} lies between {low:g} and {high:g}" in line
    assert f"BTC/USDT {found[f'{name}.range'].rows[0]['ts']} {value}" in line


def test_a_target_that_reaches_over_a_hole_is_seen(
    rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig
) -> None:
    # what a forward fill of closes would do
    filled = rows.with_columns(close_filled=pl.col("close").forward_fill().over(SYMBOL).log())
    target = (pl.col("close_filled").shift(-6) - pl.col("close_filled")).over(SYMBOL)
    found = fired(filled.with_columns(target_6=target).drop("close_filled"), spans, limits)
    assert set(found) == {"target_6.closes"}
    assert found["target_6.closes"].n_unexpected == 2 * len(HOLE)


def test_the_gate_refuses_features_that_break_a_rule_and_names_rule_row_and_docs(
    rows: pl.DataFrame, spans: FeaturesConfig, limits: ValidateConfig, tmp_path: Path
) -> None:
    found = check(feature_suites(at(400, "rsi", 3.0)(rows), spans, HORIZONS, limits), tmp_path / "docs", "features")
    with pytest.raises(GateRefused) as error:
        require_expected(found, "features", "reports/feature_docs/index.html")
    assert error.value.exit_status == 3
    line = str(error.value)
    for words in ("rsi lies between -0.5 and 0.5", "BTC/USDT 2024-01-17T16:00Z 3", "reports/feature_docs/index.html"):
        assert words in line
    assert "\n" not in line
    assert json.dumps([each.rows for each in found], allow_nan=False)
