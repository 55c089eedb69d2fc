"""Raw rows onto a regular grid: what cannot be goes to quarantine, what is not there is marked as missing."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from gatecast.config import CleanConfig
from gatecast.errors import DataError
from gatecast.market.candles import (
    BAR,
    CLOSE,
    HIGH,
    LOW,
    MISSING,
    OPEN,
    OUTLIER,
    PRICES,
    REASON,
    SYMBOL,
    TS,
    VALUES,
    VOLUME,
    Market,
    timeframe_ms,
)

_ROW = "_row"
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class CleanMarket:
    """One market, cleaned.

    Attributes:
        candles: A row a bar from the first to the last: symbol, ts, bar, prices and volume (null where missing),
            missing, outlier.
        quarantine: Raw rows that cannot be: symbol, ts, prices, volume, reason.
        counts: Raw, clean, quarantined and duplicate rows, missing bars and so on, for people and for the limits.
    """

    candles: pl.DataFrame
    quarantine: pl.DataFrame
    counts: dict[str, object]


def clean_market(raw: pl.DataFrame, market: Market, end: datetime, config: CleanConfig) -> CleanMarket:
    """Clean one market.

    Each raw row ends in exactly one place: raw = clean + quarantined + duplicates.

    Args:
        raw: Candle columns, any order; of rows that share an open time the first good one counts.
        market: Whose rows.
        end: Instant from which on everything is in the future.
        config: When a tick is an outlier.

    Raises:
        DataError: No row survives.
    """
    candles, quarantine, n_duplicates = clean_grid(raw, market, end)
    marked = _mark_outliers(candles, config)
    return CleanMarket(marked, quarantine, _counts(len(raw), marked, quarantine, n_duplicates))


def clean_grid(raw: pl.DataFrame, market: Market, end: datetime) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The regular grid of one market, without marks of outliers.

    Args:
        raw: Candle columns, any order; of rows that share an open time the first good one counts.
        market: Whose rows.
        end: Instant from which on everything is in the future.

    Returns:
        The grid, the quarantine, and how many rows repeated another to the last value.

    Raises:
        DataError: No row survives.
    """
    length = timeframe_ms(market.timeframe)
    judged = raw.with_row_index(_ROW).with_columns(_reason(length, end).alias(REASON))
    good = judged.filter(pl.col(REASON).is_null())
    kept = good.unique(TS, keep="first", maintain_order=True)
    again = good.join(kept, on=_ROW, how="anti").join(kept.select(TS, *VALUES), on=TS, suffix="_kept")
    equal = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_kept") for name in VALUES)
    conflicting = again.filter(~equal).with_columns(pl.lit("duplicate with other values").alias(REASON))
    bad = pl.concat([judged.filter(pl.col(REASON).is_not_null()), conflicting.select(judged.columns)])
    quarantine = bad.sort(TS, _ROW).select(pl.lit(market.symbol).alias(SYMBOL), TS, *VALUES, REASON)
    if kept.is_empty():
        raise DataError(f"none of the {len(raw)} rows of {market} is a candle of it: {_most_frequent(quarantine)}")
    return _grid(kept, market, length), quarantine, len(again) - len(conflicting)


def _reason(length: int, end: datetime) -> pl.Expr:
    """Why a row cannot be, null if it can; the first reason that holds."""
    prices, values = pl.col(PRICES), pl.col(VALUES)
    body_top, body_bottom = pl.max_horizontal(OPEN, CLOSE), pl.min_horizontal(OPEN, CLOSE)
    return (
        pl.when(pl.any_horizontal(values.is_null() | ~values.is_finite()))
        .then(pl.lit("price or volume is not a number"))
        .when(pl.any_horizontal(prices <= 0))
        .then(pl.lit("price is not positive"))
        .when(pl.col(VOLUME) < 0)
        .then(pl.lit("volume is negative"))
        .when(pl.col(HIGH) < body_top)
        .then(pl.lit("high is below open or close"))
        .when(pl.col(LOW) > body_bottom)
        .then(pl.lit("low is above open or close"))
        .when(pl.col(TS).dt.epoch("ms") % length != 0)
        .then(pl.lit("open time is off the grid"))
        .when(pl.col(TS) + pl.duration(milliseconds=length) > end)
        .then(pl.lit("candle is in the future"))
    )


def _grid(kept: pl.DataFrame, market: Market, length: int) -> pl.DataFrame:
    numbered = kept.with_columns((pl.col(TS).dt.epoch("ms") // length).alias(BAR))
    first, last = numbered.select(pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")).row(0)
    bars = pl.DataFrame({BAR: pl.int_range(first, last + 1, eager=True)})
    return bars.join(numbered, on=BAR, how="left", maintain_order="left").select(
        pl.lit(market.symbol).alias(SYMBOL),
        (pl.col(BAR) * length).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias(TS),
        BAR,
        *VALUES,
        pl.col(CLOSE).is_null().alias(MISSING),
    )


def _mark_outliers(candles: pl.DataFrame, config: CleanConfig) -> pl.DataFrame:
    """Hampel's identifier on log returns, against median and deviation of the bars before (Hampel 1974, JASA 69)."""
    log_return = pl.col(CLOSE).log().diff()
    past = log_return.shift(1)
    window, least = config.outlier_bars, config.outlier_bars // 2
    middle = past.rolling_median(window, min_samples=least)
    deviation = (past - middle).abs().rolling_median(window, min_samples=least) * _MAD_TO_DEVIATION
    far = (log_return - middle).abs() > config.outlier_deviations * deviation
    return candles.with_columns((far & (deviation > 0)).fill_null(value=False).alias(OUTLIER))


def _counts(n_raw: int, candles: pl.DataFrame, quarantine: pl.DataFrame, n_duplicates: int) -> dict[str, object]:
    n_clean = int((~candles[MISSING]).sum())
    assert n_raw == n_clean + len(quarantine) + n_duplicates, "a raw row was lost or counted twice"
    runs = candles.select(pl.col(MISSING).rle()).unnest(MISSING).filter(pl.col("value"))
    reasons = quarantine.group_by(REASON, maintain_order=True).len().sort(REASON)
    return {
        "raw": n_raw,
        "clean": n_clean,
        "quarantined": len(quarantine),
        "duplicates": n_duplicates,
        "missing": int(candles[MISSING].sum()),
        "outliers": int(candles[OUTLIER].sum()),
        "longest_hole": int(runs["len"].max() or 0),  # type: ignore[arg-type]  # a count, typed as any literal
        "first": candles[TS][0].isoformat(),
        "last": candles[TS][-1].isoformat(),
        "reasons": dict(reasons.iter_rows()),
    }


def _most_frequent(quarantine: pl.DataFrame) -> str:
    reason, count = quarantine[REASON].value_counts(sort=True).row(0)
    return f"{count} times {reason}"
