"""The feature suite: what feature rows must satisfy before a model is trained on them.

What is true of a column of a market is counted in polars, market by market, and Great Expectations looks at the
counts: every row is seen, and memory follows one market.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.features.catalogue import catalogue
from gatecast.features.feature import VOLATILITY, Recipe
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS
from gatecast.market.expectations import BETWEEN, KEYS, WARN, Rule, Suite, degrees, schema_rules

_COLUMN: Final = "feature"
_NULL_SHARE: Final = "feature_null_share"
_PUBLISHED_NULL_SHARE: Final = "published_null_share"
_VARIES: Final = "varies"
_OUTSIDE: Final = "n_outside"
_STRAY: Final = "n_stray"
_RANGE: Final = ("value", "low", "high")
_ROUNDING: Final = 1e-9  # of a value at the edge of its range
_KEY_COUNTS: Final = {
    "n_empty": "symbol, ts, bar and missing are never empty",
    "n_doubled": "a market has one row a bar",
    "n_backward": "the bars of a market increase",
}


@dataclass(frozen=True)
class Facts:
    """What was counted of the rows of one market.

    Attributes:
        schema: Its rows, without any: names and types.
        keys: One row: symbol, and a count a fault of the keys.
        columns: A row a column: symbol, feature, how many values lie outside its range and the first of them, share of
            bars without a value, whether it varies.
        targets: A row a target: symbol, feature, how many have a value although one of their closes is missing.
    """

    schema: pl.DataFrame
    keys: pl.DataFrame
    columns: pl.DataFrame
    targets: pl.DataFrame


def feature_facts(rows: pl.DataFrame, recipe: Recipe, horizons: Sequence[int]) -> Facts:
    """Count what the rules are about.

    Args:
        rows: Feature rows of one market with targets, as they are about to be written.
        recipe: Whose catalogue declares the features.
        horizons: Bars ahead of the targets.
    """
    schema = rows.clear().with_columns(pl.col(pl.Null).cast(pl.Int8))  # pandas would take null for any type
    if not _is_sound(rows, recipe, horizons):
        return Facts(schema, pl.DataFrame(), pl.DataFrame(), pl.DataFrame())
    empty = pl.any_horizontal(pl.col(SYMBOL, TS, BAR, MISSING).is_null())
    keys = rows.select(
        pl.col(SYMBOL).drop_nulls().first(),
        n_empty=empty.sum().cast(pl.Int64),
        n_doubled=pl.col(BAR).is_duplicated().sum().cast(pl.Int64),
        n_backward=(pl.col(BAR).diff() < 0).sum().cast(pl.Int64),
    )
    symbol = keys[SYMBOL][0]
    columns = pl.concat(_column_facts(rows, symbol, name, *each) for name, each in _ranges(recipe, horizons).items())
    shares = _shares(rows, recipe)
    return Facts(schema, keys, columns.join(shares, on=_COLUMN, how="left"), _target_facts(rows, symbol, horizons))


def feature_suites(
    facts: Iterable[Facts], recipe: Recipe, horizons: Sequence[int], limits: ValidateConfig
) -> list[Suite]:
    """The suites of feature rows: schema, keys, ranges, targets, and each feature of each market as a whole.

    Args:
        facts: Of every market.
        recipe: Whose catalogue declares the features.
        horizons: Bars ahead of the targets.
        limits: Thresholds.

    Returns:
        The schema alone where columns or types of a market are wrong.
    """
    found = list(facts)
    wrong = next((each for each in found if each.keys.is_empty()), None)
    schema = Suite("schema", (wrong or found[0]).schema, schema_rules(_types(recipe, horizons), "features"))
    if wrong:
        return [schema]
    keys, columns, targets = (
        pl.concat(getattr(each, name) for each in found) for name in ("keys", "columns", "targets")
    )
    features = columns.filter(pl.col(_VARIES).is_not_null())
    return [
        schema,
        Suite(
            "keys", keys, tuple(_none(f"keys.{name}", name, words, (SYMBOL,)) for name, words in _KEY_COUNTS.items())
        ),
        Suite(
            "values",
            columns,
            (
                _none(
                    "values_in_range", _OUTSIDE, "every value is finite and within the range of its definition", _WHERE
                ),
            ),
            (_OUTSIDE,),
        ),
        Suite(
            "targets",
            targets,
            (
                _none(
                    "target_closes",
                    _STRAY,
                    "no target has a value where one of its closes is missing",
                    (*KEYS, _COLUMN),
                ),
            ),
            (_STRAY,),
        ),
        Suite("features", features, _feature_rules(limits), (_NULL_SHARE, _PUBLISHED_NULL_SHARE, _VARIES)),
    ]


_WHERE: Final = (*KEYS, _COLUMN, *_RANGE)


def _none(name: str, column: str, words: str, shown: tuple[str, ...]) -> Rule:
    bounds = {"column": column, "min_value": 0, "max_value": 0}
    return Rule(name, words, BETWEEN, bounds, pl.col(column) != 0, (*shown, column))


def _feature_rules(limits: ValidateConfig) -> tuple[Rule, ...]:
    shown = (SYMBOL, _COLUMN)
    rules = degrees(_NULL_SHARE, "the share of bars without a value of a feature", limits.feature_null_share, shown)
    if (most := limits.feature_null_share.warn) is not None:
        # a warning at any share: a source may begin late, end early or be silent, and a mask tells the network
        rules.append(
            Rule(
                f"{_PUBLISHED_NULL_SHARE}.warn",
                "the share of bars without a value of a published feature",
                BETWEEN,
                {"column": _PUBLISHED_NULL_SHARE, "max_value": most},
                pl.col(_PUBLISHED_NULL_SHARE) > most,
                (*shown, _PUBLISHED_NULL_SHARE),
                WARN,
                f"validate.{_NULL_SHARE}.warn",
                most,
            )
        )
    # a warning: the time of day of daily candles is one and the same, and does no harm
    varies = {"column": _VARIES, "min_value": 1, "max_value": 1}
    words = "every feature takes more than one value in a market"
    return (*rules, Rule("features_vary", words, BETWEEN, varies, pl.col(_VARIES) != 1, shown, WARN))


def _types(recipe: Recipe, horizons: Sequence[int]) -> dict[str, str]:
    numbers = (CLOSE, *_ranges(recipe, horizons))
    return {SYMBOL: "str", TS: "Timestamp", BAR: "int64", MISSING: "bool", **dict.fromkeys(numbers, "float64")}


def _ranges(recipe: Recipe, horizons: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every column that holds numbers."""
    return {
        VOLATILITY: (recipe.spans.volatility_floor, math.inf),
        **{entry.name: entry.bounds for entry in catalogue(recipe)},
        **{target_name(horizon): (-math.inf, math.inf) for horizon in horizons},
    }


def _is_sound(rows: pl.DataFrame, recipe: Recipe, horizons: Sequence[int]) -> bool:
    """Whether the schema rules hold, so that values can be judged."""
    kinds: dict[str, pl.DataType] = {SYMBOL: pl.String(), BAR: pl.Int64(), MISSING: pl.Boolean()}
    kinds |= dict.fromkeys((CLOSE, *_ranges(recipe, horizons)), pl.Float64())
    stamps = rows.schema.get(TS)
    zoned = isinstance(stamps, pl.Datetime) and stamps.time_zone is not None
    return (
        zoned and {TS, *kinds} <= set(rows.columns) and all(rows.schema[name] == kind for name, kind in kinds.items())
    )


def _column_facts(rows: pl.DataFrame, symbol: str, name: str, low: float, high: float) -> pl.DataFrame:
    finite = pl.col(name).is_finite() & pl.col(name).is_between(low - _ROUNDING, high + _ROUNDING)
    outside = rows.select(TS, name).filter(~finite)
    first = outside.head(1)
    return pl.DataFrame(
        {
            SYMBOL: [symbol],
            _COLUMN: [name],
            _OUTSIDE: [len(outside)],
            TS: first[TS] if len(first) else pl.Series([None], dtype=rows.schema[TS]),
            "value": [str(first[name][0]) if len(first) else None],
            "low": [low],
            "high": [high],
        },
        schema_overrides={"value": pl.String},
    )


def _shares(rows: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """A row a feature: share of the bars with a candle at which it has no value, and whether it varies (0 or 1)."""
    present = rows.filter(~pl.col(MISSING))
    entries = catalogue(recipe)
    shares = [round(present[entry.name].null_count() / max(len(present), 1), 6) for entry in entries]
    return pl.DataFrame(
        {
            _COLUMN: [entry.name for entry in entries],
            _NULL_SHARE: [None if entry.published else share for entry, share in zip(entries, shares, strict=True)],
            _PUBLISHED_NULL_SHARE: [s if entry.published else None for entry, s in zip(entries, shares, strict=True)],
            _VARIES: [int(present[entry.name].min() != present[entry.name].max()) for entry in entries],
        },
        schema_overrides={_NULL_SHARE: pl.Float64, _PUBLISHED_NULL_SHARE: pl.Float64, _VARIES: pl.Int64},
    )


def _target_facts(rows: pl.DataFrame, symbol: str, horizons: Sequence[int]) -> pl.DataFrame:
    tables = []
    for horizon in horizons:
        name, close = target_name(horizon), pl.col(CLOSE)
        stray = rows.filter(pl.col(name).is_not_null() & (close.is_null() | close.shift(-horizon).is_null()))
        first = stray[TS].head(1) if len(stray) else pl.Series([None], dtype=rows.schema[TS])
        tables.append(pl.DataFrame({SYMBOL: [symbol], TS: first, _COLUMN: [name], _STRAY: [len(stray)]}))
    return pl.concat(tables)
