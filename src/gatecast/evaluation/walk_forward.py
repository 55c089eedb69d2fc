"""Walk-forward evaluation: one procedure and its baselines, fold by fold, every forecast kept."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.config import ModelConfig
from gatecast.evaluation.errors.importance import permutation_importance
from gatecast.evaluation.fold_proof import CutProof, FoldProof, cut_within, prove_fitted, prove_forecasts
from gatecast.evaluation.refits import Chosen, Refit, fold_inputs, markets_of, refits
from gatecast.evaluation.rivals import Rival, columns_for, prove_rival
from gatecast.evaluation.splits import Fold, Span
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.model.ensemble import training_workers
from gatecast.model.fitted import FittedModel
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, PREDICTION_KEYS, QUANTILES, TARGET, realised

_LATE_BLOCKS: Final = 2  # of a test span, forecast once more for the proof before its end


@dataclass(frozen=True)
class Evaluation:
    """What a walk-forward evaluation found.

    Attributes:
        predictions: Every out-of-sample forecast of every model: symbol, ts, horizon, model, fold, target (log return,
            null where not known yet), a column a level and close (price at ts, null where unknown), sorted.
        proof: That none of them saw what it forecasts. Forecasts beside a breach are worth nothing.
        importance: What each group of features is worth to the networks, as `permutation_importance` has it.
    """

    predictions: pl.DataFrame
    proof: FoldProof
    importance: pl.DataFrame


def evaluate_folds(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    baselines: Sequence[str],
    chosen: Sequence[Chosen],
    model: ModelConfig,
    say: Callable[[str], None],
    checkpoints: Path | None = None,
) -> Evaluation:
    """Refit and forecast fold by fold, networks and baselines in processes; what comes out does not depend on how many.

    Args:
        rows: All feature rows with targets.
        folds: Purged folds.
        baselines: Names of the baselines.
        chosen: Hyperparameters and optimiser steps of each fold.
        model: Network and training.
        say: Takes a line of progress a fold.
        checkpoints: Folder of networks under way and done; None: nothing is kept.

    Raises:
        DataError: Too few rows for a network or a baseline, named with its fold.
        GatecastError: A loss is no longer a number, or a process was killed.
    """
    tables: list[pl.DataFrame] = []
    proofs: list[CutProof] = []
    importance: list[pl.DataFrame] = []
    with training_workers(len(folds) * (model.n_seeds + len(baselines)), model.n_devices) as workers:
        rivals: list[dict[str, Future[Rival]]] = []
        for place, refit in enumerate(refits(rows, folds, chosen, model, workers, "evaluate", checkpoints)):
            fold = refit.fold
            near = folds[len(rivals) : place + 2]  # in line behind the networks of this fold and the next
            rivals += [_begin_rivals(rows, each, baselines, model, workers) for each in near]
            forecasts, proven, shifted = _evaluate_networks(rows, refit, model)
            tables.append(_kept(forecasts, LSTM, fold, rows, model.horizons))
            proofs += proven
            importance.append(shifted)
            for name, pending in rivals[place].items():
                forecasts, of_rival = pending.result()
                tables.append(_kept(forecasts, name, fold, rows, model.horizons))
                proofs += of_rival
            rivals[place] = {}
            say(f"evaluate: fold {place + 1}/{len(folds)} refitted and forecast, {fold.test.n_bars} bars")
    order = [*PREDICTION_KEYS, MODEL, FOLD, TARGET, *QUANTILES, CLOSE]
    predictions = pl.concat(tables).select(order).sort(MODEL, HORIZON, SYMBOL, TS)
    return Evaluation(predictions, FoldProof(tuple(proofs)), pl.concat(importance))


def lstm_forecasts(rows: pl.DataFrame, fold: Fold, fitted: FittedModel) -> pl.DataFrame:
    """Forecasts of a fold's test bars by its networks.

    Args:
        rows: All feature rows.
        fold: The test span.
        fitted: The networks, trained on the train span.

    Returns:
        symbol, ts, horizon and a column a level, in log returns; none of a market that began after the train span.
    """
    history = rows.filter(pl.col(BAR) < fold.test.end)
    context = fold.test.preceded_by(fitted.windows.n_bars).rows(history).filter(pl.col(SYMBOL).is_in(fitted.symbols))
    test = fold.test.rows(history)
    return fitted.predict(context).join(test, on=[SYMBOL, TS], how="semi", maintain_order="left")


def _begin_rivals(
    rows: pl.DataFrame, fold: Fold, baselines: Sequence[str], model: ModelConfig, workers: Executor
) -> dict[str, Future[Rival]]:
    history = Span(fold.train.start, fold.test.end).rows(rows)
    history = history.filter(pl.col(SYMBOL).is_in(markets_of(rows, fold, model)))
    shown = {name: columns_for(name, history, model.horizons) for name in baselines}
    return {
        name: workers.submit(prove_rival, name, shown[name], fold, model.horizons, model.stride) for name in baselines
    }


def _evaluate_networks(
    rows: pl.DataFrame, refit: Refit, model: ModelConfig
) -> tuple[pl.DataFrame, list[CutProof], pl.DataFrame]:
    """Forecasts of the networks, the proofs at three cuts, and what the features are worth.

    What is fitted is proven where the test begins, the forecasts within it and, those of its last bars, before its end.
    """
    fold, hyperparameters = refit.fold, refit.hyperparameters

    def prepare(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return fold_inputs(some, fold, hyperparameters, model).tables()

    # while the networks are trained elsewhere
    proof = prove_fitted(rows, fold, model.horizons, refit.pending.inputs.tables(), prepare)
    fitted = refit.pending.fitted()

    def proven(cut: int, part: Fold, known: pl.DataFrame) -> CutProof:
        def forecast(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
            return {LSTM: lstm_forecasts(some, part, fitted)}

        return prove_forecasts(cut, rows, part, model.horizons, {LSTM: known}, forecast)

    forecasts = lstm_forecasts(rows, fold, fitted)
    end = replace(fold, test=fold.test.newest(_LATE_BLOCKS * model.stride))
    proofs = [
        proof,
        proven(cut_within(fold, model.stride), fold, forecasts),
        proven(fold.test.end - 1, end, lstm_forecasts(rows, end, fitted)),
    ]
    return forecasts, proofs, permutation_importance(rows, fold, fitted, model.horizons, model.seed)


def _kept(forecasts: pl.DataFrame, name: str, fold: Fold, rows: pl.DataFrame, horizons: Sequence[int]) -> pl.DataFrame:
    """Forecasts as they are kept: with model, fold, what came and the price that they start from."""
    test = fold.test.rows(rows)
    named = forecasts.with_columns(pl.lit(name).alias(MODEL), pl.lit(fold.number, dtype=pl.Int64).alias(FOLD))
    outcome = realised(test, horizons).join(test.select(SYMBOL, TS, CLOSE), on=[SYMBOL, TS], maintain_order="left")
    return named.join(outcome, on=PREDICTION_KEYS, how="left", maintain_order="left")
