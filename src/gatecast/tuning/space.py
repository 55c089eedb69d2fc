"""The search space and what one trial is worth."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatecast.config import ModelConfig, TuneConfig
from gatecast.errors import DataError
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import InnerFold, Span, bars_of
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR
from gatecast.model.predictions import HORIZON, PREDICTION_KEYS, QUANTILES, TARGET, realised
from gatecast.model.procedure import search_model
from gatecast.model.training import Hyperparameters


@dataclass(frozen=True)
class InnerScore:
    """What one inner fold said of a set of hyperparameters."""

    pinball: float  # mean over the horizons of the loss relative to the fold's typical move
    n_steps: int  # as many passes over what the first fold trains on as stopped the training here


def inner_scores(
    development: pl.DataFrame,
    folds: tuple[InnerFold, ...],
    hyperparameters: Hyperparameters,
    model: ModelConfig,
    tune: TuneConfig,
) -> Iterator[InnerScore]:
    """Score a set of hyperparameters, one inner fold after the other, so that a poor trial can be cut short.

    Args:
        development: Feature rows with targets of the development period.
        folds: Inner folds.
        hyperparameters: To be scored.
        model: Network and training.
        tune: Epochs, patience and seed.
    """
    context = model.stride + model.burn_in
    # bars that the networks of the first fold are trained on
    n_bars = bars_of(development).n_bars * (1 - model.calibration_share)
    for fold in folds:
        fitted, n_steps = search_model(
            fold.train.rows(development),
            _labelled(development, fold.stopping, context, model.horizons),
            hyperparameters,
            model.model_copy(update={"seed": tune.seed}),
            tune.max_epochs,
            tune.patience,
        )
        forecasts = fitted.predict(fold.scoring.preceded_by(context).rows(development))
        value = _relative_pinball(forecasts, fold.scoring.rows(development), model.horizons)
        yield InnerScore(value, max(round(n_steps * n_bars / fold.train.n_bars), 1))


def _labelled(rows: pl.DataFrame, span: Span, context: int, horizons: tuple[int, ...]) -> pl.DataFrame:
    """The rows of a span with the history that its states need, labels inside the span only."""
    return (
        span.preceded_by(context)
        .rows(rows)
        .with_columns(pl.when(pl.col(BAR) >= span.start).then(pl.col(target_name(horizon))) for horizon in horizons)
    )


def _relative_pinball(forecasts: pl.DataFrame, rows: pl.DataFrame, horizons: tuple[int, ...]) -> float:
    """Pinball loss over the mean absolute return of each horizon, so that a long horizon does not drown a short one."""
    scored = forecasts.join(realised(rows, horizons), on=PREDICTION_KEYS, maintain_order="left").drop_nulls(TARGET)
    values = []
    for horizon in horizons:
        table = scored.filter(pl.col(HORIZON) == horizon)
        target = table[TARGET].to_numpy()
        if not target.any():
            raise DataError(
                f"no close moves within {horizon} bars where the search is scored: there is nothing to forecast"
            )
        values.append(mean_pinball(target, table.select(QUANTILES).to_numpy()) / float(np.abs(target).mean()))
    return float(np.mean(values))
