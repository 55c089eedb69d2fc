"""What calibration promises: levels that held on unseen rows, from rows that no network has seen."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.errors import DataError
from gatecast.market.candles import BAR
from gatecast.model.calibration import LEAST_TARGETS, conformal_offsets, split_train
from gatecast.model.predictions import LEVELS


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 1000), n_bars=st.integers(30, 400), share=st.floats(0.01, 0.5), purge=st.integers(1, 30))
def test_no_label_of_a_train_row_is_known_only_within_the_calibration_slice(
    first: int, n_bars: int, share: float, purge: int
) -> None:
    rows = pl.DataFrame({BAR: range(first, first + n_bars)})
    n_slice = max(round(share * n_bars), 1)
    if n_bars - n_slice - purge < 1:
        with pytest.raises(DataError, match=r"do not hold a train slice, a purge of \d+ and a calibration slice"):
            split_train(rows, share, purge)
        return
    train, start = split_train(rows, share, purge)
    assert first + n_bars - start == n_slice
    for bar in train[BAR]:
        for horizon in range(1, purge + 1):
            assert bar + horizon < start  # the close of `start` itself opens the slice
    assert train[BAR].max() == start - purge - 1  # and not a row more is lost


def test_an_empty_train_span_is_one_line() -> None:
    with pytest.raises(DataError, match="no feature row to train on"):
        split_train(pl.DataFrame({BAR: []}, schema={BAR: pl.Int64}), 0.1, 24)


@pytest.mark.parametrize("n", [1, 7, 19, 20, 400])
def test_a_range_is_moved_until_it_holds_its_share_of_the_slice_and_no_further(n: int) -> None:
    generator = np.random.default_rng(n)
    targets, quantiles = generator.standard_normal(n), np.sort(generator.standard_normal((n, len(LEVELS))))
    offsets = conformal_offsets(targets[:, None] - quantiles)
    moved = quantiles + offsets
    assert offsets[LEVELS.index(0.5)] == 0
    for low, high in ((0.05, 0.95), (0.1, 0.9), (0.25, 0.75)):
        lower, upper = LEVELS.index(low), LEVELS.index(high)
        assert offsets[lower] == -offsets[upper]
        inside = sum(
            lo - 1e-12 <= target <= hi + 1e-12
            for target, lo, hi in zip(targets, moved[:, lower], moved[:, upper], strict=True)
        )
        assert inside == min(math.ceil((n + 1) * (high - low)), n)


def test_the_least_number_of_targets_is_the_first_that_holds_the_widest_range() -> None:
    needed = [n for n in range(1, 100) if math.ceil((n + 1) * (LEVELS[-1] - LEVELS[0])) <= n]
    assert needed[0] == LEAST_TARGETS


def test_ranges_that_are_wrong_hold_on_new_draws_once_they_are_moved() -> None:
    generator = np.random.default_rng(5)
    said = np.array([-0.6, -0.5, -0.2, 0.0, 0.2, 0.5, 0.6])  # too narrow
    covered = []
    for _ in range(300):
        seen, new = generator.standard_t(4, (2, 300))
        moved = np.sort(said + conformal_offsets(seen[:, None] - said))
        covered.append((new[:, None] <= moved).mean(axis=0))
    np.testing.assert_allclose(np.mean(covered, axis=0), LEVELS, atol=0.01)


def test_ranges_that_are_right_are_hardly_moved_and_a_drift_of_the_slice_moves_no_median() -> None:
    seen = np.random.default_rng(6).standard_normal(20_000)
    right = np.quantile(np.random.default_rng(7).standard_normal(200_000), LEVELS)
    assert np.abs(conformal_offsets(seen[:, None] - right)).max() < 0.04
    assert conformal_offsets(seen[:, None] + 0.3 - right)[LEVELS.index(0.5)] == 0
