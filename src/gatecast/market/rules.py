"""The candle suite: what clean candles must satisfy.

One fault breaks one rule: the order of prices makes a positive low enough for all four, a warning is not given where
the failure is, and whatever a rule needs to make sense at all is another's to judge.
"""

import sys
from collections.abc import Mapping
from typing import Any

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.market.candles import BAR, CLOSE, HIGH, LOW, MISSING, OPEN, OUTLIER, PRICES, SYMBOL, TS, VALUES, VOLUME
from gatecast.market.expectations import (
    BETWEEN,
    FAIL,
    KEYS,
    STEP,
    WARN,
    Rule,
    Suite,
    degrees,
    key_rules,
    schema_rules,
)
from gatecast.market.facts import (
    ABSENT,
    GAP,
    LOG_RANGE,
    LOG_RETURN,
    MONTH,
    N_BARS,
    STRAY,
    UNACCOUNTED,
    market_facts,
    month_facts,
    reference_facts,
    reference_gaps,
    with_moves,
)

_TYPES = {
    SYMBOL: "str",
    TS: "Timestamp",
    BAR: "int64",
    **dict.fromkeys(VALUES, "float64"),
    MISSING: "bool",
    OUTLIER: "bool",
}
_WORDS = {
    "missing_share": "the share of missing bars",
    "quarantined_share": "the share of raw rows in quarantine",
    "filler_share": "the share of bars that look like a vendor's filling of holes",
    "hole_bars": "the longest hole, in bars,",
    "standstill_bars": "the longest run of one and the same close, in bars,",
    "zero_volume_bars": "the longest run of bars without volume",
}
_MOVES = {LOG_RETURN: "the move of one bar, in log,", LOG_RANGE: "the range of one bar, in log,"}


def candle_suites(
    candles: pl.DataFrame,
    counts: Mapping[str, Mapping[str, Any]],
    limits: ValidateConfig,
    reference: pl.DataFrame | None = None,
) -> list[Suite]:
    """The suites of clean candles.

    Args:
        candles: The clean grid of all markets.
        counts: Row counts of each market, as `clean` wrote them.
        limits: Thresholds.
        reference: Candles of a second venue (symbol of the own market, ts, close), where one is configured.

    Returns:
        Schema, keys, prices and moves of the rows, then markets, months and the second venue as a whole. The schema
        alone where columns or types are wrong, for values cannot be judged then.
    """
    schema = Suite("schema", candles.clear(), schema_rules(_TYPES, "candles"))
    if not _is_sound(candles):
        return [schema]
    rows = with_moves(candles)
    facts = market_facts(rows, counts)
    suites = [
        schema,
        Suite(
            "keys", rows, key_rules((SYMBOL, TS, BAR, MISSING, OUTLIER), "stamps"), (*KEYS, BAR, MISSING, OUTLIER, STEP)
        ),
        Suite("prices", rows, _price_rules(), PRICES, ~pl.col(MISSING)),
        Suite("moves", rows, _move_rules(limits), (VOLUME, LOG_RETURN, LOG_RANGE), ~pl.col(MISSING)),
        Suite("marks", rows, _mark_rules(), (STRAY,)),
        Suite("markets", facts, _market_rules(sorted(counts), limits, rows)),
        Suite("months", month_facts(counts), _month_rules(limits)),
    ]
    return suites if reference is None else suites + _reference_suites(candles, reference, limits)


def _is_sound(candles: pl.DataFrame) -> bool:
    """Whether the schema rules hold, so that values can be judged."""
    kinds: dict[str, pl.DataType] = {
        SYMBOL: pl.String(), BAR: pl.Int64(), MISSING: pl.Boolean(), OUTLIER: pl.Boolean(),
        **dict.fromkeys(VALUES, pl.Float64()),
    }  # fmt: skip
    stamps = candles.schema.get(TS)
    zoned = isinstance(stamps, pl.Datetime) and stamps.time_zone is not None  # what pandas calls a Timestamp
    return zoned and all(candles.schema.get(name) == kind for name, kind in kinds.items())


def _price_rules() -> tuple[Rule, ...]:
    pairs = ((HIGH, OPEN), (HIGH, CLOSE), (OPEN, LOW), (CLOSE, LOW))
    return (
        Rule(
            "low.positive",
            "prices are positive",
            BETWEEN,
            {"column": LOW, "min_value": 0, "strict_min": True},
            pl.col(LOW) <= 0,
            (*KEYS, LOW),
        ),
        *(
            Rule(
                f"{above}_from_{below}",
                f"{above} is not below {below}",
                "ExpectColumnPairValuesAToBeGreaterThanB",
                {"column_A": above, "column_B": below, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
                pl.col(above) < pl.col(below),
                (*KEYS, above, below),
            )
            for above, below in pairs
        ),
    )


def _move_rules(limits: ValidateConfig) -> tuple[Rule, ...]:
    return (
        Rule(
            "volume.not_negative",
            "volume is a number and not negative",
            BETWEEN,
            {"column": VOLUME, "min_value": 0, "max_value": sys.float_info.max},
            (pl.col(VOLUME) < 0) | ~pl.col(VOLUME).is_finite(),
            (*KEYS, VOLUME),
        ),
        *(
            rule
            for name, words in _MOVES.items()
            for rule in degrees(name, words, getattr(limits, name), KEYS, (FAIL,))
        ),
    )


def _mark_rules() -> tuple[Rule, ...]:
    return (
        Rule(
            "missing_marks",
            "a bar that is marked as missing has no values, and any other has all",
            BETWEEN,
            {"column": STRAY, "min_value": 0, "max_value": 0},
            pl.col(STRAY) != 0,
            (*KEYS, MISSING, *VALUES),
        ),
    )


def _market_rules(symbols: list[str], limits: ValidateConfig, rows: pl.DataFrame) -> tuple[Rule, ...]:
    few = pl.col(N_BARS) < limits.min_bars
    measures = [
        *((name, words, (SYMBOL,), (FAIL, WARN), None) for name, words in _WORDS.items()),
        # the failure is judged at every row, and the largest move of a market says whether there is one to warn of
        *((name, words, KEYS, (WARN,), rows) for name, words in _MOVES.items()),
    ]
    return (
        Rule(
            "markets",
            f"the markets are {', '.join(symbols)}",
            "ExpectColumnDistinctValuesToEqualSet",
            {"column": SYMBOL, "value_set": symbols},
            ~pl.col(SYMBOL).is_in(symbols),
            (SYMBOL,),
        ),
        _zero(ABSENT, "every bar of a market has a row"),
        _zero(UNACCOUNTED, "every raw row is accounted for"),
        Rule(
            "min_bars", "the number of bars", BETWEEN, {"column": N_BARS, "min_value": limits.min_bars}, few,
            (SYMBOL, N_BARS), FAIL, "validate.min_bars", limits.min_bars,
        ),
        *(
            rule
            for name, words, shown, levels, table in measures
            for rule in degrees(name, words, getattr(limits, name), shown, levels, table)
        ),
    )  # fmt: skip


def _zero(column: str, words: str) -> Rule:
    return Rule(
        column,
        words,
        BETWEEN,
        {"column": column, "min_value": 0, "max_value": 0},
        pl.col(column) != 0,
        (SYMBOL, column),
    )


def _month_rules(limits: ValidateConfig) -> tuple[Rule, ...]:
    return (
        *degrees(
            "month_missing_share", "the share of missing bars in one month", limits.month_missing_share, (SYMBOL, MONTH)
        ),
        *degrees(
            "month_quarantined_share",
            "the share of raw rows in quarantine in one month",
            limits.month_quarantined_share,
            (SYMBOL, MONTH),
        ),
    )


def _reference_suites(candles: pl.DataFrame, reference: pl.DataFrame, limits: ValidateConfig) -> list[Suite]:
    gaps = reference_gaps(candles, reference)
    apart, alone = "the share of bars far from the second venue", "the share of bars without a partner there"
    distance = "the distance of a close from that of the second venue, in log,"
    return [
        Suite("gaps", gaps, tuple(degrees(GAP, distance, limits.reference_gap, KEYS, (FAIL,))), (GAP,)),
        Suite(
            "second venue",
            reference_facts(gaps, limits.reference_gap),
            (
                *degrees(GAP, distance, limits.reference_gap, KEYS, (WARN,), gaps),
                *degrees("reference_apart_share", apart, limits.reference_apart_share, (SYMBOL,)),
                *degrees("reference_alone_share", alone, limits.reference_alone_share, (SYMBOL, "n_alone")),
            ),
        ),
    ]
