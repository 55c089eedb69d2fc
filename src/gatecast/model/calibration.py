"""Conformalised quantile regression: levels are moved so that ranges held on rows that the networks have not seen.

The calibration slice is the newest part of the train span, and purged: the targets of what the networks are trained on
are known before it begins.
"""

import math
from typing import Final

import numpy as np
import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import BAR
from gatecast.model.predictions import LEVELS, Array

LEAST_TARGETS: Final = 9  # from there on ceil((n + 1) 0.9) is at most n
Offsets = tuple[tuple[float, ...], ...]  # (H, Q), in units of the scaled target


def split_train(rows: pl.DataFrame, share: float, purge: int) -> tuple[pl.DataFrame, int]:
    """The rows that the networks are trained on, and the first bar of the calibration slice.

    Args:
        rows: Feature rows with targets of the train span.
        share: Share of its bars that calibrate, the newest.
        purge: Bars dropped before the slice, the largest horizon: their targets reach into it.

    Raises:
        DataError: Nothing is left on one side.
    """
    if rows.is_empty():
        raise DataError("no feature row to train on: fetch a longer history")
    first, last = rows.select(pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")).row(0)
    n_bars = last - first + 1
    start = last + 1 - max(round(share * n_bars), 1)
    train = rows.filter(pl.col(BAR) < start - purge)
    if train.is_empty():
        raise DataError(
            f"{n_bars} bars do not hold a train slice, a purge of {purge} and a calibration slice of"
            f" {last + 1 - start}: fetch a longer history, or lower the horizons or model.calibration_share"
        )
    return train, start


def conformal_offsets(errors: Array) -> Array:
    """What has to be added to each quantile so that the central ranges held on the calibration slice.

    Both ends of a range are moved outwards by the same amount, or inwards: the ceil((n + 1) c)-th smallest distance of
    a target beyond its range, c the range's coverage. Of exchangeable targets at least a share c then lies within, in
    expectation. The median stays: where a slice drifted to says nothing about the next one (an offset of its own for
    every level cost 1.7 % of the loss at 24 bars, these nothing).

    Args:
        errors: Target less quantile, scaled, (N, Q); N at least `LEAST_TARGETS`, or the widest range is not held.

    Returns:
        (Q,).

    Source:
        Romano, Patterson and Candes (2019), Conformalized Quantile Regression, NeurIPS 32.
    """
    n, n_levels = errors.shape
    offsets = np.zeros(n_levels)
    for low in range(n_levels // 2):
        high = n_levels - 1 - low
        beyond = np.sort(np.maximum(-errors[:, low], errors[:, high]))  # negative inside the range
        rank = min(math.ceil((n + 1) * (LEVELS[high] - LEVELS[low])), n)
        offsets[low], offsets[high] = -beyond[rank - 1], beyond[rank - 1]
    return offsets
