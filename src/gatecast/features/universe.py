"""What all markets of a run do at a bar, gathered one frame at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.features.feature import BREADTH, LEAD_RETURN, LEAD_SPAN_RETURN, UNIVERSE_RETURN, Recipe
from gatecast.features.indicators.cross_market import span_return
from gatecast.market.candles import BAR, SYMBOL

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Universe:
    """A row a bar: bar, and the columns of `gatecast.features.feature` that concern all markets; null where unknown.

    Attributes:
        table: The rows, consecutive bars; None where a single market runs.
    """

    table: pl.DataFrame | None

    def joined_to(self, grid: pl.DataFrame) -> pl.DataFrame:
        """The rows of any markets that were added up, with those columns."""
        if self.table is None:
            return grid
        return grid.hstack(self.table.drop(BAR)[grid[BAR] - self.table[BAR][0]])


def by_market(expression: pl.Expr, frame: pl.DataFrame) -> pl.Expr:
    """The expression within each market of a frame that is sorted by symbol."""
    single = frame.is_empty() or frame[SYMBOL][0] == frame[SYMBOL][-1]
    return expression if single else expression.over(SYMBOL)


def universe_of(frames: Iterable[pl.DataFrame], recipe: Recipe) -> Universe:
    """Add up the returns of all markets, bar by bar.

    Args:
        frames: Rows of one market or several, sorted by symbol, with log close and volatility; consecutive bars.
        recipe: Which market leads, and the span.

    Returns:
        Lead returns, mean return and breadth; each is of the same bar as the row, and known when that bar closes.
    """
    if len(recipe.symbols) < 2:  # noqa: PLR2004 - a universe begins with a second market
        return Universe(None)
    sums = _Sums()
    span = recipe.spans.universe_bars
    for frame in frames:
        returns = {"span": by_market(span_return(span), frame), "one": by_market(span_return(1), frame)}
        sums.add(frame.select(BAR, (pl.col(SYMBOL) == recipe.lead).alias("is_lead"), **returns))
    return Universe(sums.table())


class _Sums:
    """Running sums over markets that may begin and end at different bars."""

    def __init__(self) -> None:
        self.first = 0
        self.columns = {name: np.zeros(0) for name in ("total", "count", "risen")}
        self.lead = {name: np.zeros(0) for name in ("one", "span")}

    def add(self, values: pl.DataFrame) -> None:
        bars, span = values[BAR].to_numpy(), values["span"].to_numpy()
        self._cover(int(bars.min()), int(bars.max()))
        known = np.isfinite(span)
        addends = {"total": np.where(known, span, 0.0), "count": known, "risen": known & (span > 0)}
        ends = [*(np.flatnonzero(np.diff(bars) != 1) + 1), len(bars)]  # of runs of consecutive bars
        for start, end in pairwise([0, *ends]):
            there = slice(bars[start] - self.first, bars[end - 1] + 1 - self.first)
            for name, added in addends.items():
                self.columns[name][there] += added[start:end]
        is_lead = values["is_lead"].to_numpy()
        for name, array in self.lead.items():
            array[bars[is_lead] - self.first] = values[name].to_numpy()[is_lead]

    def _cover(self, first: int, last: int) -> None:
        """Widen the sums to hold these bars."""
        n_bars = len(self.columns["total"])
        if not n_bars:
            self.first = first
        before, after = max(self.first - first, 0), max(last + 1 - self.first - n_bars, 0)
        for kept, filler in ((self.columns, 0.0), (self.lead, np.nan)):
            for name, array in kept.items():
                kept[name] = np.pad(array, (before, after), constant_values=filler)
        self.first -= before

    def table(self) -> pl.DataFrame:
        count = self.columns["count"]
        with np.errstate(invalid="ignore"):
            mean, breadth = (self.columns[name] / count for name in ("total", "risen"))
        arrays: dict[str, Array] = {
            LEAD_RETURN: self.lead["one"],
            LEAD_SPAN_RETURN: self.lead["span"],
            UNIVERSE_RETURN: mean,
            BREADTH: breadth,
        }
        bars = pl.int_range(self.first, self.first + len(count), eager=True).alias(BAR)
        return pl.DataFrame([bars, *(pl.Series(name, array) for name, array in arrays.items())]).fill_nan(None)
