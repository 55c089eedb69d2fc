"""Walk-forward evaluation: one procedure and its baselines, fold by fold, every forecast kept."""

from collections.abc import Callable, Sequence

import polars as pl

from gatecast.config import ModelConfig
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.splits import Fold
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, PREDICTION_KEYS, QUANTILES, TARGET, realised
from gatecast.model.procedure import fit_model
from gatecast.model.training import Hyperparameters


def evaluate_folds(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    baselines: Sequence[str],
    hyperparameters: Hyperparameters,
    n_steps: int,
    model: ModelConfig,
    say: Callable[[str], None],
) -> pl.DataFrame:
    """Every out-of-sample forecast of every model.

    Args:
        rows: All feature rows with targets.
        folds: Purged folds.
        baselines: Names of the baselines.
        hyperparameters: From `tune`.
        n_steps: Optimiser steps, from `tune`.
        model: Network and training.
        say: Takes a line of progress a fold.

    Returns:
        symbol, ts, horizon, model, fold, target (log return, null where not known yet) and a column a level, sorted.
    """
    tables = []
    for fold in folds:
        history = rows.filter(pl.col(BAR) < fold.test.end)
        fitted = fit_model(fold.train.rows(history), hyperparameters, n_steps, model)
        context = fold.test.preceded_by(model.stride + model.burn_in).rows(history)
        test = fold.test.rows(history)
        tested = fitted.predict(context).join(test.select(SYMBOL, TS), on=[SYMBOL, TS], how="semi")
        forecasts = {LSTM: tested, **{name: BASELINES[name](history, fold, model.horizons) for name in baselines}}
        outcome = realised(fold.test.rows(rows), model.horizons)
        for name, table in forecasts.items():
            named = table.with_columns(pl.lit(name).alias(MODEL), pl.lit(fold.number, dtype=pl.Int64).alias(FOLD))
            tables.append(named.join(outcome, on=PREDICTION_KEYS, how="left", maintain_order="left"))
        say(f"evaluate: fold {fold.number + 1}/{len(folds)} refitted and forecast, {len(test)} bars")
    order = [*PREDICTION_KEYS, MODEL, FOLD, TARGET, *QUANTILES]
    return pl.concat(tables).select(order).sort(MODEL, HORIZON, SYMBOL, TS)


def shared_forecasts(predictions: pl.DataFrame) -> pl.DataFrame:
    """The forecasts that can be scored: target known, and made by every model at that bar.

    Models are compared on equal terms only: a bar that one of them could not forecast counts for none.
    """
    n_models = predictions[MODEL].n_unique()
    known = predictions.drop_nulls(TARGET)
    return known.filter(pl.len().over(PREDICTION_KEYS) == n_models)
