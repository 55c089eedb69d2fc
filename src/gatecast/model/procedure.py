"""The procedure that is evaluated and goes live: scaler, seed ensemble and prediction, fitted on one train span."""

from dataclasses import dataclass, fields, replace

import polars as pl
import torch
from torch import Tensor

from gatecast.config import ModelConfig
from gatecast.errors import DataError
from gatecast.features.feature import KEYS
from gatecast.features.targets import target_name
from gatecast.market.candles import SYMBOL, TS
from gatecast.model.networks import QuantileLSTM
from gatecast.model.predictions import predictions
from gatecast.model.training import EarlyStop, Hyperparameters, train_network
from gatecast.model.windows import Panel, Scaler, blocks, build_panels, fit_scaler

# matrix products may round otherwise in a batch of another size: in batches of one size the forecast of a bar is the
# same to the last bit however many bars come after it
_BLOCKS_AT_ONCE = 16


@dataclass(frozen=True)
class FittedModel:
    """Everything that a forecast needs besides the feature rows."""

    features: tuple[str, ...]
    horizons: tuple[int, ...]
    stride: int
    burn_in: int
    n_layers: int
    hyperparameters: Hyperparameters
    scaler: Scaler
    networks: tuple[QuantileLSTM, ...]

    def panels(self, rows: pl.DataFrame) -> tuple[Panel, ...]:
        """Feature rows as the network sees them."""
        return build_panels(rows, self.features, self.horizons, self.scaler, self.stride, self.burn_in)

    @torch.inference_mode()
    def predict(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Quantiles for every bar that can be forecast from.

        Args:
            rows: Feature rows of consecutive bars a market, sorted by symbol and ts. What is predicted for a bar
                depends on its block and the burn-in before it, so rows should begin `stride + burn_in` bars earlier.

        Returns:
            symbol, ts (of the last bar known), horizon and a column a level, in log returns; a bar without a close or a
            volatility has no row.
        """
        tables = [self._predict_market(rows, panel) for panel in self.panels(rows)]
        return pl.concat(table for market in tables for table in market)

    def _predict_market(self, rows: pl.DataFrame, panel: Panel) -> list[pl.DataFrame]:
        inputs = blocks(panel.inputs, self.stride, self.burn_in)  # (N, T, F)
        index = blocks(panel.rows, self.stride, self.burn_in)[:, self.burn_in :].flatten()  # (N * stride)
        scale = blocks(panel.scale, self.stride, self.burn_in)[:, self.burn_in :].flatten(0, 1)  # (N * stride, H)
        batches = torch.split(inputs, _BLOCKS_AT_ONCE)
        quantiles = torch.cat([self._quantiles(batch) for batch in batches])  # (N * stride, H, Q)
        returns = quantiles * scale[..., None]  # (N * stride, H, Q)
        here = (index >= 0) & (scale[:, 0] > 0)
        bars = rows[index[here].numpy()]
        return [
            predictions(bars, horizon, returns[here, column].double().numpy())
            for column, horizon in enumerate(self.horizons)
        ]

    def _quantiles(self, inputs: Tensor) -> Tensor:
        n_blocks = len(inputs)
        batch = torch.cat([inputs, inputs.new_zeros(_BLOCKS_AT_ONCE - n_blocks, *inputs.shape[1:])])
        members = [network(batch)[:n_blocks, self.burn_in :].flatten(0, 1) for network in self.networks]
        return torch.stack(members).mean(0)


@dataclass(frozen=True)
class TrainingInputs:
    """What stands before the first optimiser step: with seeds and number of steps, the weights follow from it alone.

    Attributes:
        model: Everything that is fitted besides the networks, of which there are none yet.
        panels: The train rows as the networks get them, a panel a market.
        bars: symbol and ts behind the panels.
    """

    model: FittedModel
    panels: tuple[Panel, ...]
    bars: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """All of it, cell by cell, to be compared with the same of other rows. Whatever else is fitted belongs here.

        Returns:
            `scaler`: feature, mean, deviation. And for each tensor of the panels, `train inputs` and so on: symbol, ts
            (null in the padding), position (in the panel) and a column a channel.
        """
        scaler = {"feature": self.model.features, "mean": self.model.scaler.mean}
        tables = {"scaler": pl.DataFrame({**scaler, "deviation": self.model.scaler.deviation})}
        for name in (field.name for field in fields(Panel) if field.name != "rows"):
            tables[f"train {name}"] = pl.concat(self._cells(panel, name) for panel in self.panels)
        return tables

    def _cells(self, panel: Panel, name: str) -> pl.DataFrame:
        cells: Tensor = getattr(panel, name)  # (T, C)
        names = self.model.features if name == "inputs" else [target_name(horizon) for horizon in self.model.horizons]
        channels = [*names, *(f"mask {number + 1}" for number in range(cells.shape[1] - len(names)))]
        index = pl.Series(panel.rows.numpy())
        bars = self.bars[index.replace(-1, None)].select(pl.col(SYMBOL).drop_nulls().first(), TS)
        return bars.with_row_index("position").hstack(pl.from_numpy(cells.numpy(), schema=channels))


def fit_model(rows: pl.DataFrame, hyperparameters: Hyperparameters, n_steps: int, config: ModelConfig) -> FittedModel:
    """Fit the procedure: the same function for every fold of `evaluate` and for `fit`.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        config: Network and training.

    Raises:
        DataError: No row.
        GatecastError: The loss is no longer a number.
    """
    return train_model(training_inputs(rows, hyperparameters, config), n_steps, config)


def train_model(inputs: TrainingInputs, n_steps: int, config: ModelConfig) -> FittedModel:
    """The second half of `fit_model`: the networks, a seed each.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    networks = [
        train_network(inputs.panels, inputs.model.hyperparameters, config, seed, n_steps=n_steps)[0]
        for seed in range(config.seed, config.seed + config.n_seeds)
    ]
    return replace(inputs.model, networks=tuple(networks))


def search_model(
    train: pl.DataFrame,
    stopping: pl.DataFrame,
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    seed: int,
    max_epochs: int,
    patience: int,
) -> tuple[FittedModel, int]:
    """Fit one network until the stopping rows no longer improve, for `tune` alone.

    Returns:
        The fitted model and its optimiser steps.
    """
    inputs = training_inputs(train, hyperparameters, config)
    early_stop = EarlyStop(inputs.model.panels(stopping), max_epochs, patience)
    network, n_steps = train_network(inputs.panels, hyperparameters, config, seed, early_stop=early_stop)
    return replace(inputs.model, networks=(network,)), n_steps


def training_inputs(rows: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig) -> TrainingInputs:
    """The first half of `fit_model`: what is fitted before the networks, and what they are trained on.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        config: Network and training.

    Raises:
        DataError: No row.
    """
    features = tuple(name for name in rows.columns if name not in KEYS and not name.startswith("target_"))
    if rows.is_empty():
        raise DataError("no feature row to train on: fetch a longer history")
    model = FittedModel(
        features=features,
        horizons=config.horizons,
        stride=config.stride,
        burn_in=config.burn_in,
        n_layers=config.n_layers,
        hyperparameters=hyperparameters,
        scaler=fit_scaler(rows, features),
        networks=(),
    )
    return TrainingInputs(model, model.panels(rows), rows.select(SYMBOL, TS))
