"""The leak prover: what comes after a cut is changed, and no value known before it may move by a bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, MISSING, SYMBOL, TS, VALUES, iso

Build = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Breach:
    """A value that moved although it was known before the cut."""

    column: str
    symbol: str
    ts: str
    cut: str
    known: float | None
    after: float | None

    def __str__(self) -> str:
        return (
            f"{self.column} of {self.symbol} at {self.ts} is {self.known}, and becomes {self.after} when candles from"
            f" {self.cut} on are changed: it sees the future"
        )


def prove(candles: pl.DataFrame, build: Build, horizons: Sequence[int], n_cuts: int) -> list[Breach]:
    """Change the future from evenly spaced bars and ends of holes on, and compare what was known before.

    The future is changed in two ways: cut off, and scrambled, with prices and volumes in reverse order and tenfold.

    Args:
        candles: Clean candles, sorted by symbol and ts.
        build: Features and targets of clean candles, a row a candle in the same order.
        horizons: Bars ahead of the targets: a target is known so many bars later than its row.
        n_cuts: How many evenly spaced bars to cut at, and how many ends of holes at most.

    Returns:
        The first breach of each column; empty when no value moved.
    """
    whole = build(candles)
    delays = {target_name(horizon): horizon for horizon in horizons}
    breaches: dict[str, Breach] = {}
    for cut in _cuts(candles, n_cuts):
        past = candles.filter(pl.col(BAR) < cut)
        for changed in (past, _scrambled(candles, cut)):
            rebuilt = build(changed)
            for column in whole.columns:
                if column not in breaches and (breach := _compare(whole, rebuilt, column, cut, delays.get(column, 0))):
                    breaches[column] = breach
    return list(breaches.values())


def _cuts(candles: pl.DataFrame, n_cuts: int) -> list[int]:
    """Evenly spaced bars, and as many that end a hole, where whatever fills backwards gives itself away."""
    first, last = candles.select(pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")).row(0)
    ends_hole = pl.col(MISSING).shift(1).over(SYMBOL) & ~pl.col(MISSING)
    hole_ends = candles.filter(ends_hole)[BAR].unique().sort()
    chosen = hole_ends.gather_every(max(len(hole_ends) // n_cuts, 1))[:n_cuts].to_list()
    return sorted({*np.linspace(first, last, n_cuts + 1, dtype=int)[1:].tolist(), *chosen})


def _scrambled(candles: pl.DataFrame, cut: int) -> pl.DataFrame:
    # a factor and a reversal within each market leave every row a possible candle
    future = pl.col(BAR) >= cut
    later = candles.filter(future).with_columns(pl.col(VALUES).reverse().over(SYMBOL) * 10)
    return pl.concat([candles.filter(~future), later]).sort(SYMBOL, BAR)


def _compare(whole: pl.DataFrame, rebuilt: pl.DataFrame, column: str, cut: int, delay: int) -> Breach | None:
    known = whole.filter(pl.col(BAR) + delay < cut).select(SYMBOL, TS, pl.col(column).alias("known"))
    after = rebuilt.filter(pl.col(BAR) + delay < cut).select(pl.col(column).alias("after"))
    moved = known.hstack(after).filter(pl.col("known").ne_missing(pl.col("after")))
    if moved.is_empty():
        return None
    row = moved.row(0, named=True)
    cut_ts = whole.filter(pl.col(BAR) == cut)[TS][0]
    return Breach(column, row[SYMBOL], iso(row[TS]), iso(cut_ts), row["known"], row["after"])
