"""What is true of a market as a whole: holes, runs, shares, tails; small frames out of many rows.

Only counts, largest values and ratios of counts, which come out the same to the last bit from run to run.
"""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from gatecast.config_types import Limits
from gatecast.market.candles import BAR, CLOSE, HIGH, LOW, MISSING, SYMBOL, TS, VALUES, VOLUME
from gatecast.market.expectations import STEP

LOG_RETURN: Final = "log_return"  # since the last close that is there, without its sign
LOG_RANGE: Final = "log_range"
STRAY: Final = "stray"  # 1 where the mark `missing` and the values contradict each other
GAP: Final = "reference_gap"
ABSENT: Final = "absent_bars"
UNACCOUNTED: Final = "unaccounted_rows"
N_BARS: Final = "n_bars"
MONTH: Final = "month"

_SHARE_DIGITS: Final = 6


def with_moves(candles: pl.DataFrame) -> pl.DataFrame:
    """Clean candles with what a rule about a single row needs.

    Args:
        candles: The clean grid, any number of markets, rows of a market together.

    Returns:
        The same rows with step (ms), log_return (of the bar since the last close that is there, without its sign; null
        at the first and at missing bars), log_range (log of high over low) and stray (0 or 1).
    """
    n_absent = pl.sum_horizontal(pl.col(name).is_null().cast(pl.Int64) for name in VALUES)
    due = pl.when(pl.col(MISSING)).then(len(VALUES)).otherwise(0)
    close = pl.when(pl.col(CLOSE) > 0).then(pl.col(CLOSE))
    before = close.forward_fill().shift(1).over(SYMBOL)
    return candles.with_columns(
        pl.col(TS).diff().over(SYMBOL).dt.total_milliseconds().alias(STEP),
        (close / before).log().abs().alias(LOG_RETURN),
        pl.when((pl.col(LOW) > 0) & (pl.col(HIGH) > 0)).then((pl.col(HIGH) / pl.col(LOW)).log()).alias(LOG_RANGE),
        (n_absent != due).cast(pl.Int64).alias(STRAY),
    )


def market_facts(candles: pl.DataFrame, counts: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """A row a market.

    Args:
        candles: Clean candles as `with_moves` gives them.
        counts: What `clean` counted, by symbol; a market without counts has nulls where they are needed.

    Returns:
        symbol, n_bars, absent_bars (of the range of bars, in no row at all), missing_share, hole_bars, standstill_bars,
        zero_volume_bars, log_return and log_range (the largest) with the open time of the larger one's bar, and from
        the counts quarantined_share, filler_share and unaccounted_rows.
    """
    runs = candles.group_by(SYMBOL, maintain_order=True).agg(
        pl.len().alias(N_BARS),
        (pl.col(BAR).max() - pl.col(BAR).min() + 1 - pl.col(BAR).n_unique()).alias(ABSENT),
        (pl.col(MISSING).sum() / pl.len()).round(_SHARE_DIGITS).alias("missing_share"),
        _longest(pl.col(MISSING)).alias("hole_bars"),
        _longest(pl.col(CLOSE).drop_nulls().diff() == 0).alias("standstill_bars"),
        _longest(pl.col(VOLUME).drop_nulls() == 0).alias("zero_volume_bars"),
        *(
            expression
            for name in (LOG_RETURN, LOG_RANGE)
            for expression in (pl.col(name).max(), _at_largest(name).alias(f"{name}_at"))
        ),
    )
    counted = [_counted(symbol, each) for symbol, each in counts.items()]
    schema = {SYMBOL: pl.String, "quarantined_share": pl.Float64, "filler_share": pl.Float64, UNACCOUNTED: pl.Int64}
    return runs.drop_nulls(SYMBOL).join(
        pl.DataFrame(counted, schema=schema, orient="row"), on=SYMBOL, how="left", maintain_order="left"
    )


def month_facts(counts: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """A row a market and month, from what `clean` counted.

    Returns:
        symbol, month (2021-03), month_missing_share and month_quarantined_share. The first and the last month are cut
        short, and a single bar would weigh too much in them: their shares are of the fullest month's count.
    """
    rows = [
        (symbol, month, *(each[name] for name in ("bars", "missing", "quarantined", "raw")))
        for symbol, market in counts.items()
        for month, each in market["by_month"].items()
    ]
    schema = {SYMBOL: pl.String, MONTH: pl.String, **dict.fromkeys(("bars", "missing", "quarantined", "raw"), pl.Int64)}
    months = pl.DataFrame(rows, schema=schema, orient="row")
    month = pl.col(MONTH)
    cut_short = (month == month.min().over(SYMBOL)) | (month == month.max().over(SYMBOL))
    return months.select(
        SYMBOL,
        MONTH,
        *(
            (pl.col(part) / pl.when(cut_short).then(pl.col(whole).max().over(SYMBOL)).otherwise(whole).clip(1))
            .round(_SHARE_DIGITS)
            .alias(f"month_{part}_share")
            for part, whole in (("missing", "bars"), ("quarantined", "raw"))
        ),
    )


def reference_gaps(candles: pl.DataFrame, reference: pl.DataFrame) -> pl.DataFrame:
    """Distance of each close from that of the second venue.

    Args:
        candles: Clean candles.
        reference: Candles of the second venue: symbol (of the own market), ts, close and any others.

    Returns:
        symbol, ts and reference_gap (log of the ratio, without its sign) of every bar with a candle; null where the
        second venue has none.
    """
    theirs = reference.select(SYMBOL, TS, pl.col(CLOSE).alias("theirs")).unique([SYMBOL, TS], keep="first")
    ours = candles.filter(~pl.col(MISSING) & pl.col(SYMBOL).is_not_null()).select(SYMBOL, TS, CLOSE)
    return ours.join(theirs, on=[SYMBOL, TS], how="left", maintain_order="left").select(
        SYMBOL, TS, (pl.col(CLOSE) / pl.col("theirs")).log().abs().alias(GAP)
    )


def reference_facts(gaps: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """A row a market that is held against a second venue.

    Args:
        gaps: As `reference_gaps` gives them.
        limits: Of reference_gap: what is beyond `warn` counts as apart.

    Returns:
        symbol, n_alone (bars without a partner), reference_alone_share, reference_apart_share (of the compared bars),
        reference_gap (the largest) with its open time.
    """
    compared, alone = pl.col(GAP).count(), pl.col(GAP).null_count()
    apart = (pl.col(GAP) > limits.warn).sum() if limits.warn is not None else pl.lit(0)
    return gaps.group_by(SYMBOL, maintain_order=True).agg(
        alone.alias("n_alone"),
        (alone / pl.len()).round(_SHARE_DIGITS).alias("reference_alone_share"),
        (apart / compared.clip(1)).round(_SHARE_DIGITS).alias("reference_apart_share"),
        pl.col(GAP).max(),
        _at_largest(GAP).alias(f"{GAP}_at"),
    )


def _counted(symbol: str, counts: Mapping[str, Any]) -> tuple[Any, ...]:
    n_bars = counts["clean"] + counts["missing"]
    return (
        symbol,
        round(counts["quarantined"] / max(counts["raw"], 1), _SHARE_DIGITS),
        round(counts["filler"] / max(n_bars, 1), _SHARE_DIGITS),
        counts["raw"] - counts["clean"] - counts["quarantined"] - counts["duplicates"],
    )


def _longest(condition: pl.Expr) -> pl.Expr:
    """The longest run of rows at which a condition holds; 0 if there is none."""
    runs = condition.rle()
    return runs.struct.field("len").filter(runs.struct.field("value")).max().fill_null(0)


def _at_largest(name: str) -> pl.Expr:
    return pl.col(TS).get(pl.col(name).arg_max())
