"""Two tables that have to be the same: the first value of each column that differs, by its bits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Moved:
    """A value that is another one in the second table.

    Attributes:
        column: Which column.
        row: The keys of its row.
        known: The value in the first table; None where it has none.
        after: The value in the second table; None where it has none.
    """

    column: str
    row: dict[str, Any]
    known: float | None
    after: float | None


def moved(known: pl.DataFrame, after: pl.DataFrame, keys: Sequence[str]) -> Iterator[Moved]:
    """The first row of each column in which two tables differ.

    Bits are compared, not numbers: NaN is NaN, and 0 is not -0. A row that one of them lacks differs in every column.

    Args:
        known: The first table.
        after: The second table, with the same columns.
        keys: Columns that name a row; all others are compared.
    """
    names = [name for name in known.columns if name not in keys]
    first, second = (_bits(table.select(*keys, *names)) for table in (known, after))
    if first.equals(second):
        return
    pairs = _paired(known, after, keys)
    pair_bits = _bits(pairs)
    for name in names:
        differs = pair_bits[name].ne_missing(pair_bits[f"{name}_after"])
        for row in pairs.filter(differs).head(1).iter_rows(named=True):
            yield Moved(name, {key: row[key] for key in keys}, row[name], row[f"{name}_after"])


def shown(value: float | None) -> float | str | None:
    """A value as JSON can have it, which knows neither NaN nor infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def _paired(known: pl.DataFrame, after: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Both side by side, the columns of the second named `<column>_after`; null in rows that one lacks."""
    renamed = after.rename({name: f"{name}_after" for name in known.columns if name not in keys})
    if known.select(keys).equals(after.select(keys)):
        return known.hstack(renamed.drop(keys))
    return known.join(renamed, on=keys, how="full", coalesce=True, nulls_equal=True).sort(keys)


def _bits(table: pl.DataFrame) -> pl.DataFrame:
    # `reinterpret(signed=True)` leaves a float as it is, without a word
    return table.with_columns(
        pl.col(name).reinterpret(dtype=pl.Int32 if kind == pl.Float32 else pl.Int64)
        for name, kind in table.schema.items()
        if kind.is_float()
    )
