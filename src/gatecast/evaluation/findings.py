"""What an evaluation says, put together: figures and verdict, tables, strategy, error analysis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from gatecast.config import EvaluateConfig, StrategyConfig
from gatecast.evaluation.errors.analysis import error_analysis
from gatecast.evaluation.loss_panel import shared_forecasts
from gatecast.evaluation.overfitting import overfitting_figures
from gatecast.evaluation.score_table import calibration_table, naive_scales, pit_table, score_table
from gatecast.evaluation.splits import Fold
from gatecast.evaluation.strategy import equity_table, strategy_figures
from gatecast.evaluation.verdict import evaluate_predictions
from gatecast.evaluation.walk_forward import Evaluation
from gatecast.model.predictions import HORIZON, LSTM, MODEL


@dataclass(frozen=True)
class Findings:
    """All that `evaluate` tells beside the predictions and the proof.

    Attributes:
        metrics: The content of metrics.json but horizons, levels and folds.
        errors: The content of error_analysis.json.
        tables: By name of the CSV file: scores, equity, calibration, pit, skill.
    """

    metrics: dict[str, Any]
    errors: dict[str, Any]
    tables: dict[str, pl.DataFrame]


def findings(
    evaluation: Evaluation,
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    trial_returns: pl.DataFrame,
    n_trials: int,
    horizons: Sequence[int],
    promoted: Sequence[int],
    settings: EvaluateConfig,
    strategy: StrategyConfig,
) -> Findings:
    """Everything that follows from the predictions.

    Args:
        evaluation: Of `evaluate_folds`.
        rows: All feature rows with targets.
        folds: Its folds.
        trial_returns: Daily returns of the completed trials of the search: number, horizon, date, return.
        n_trials: Its trials.
        horizons: Bars ahead.
        promoted: The horizons named beforehand.
        settings: Baselines and level of the tests.
        strategy: Costs and threshold.

    Raises:
        DataError: No forecast can be scored in a fold or at a horizon, or too few are there for a test.
    """
    predictions = evaluation.predictions
    scales = naive_scales(rows, folds, horizons)
    metrics = evaluate_predictions(predictions, scales, settings.baselines, horizons, promoted, settings.alpha)
    equity = equity_table(predictions, horizons, strategy)
    ours = equity.filter(pl.col(MODEL) == LSTM)
    metrics["strategy"] = strategy_figures(predictions, horizons, strategy)
    metrics["overfitting"] = {
        str(horizon): overfitting_figures(ours.filter(pl.col(HORIZON) == horizon), trial_returns, n_trials, horizon)
        for horizon in horizons
    }
    best = {horizon: metrics["best_baseline"][str(horizon)] for horizon in horizons}
    errors = error_analysis(shared_forecasts(predictions), rows, best, horizons, evaluation.importance)
    tables = {
        "scores": score_table(predictions, scales),
        "equity": equity,
        "calibration": calibration_table(predictions),
        "pit": pit_table(predictions),
        "skill": _skill_by_fold(metrics),
    }
    return Findings(metrics, errors, tables)


def _skill_by_fold(metrics: dict[str, Any]) -> pl.DataFrame:
    """A row a fold and horizon: the skill of the LSTM over the best baseline."""
    return pl.DataFrame(
        {"horizon": int(horizon), "fold": fold, "skill": skill}
        for horizon, name in metrics["best_baseline"].items()
        for fold, skill in enumerate(metrics["fold_skill"][name][horizon])
    )
