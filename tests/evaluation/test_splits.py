from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gatecast.errors import DataError
from gatecast.evaluation.splits import Span, inner_folds, resolve_split, walk_forward

SPLITS = {
    "start": st.integers(0, 500_000),
    "n_bars": st.integers(400, 60_000),
    "n_folds": st.integers(4, 12),
    "purge": st.integers(1, 72),
}


@given(**SPLITS)
def test_no_train_label_touches_a_test_bar_and_the_test_bars_are_tiled(
    start: int, n_bars: int, n_folds: int, purge: int
) -> None:
    history = Span(start, start + n_bars)
    boundary, fold_bars = resolve_split(history, n_folds)
    assume(boundary - purge > start)
    folds = walk_forward(history, boundary, fold_bars, purge)
    assert len(folds) >= n_folds
    assert folds[0].test.start == boundary
    assert folds[-1].test.end == history.end
    for fold, after in pairwise(folds):
        assert fold.test.end == after.test.start
    for fold in folds:
        last_label_ends_at = fold.train.end - 1 + purge
        assert last_label_ends_at < fold.test.start
        assert fold.train.end > fold.train.start == history.start


@given(**SPLITS, more=st.integers(0, 20_000))
def test_new_bars_extend_the_last_fold_or_add_folds_and_never_move_one(
    start: int, n_bars: int, n_folds: int, purge: int, more: int
) -> None:
    boundary, fold_bars = resolve_split(Span(start, start + n_bars), n_folds)
    assume(boundary - purge > start)
    before = walk_forward(Span(start, start + n_bars), boundary, fold_bars, purge)
    after = walk_forward(Span(start, start + n_bars + more), boundary, fold_bars, purge)
    assert len(after) >= len(before)
    assert [fold.test.start for fold in before] == [fold.test.start for fold in after[: len(before)]]
    assert list(before[:-1]) == list(after[: len(before) - 1])


@given(
    start=st.integers(0, 500_000), n_bars=st.integers(400, 60_000), n_folds=st.integers(1, 6), purge=st.integers(1, 72)
)
def test_the_slice_that_stops_is_never_the_slice_that_scores_and_labels_stay_inside(
    start: int, n_bars: int, n_folds: int, purge: int
) -> None:
    try:
        folds = inner_folds(Span(start, start + n_bars), n_folds, purge)
    except DataError:
        assert n_bars // 2 // (2 * n_folds) <= 2 * purge
        return
    for fold in folds:
        assert fold.train.end - 1 + purge < fold.stopping.start
        assert fold.stopping.end - 1 + purge < fold.scoring.start
        assert fold.stopping.end > fold.stopping.start
        assert start == fold.train.start
        assert fold.scoring.end <= start + n_bars


def test_too_short_a_history_says_what_to_do() -> None:
    with pytest.raises(DataError, match="fetch a longer history"):
        walk_forward(Span(0, 100), 90, 50, 24)
    with pytest.raises(DataError, match="fetch a longer history"):
        resolve_split(Span(0, 5), 5)
