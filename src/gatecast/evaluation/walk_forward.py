"""Walk-forward evaluation: one procedure and its baselines, fold by fold, every forecast kept."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from gatecast.config import ModelConfig
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.fold_proof import CutProof, FoldProof, cut_within, prove_fitted, prove_forecasts
from gatecast.evaluation.splits import Fold
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.ensemble import training_workers
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, PREDICTION_KEYS, QUANTILES, TARGET, realised
from gatecast.model.procedure import FittedModel, PendingModel, TrainingInputs, begin_training, training_inputs
from gatecast.model.training import Hyperparameters


def evaluate_folds(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    baselines: Sequence[str],
    hyperparameters: Hyperparameters,
    n_steps: int,
    model: ModelConfig,
    say: Callable[[str], None],
    checkpoints: Path | None = None,
) -> tuple[pl.DataFrame, FoldProof]:
    """Every out-of-sample forecast of every model, and the proof that none of them saw what it forecasts.

    Args:
        rows: All feature rows with targets.
        folds: Purged folds.
        baselines: Names of the baselines.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        model: Network and training.
        say: Takes a line of progress a fold.
        checkpoints: Folder of networks under way and done; None: nothing is kept.

    Returns:
        symbol, ts, horizon, model, fold, target (log return, null where not known yet) and a column a level, sorted;
        and what the proof found. Forecasts beside a breach are worth nothing.
    """
    tables: list[pl.DataFrame] = []
    proofs: list[CutProof] = []
    with training_workers(len(folds) * model.n_seeds, model.n_devices) as workers:

        def begin(fold: Fold) -> PendingModel:
            label = f"evaluate: fold {fold.number + 1}/{len(folds)}, "
            inputs = fold_inputs(rows, fold, hyperparameters, model)
            return begin_training(inputs, hyperparameters, n_steps, model, workers, label, checkpoints)

        for fold, pending in _one_ahead(folds, begin):
            forecasts, proven = _evaluate_fold(rows, fold, baselines, hyperparameters, model, pending)
            proofs += proven
            test = fold.test.rows(rows)
            outcome = realised(test, model.horizons)
            for name, table in forecasts.items():
                named = table.with_columns(pl.lit(name).alias(MODEL), pl.lit(fold.number, dtype=pl.Int64).alias(FOLD))
                tables.append(named.join(outcome, on=PREDICTION_KEYS, how="left", maintain_order="left"))
            say(f"evaluate: fold {fold.number + 1}/{len(folds)} refitted and forecast, {len(test)} bars")
    order = [*PREDICTION_KEYS, MODEL, FOLD, TARGET, *QUANTILES]
    return pl.concat(tables).select(order).sort(MODEL, HORIZON, SYMBOL, TS), FoldProof(tuple(proofs))


def fold_inputs(rows: pl.DataFrame, fold: Fold, hyperparameters: Hyperparameters, model: ModelConfig) -> TrainingInputs:
    """What the networks of a fold are trained on.

    Args:
        rows: All feature rows with targets, those after the train span as well: what is made of them is for the proof.
        fold: The train span.
        hyperparameters: From `tune`.
        model: Network and training.
    """
    return training_inputs(fold.train.rows(rows), hyperparameters, model)


def lstm_forecasts(rows: pl.DataFrame, fold: Fold, fitted: FittedModel) -> pl.DataFrame:
    """Forecasts of a fold's test bars by its networks.

    Args:
        rows: All feature rows.
        fold: The test span.
        fitted: The networks, trained on the train span.

    Returns:
        symbol, ts, horizon and a column a level, in log returns.
    """
    history = rows.filter(pl.col(BAR) < fold.test.end)
    context = fold.test.preceded_by(fitted.windows.n_bars).rows(history)
    test = fold.test.rows(history)
    return fitted.predict(context).join(test, on=[SYMBOL, TS], how="semi", maintain_order="left")


def baseline_forecasts(
    rows: pl.DataFrame, fold: Fold, baselines: Sequence[str], horizons: Sequence[int]
) -> dict[str, pl.DataFrame]:
    """Forecasts of a fold's test bars by each baseline, which is fitted here; tables as those of the networks.

    Args:
        rows: All feature rows with targets.
        fold: The train and test spans.
        baselines: Their names.
        horizons: Bars ahead.
    """
    history = rows.filter(pl.col(BAR) < fold.test.end)
    return {name: BASELINES[name](history, fold, horizons) for name in baselines}


def _one_ahead(folds: Sequence[Fold], begin: Callable[[Fold], PendingModel]) -> Iterator[tuple[Fold, PendingModel]]:
    """Each fold with its model, the networks of the next one under way: no worker waits, and memory holds two folds."""
    pending = begin(folds[0])
    for fold, following in zip(folds, [*folds[1:], None], strict=True):
        present, pending = pending, begin(following) if following else pending
        yield fold, present


def _evaluate_fold(
    rows: pl.DataFrame,
    fold: Fold,
    baselines: Sequence[str],
    hyperparameters: Hyperparameters,
    model: ModelConfig,
    pending: PendingModel,
) -> tuple[dict[str, pl.DataFrame], list[CutProof]]:
    """The forecasts by model, and the proofs at three cuts: where the test begins, after its first bar, within it."""

    def prepare(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return fold_inputs(some, fold, hyperparameters, model).tables()

    def rivals(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return baseline_forecasts(some, fold, baselines, model.horizons)

    # while the networks are trained elsewhere
    of_baselines = rivals(rows)
    proofs = [
        prove_fitted(rows, fold, model.horizons, pending.inputs.tables(), prepare),
        # a baseline that is fitted on any later bar already gives itself away in its first forecast
        prove_forecasts(fold.test.start + 1, rows, fold, model.horizons, of_baselines, rivals),
    ]
    fitted = pending.fitted()

    def forecast(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {LSTM: lstm_forecasts(some, fold, fitted), **rivals(some)}

    forecasts = {LSTM: lstm_forecasts(rows, fold, fitted), **of_baselines}
    within = cut_within(fold, model.stride)
    return forecasts, [*proofs, prove_forecasts(within, rows, fold, model.horizons, forecasts, forecast)]


def shared_forecasts(predictions: pl.DataFrame) -> pl.DataFrame:
    """The forecasts that can be scored: target known, and made by every model at that bar.

    Models are compared on equal terms only: a bar that one of them could not forecast counts for none.
    """
    n_models = predictions[MODEL].n_unique()
    known = predictions.drop_nulls(TARGET)
    return known.filter(pl.len().over(PREDICTION_KEYS) == n_models)
