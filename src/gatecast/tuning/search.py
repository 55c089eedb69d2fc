"""The whole search on a span of rows: for `tune` on the development period, and for any span whose end is later."""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final, NamedTuple

import polars as pl
import torch

from gatecast.config import ModelConfig, StrategyConfig, TuneConfig
from gatecast.model.ensemble import training_workers
from gatecast.model.training import Hyperparameters
from gatecast.tuning.space import inner_searches
from gatecast.tuning.study import best_of, search
from gatecast.workspace import code_sha256

_LIBRARIES: Final = ("torch", "pytorch-lightning", "optuna", "numpy", "polars")  # whose results a study is made of


class Tuned(NamedTuple):
    """What a search found."""

    hyperparameters: Hyperparameters
    n_steps: int  # optimiser steps, the median over the inner folds
    trials: pl.DataFrame  # a row a finished trial, as `study.search` returns it
    trial_returns: pl.DataFrame  # number, horizon, date, return of each completed trial


def tuned(
    name_parts: Mapping[str, str | int],
    development: pl.DataFrame,
    tune: TuneConfig,
    model: ModelConfig,
    strategy: StrategyConfig,
    storage: str,
    say: Callable[[str], None],
    *,
    again: bool = True,
    side_by_side: bool = True,
) -> Tuned:
    """Search hyperparameters and number of steps on rows, of which nothing later is known.

    Args:
        name_parts: What tells these rows from all others, such as the hash of their file.
        development: Feature rows with targets.
        tune: Budget and space.
        model: Network and training.
        strategy: Costs and threshold of the strategy that trades on the forecasts of each trial.
        storage: Database address, where an interrupted search goes on.
        say: Takes a line of progress a trial.
        again: False: a search that has ended is not run again.
        side_by_side: Whether the trials of a batch are trained in processes; False: in this one, which may be one of
            several itself.

    Raises:
        DataError: Too few rows, or closes that do not move.
        GatecastError: Every trial failed, the database did, or a process was killed.
    """
    folds = inner_searches(development, model, tune, strategy)
    name = study_name(name_parts, tune, model, strategy)
    with training_workers(tune.batch_trials if side_by_side else 1, model.n_devices) as workers:
        trials, trial_returns = search(name, storage, tune, folds, workers, say, again=again)
    best = best_of(trials)
    found = Hyperparameters(**{key: best[key] for key in Hyperparameters.__dataclass_fields__})
    return Tuned(found, best["n_steps"], trials, trial_returns)


def study_name(
    name_parts: Mapping[str, str | int], tune: TuneConfig, model: ModelConfig, strategy: StrategyConfig
) -> str:
    """A hash of inputs, code, libraries and parameters: whatever would change the result starts a study of its own.

    Args:
        name_parts: What tells the rows from all others.
        tune: Budget and space.
        model: Network and training.
        strategy: Costs and threshold.
    """
    inputs = {
        "rows": dict(name_parts),
        "code": code_sha256(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "card": torch.cuda.is_available(),
        "tune": tune.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "strategy": strategy.model_dump(mode="json"),
    }
    return "tune-" + hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
