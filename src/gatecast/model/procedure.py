"""The procedure that is evaluated and goes live: scaler, seed ensemble and calibration, fitted on one train span."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatecast.config import ModelConfig
from gatecast.errors import DataError
from gatecast.features.feature import KEYS
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.calibration import LEAST_TARGETS, Offsets, conformal_offsets, split_train
from gatecast.model.ensemble import collect_networks, members, train_member, training_workers
from gatecast.model.networks import Architecture, Network
from gatecast.model.predictions import LEVELS, Array, predictions
from gatecast.model.threads import one_thread
from gatecast.model.training import EarlyStop, Hyperparameters, train_network
from gatecast.model.windows import Panel, Scaler, Windows, build_panel, fit_scaler, n_inputs


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


@dataclass(frozen=True)
class TrainingInputs:
    """What stands before the first optimiser step: with seeds and number of steps, the model follows from it alone.

    Attributes:
        model: Everything that is fitted besides networks and offsets, of which there are none yet.
        panel: The train rows as the networks get them.
        bars: symbol and ts behind the panel.
        calibration: The rows that calibrate, with the history that their states need.
        calibration_bars: symbol and ts behind them.
    """

    model: FittedModel
    panel: Panel
    bars: pl.DataFrame
    calibration: Panel
    calibration_bars: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """All of it, cell by cell, to be compared with the same of other rows. Whatever else is fitted belongs here.

        Returns:
            `scaler`: feature, mean, deviation. And for each tensor of the panels, `train inputs`, `calibration inputs`
            and so on: symbol, ts (both null in the padding), position (in the panel) and a column a channel.
        """
        scaler = {"feature": self.model.features, "mean": self.model.scaler.mean}
        tables = {"scaler": pl.DataFrame({**scaler, "deviation": self.model.scaler.deviation})}
        slices = {"train": (self.panel, self.bars), "calibration": (self.calibration, self.calibration_bars)}
        for which, (panel, bars) in slices.items():
            for name in ("inputs", "targets", "known", "scale"):
                tables[f"{which} {name}"] = self._cells(getattr(panel, name), panel.rows, bars, name)
        return tables

    def _cells(self, cells: Tensor, rows: Tensor, bars: pl.DataFrame, name: str) -> pl.DataFrame:
        names = self.model.features if name == "inputs" else [target_name(horizon) for horizon in self.model.horizons]
        channels = [*names, *(f"mask {number + 1}" for number in range(cells.shape[1] - len(names)))]
        behind = bars[pl.Series(rows.numpy()).replace(-1, None)]
        return behind.with_row_index("position").hstack(pl.from_numpy(cells.numpy(), schema=channels))


@dataclass(frozen=True)
class PendingModel:
    """A model whose networks are being trained."""

    inputs: TrainingInputs
    networks: Sequence[Future[bytes]] = field(repr=False)

    def fitted(self) -> FittedModel:
        """The model, once its networks are there: they are put together and calibrated.

        Raises:
            GatecastError: The loss of a network is no longer a number, or a process was killed.
        """
        raw = self.inputs.model
        model = replace(raw, networks=collect_networks(raw.architecture, self.networks))
        return replace(model, offsets=_offsets(model, self.inputs.calibration))


def fit_model(
    rows: pl.DataFrame,
    hyperparameters: Hyperparameters,
    n_steps: int,
    config: ModelConfig,
    checkpoints: Path | None = None,
) -> FittedModel:
    """Fit the procedure: the same function for every fold of `evaluate` and for `fit`.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        config: Network and training.
        checkpoints: Folder of networks under way and done; None: nothing is kept.

    Raises:
        DataError: Too few rows.
        GatecastError: The loss is no longer a number.
    """
    inputs = training_inputs(rows, hyperparameters, config)
    with training_workers(config.n_seeds, config.n_devices) as workers:
        return begin_training(inputs, hyperparameters, n_steps, config, workers, "", checkpoints).fitted()


def begin_training(
    inputs: TrainingInputs,
    hyperparameters: Hyperparameters,
    n_steps: int,
    config: ModelConfig,
    workers: Executor,
    label: str,
    checkpoints: Path | None,
) -> PendingModel:
    """The second half of `fit_model`: the networks, a seed each, are sent to the workers.

    Args:
        inputs: From `training_inputs`.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        config: Network and training.
        workers: From `training_workers`.
        label: What lines of progress say before the number of a network.
        checkpoints: Folder of networks under way and done; None: nothing is kept.
    """
    ensemble = members(inputs.panel, inputs.model.architecture, hyperparameters, config, n_steps, label, checkpoints)
    return PendingModel(inputs, [workers.submit(train_member, member) for member in ensemble])


def search_model(
    train: pl.DataFrame,
    stopping: pl.DataFrame,
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    max_epochs: int,
    patience: int,
) -> tuple[FittedModel, int]:
    """Fit one network for `tune` alone: the stopping rows tell the number of steps, then it is trained as any other.

    It is trained on all train rows and not calibrated: the slice of an inner fold is so short that its noise would
    drown the differences between hyperparameters.

    Args:
        train: Feature rows with targets.
        stopping: Later rows, purged from them.
        hyperparameters: Of the network.
        config: Network and training; its first seed is used.
        max_epochs: Most passes over the train rows.
        patience: Passes without improvement after which the training stops.

    Returns:
        The fitted model and its optimiser steps.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    model = _unfitted(train, hyperparameters, config)
    panel, early_stop = model.panel(train), EarlyStop(model.panel(stopping), max_epochs, patience)
    parts = (panel, model.architecture, hyperparameters, config, config.seed)
    network, n_steps = train_network(*parts, early_stop=early_stop, label="tune, until it stops")
    if config.schedule != "constant":
        network, _ = train_network(*parts, n_steps=n_steps, label="tune")
    return replace(model, networks=(network,)), n_steps


def training_inputs(rows: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig) -> TrainingInputs:
    """The first half of `fit_model`: what is fitted before the networks, and what they are trained on.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        config: Network and training.

    Raises:
        DataError: Too few rows.
    """
    train, start = split_train(rows, config.calibration_share, max(config.horizons))
    if late := sorted(set(rows[SYMBOL].unique()) - set(train[SYMBOL].unique())):
        raise DataError(
            f"{', '.join(late)} begins where no network is trained any more, at bar {start} or in the purge before it:"
            " fetch a longer history of it, lower model.calibration_share, or take it out of ingest.symbols"
        )
    model = _unfitted(train, hyperparameters, config)
    newest = rows.filter(pl.col(BAR) >= start - model.windows.n_bars).with_columns(
        pl.when(pl.col(BAR) >= start).then(pl.col(target_name(horizon))) for horizon in config.horizons
    )
    keys = [SYMBOL, TS]
    return TrainingInputs(model, model.panel(train), train.select(keys), model.panel(newest), newest.select(keys))


def _unfitted(train: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig) -> FittedModel:
    """A model with its scaler, and neither networks nor calibration."""
    features = tuple(name for name in train.columns if name not in KEYS and not name.startswith("target_"))
    symbols = tuple(train[SYMBOL].unique().sort())
    architecture = Architecture(
        network=config.network,
        head=config.head,
        normalisation=config.normalisation,
        n_inputs=n_inputs(features),
        n_horizons=len(config.horizons),
        n_markets=len(symbols),
        embedding_size=config.embedding_size,
        hidden_size=hyperparameters.hidden_size,
        n_layers=config.n_layers,
        dropout=hyperparameters.dropout,
        kernel_bars=config.kernel_bars,
        n_attention_heads=config.n_attention_heads,
    )
    return FittedModel(
        symbols=symbols,
        features=features,
        horizons=config.horizons,
        windows=Windows(config.stride, config.burn_in),
        architecture=architecture,
        scaler=fit_scaler(train, features),
        networks=(),
        offsets=((0.0,) * len(LEVELS),) * len(config.horizons),
    )


def _offsets(model: FittedModel, calibration: Panel) -> Offsets:
    """The conformal offsets of each horizon, all markets together.

    Raises:
        DataError: Fewer known targets of a horizon than calibrate its widest range.
    """
    quantiles, known = model.scaled_quantiles(calibration), calibration.known.numpy() > 0
    offsets = []
    for column, horizon in enumerate(model.horizons):
        here = known[:, column] & np.isfinite(quantiles[:, column, 0])
        errors = calibration.targets[:, column].double().numpy()[here, None] - quantiles[here, column]
        if len(errors) < LEAST_TARGETS:
            raise DataError(
                f"the calibration slice has {len(errors)} known targets {horizon} bars ahead, and {LEAST_TARGETS} are"
                " needed: fetch a longer history, or raise model.calibration_share"
            )
        offsets.append(tuple(map(float, conformal_offsets(errors))))
    return tuple(offsets)
