"""Where the LSTM is better and worse than the best baseline, its worst forecasts, and what it lives on."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.errors.context import LOSS, all_buckets, context, regimes
from gatecast.evaluation.errors.importance import importance_rows
from gatecast.evaluation.errors.skill_noise import relative_losses
from gatecast.evaluation.errors.tables import Outcomes, error_table
from gatecast.evaluation.errors.worst_forecasts import worst_forecasts
from gatecast.evaluation.metrics import pinball
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.predictions import FOLD, HORIZON, LEVELS, LSTM, MODEL, QUANTILES, TARGET

Json = dict[str, Any]

_BASELINE_LOSS: Final = "baseline_loss"
_LOW, _MEDIAN, _HIGH = (QUANTILES[LEVELS.index(level)] for level in (0.05, 0.5, 0.95))


def error_analysis(
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    best_baseline: Mapping[int, str],
    horizons: Sequence[int],
    importance: pl.DataFrame | None,
) -> Json:
    """The content of reports/error_analysis.json.

    Every group of forecasts is told from what was known when they were made.

    Args:
        predictions: Forecasts of all models at bars that all of them forecast, targets known.
        rows: All feature rows.
        best_baseline: The baseline that each horizon is held against.
        horizons: Bars ahead.
        importance: From `permutation_importance`, all folds; None where it was not measured.

    Returns:
        By horizon: baseline, tables, worst and importance.

    Raises:
        DataError: A horizon without a forecast.
    """
    ours, known = predictions.filter(pl.col(MODEL) == LSTM), context(rows)
    placed = ours.join(known, on=[SYMBOL, TS], how="inner", maintain_order="left")
    folds = _folds(placed)
    placed = placed.join(folds, on=FOLD, how="left", maintain_order="left").join(
        regimes(known, folds), on=[SYMBOL, FOLD], how="left", maintain_order="left"
    )
    analysis = {}
    for horizon in horizons:
        rival = predictions.filter((pl.col(MODEL) == best_baseline[horizon]) & (pl.col(HORIZON) == horizon))
        frame = _compared(placed.filter(pl.col(HORIZON) == horizon), rival)
        if frame.is_empty():
            raise DataError(f"no forecast {horizon} bars ahead has a known target: fetch a longer history")
        outcomes = _outcomes(frame, horizon)
        of_horizon = None if importance is None else importance.filter(pl.col(HORIZON) == horizon)
        analysis[str(horizon)] = {
            "baseline": best_baseline[horizon],
            "tables": [error_table(each, outcomes, best_baseline[horizon]) for each in all_buckets(frame, horizon)],
            "worst": worst_forecasts(frame, horizon),
            "importance": importance_rows(of_horizon),
        }
    return analysis


def _folds(placed: pl.DataFrame) -> pl.DataFrame:
    """fold, start and end: its first bar, and the first bar after it."""
    spans = (
        placed.group_by(FOLD).agg(pl.col(BAR).min().alias("start"), (pl.col(BAR).max() + 1).alias("last")).sort(FOLD)
    )
    return spans.select(FOLD, "start", pl.col("start").shift(-1).fill_null(pl.col("last")).alias("end"))


def _compared(ours: pl.DataFrame, rival: pl.DataFrame) -> pl.DataFrame:
    losses = rival.select(SYMBOL, TS, _loss(rival).alias(_BASELINE_LOSS))
    return ours.with_columns(_loss(ours).alias(LOSS)).join(losses, on=[SYMBOL, TS]).sort(SYMBOL, TS)


def _loss(forecasts: pl.DataFrame) -> pl.Series:
    return pl.Series(pinball(forecasts[TARGET].to_numpy(), forecasts.select(QUANTILES).to_numpy()))


def _outcomes(frame: pl.DataFrame, horizon: int) -> Outcomes:
    ours, theirs, bars = (frame[name].to_numpy() for name in (LOSS, _BASELINE_LOSS, BAR))
    markets = frame[SYMBOL].rank("dense").to_numpy().astype(np.int64) - 1
    return Outcomes(
        ours=ours,
        theirs=theirs,
        covered=frame[TARGET].is_between(frame[_LOW], frame[_HIGH]).to_numpy(),
        errors=(frame[TARGET] - frame[_MEDIAN]).to_numpy(),
        losses=relative_losses(ours, theirs, bars, markets, horizon),
    )
