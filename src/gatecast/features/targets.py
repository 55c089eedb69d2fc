"""The targets: log returns over the horizons, never price levels."""

from collections.abc import Sequence
from typing import TypeVar

import polars as pl

from gatecast.market.candles import BAR, CLOSE, SYMBOL

Rows = TypeVar("Rows", pl.DataFrame, pl.LazyFrame)


def target_name(horizon: int) -> str:
    """Column of the target so many bars ahead."""
    return f"target_{horizon}"


def build_targets(candles: pl.DataFrame, horizons: Sequence[int]) -> pl.DataFrame:
    """log(close[t + h] / close[t]) for each horizon, known at the close of bar t + h.

    Args:
        candles: Clean candles (regular grid, missing bars null), sorted by symbol and ts.
        horizons: Bars ahead.

    Returns:
        A row a bar in the same order, a column a horizon, in log return; null where either close is missing.
    """
    log_close = pl.col(CLOSE).log()
    return candles.select(
        (log_close.shift(-horizon) - log_close).over(SYMBOL).alias(target_name(horizon)) for horizon in horizons
    )


def known_before(rows: Rows, horizons: Sequence[int], first_open: int) -> Rows:
    """What of the rows is known at the boundary: rows of closed candles, and of their targets those that have happened.

    Args:
        rows: Feature rows with targets, with column bar.
        horizons: Bars ahead of the targets.
        first_open: The first bar that is not closed at the boundary, and must not be seen.
    """
    return rows.filter(pl.col(BAR) < first_open).with_columns(
        pl.when(pl.col(BAR) + h < first_open).then(pl.col(target_name(h))).alias(target_name(h)) for h in horizons
    )
