"""The procedure on rows of a test's own: what `fit` and each fold do, without the stage around it."""

import polars as pl

from gatecast.config import ModelConfig
from gatecast.model.ensemble import training_workers
from gatecast.model.fitted import FittedModel
from gatecast.model.procedure import begin_training, training_inputs
from gatecast.model.training import Hyperparameters


def fit_model(rows: pl.DataFrame, hyperparameters: Hyperparameters, n_steps: int, config: ModelConfig) -> FittedModel:
    """Networks and calibration, fitted to the train rows."""
    inputs = training_inputs(rows, hyperparameters, config)
    with training_workers(config.n_seeds, config.n_devices) as workers:
        return begin_training(inputs, hyperparameters, n_steps, config, workers, "", None).fitted()
