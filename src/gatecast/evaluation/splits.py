"""Walk-forward splits, counted in bars; at every boundary the rows whose targets reach across it are purged."""

from dataclasses import dataclass

import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import BAR


@dataclass(frozen=True)
class Span:
    """Bars from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def n_bars(self) -> int:
        """Its length."""
        return self.end - self.start

    def rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of a frame whose bar lies in the span."""
        return frame.filter(pl.col(BAR).is_between(self.start, self.end, closed="left"))

    def preceded_by(self, n_bars: int) -> "Span":
        """The span with so many bars before it: history for states and averages, never a label."""
        return Span(self.start - n_bars, self.end)

    def newest(self, n_bars: int | None) -> "Span":
        """Its last bars, at most so many; None: all of it."""
        return self if n_bars is None else Span(max(self.start, self.end - n_bars), self.end)


@dataclass(frozen=True)
class Fold:
    """One refit: everything before the test span, less what is purged, is the train span."""

    number: int
    train: Span
    test: Span


@dataclass(frozen=True)
class InnerFold:
    """One fold of the search: the slice that stops the training is never the slice that scores it."""

    number: int
    train: Span
    stopping: Span
    scoring: Span


def bars_of(rows: pl.DataFrame) -> Span:
    """The bars from the first to the last row of any market.

    Raises:
        DataError: No row.
    """
    if rows.is_empty():
        raise DataError("no feature row to split: fetch a longer history")
    first, last = rows.select(pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")).row(0)
    return Span(first, last + 1)


def walk_forward(history: Span, boundary: int, fold_bars: int, purge: int) -> tuple[Fold, ...]:
    """The folds of the evaluation period.

    New bars extend the last fold until it would hold two, and then add one: earlier folds never move.

    Args:
        history: All bars.
        boundary: First bar of the evaluation period.
        fold_bars: Bars of a fold.
        purge: Bars dropped before a boundary, the largest horizon: their targets reach across it.

    Raises:
        DataError: The evaluation period is shorter than one fold, or nothing is left to train on.
    """
    n_folds = (history.end - boundary) // fold_bars
    if n_folds < 1 or boundary - purge <= history.start:
        raise DataError(
            f"{history.end - history.start} bars do not hold a development period of {boundary - history.start} bars"
            f" and a fold of {fold_bars}: fetch a longer history, or set both keys of `split` to null, so that ingest"
            " resolves them anew"
        )
    starts = [boundary + number * fold_bars for number in range(n_folds)]
    ends = [*starts[1:], history.end]
    return tuple(
        Fold(number, Span(history.start, start - purge), Span(start, end))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    )


def newest_fold(history: Span, number: int) -> Fold:
    """The fold after the last: trained up to now, with nothing to test on yet.

    A bar whose targets are not known yet trains nothing, so that no purge is needed at its end.

    Args:
        history: All bars.
        number: Of the fold.
    """
    return Fold(number, history, Span(history.end, history.end))


def inner_folds(development: Span, n_folds: int, purge: int, train_bars: int | None = None) -> tuple[InnerFold, ...]:
    """The folds of the search: the second half of the development period, in pairs of stopping and scoring slice.

    Args:
        development: Bars of the development period.
        n_folds: Inner folds.
        purge: Bars dropped before each boundary.
        train_bars: Newest bars that a fold is trained on; None: all.

    Raises:
        DataError: A slice would not be twice as long as the purge before it.
    """
    half = (development.start + development.end) // 2
    slice_bars = (development.end - half) // (2 * n_folds)
    if slice_bars <= 2 * purge:
        raise DataError(
            f"{n_folds} inner folds on {development.end - development.start} bars leave slices of {slice_bars} bars,"
            f" and each takes more than twice the purge of {purge}: fetch a longer history, or lower tune.n_inner_folds"
            " or the horizons"
        )
    starts = [half + 2 * slice_bars * number for number in range(n_folds)]
    return tuple(
        InnerFold(
            number,
            train=Span(development.start, start - purge).newest(train_bars),
            stopping=Span(start, start + slice_bars - purge),
            scoring=Span(start + slice_bars, start + 2 * slice_bars),
        )
        for number, start in enumerate(starts)
    )


def resolve_split(history: Span, n_folds: int) -> tuple[int, int]:
    """Where the development period ends and how long a fold is, for a split that nobody has set.

    Args:
        history: All bars.
        n_folds: Folds that the evaluation period, the second half, is cut into.

    Returns:
        First bar of the evaluation period, and bars of a fold.

    Raises:
        DataError: The history is too short.
    """
    boundary = (history.start + history.end) // 2
    fold_bars = (history.end - boundary) // n_folds
    if fold_bars < 1:
        raise DataError(
            f"{history.end - history.start} bars cannot be cut into {n_folds} folds: fetch a longer history"
        )
    return boundary, fold_bars
