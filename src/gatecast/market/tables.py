"""The cells of a file, with where they stand, so that what is wrong with one can be named."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

import polars as pl

from gatecast.errors import DataError


@dataclass(frozen=True)
class Table:
    """The cells of a file, and where they stand.

    Attributes:
        cells: Its columns, with names in lower case and underscores for blanks; of a CSV, all are text.
        path: The file.
        unit: What its rows are called: line or row.
        numbers: Number of each row in the file.
    """

    cells: pl.DataFrame
    path: str
    unit: str
    numbers: pl.Series

    def refuse_first(self, name: str, bad: pl.Series, fault: str) -> None:
        """Raise for the first bad cell of a column.

        Raises:
            DataError: There is one.
        """
        row = bad.arg_max()
        if row is None or not bad.any():
            return
        n_more = int(bad.sum()) - 1
        more = f" (and {n_more} more)" if n_more else ""
        where = f"{self.path} {self.unit} {self.numbers[row]}"
        raise DataError(f"{where}: {name} {self.cells[name][row]!r} {fault}{more}; nothing of the file was stored")


def table_of_frame(frame: pl.DataFrame, path: str) -> Table:
    """The cells of a Parquet file.

    Raises:
        DataError: A column is named twice.
    """
    return Table(named(frame, frame.columns, path), path, "row", pl.int_range(1, len(frame) + 1, eager=True))


def table_of_prose(text: str, path: str) -> Table:
    """The cells of a CSV whose quoted cells may hold commas, quotes and line breaks, as texts do.

    Args:
        text: Its content.
        path: What to call it in an error.

    Raises:
        DataError: Nothing in it, a web page, a row with another number of cells, a quote that does not end, or a column
            named twice.
    """
    if text.lstrip()[:1] == "<":
        raise DataError(f"{path} is a web page (it begins with {text.strip()[:40]!r}) and no CSV: download it again")
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        begin = 1
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {begin} is no row of a CSV ({error}): it may have been cut short") from None
    if not rows:
        raise DataError(f"{path} is empty: it holds no line")
    head = rows.pop(0)
    del numbers[0]
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != len(head):
            raise DataError(
                f"{path} line {number} has {len(row)} cells where {len(head)} are needed, as in the first line: it may"
                " have been cut short"
            )
    cells = pl.DataFrame(rows, schema={f"{place}": pl.String for place in range(len(head))}, orient="row")
    return Table(named(cells, head, path), path, "line", pl.Series(numbers, dtype=pl.Int64))


def named(cells: pl.DataFrame, head: Sequence[str], path: str) -> pl.DataFrame:
    """The cells under the names of a head, in lower case and with underscores for blanks.

    Raises:
        DataError: A column is named twice.
    """
    names = [name.strip().lower().replace(" ", "_") for name in head]
    if twice := [name for number, name in enumerate(names) if name and name in names[:number]]:
        raise DataError(f"{path} names column {twice[0]} twice")
    unnamed = [name or f"column_{number}" for number, name in enumerate(names)]
    return cells.rename(dict(zip(cells.columns, unnamed, strict=True)))


def numbers_in(table: Table, name: str) -> pl.Series:
    """A column of numbers; an empty cell of a CSV is NaN, so that it goes to quarantine and is seen there."""
    column = table.cells[name]
    if column.dtype != pl.String:
        return column
    cells = column.str.strip_chars().replace("", None)
    numbers = cells.cast(pl.Float64, strict=False)
    table.refuse_first(name, numbers.is_null() & cells.is_not_null(), "is not a number")
    return numbers.fill_null(float("nan"))
