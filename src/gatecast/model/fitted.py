"""A fitted model: feature rows in, quantiles of log returns out."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatecast.market.candles import SYMBOL, TS
from gatecast.model.calibration import Offsets
from gatecast.model.networks import Architecture, Network
from gatecast.model.predictions import LEVELS, Array, predictions
from gatecast.model.threads import one_thread
from gatecast.model.windows import Panel, Scaler, Windows, build_panel


@dataclass(frozen=True)
class FittedModel:
    """Everything that a forecast needs besides the feature rows.

    Attributes:
        symbols: Its markets, in the order of their numbers.
        features: Inputs, in order.
        horizons: Bars ahead.
        windows: How bars are cut into blocks.
        architecture: What its networks are built from.
        scaler: Of the inputs.
        networks: The ensemble.
        offsets: What calibration adds to each quantile, (H, Q), in units of the scaled target.
    """

    symbols: tuple[str, ...]
    features: tuple[str, ...]
    horizons: tuple[int, ...]
    windows: Windows
    architecture: Architecture
    scaler: Scaler
    networks: tuple[Network, ...]
    offsets: Offsets

    def panel(self, rows: pl.DataFrame) -> Panel:
        """Feature rows as the network sees them.

        Raises:
            DataError: A row of a market that the model does not know.
        """
        return build_panel(rows, self.features, self.horizons, self.scaler, self.symbols, self.windows)

    def predict(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Quantiles for every bar that can be forecast from.

        Args:
            rows: Feature rows of consecutive bars a market, sorted by symbol and ts. What is predicted for a bar
                depends on its block and the burn-in before it, so rows should begin `windows.n_bars` bars earlier.

        Returns:
            symbol, ts (of the last bar known), horizon and a column a level, in log returns; a bar without a close or a
            volatility has no row.

        Raises:
            DataError: A row of a market that the model does not know.
        """
        panel = self.panel(rows)
        scaled = np.full((len(rows), len(self.horizons), len(LEVELS)), np.nan)
        here = panel.rows >= 0
        scaled[panel.rows[here].numpy()] = self._calibrated(self.scaled_quantiles(panel))[here.numpy()]
        return self._table(rows, scaled, _at_rows(panel.scale, panel, len(rows)))

    @one_thread()
    @torch.inference_mode()
    def predict_newest(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Quantiles of the newest bar of each market that can be forecast from, in one call of each network.

        Args:
            rows: Feature rows, the last `windows.n_bars` of each market, sorted by symbol and ts.

        Returns:
            As `predict`, but one bar a market; a market of which no bar can be forecast from has no row.

        Raises:
            DataError: A row of a market that the model does not know.
        """
        panel, burn_in = self.panel(rows), self.windows.burn_in
        usable = panel.cut((panel.rows >= 0) & (panel.scale[:, 0] > 0), panel.starts)[:, burn_in:]  # (N, stride)
        last = torch.where(usable, torch.arange(self.windows.stride), -1).amax(1)  # (N), -1 where no bar is usable
        # blocks come in the order of time within a market, and the last one stays
        block_of = {market: block for block, market in enumerate(panel.markets.tolist()) if last[block] >= 0}
        blocks = torch.tensor([block_of[market] for market in sorted(block_of)], dtype=torch.long)  # (B)
        places = burn_in + last[blocks]  # (B), within each block
        n_bars = int(places.max()) + 1 if len(blocks) else 1  # what comes after the newest bar is not computed
        inputs, each = panel.cut(panel.inputs, panel.starts[blocks])[:, :n_bars], torch.arange(len(blocks))
        states = [network.states(inputs, panel.markets[blocks])[each, places, None] for network in self.networks]
        heads = [network.head for network in self.networks]
        spoken = [head.quantiles(head(state))[:, 0] for head, state in zip(heads, states, strict=True)]  # (B, H, Q)
        bars = panel.starts[blocks] + places
        scaled = self._calibrated(torch.stack(spoken).mean(0).double().numpy())
        index = panel.rows[bars].numpy()
        keys = pl.DataFrame({key: rows[key].gather(index) for key in (SYMBOL, TS)})
        return self._table(keys, scaled, panel.scale[bars].double().numpy())

    @one_thread()
    @torch.inference_mode()
    def scaled_quantiles(self, panel: Panel) -> Array:
        """Quantiles of the scaled return before calibration, averaged over the networks.

        The anchored blocks of one number are computed together, each market in its place: matrix products may round
        otherwise in a batch of another size, and so what is said of a bar is the same to the last bit however many bars
        come after it.

        Returns:
            (T, H, Q), NaN in the burn-in before the first block of a market.
        """
        burn_in, n_bars = self.windows.burn_in, self.windows.n_bars
        result = np.full((len(panel.rows), len(self.horizons), len(LEVELS)), np.nan)
        numbers = torch.arange(len(self.symbols))
        for anchor in torch.unique(panel.anchors).tolist():
            chosen = panel.anchors == anchor
            starts, places = panel.starts[chosen], panel.markets[chosen]
            inputs = panel.inputs.new_zeros(len(self.symbols), n_bars, panel.inputs.shape[1])
            inputs[places] = panel.cut(panel.inputs, starts)
            quantiles = torch.stack([network(inputs, numbers)[places, burn_in:] for network in self.networks]).mean(0)
            spans = starts[:, None] + torch.arange(burn_in, n_bars)  # (B, stride)
            result[spans.numpy()] = quantiles.double().numpy()
        return result

    def _calibrated(self, quantiles: Array) -> Array:
        """With the offsets added, sorted: they could make neighbouring levels cross."""
        moved: Array = np.sort(quantiles + np.array(self.offsets), axis=-1)
        return moved

    def _table(self, rows: pl.DataFrame, scaled: Array, scale: Array) -> pl.DataFrame:
        """Predictions of rows, horizon after horizon, from scaled quantiles, (N, H, Q), and their scale, (N, H)."""
        returns = np.where(scale > 0, scale, np.nan)[..., None] * scaled  # (N, H, Q)
        n_horizons = len(self.horizons)
        keys = pl.DataFrame({key: pl.concat([rows[key]] * n_horizons) for key in (SYMBOL, TS)})
        ahead = np.repeat(np.array(self.horizons), len(rows))
        return predictions(keys, ahead, returns.swapaxes(0, 1).reshape(-1, len(LEVELS)))


def _at_rows(series: Tensor, panel: Panel, n_rows: int) -> Array:
    values = np.zeros((n_rows, series.shape[1]))
    here = panel.rows >= 0
    values[panel.rows[here].numpy()] = series[here].double().numpy()
    return values
