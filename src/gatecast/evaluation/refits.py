"""Refits: the one procedure on one train span after the other, for the folds of `evaluate` and for `fit` alike."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gatecast.config import ModelConfig
from gatecast.errors import DataError
from gatecast.evaluation.splits import Fold
from gatecast.market.candles import SYMBOL
from gatecast.model.ensemble import training_workers
from gatecast.model.fitted import FittedModel
from gatecast.model.procedure import PendingModel, TrainingInputs, begin_training, late_markets, training_inputs
from gatecast.model.training import Hyperparameters

Chosen = tuple[Hyperparameters, int]  # what a search chose, with its optimiser steps


@dataclass(frozen=True)
class Refit:
    """A fold whose networks are being trained.

    Attributes:
        fold: Its spans.
        hyperparameters: Of its networks.
        pending: The model to be.
    """

    fold: Fold
    hyperparameters: Hyperparameters
    pending: PendingModel


def refits(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    chosen: Sequence[Chosen],
    model: ModelConfig,
    workers: Executor,
    label: str,
    checkpoints: Path | None,
) -> Iterator[Refit]:
    """Each fold in order, the networks of the next one under way: no worker waits, and memory holds two folds.

    With `model.warm_start` a network goes on from the one of the same seed in the fold before, unless another width was
    chosen or a market has joined.

    Args:
        rows: All feature rows with targets.
        folds: Their spans.
        chosen: Hyperparameters and steps of each.
        model: Network and training.
        workers: From `training_workers`.
        label: The stage, for lines of progress.
        checkpoints: Folder of networks under way and done; None: nothing is kept.
    """

    def begin(number: int, before: Refit | None) -> Refit:
        fold, (hyperparameters, n_steps) = folds[number], chosen[number]
        inputs = fold_inputs(rows, fold, hyperparameters, model)
        warm = before.pending if before and _goes_on(before, inputs, model) else None
        if warm and model.warm_start:
            n_steps = max(round(model.warm_start * n_steps), 1)
        name = f"{label}: fold {number + 1}/{len(folds)}, " if len(folds) > 1 else f"{label}: "
        pending = begin_training(inputs, hyperparameters, n_steps, model, workers, name, checkpoints, warm)
        return Refit(fold, hyperparameters, pending)

    following = begin(0, None)
    for number in range(len(folds)):
        present = following
        if number + 1 < len(folds):
            following = begin(number + 1, present)
        yield present


def refit_last(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    chosen: Sequence[Chosen],
    model: ModelConfig,
    label: str,
    checkpoints: Path | None = None,
) -> FittedModel:
    """The model of the last of these folds; those before it are where its networks come from. Arguments as `refits`.

    Raises:
        DataError: Too few rows.
        GatecastError: The loss is no longer a number, or a process was killed.
    """
    with training_workers(len(folds) * model.n_seeds, model.n_devices) as workers:
        *_, last = refits(rows, folds, chosen, model, workers, label, checkpoints)
        return last.pending.fitted()


def fold_inputs(rows: pl.DataFrame, fold: Fold, hyperparameters: Hyperparameters, model: ModelConfig) -> TrainingInputs:
    """What the networks of a fold are trained on: its train span, or with `model.train_bars` the newest bars of it.

    Sliding is a matter of the networks alone: baselines that had to forget as well would be weaker than they are.

    Args:
        rows: All feature rows with targets, those after the train span as well: what is made of them is for the proof.
        fold: The train span.
        hyperparameters: From the search.
        model: Network and training.

    Raises:
        DataError: Too few rows.
    """
    span = fold.train.newest(model.train_bars).rows(rows)
    try:
        if fold.test.n_bars:  # `fit` has no test, and its model has to know every market
            span = span.filter(pl.col(SYMBOL).is_in(markets_of(rows, fold, model)))
        return training_inputs(span, hyperparameters, model)
    except DataError as error:
        raise DataError(f"fold {fold.number + 1}: {error}") from error


def markets_of(rows: pl.DataFrame, fold: Fold, model: ModelConfig) -> list[str]:
    """The markets of a fold: those that its networks are trained on, and no model forecasts another.

    A market that begins in the calibration slice, or later, is none of them.

    Args:
        rows: All feature rows.
        fold: Its train span.
        model: Network and training.

    Raises:
        DataError: Too few rows.
    """
    span = fold.train.newest(model.train_bars).rows(rows)
    late = late_markets(span, model)
    return sorted(set(span[SYMBOL].unique()) - set(late))


def _goes_on(before: Refit, inputs: TrainingInputs, model: ModelConfig) -> bool:
    """Whether the networks of a fold start where those of the one before ended: they must have the same shape."""
    known = before.pending.inputs.model
    same = known.architecture == inputs.model.architecture and known.symbols == inputs.model.symbols
    return model.warm_start is not None and same
