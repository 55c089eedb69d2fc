"""Feature rows with another future: all that becomes known from a cut on is changed, in four ways."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import polars as pl

from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL, TS

CHANGES: Final = ("cut off", "scrambled", "scaled", "made NaN")
_TENFOLD: Final = 10
_THOUSANDFOLD: Final = 1000


def changed_rows(rows: pl.DataFrame, cut: int, horizons: Sequence[int]) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows, changed in each of the ways of `CHANGES`.

    A row is known at its bar, and its target of horizon h another h bars later.

    Args:
        rows: All feature rows with targets, sorted by symbol and ts.
        cut: First bar that is changed.
        horizons: Bars ahead of the targets.

    Yields:
        Name of the change and the changed rows: without the later ones, and null where a target reaches the cut; with
        later values in reverse order within each market, and tenfold; a thousandfold; NaN.
    """
    delays = {target_name(horizon): horizon for horizon in horizons}
    columns = [name for name in rows.columns if name not in (SYMBOL, TS, BAR)]
    targets = [name for name in columns if name in delays]

    def changed(names: Sequence[str], change: Callable[[str], pl.Expr]) -> pl.DataFrame:
        return rows.with_columns(
            pl.when(pl.col(BAR) + delays.get(name, 0) < cut).then(pl.col(name)).otherwise(change(name)).alias(name)
            for name in names
        )

    def scrambled(name: str) -> pl.Expr:
        row, place = pl.int_range(pl.len()), pl.int_range(pl.len()).over(SYMBOL)
        n_known = (pl.col(BAR) + delays.get(name, 0) < cut).sum().over(SYMBOL)
        mirrored = row + n_known + pl.len().over(SYMBOL) - 1 - 2 * place  # the later rows are the last of their market
        return _times(pl.col(name).gather(mirrored.clip(0, pl.len() - 1)), rows.schema[name], _TENFOLD)

    yield CHANGES[0], changed(targets, lambda _: pl.lit(None)).filter(pl.col(BAR) < cut)
    yield CHANGES[1], changed(columns, scrambled)
    yield CHANGES[2], changed(columns, lambda name: _times(pl.col(name), rows.schema[name], _THOUSANDFOLD))
    yield CHANGES[3], changed(columns, lambda name: pl.lit(math.nan if rows.schema[name].is_float() else None))


def _times(values: pl.Expr, dtype: pl.DataType, factor: int) -> pl.Expr:
    if dtype.is_numeric():
        return values * factor
    return ~values if dtype == pl.Boolean else values
