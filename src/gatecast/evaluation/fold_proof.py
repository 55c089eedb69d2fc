"""The proof that a fold does not see what comes after it: the later rows are changed, and nothing known may move.

It is the proof of the features once more, for whatever is fitted inside a fold: scalers, the rows that the networks are
trained on, baselines; and for the forecasts, which must not follow from later bars either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from gatecast.evaluation.changed_rows import CHANGES, changed_rows
from gatecast.evaluation.splits import Fold
from gatecast.features.comparison import Moved, moved, shown
from gatecast.market.candles import BAR, SYMBOL, TS, iso
from gatecast.model.predictions import HORIZON

_KEYS: Final = (SYMBOL, TS, HORIZON, "feature", "position")  # they name a row of a table; everything else is compared

Tables = Mapping[str, pl.DataFrame]
Compute = Callable[[pl.DataFrame], Tables]


@dataclass(frozen=True)
class Breach:
    """A value that moved although it was known before the cut.

    Attributes:
        fold: Number of the fold, from 0 as in the predictions.
        what: The table: scaler, train targets, forecasts of naive.
        column: The column that moved.
        row: The keys of the first row that moved: symbol and ts, horizon, or feature.
        cut: Open time of the first bar that was changed.
        change: One of `CHANGES`.
        known: The value, in words where it is not finite; None where there is none.
        after: The value after the change.
    """

    fold: int
    what: str
    column: str
    row: Mapping[str, str | int]
    cut: str
    change: str
    known: float | str | None
    after: float | str | None

    def __str__(self) -> str:
        where = ", ".join(f"{key} {value}" for key, value in self.row.items())
        known, after = ("no number" if value is None else f"{value}" for value in (self.known, self.after))
        return (
            f"fold {self.fold + 1}: {self.column} of the {self.what} ({where}) is {known}, and becomes {after} when"
            f" what becomes known from {self.cut} on is {self.change}: it sees the future"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the keys of the row among the others."""
        found = {"cut": self.cut, "change": self.change, "known": self.known, "after": self.after}
        return {"fold": self.fold, "what": self.what, "column": self.column, **self.row, **found}


@dataclass(frozen=True)
class CutProof:
    """What was compared at one cut.

    Attributes:
        fold: Number of the fold.
        cut: Open time of the first bar that was changed.
        compared: Names of the tables.
        n_values: Values compared, over all changes.
        breaches: The first of each table and column.
    """

    fold: int
    cut: str
    compared: tuple[str, ...]
    n_values: int
    breaches: tuple[Breach, ...]


@dataclass(frozen=True)
class FoldProof:
    """The proof of a whole evaluation, cut by cut."""

    cuts: tuple[CutProof, ...]

    @property
    def breaches(self) -> tuple[Breach, ...]:
        """Everything that moved, in the order of folds and cuts; empty when nothing did."""
        return tuple(breach for cut in self.cuts for breach in cut.breaches)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in fold_leakage.json."""
        return {
            "n_folds": len({cut.fold for cut in self.cuts}),
            "n_cuts": len({(cut.fold, cut.cut) for cut in self.cuts}),
            "changes": list(CHANGES),
            "compared": list(dict.fromkeys(name for cut in self.cuts for name in cut.compared)),
            "n_values": sum(cut.n_values for cut in self.cuts),
            "breaches": [breach.as_dict() for breach in self.breaches],
        }


def prove_fitted(rows: pl.DataFrame, fold: Fold, horizons: Sequence[int], fitted: Tables, fit: Compute) -> CutProof:
    """What is fitted before the first forecast follows from nothing that becomes known from the first test bar on.

    Args:
        rows: All feature rows with targets, sorted by symbol and ts.
        fold: The test span.
        horizons: Bars ahead of the targets.
        fitted: What `fit` makes of the rows. Columns among symbol, ts, horizon, feature and position name a row; the
            values of all others are compared.
        fit: Tables of any rows.
    """
    return _prove(fold.test.start, rows, fold, horizons, fitted, fit)


def prove_forecasts(
    cut: int, rows: pl.DataFrame, fold: Fold, horizons: Sequence[int], forecasts: Tables, forecast: Compute
) -> CutProof:
    """What is forecast before a cut follows from nothing that becomes known from there on.

    Args:
        cut: First bar that is changed.
        rows: All feature rows with targets, sorted by symbol and ts.
        fold: The fold that the forecasts are of.
        horizons: Bars ahead of the targets.
        forecasts: What `forecast` makes of the rows, by model: symbol, ts, horizon and a column a level.
        forecast: Forecasts from any rows, whatever is fitted for them fitted anew.
    """
    earlier = rows.filter(pl.col(BAR) < cut).select(SYMBOL, TS)

    def known(tables: Tables) -> Tables:
        return {
            f"forecasts of {model}": table.join(earlier, on=[SYMBOL, TS], how="semi", maintain_order="left")
            for model, table in tables.items()
        }

    return _prove(cut, rows, fold, horizons, known(forecasts), lambda changed: known(forecast(changed)))


def cut_within(fold: Fold, stride: int) -> int:
    """A bar near the middle of the test span, and in the middle of a block of so many bars.

    At the edge of a block a network that looks ahead within its block would go unseen.
    """
    middle = (fold.test.start + fold.test.end) // 2
    return max(fold.test.start + 1, min(middle - middle % stride + stride // 2, fold.test.end - 1))


def _prove(
    cut: int, rows: pl.DataFrame, fold: Fold, horizons: Sequence[int], known: Tables, compute: Compute
) -> CutProof:
    breaches: dict[tuple[str, str], Breach] = {}
    n_values = 0
    cut_ts = iso(rows.filter(pl.col(BAR) >= cut).select(pl.col(TS).min()).item())
    for change, changed in changed_rows(rows, cut, horizons):
        again = compute(changed)
        for what, table in known.items():
            values = [column for column in table.columns if column not in _KEYS]
            n_values += len(table) * len(values)
            for found in moved(table, again[what], [column for column in table.columns if column in _KEYS]):
                breach = Breach(
                    fold.number, what, found.column, _row(found), cut_ts, change, shown(found.known), shown(found.after)
                )
                breaches.setdefault((what, found.column), breach)
    compared = tuple(what for what, table in known.items() if len(table))
    return CutProof(fold.number, cut_ts, compared, n_values, tuple(breaches.values()))


def _row(found: Moved) -> dict[str, str | int]:
    """The keys that tell a person which row it is."""
    there = {key: iso(value) if key == TS else value for key, value in found.row.items() if value is not None}
    return {key: value for key, value in there.items() if key != "position" or TS not in there}
