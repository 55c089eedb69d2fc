"""Parity: a feature of the last bar, computed from no more candles than it has to look back, equals the batch's."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl

from gatecast.features.build import newest_features
from gatecast.features.catalogue import catalogue, look_back
from gatecast.features.comparison import shown
from gatecast.features.feature import VOLATILITY, Recipe
from gatecast.features.prover import sampled_bars
from gatecast.market.candles import BAR, MISSING, SYMBOL, TS, iso

TOLERANCE: Final = 1e-6  # standard deviations of the feature in its market
_ROUNDING: Final = 1e-12  # of a value: all that is left of two ways to the same number
_AFTER_HOLE: Final = 5  # bars: where a window still reaches over the hole


@dataclass(frozen=True)
class Difference:
    """A feature of one bar, from the batch and from its look-back alone."""

    column: str
    symbol: str
    ts: str
    batch: float | str | None
    alone: float | str | None
    deviations: float | None  # None where only one of them has a finite value

    def __str__(self) -> str:
        return (
            f"{self.column} of {self.symbol} at {self.ts} is {self.batch} in the batch and {self.alone} from its"
            f" look-back alone: a live value would not be the one that was evaluated"
        )


@dataclass(frozen=True)
class Parity:
    """How far features from their look-back alone are from the batch's.

    Attributes:
        n_bars: Bars of all markets that were compared.
        tolerance: Largest difference allowed, in standard deviations of the feature.
        worst: The largest difference; None where nothing could be compared.
        breaches: The first difference beyond the tolerance of each feature.
    """

    n_bars: int
    tolerance: float
    worst: Difference | None
    breaches: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def check_parity(
    candles: pl.LazyFrame, rows: pl.LazyFrame, publications: pl.DataFrame, recipe: Recipe, n_bars: int
) -> Parity:
    """Compare all markets at evenly spaced bars, and at bars shortly after holes.

    Args:
        candles: Clean candles, sorted by symbol and ts.
        rows: The feature rows that the batch has made of them.
        publications: Scored publications.
        recipe: Which features.
        n_bars: How many evenly spaced bars, and how many after holes at most.

    Returns:
        What was compared: the volatility that scales, and every feature in use.
    """
    names = [VOLATILITY, *(entry.name for entry in catalogue(recipe))]
    spread_of = {symbol: _spread(rows, symbol, names) for symbol in recipe.symbols}
    spaced, hole_ends = sampled_bars(candles, n_bars)
    n_compared = 0
    found: list[Difference] = []
    for bar in sorted({*spaced, *(end + _AFTER_HOLE for end in hole_ends)}):
        stretch = _reaching_back(candles, bar, look_back(recipe))
        alone = newest_features(stretch, publications, recipe, 1, exactly=True).filter(~pl.col(MISSING))
        batch = rows.filter((pl.col(BAR) == bar) & ~pl.col(MISSING)).collect()
        both = batch.select(SYMBOL, BAR, TS, *names).join(alone.select(SYMBOL, BAR, *names), on=[SYMBOL, BAR])
        n_compared += len(both)
        for row in both.sort(SYMBOL).iter_rows(named=True):
            found += _differences(row, names, spread_of[row[SYMBOL]])
    beyond = [each for each in found if each.deviations is None or each.deviations > TOLERANCE]
    first = {each.column: each for each in reversed(beyond)}
    measured = [each for each in found if each.deviations is not None]
    worst = max(measured, key=lambda each: each.deviations or 0.0, default=None)
    return Parity(n_compared, TOLERANCE, worst, tuple(first.values()))


def _spread(rows: pl.LazyFrame, symbol: str, names: Sequence[str]) -> dict[str, float | None]:
    """Standard deviation of each feature in one market, of its finite values: the suite finds the others."""
    # a market at a time, so that memory follows it; in memory, since streaming sums differ in their last bits
    own = rows.filter(pl.col(SYMBOL) == symbol).select(names).collect()
    return own.select(pl.col(name).filter(pl.col(name).is_finite()).std() for name in names).row(0, named=True)


def _reaching_back(candles: pl.LazyFrame, bar: int, n_candles: int) -> pl.DataFrame:
    """The candles up to a bar, as many of each market as are asked for, or all that it has."""
    first = candles.select(pl.col(BAR).min()).collect().item()
    reach = 2 * n_candles
    while True:
        stretch = candles.filter(pl.col(BAR).is_between(bar - reach, bar)).collect()
        there = stretch.group_by(SYMBOL).agg(enough=(~pl.col(MISSING)).sum() >= n_candles)
        if bar - reach <= first or there["enough"].all():
            return stretch
        reach *= 2


def _differences(row: dict[str, Any], names: Sequence[str], spread: dict[str, float | None]) -> list[Difference]:
    differences = []
    for name in names:
        batch, alone = row[name], row[f"{name}_right"]
        if shown(batch) == shown(alone):  # NaN is as much the same as any other value
            continue
        if batch is not None and alone is not None and abs(batch - alone) <= _ROUNDING * max(1.0, abs(batch)):
            continue
        deviations = None
        if batch is not None and alone is not None and math.isfinite(batch - alone) and spread[name]:
            deviations = abs(batch - alone) / spread[name]
        differences.append(Difference(name, row[SYMBOL], iso(row[TS]), shown(batch), shown(alone), deviations))
    return differences
