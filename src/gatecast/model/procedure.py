"""The procedure that is evaluated and goes live: scaler, seed ensemble and calibration, fitted on one train span."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from torch import Tensor

from gatecast.config import ModelConfig
from gatecast.errors import DataError
from gatecast.features.feature import KEYS
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.calibration import LEAST_TARGETS, Offsets, conformal_offsets, split_train
from gatecast.model.ensemble import collect_networks, members, train_member
from gatecast.model.fitted import FittedModel
from gatecast.model.networks import Architecture
from gatecast.model.predictions import LEVELS
from gatecast.model.training import EarlyStop, Hyperparameters, train_network
from gatecast.model.windows import Panel, Windows, fit_scaler, n_inputs


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


def begin_training(
    inputs: TrainingInputs,
    hyperparameters: Hyperparameters,
    n_steps: int,
    config: ModelConfig,
    workers: Executor,
    label: str,
    checkpoints: Path | None,
    start_from: PendingModel | None = None,
) -> PendingModel:
    """The networks of a fit, a seed each, are sent to the workers.

    Args:
        inputs: From `training_inputs`.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        config: Network and training.
        workers: From `training_workers`.
        label: What lines of progress say before the number of a network.
        checkpoints: Folder of networks under way and done; None: nothing is kept.
        start_from: A model of the same shape: each network goes on from its own of the same seed, which is waited for.
    """
    weights = [network.result() for network in start_from.networks] if start_from else None
    parts = (inputs.panel, inputs.model.architecture, hyperparameters, config, n_steps, label, checkpoints, weights)
    ensemble = members(*parts)
    return PendingModel(inputs, [workers.submit(train_member, member) for member in ensemble])


def stopping_steps(
    train: pl.DataFrame,
    stopping: pl.DataFrame,
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    max_epochs: int,
    patience: int,
) -> int:
    """Optimiser steps after which a network, trained at a constant rate, loses least on the stopping rows.

    Args:
        train: Feature rows with targets.
        stopping: Later rows, purged from them.
        hyperparameters: Of the network.
        config: Network and training; its first seed is used.
        max_epochs: Most passes over the train rows.
        patience: Passes without improvement after which the training stops.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    model = _unfitted(train, hyperparameters, config)
    panel, early_stop = model.panel(train), EarlyStop(model.panel(stopping), max_epochs, patience)
    parts = (panel, model.architecture, hyperparameters, config, config.seed)
    return train_network(*parts, early_stop=early_stop, label="tune, until it stops")[1]


def search_model(
    train: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig, n_steps: int
) -> FittedModel:
    """Fit one network for `tune` alone.

    It is trained on all train rows and not calibrated: the slice of an inner fold is so short that its noise would
    drown the differences between hyperparameters.

    Args:
        train: Feature rows with targets.
        hyperparameters: Of the network.
        config: Network and training; its first seed is used.
        n_steps: Optimiser steps.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    model = _unfitted(train, hyperparameters, config)
    parts = (model.panel(train), model.architecture, hyperparameters, config, config.seed)
    network, _ = train_network(*parts, n_steps=n_steps, label="tune")
    return replace(model, networks=(network,))


def training_inputs(rows: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig) -> TrainingInputs:
    """What is fitted before the networks, and what they are trained on.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        config: Network and training.

    Raises:
        DataError: Too few rows.
    """
    train, start = split_train(rows, config.calibration_share, max(config.horizons))
    if late := late_markets(rows, config):
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


def late_markets(rows: pl.DataFrame, config: ModelConfig) -> list[str]:
    """Markets that begin where no network is trained any more, in the calibration slice or the purge before it.

    Args:
        rows: Feature rows with targets of the train span.
        config: Network and training.

    Raises:
        DataError: Too few rows.
    """
    train, _ = split_train(rows, config.calibration_share, max(config.horizons))
    return sorted(set(rows[SYMBOL].unique()) - set(train[SYMBOL].unique()))


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
