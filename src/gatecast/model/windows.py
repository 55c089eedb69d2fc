"""Sequence windows: anchored blocks of bars, as views on one tensor a market.

A block holds `stride` bars that are predicted, counted from the epoch (bar 0 opens at 1970-01-01), after `burn_in` bars
from which the state is warmed. What is predicted for a bar therefore depends on a fixed stretch of history and on
nothing else: neither on where the data begins nor on what came later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatecast.features.feature import VOLATILITY
from gatecast.features.indicators.published import source_of
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL

_CLIP = 6.0  # standard deviations: beyond them a feature says "extreme" and no more


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature, fitted on train rows only; both 0 where those had no value."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One market on its bar grid, padded at both ends to whole blocks.

    Attributes:
        inputs: Standardised features, 0 where null, and a mask of each group of features, (T, F + M): 1 where one of
            its features is null, so that a missing bar or a silent source is not taken for a mean value.
        targets: Scaled targets, 0 where unknown, (T, H).
        known: Where a target is known and can be scaled, (T, H), 1.0 or 0.0.
        scale: Volatility of each bar times the square root of each horizon, in log return, 0 where unknown, (T, H).
        rows: Row of the frame behind each bar, -1 in the padding, (T,).
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor
    scale: Tensor
    rows: Tensor


def n_inputs(features: Sequence[str]) -> int:
    """Channels of the network: the features, and a mask for those of candles and for each published source."""
    return len(features) + len(_mask_groups(features))


def fit_scaler(rows: pl.DataFrame, features: Sequence[str]) -> Scaler:
    """Mean and standard deviation of each feature over the rows given, nulls left out; both 0 where it has no value.

    A feature that has none in the train rows is then taken for absent ever after: what the network makes of it has not
    been trained.
    """
    # eager, whole-column sums: bit-stable from run to run
    table = rows.select(features).to_numpy()
    known = np.isfinite(table).any(axis=0)
    mean, deviation = np.zeros(len(features)), np.zeros(len(features))
    mean[known], deviation[known] = np.nanmean(table[:, known], axis=0), np.nanstd(table[:, known], axis=0)
    deviation[known & (deviation == 0)] = 1.0
    return Scaler(tuple(map(float, mean)), tuple(map(float, deviation)))


def build_panels(
    rows: pl.DataFrame, features: Sequence[str], horizons: Sequence[int], scaler: Scaler, stride: int, burn_in: int
) -> tuple[Panel, ...]:
    """One panel a market.

    Args:
        rows: Feature rows, with targets where known; consecutive bars within a market, sorted by symbol and ts.
        features: Names of the inputs, in order.
        horizons: Bars ahead, for the targets and their scale.
        scaler: Fitted on train rows.
        stride: Bars of a block that are predicted.
        burn_in: Bars before each block.
    """
    numbered = rows.with_row_index("_row")
    return tuple(
        _panel(market, features, horizons, scaler, stride, burn_in)
        for market in numbered.partition_by(SYMBOL, maintain_order=True)
    )


def _panel(
    market: pl.DataFrame,
    features: Sequence[str],
    horizons: Sequence[int],
    scaler: Scaler,
    stride: int,
    burn_in: int,
) -> Panel:
    first, last = market[BAR][0], market[BAR][-1]
    before = first % stride + burn_in  # the first block begins at an anchor, its burn-in before that
    after = stride - 1 - last % stride
    deviation = np.array([each or np.nan for each in scaler.deviation])  # NaN where the train rows had no value
    standardised = (market.select(features).to_numpy() - np.array(scaler.mean)) / deviation
    absent = np.isnan(standardised)
    masks = [absent[:, group].any(axis=1) for group in _mask_groups(features)]
    inputs = np.column_stack([np.nan_to_num(standardised.clip(-_CLIP, _CLIP)), *masks])
    scale = market[VOLATILITY].to_numpy()[:, None] * np.sqrt(np.array(horizons, dtype=float))
    targets = np.full(scale.shape, np.nan)
    for column, horizon in enumerate(horizons):
        if target_name(horizon) in market.columns:
            targets[:, column] = market[target_name(horizon)].to_numpy()
    scaled = targets / scale
    pad = ((before, after), (0, 0))
    return Panel(
        inputs=_tensor(np.pad(inputs, pad)),
        targets=_tensor(np.pad(np.nan_to_num(scaled), pad)),
        known=_tensor(np.pad(np.isfinite(scaled), pad)),
        scale=_tensor(np.pad(np.nan_to_num(scale), pad)),
        rows=torch.from_numpy(np.pad(market["_row"].to_numpy().astype(np.int64), pad[0], constant_values=-1)),
    )


def _mask_groups(features: Sequence[str]) -> list[list[int]]:
    """Places of the features that share a mask: those of candles first, then those of each published source."""
    groups: dict[str, list[int]] = {"": []}
    for place, name in enumerate(features):
        groups.setdefault(source_of(name), []).append(place)
    return list(groups.values())


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def blocks(series: Tensor, stride: int, burn_in: int, offset: int = 0) -> Tensor:
    """The blocks of a padded series, as views.

    Args:
        series: (T, C) or (T,).
        stride: Bars of a block that are predicted.
        burn_in: Bars before each block.
        offset: Bars by which the anchors are shifted, for training only.

    Returns:
        (N, burn_in + stride, C) or (N, burn_in + stride).
    """
    unfolded = series[offset:].unfold(0, burn_in + stride, stride)  # (N, C, L) or (N, L)
    return unfolded.transpose(1, 2) if series.dim() > 1 else unfolded


def history_bars(look_back: int, stride: int, burn_in: int) -> int:
    """Candles from which the forecast of the last bar follows: features of a whole block and its burn-in."""
    return look_back + burn_in + stride
