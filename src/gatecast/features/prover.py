"""The leak prover: what comes after a cut is changed, and no value known before it may move by a bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import polars as pl

from gatecast.features.comparison import Moved, moved, shown
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, MISSING, SYMBOL, TS, VALUES, iso
from gatecast.market.publications.table import PUBLISHED_AT, SOURCE, VALUE

Build = Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]
Frame = tuple[pl.DataFrame, pl.DataFrame]  # candles and publications
_ROWS_AT_ONCE: Final = 200_000  # of all markets: a larger history is proven in a stretch around each cut
STRETCH_WARM_UPS: Final = 4  # that a stretch has on each side of a cut
_UNEVEN: Final = 7  # bars: shares no factor with the bars of an hour, a day or a week
_NOT_VALUES: Final = (SYMBOL, TS, BAR, MISSING)
_ROW: Final = "_row"


@dataclass(frozen=True)
class Breach:
    """A value that moved although it was known before the cut."""

    column: str
    symbol: str
    ts: str
    cut: str
    change: str
    known: float | str | None
    after: float | str | None

    def __str__(self) -> str:
        return (
            f"{self.column} of {self.symbol} at {self.ts} is {self.known}, and becomes {self.after} when what comes"
            f" from {self.cut} on is {self.change}: it sees the future"
        )


@dataclass(frozen=True)
class Proof:
    """What was proven.

    Attributes:
        n_cuts: Instants at which the input was cut.
        changes: What was done to all that came after each of them.
        columns: The columns that were compared.
        n_values: Values that were compared, over all cuts and changes.
        breaches: The first breach of each column; empty when no value moved.
    """

    n_cuts: int
    changes: tuple[str, ...]
    columns: tuple[str, ...]
    n_values: int
    breaches: tuple[Breach, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"n_columns": len(self.columns)}


def prove(
    candles: pl.LazyFrame,
    publications: pl.DataFrame,
    build: Build,
    horizons: Sequence[int],
    length: timedelta,
    n_cuts: int,
    reach: int,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Proof:
    """Change the future from chosen bars on, and compare what was known before.

    They are evenly spaced bars, ends of holes, and bars during which something is published.

    The future, candles and publications alike, is changed in four ways: cut off, scrambled (in reverse order, tenfold),
    scaled, and made NaN. A history of more rows than are held at once is proven in a stretch around each cut: what is
    built of it before and after the change begins at the same bar, so that bits can be compared, and parity ties it
    to the rows that are written.

    Args:
        candles: Clean candles, sorted by symbol and ts.
        publications: Scored publications.
        build: Features and targets of clean candles and publications, a row a candle in the same order.
        horizons: Bars ahead of the targets: a target is known so many bars later than its row.
        length: Of a bar.
        n_cuts: How many evenly spaced bars to cut at, and how many ends of holes and bars with publications at most.
        reach: Bars before and after a cut that a stretch has at least: more than every feature needs to warm up.
        rows_at_once: Rows of all markets together that are held at once, unless the reach needs more.

    Returns:
        What was proven. Values that are null prove nothing and are not counted.
    """
    spaced, hole_ends = sampled_bars(candles, n_cuts)
    # whatever fills backwards gives itself away where a hole ends, and what enters early where it is published
    cuts = sorted({*spaced, *hole_ends, *_entry_bars(candles, publications, length, n_cuts)})
    breaches: dict[str, Breach] = {}
    columns: tuple[str, ...] = ()
    n_cut, n_values = 0, 0
    for stretch, at in _stretches(candles, cuts, reach, rows_at_once):
        whole = build(stretch, publications)
        columns = tuple(name for name in whole.columns if name not in _NOT_VALUES)
        by_delay = {target_name(horizon): (horizon, [target_name(horizon)]) for horizon in horizons}
        by_delay[""] = (0, [name for name in columns if name not in by_delay])
        n_cut += len(at)
        for cut in at:
            at_cut = iso(whole.filter(pl.col(BAR) == cut)[TS][0])
            for change, changed in _changes(stretch, publications, cut, length):
                rebuilt = build(*changed)
                for delay, names in by_delay.values():
                    known, after = (
                        rows.filter(pl.col(BAR) + delay < cut).select(SYMBOL, TS, *names) for rows in (whole, rebuilt)
                    )
                    n_values += sum(known.select(pl.col(names).count()).row(0)) if names else 0
                    for found in moved(known, after, (SYMBOL, TS)):
                        breaches.setdefault(found.column, _breach(found, at_cut, change))
    return Proof(n_cut, tuple(CHANGES), columns, n_values, tuple(breaches.values()))


def sampled_bars(candles: pl.LazyFrame, n_bars: int) -> tuple[list[int], list[int]]:
    """Bars at about even distances, the last one included, and the first bars after holes, so many of each at most.

    The distances are a little uneven: what leaks within an hour or a day would go unseen at its very beginning.
    """
    ends_hole = pl.col(MISSING).shift(1).over(SYMBOL) & ~pl.col(MISSING)
    bars = candles.select(BAR, ends_hole.alias(MISSING)).collect(engine="in-memory")
    first, last = bars.select(pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")).row(0)
    spaced = np.linspace(first, last, min(n_bars, last - first) + 1, dtype=int)[1:]
    if (last - first) // n_bars > _UNEVEN * n_bars:
        spaced -= _UNEVEN * np.arange(n_bars)[::-1]
    hole_ends = bars.filter(MISSING)[BAR].unique().sort()
    return spaced.tolist(), hole_ends.gather_every(max(len(hole_ends) // n_bars, 1))[:n_bars].to_list()


def _entry_bars(candles: pl.LazyFrame, publications: pl.DataFrame, length: timedelta, n_bars: int) -> list[int]:
    """The first bars that close after something is published, from the second on, spread over time and sources."""
    bars = candles.select(BAR, pl.col(TS) + length).unique().sort(TS).collect(engine="in-memory")  # when they close
    entered = (
        publications.sort(PUBLISHED_AT)
        .join_asof(bars[1:], left_on=PUBLISHED_AT, right_on=TS, strategy="forward", allow_exact_matches=False)
        .drop_nulls(BAR)
    )
    by_source = [rows[BAR].unique().sort() for rows in entered.partition_by(SOURCE)]
    n_each = max(n_bars // max(len(by_source), 1), 1)
    steps = (max(len(each) // n_each, 1) for each in by_source)
    chosen = (each.gather_every(step, step // 2)[:n_each] for each, step in zip(by_source, steps, strict=True))
    return [bar for each in chosen for bar in each]


def _stretches(
    candles: pl.LazyFrame, cuts: Sequence[int], reach: int, rows_at_once: int
) -> Iterator[tuple[pl.DataFrame, Sequence[int]]]:
    """The candles to build from, and the cuts to make in them."""
    n_rows, n_markets = candles.select(pl.len(), pl.col(SYMBOL).n_unique()).collect().row(0)
    if n_rows <= rows_at_once:
        yield candles.collect(), cuts
        return
    before = max(reach, rows_at_once // n_markets // 2)
    for cut in cuts:
        stretch = candles.filter(pl.col(BAR).is_between(cut - before, cut + before)).collect()
        if (stretch[BAR] < cut).any() and (stretch[BAR] == cut).any():  # else no market has anything there to lose
            yield stretch, [cut]


def _changes(
    candles: pl.DataFrame, publications: pl.DataFrame, cut: int, length: timedelta
) -> Iterator[tuple[str, Frame]]:
    """What is changed in each way, from a bar on; of publications what comes once the bar before it has closed."""
    instant = candles.filter(pl.col(BAR) < cut)[TS].max() + length  # type: ignore[operator]  # a cut follows a bar
    for name, change in CHANGES.items():
        later_candles = _changed(candles, pl.col(BAR) >= cut, change, VALUES, by=[SYMBOL])
        later_publications = _changed(publications, pl.col(PUBLISHED_AT) >= instant, change, (VALUE,), by=[SOURCE])
        yield name, (later_candles, later_publications)


def _breach(found: Moved, cut: str, change: str) -> Breach:
    known, after = shown(found.known), shown(found.after)
    return Breach(found.column, found.row[SYMBOL], iso(found.row[TS]), cut, change, known, after)


Change = Callable[[pl.Expr], pl.Expr] | None
CHANGES: Final[dict[str, Change]] = {
    "cut off": None,
    "scrambled": lambda values: values.reverse() * 10,
    "scaled": lambda values: values * 1.5,
    "made NaN": lambda values: values * float("nan"),
}


def _changed(
    frame: pl.DataFrame, future: pl.Expr, change: Change, columns: Sequence[str], by: Sequence[str]
) -> pl.DataFrame:
    """The frame with its future changed, rows in their order; factors and reversals leave candles possible."""
    if change is None:
        return frame.filter(~future)
    numbered = frame.with_row_index(_ROW)
    later = numbered.filter(future).with_columns(change(pl.col(columns)).over(by))
    return pl.concat([numbered.filter(~future), later]).sort(_ROW).drop(_ROW)
