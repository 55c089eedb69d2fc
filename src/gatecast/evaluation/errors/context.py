"""What was known of a market when a forecast was made, and the groups of forecasts that follow from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from gatecast.evaluation.errors.skill_noise import Places
from gatecast.features.feature import VOLATILITY
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS
from gatecast.model.predictions import FOLD, Array

LEAST_FORECASTS: Final = 30  # a group of fewer has no figures
RECENT_BARS: Final = 24  # of the return that tells the trend
LOSS: Final = "loss"
RETURN_BEFORE: Final = "return_before"
SINCE_GAP: Final = "bars_since_gap"
SINCE_OUTLIER: Final = "bars_since_outlier"
MONTH: Final = "month"
AGE: Final = "age"

_OUTLIER_VOLATILITIES: Final = 6.0
_TREND: Final = 0.5  # volatilities of so many bars
_FIFTHS: Final = ("first", "second", "third", "fourth", "last")
_REGIMES: Final = ("lowest", "second lowest", "middle", "second highest", "highest")
_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Buckets:
    """Groups of forecasts, in order.

    Attributes:
        name: Of the table.
        title: Of the table, in words.
        noun: What one group is called.
        labels: Of the groups.
        phrases: Where or when a group is, as it stands in a sentence.
        groups: Number of the group of each forecast, (N,), -1 for none.
    """

    name: str
    title: str
    noun: str
    labels: tuple[str, ...]
    phrases: tuple[str, ...]
    groups: Places


def context(rows: pl.DataFrame) -> pl.DataFrame:
    """What is known at the close of each bar besides the features.

    Args:
        rows: Feature rows, consecutive bars within a market.

    Returns:
        symbol, ts, bar, volatility, return_before (log return over 24 bars), bars_since_gap and bars_since_outlier (the
        bar itself is 0 bars ago); null where there is none. An outlier is a return of one bar beyond 6 times the
        volatility known before it: feature rows do not carry the marks of `clean`.
    """
    log_close = pl.col(CLOSE).log()
    jump = (log_close - log_close.shift(1)).abs() > _OUTLIER_VOLATILITIES * pl.col(VOLATILITY).shift(1)
    columns = {
        RETURN_BEFORE: log_close - log_close.shift(RECENT_BARS),
        SINCE_GAP: pl.col(BAR) - pl.when(MISSING).then(BAR).forward_fill(),
        SINCE_OUTLIER: pl.col(BAR) - pl.when(jump).then(BAR).forward_fill(),
    }
    expressions = (column.over(SYMBOL).alias(name) for name, column in columns.items())
    return rows.sort(SYMBOL, BAR).select(SYMBOL, TS, BAR, VOLATILITY, *expressions)


def regimes(known: pl.DataFrame, folds: pl.DataFrame) -> pl.DataFrame:
    """Bounds between the fifths of a market's volatility, told from all that came before each fold.

    Args:
        known: From `context`.
        folds: fold and start, its first bar.

    Returns:
        symbol, fold and bounds, a list of four; no row where fewer than 30 bars came before.
    """
    shares = [share / len(_REGIMES) for share in range(1, len(_REGIMES))]
    before = known.filter(pl.col(VOLATILITY).is_not_null())
    tables = [
        before.filter(pl.col(BAR) < start)
        .group_by(SYMBOL, maintain_order=True)
        .agg(
            pl.len().alias("n"), pl.concat_list(pl.col(VOLATILITY).quantile(share) for share in shares).alias("bounds")
        )
        .filter(pl.col("n") >= LEAST_FORECASTS)
        .select(SYMBOL, pl.lit(fold, dtype=pl.Int64).alias(FOLD), "bounds")
        for fold, start in folds.select(FOLD, "start").iter_rows()
    ]
    return pl.concat(tables)


def all_buckets(frame: pl.DataFrame, horizon: int) -> Iterator[Buckets]:
    """Every way in which the forecasts of one horizon are grouped.

    Args:
        frame: A row a forecast: ts, bar, volatility, return_before, bars_since_gap, bars_since_outlier, bounds (of the
            volatility), start and end (bars of its fold).
        horizon: Bars ahead.
    """
    stamps = frame[TS]
    if stamps.n_unique() > stamps.dt.date().n_unique():  # more than one bar a day
        labels = tuple(f"{hour:02d}" for hour in range(24))
        phrases = tuple(f"at {label}:00" for label in labels)
        title = "By hour of the day, UTC, at which the last bar known opened"
        yield Buckets("hour", title, "hour", labels, phrases, _places(stamps.dt.hour()))
    on = tuple(f"on {day}s" for day in _WEEKDAYS)
    yield Buckets("weekday", "By weekday, UTC", "weekday", _WEEKDAYS, on, _places(stamps.dt.weekday() - 1))
    yield _by_volatility(frame)
    yield _by_trend(frame)
    near = max(horizon, RECENT_BARS)
    yield _since(frame[SINCE_GAP], near, "gap", "missing bar")
    yield _since(frame[SINCE_OUTLIER], near, "outlier", "outlier")
    yield _by_month(stamps)
    yield _by_age(frame)


def _by_volatility(frame: pl.DataFrame) -> Buckets:
    bounds = frame["bounds"]
    known = (bounds.is_not_null() & frame[VOLATILITY].is_not_null()).to_numpy()
    groups = np.full(len(frame), -1, dtype=np.int64)
    if known.any():
        table = bounds.filter(known).list.to_array(len(_REGIMES) - 1).to_numpy()  # (K, 4)
        groups[known] = (frame[VOLATILITY].filter(known).to_numpy()[:, None] > table).sum(axis=1)
    title = "By volatility when the forecast was made, in fifths of what the market had shown before the fold"
    phrases = tuple(f"in the {name} fifth of the volatility" for name in _REGIMES)
    return Buckets("volatility", title, "volatility regime", _REGIMES, phrases, groups)


def _by_trend(frame: pl.DataFrame) -> Buckets:
    typical = frame[VOLATILITY] * np.sqrt(RECENT_BARS)
    trend: Array = (frame[RETURN_BEFORE] / typical).to_numpy()
    groups = np.where(np.isfinite(trend), (trend > -_TREND).astype(np.int64) + (trend > _TREND), -1)
    title = f"By trend: return over the last {RECENT_BARS} bars, beyond {_TREND:g} of its volatility"
    phrases = ("after a fall", "in a flat market", "after a rise")
    return Buckets("trend", title, "trend", ("falling", "flat", "rising"), phrases, groups)


def _since(bars: pl.Series, near: int, name: str, what: str) -> Buckets:
    """Forecasts soon after something, those after it, and those with none of it for long."""
    far = 7 * near
    since = bars.fill_null(far + 1).to_numpy()
    labels = (f"within {near}", f"{near + 1} to {far}", "none")
    article = "an" if what.startswith("o") else "a"
    phrases = (
        f"within {near} bars of {article} {what}",
        f"{near + 1} to {far} bars after {article} {what}",
        f"where no {what} came in the last {far} bars",
    )
    title = f"By bars since the last {what}"
    return Buckets(name, title, f"distance from {article} {what}", labels, phrases, _cut(since, (near, far)))


def _cut(values: Places, bounds: Sequence[int]) -> Places:
    return np.searchsorted(np.array(bounds), values).astype(np.int64)


def _by_month(stamps: pl.Series) -> Buckets:
    """Calendar months; quarters where a month holds about as few bars as figures need, or fewer."""
    noun, names = MONTH, stamps.dt.strftime("%Y-%m")
    if np.median(names.value_counts()["count"].to_numpy()) < 2 * LEAST_FORECASTS:
        noun = "quarter"
        names = pl.select(pl.format("{} Q{}", stamps.dt.year(), stamps.dt.quarter())).to_series()
    labels = tuple(names.unique().sort().to_list())
    groups = names.cast(pl.Enum(labels)).to_physical()
    return Buckets(MONTH, f"By calendar {noun}", noun, labels, tuple(f"in {each}" for each in labels), _places(groups))


def _by_age(frame: pl.DataFrame) -> Buckets:
    n_parts = len(_FIFTHS)
    age = (frame[BAR] - frame["start"]) * n_parts // (frame["end"] - frame["start"])
    phrases = tuple(f"in the {name} fifth of a fold" for name in _FIFTHS)
    title = "By age of the model, in fifths of the fold since its refit"
    return Buckets(AGE, title, "age", _FIFTHS, phrases, _places(age.clip(0, n_parts - 1)))


def _places(values: pl.Series) -> Places:
    return values.cast(pl.Int64).fill_null(-1).to_numpy()
