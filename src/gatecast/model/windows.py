"""Sequence windows: anchored blocks of bars, as views on one tensor of all markets.

A block holds `stride` bars that are predicted, counted from the epoch (bar 0 opens at 1970-01-01), after `burn_in` bars
from which the state is warmed. What is predicted for a bar therefore depends on a fixed stretch of history and on
nothing else: neither on where the data begins nor on what came later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from gatecast.errors import DataError
from gatecast.features.feature import VOLATILITY
from gatecast.features.indicators.published import source_of
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL
from gatecast.model.predictions import Array

_CLIP = 6.0  # standard deviations: beyond them a feature says "extreme" and no more


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature, fitted on train rows only; both 0 where those had no value."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Windows:
    """How bars are cut into blocks.

    Attributes:
        stride: Bars of a block that are predicted.
        burn_in: Bars before each block.
    """

    stride: int
    burn_in: int

    @property
    def n_bars(self) -> int:
        """Bars of a block with its burn-in."""
        return self.burn_in + self.stride


@dataclass(frozen=True)
class Panel:
    """All markets on their bar grids, one after the other, each padded at both ends to whole blocks.

    Attributes:
        inputs: Standardised features, 0 where null, and a mask of each group of features, (T, F + M): 1 where one of
            its features is null, so that a missing bar or a silent source is not taken for a mean value.
        targets: Scaled targets, 0 where unknown, (T, H).
        known: Where a target is known and can be scaled, (T, H), 1.0 or 0.0.
        scale: Volatility of each bar times the square root of each horizon, in log return, 0 where unknown, (T, H).
        rows: Row of the frame behind each bar, -1 in the padding, (T,).
        starts: Place at which each anchored block, with its burn-in, begins, (N,).
        anchors: Number of each block, counted from the epoch, (N,).
        markets: Number of the market of each block, (N,).
        windows: How the blocks are cut.
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor
    scale: Tensor
    rows: Tensor
    starts: Tensor
    anchors: Tensor
    markets: Tensor
    windows: Windows

    def cut(self, series: Tensor, starts: Tensor) -> Tensor:
        """The stretches of a series, (T, C) or (T,), that begin at some places, (B,): (B, L, C) or (B, L)."""
        views = series.unfold(0, self.windows.n_bars, 1)  # (T - L + 1, C, L) or (T - L + 1, L), nothing is copied
        return (views.transpose(1, 2) if series.dim() > 1 else views)[starts]

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds but `windows`, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "windows"}

    def on(self, device: torch.device) -> "Panel":
        """The same on a device."""
        return Panel(**{name: tensor.to(device) for name, tensor in self.tensors().items()}, windows=self.windows)


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


def build_panel(
    rows: pl.DataFrame,
    features: Sequence[str],
    horizons: Sequence[int],
    scaler: Scaler,
    symbols: Sequence[str],
    windows: Windows,
) -> Panel:
    """The markets as the network sees them.

    Args:
        rows: Feature rows, with targets where known; consecutive bars within a market, sorted by symbol and ts.
        features: Names of the inputs, in order.
        horizons: Bars ahead, for the targets and their scale.
        scaler: Fitted on train rows.
        symbols: The markets of the model; their order gives them their numbers.
        windows: How the blocks are cut.

    Raises:
        DataError: A row of a market that is not among them.
    """
    bars, owners = rows[BAR].to_numpy(), _numbers(rows[SYMBOL], symbols)
    begin = np.flatnonzero(np.diff(owners, prepend=-1))  # row at which each market begins
    n_rows = np.diff(begin, append=len(rows))
    first, last = bars[begin], bars[begin + n_rows - 1] if len(rows) else bars[begin]
    before = first % windows.stride + windows.burn_in  # the first block begins at an anchor, its burn-in before that
    after = windows.stride - 1 - last % windows.stride
    ends = np.cumsum(before + n_rows + after)
    n_blocks = (before + n_rows + after - windows.burn_in) // windows.stride
    places = np.arange(len(rows)) + np.repeat(ends - after - n_rows - begin, n_rows)  # of each row

    def spread(values: Array) -> Tensor:
        padded = np.zeros((int(ends[-1]) if len(ends) else 0, values.shape[1]), dtype=np.float32)
        padded[places] = values
        return torch.from_numpy(padded)

    scale = rows[VOLATILITY].to_numpy()[:, None] * np.sqrt(np.array(horizons, dtype=float))
    scaled = _targets(rows, horizons) / scale
    index = np.full(int(ends[-1]) if len(ends) else 0, -1, dtype=np.int64)
    index[places] = np.arange(len(rows))
    block = np.arange(n_blocks.sum()) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)  # number within its market
    return Panel(
        inputs=spread(_inputs(rows, features, scaler)),
        targets=spread(np.nan_to_num(scaled)),
        known=spread(np.isfinite(scaled).astype(float)),
        scale=spread(np.nan_to_num(scale)),
        rows=torch.from_numpy(index),
        starts=torch.from_numpy(np.repeat(ends - before - n_rows - after, n_blocks) + block * windows.stride),
        anchors=torch.from_numpy(np.repeat(first // windows.stride, n_blocks) + block),
        markets=torch.from_numpy(np.repeat(owners[begin], n_blocks)),
        windows=windows,
    )


def _numbers(symbols: pl.Series, known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Number of the market of each row."""
    numbers = symbols.cast(pl.Enum(known), strict=False).to_physical()
    if numbers.null_count():
        unknown = ", ".join(sorted(set(symbols.unique()) - set(known)))
        raise DataError(f"the model was fitted on {', '.join(known)}, and knows nothing of {unknown}")
    return numbers.to_numpy().astype(np.int64)


def _inputs(rows: pl.DataFrame, features: Sequence[str], scaler: Scaler) -> Array:
    deviation = np.array([each or np.nan for each in scaler.deviation])  # NaN where the train rows had no value
    table = np.column_stack([rows[name].to_numpy() for name in features])  # for few rows quicker than a selection
    standardised = (table - np.array(scaler.mean)) / deviation
    absent = np.isnan(standardised)
    masks = [absent[:, group].any(axis=1) for group in _mask_groups(features)]
    return np.column_stack([np.nan_to_num(standardised.clip(-_CLIP, _CLIP)), *masks])


def _targets(rows: pl.DataFrame, horizons: Sequence[int]) -> Array:
    targets = np.full((len(rows), len(horizons)), np.nan)
    for column, horizon in enumerate(horizons):
        if target_name(horizon) in rows.columns:
            targets[:, column] = rows[target_name(horizon)].to_numpy()
    return targets


def _mask_groups(features: Sequence[str]) -> list[list[int]]:
    """Places of the features that share a mask: those of candles first, then those of each published source."""
    groups: dict[str, list[int]] = {"": []}
    for place, name in enumerate(features):
        groups.setdefault(source_of(name), []).append(place)
    return list(groups.values())


def history_bars(look_back: int, windows: Windows) -> int:
    """Candles from which the forecast of the last bar follows: features of a whole block and its burn-in."""
    return look_back + windows.n_bars
