"""The feature suite: what feature rows must satisfy before a model is trained on them."""

import math
import sys
from collections.abc import Sequence

import polars as pl

from gatecast.config import FeaturesConfig, ValidateConfig
from gatecast.features.catalogue import VOLATILITY, catalogue
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS
from gatecast.market.expectations import BETWEEN, KEYS, STEP, WARN, Rule, Suite, degrees, key_rules, schema_rules

_NULL_SHARE = "feature_null_share"
_VARIES = "varies"
_COLUMN = "feature"
_STRAY = "stray_"  # 1 where a target has a value although one of its closes is missing
_LARGEST = sys.float_info.max
_ROUNDING = 1e-9  # of a value at the edge of its range


def feature_suites(
    rows: pl.DataFrame, spans: FeaturesConfig, horizons: Sequence[int], limits: ValidateConfig
) -> list[Suite]:
    """The suites of feature rows.

    Args:
        rows: Feature rows with targets, as they are about to be written.
        spans: Whose catalogue declares the features.
        horizons: Bars ahead of the targets.
        limits: Thresholds.

    Returns:
        Schema, keys, values, targets, and each feature of each market as a whole. The schema alone where columns or
        types are wrong.
    """
    bounds = {feature.name: feature.bounds for feature in catalogue(spans)}
    targets = {target_name(horizon): horizon for horizon in horizons}
    numbers = (CLOSE, VOLATILITY, *bounds, *targets)
    types = {SYMBOL: "str", TS: "Timestamp", BAR: "int64", MISSING: "bool", **dict.fromkeys(numbers, "float64")}
    schema = Suite("schema", rows.clear(), schema_rules(types, "features"))
    if not _is_sound(rows, numbers):
        return [schema]
    open_ended = dict.fromkeys(targets, (-math.inf, math.inf))
    ranges = {VOLATILITY: (spans.volatility_floor, math.inf), **bounds, **open_ended}
    keyed = rows.with_columns(pl.col(BAR).diff().over(SYMBOL).alias(STEP))
    never_empty = (SYMBOL, TS, BAR, MISSING)
    stray = tuple(f"{_STRAY}{name}" for name in targets)
    return [
        schema,
        Suite("keys", keyed, key_rules(never_empty, "bars"), (*never_empty, STEP)),
        Suite("values", rows, tuple(_range_rule(name, *each) for name, each in ranges.items()), tuple(ranges)),
        Suite("targets", _with_stray(rows, targets), tuple(map(_stray_rule, targets)), stray),
        Suite("features", _column_facts(rows, tuple(bounds)), _column_rules(limits)),
    ]


def _is_sound(rows: pl.DataFrame, numbers: Sequence[str]) -> bool:
    """Whether the schema rules hold, so that values can be judged."""
    kinds: dict[str, pl.DataType] = {SYMBOL: pl.String(), BAR: pl.Int64(), MISSING: pl.Boolean()}
    kinds |= dict.fromkeys(numbers, pl.Float64())
    stamps = rows.schema.get(TS)
    zoned = isinstance(stamps, pl.Datetime) and stamps.time_zone is not None
    return zoned and all(rows.schema.get(name) == kind for name, kind in kinds.items())


def _range_rule(name: str, low: float, high: float) -> Rule:
    bounded = math.isfinite(low) or math.isfinite(high)
    words = f"{name} lies between {low:g} and {high:g}" if bounded else f"{name} is finite where it has a value"
    least, most = (low - _ROUNDING, high + _ROUNDING)
    least, most = max(least, -_LARGEST), min(most, _LARGEST)
    broken = ~pl.col(name).is_between(least, most)
    return Rule(
        f"{name}.range", words, BETWEEN, {"column": name, "min_value": least, "max_value": most}, broken, (*KEYS, name)
    )


def _with_stray(rows: pl.DataFrame, targets: dict[str, int]) -> pl.DataFrame:
    close, market = pl.col(CLOSE), pl.col(SYMBOL).forward_fill()  # a row without a symbol is another rule's to find
    return rows.with_columns(
        (pl.col(name).is_not_null() & (close.is_null() | close.shift(-horizon).over(market).is_null()))
        .cast(pl.Int64)
        .alias(f"{_STRAY}{name}")
        for name, horizon in targets.items()
    )


def _stray_rule(target: str) -> Rule:
    column = f"{_STRAY}{target}"
    return Rule(
        f"{target}.closes",
        f"{target} has no value where one of its two closes is missing",
        BETWEEN,
        {"column": column, "min_value": 0, "max_value": 0},
        pl.col(column) != 0,
        (*KEYS, target),
    )


def _column_facts(rows: pl.DataFrame, features: Sequence[str]) -> pl.DataFrame:
    """A row a market and feature: symbol, feature, feature_null_share (of the bars with a candle), varies (0 or 1)."""
    present = rows.filter(~pl.col(MISSING) & pl.col(SYMBOL).is_not_null())
    of_market = present.group_by(SYMBOL, maintain_order=True)
    nulls = of_market.agg((pl.col(name).null_count() / pl.len()).round(6) for name in features)
    varies = of_market.agg((pl.col(name).max() != pl.col(name).min()).cast(pl.Int64) for name in features)
    long = [
        frame.unpivot(on=features, index=SYMBOL, variable_name=_COLUMN, value_name=name)
        for frame, name in ((nulls, _NULL_SHARE), (varies, _VARIES))
    ]
    return long[0].join(long[1], on=[SYMBOL, _COLUMN], how="left", maintain_order="left")


def _column_rules(limits: ValidateConfig) -> tuple[Rule, ...]:
    shown = (SYMBOL, _COLUMN)
    return (
        *degrees(_NULL_SHARE, "the share of bars without a value of a feature", limits.feature_null_share, shown),
        # a warning: the time of day of daily candles is one and the same, and does no harm
        Rule(
            "features_vary",
            "every feature takes more than one value in a market",
            BETWEEN,
            {"column": _VARIES, "min_value": 1, "max_value": 1},
            pl.col(_VARIES) != 1,
            shown,
            WARN,
        ),
    )
