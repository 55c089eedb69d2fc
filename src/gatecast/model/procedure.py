"""The procedure that is evaluated and goes live: scaler, seed ensemble and prediction, fitted on one train span."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch

from gatecast.config import ModelConfig
from gatecast.errors import DataError
from gatecast.features.catalogue import KEYS
from gatecast.model.networks import QuantileLSTM
from gatecast.model.predictions import predictions
from gatecast.model.training import EarlyStop, Hyperparameters, train_network
from gatecast.model.windows import Panel, Scaler, blocks, build_panels, fit_scaler


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
        quantiles = torch.stack([network(inputs)[:, self.burn_in :].flatten(0, 1) for network in self.networks]).mean(0)
        returns = quantiles * scale[..., None]  # (N * stride, H, Q)
        here = (index >= 0) & (scale[:, 0] > 0)
        bars = rows[index[here].numpy()]
        return [
            predictions(bars, horizon, returns[here, column].double().numpy())
            for column, horizon in enumerate(self.horizons)
        ]


def fit_model(rows: pl.DataFrame, hyperparameters: Hyperparameters, n_steps: int, config: ModelConfig) -> FittedModel:
    """Fit the procedure: the same function for every fold of `evaluate` and for `fit`.

    Args:
        rows: Feature rows with targets of the train span, purged.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        config: Network and training.
    """
    model, panels = _unfitted(rows, hyperparameters, config)
    networks = [
        train_network(panels, hyperparameters, config, seed, n_steps=n_steps)[0]
        for seed in range(config.seed, config.seed + config.n_seeds)
    ]
    return replace(model, networks=tuple(networks))


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
    model, panels = _unfitted(train, hyperparameters, config)
    early_stop = EarlyStop(model.panels(stopping), max_epochs, patience)
    network, n_steps = train_network(panels, hyperparameters, config, seed, early_stop=early_stop)
    return replace(model, networks=(network,)), n_steps


def _unfitted(
    rows: pl.DataFrame, hyperparameters: Hyperparameters, config: ModelConfig
) -> tuple[FittedModel, Sequence[Panel]]:
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
    return model, model.panels(rows)
