"""The stage `evaluate`: walk-forward refits over the evaluation period → predictions, figures and a verdict."""

from typing import Any

import polars as pl

from gatecast.config import EvaluateConfig, ModelConfig, PromoteConfig, SplitConfig
from gatecast.errors import GateRefused
from gatecast.evaluation.splits import Fold, bars_of, walk_forward
from gatecast.evaluation.verdict import evaluate_predictions
from gatecast.evaluation.walk_forward import evaluate_folds
from gatecast.market.candles import iso
from gatecast.market.grid import Grid
from gatecast.market.snapshot import read_snapshot
from gatecast.model.predictions import LEVELS, LSTM
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.result import read_best
from gatecast.workspace import Workspace, write_atomically, write_json


def run(
    workspace: Workspace, *, settings: EvaluateConfig, model: ModelConfig, split: SplitConfig, promote: PromoteConfig
) -> None:
    """Evaluate the procedure that `tune` fixed.

    Reads data/features/all.parquet, reports/best.yaml and data/raw/snapshot.json; writes reports/fold_leakage.json,
    reports/predictions.parquet, reports/metrics.json and reports/skill.csv.

    Raises:
        DataError: The history is too short for the folds, or no forecast can be scored.
        GateRefused: Something that was fitted or forecast in a fold saw what came after it; only the proof is written.
    """
    rows = pl.read_parquet(workspace.all_features)
    hyperparameters, n_steps = read_best(workspace.reports / "best.yaml")
    boundary, fold_bars = split.resolved
    grid = read_snapshot(workspace.raw).grid
    folds = walk_forward(bars_of(rows), grid.first_from(boundary), fold_bars, max(model.horizons))
    predictions, proof = evaluate_folds(
        rows, folds, settings.baselines, hyperparameters, n_steps, model, say, workspace.checkpoints("evaluate")
    )
    write_json(workspace.reports / "fold_leakage.json", proof.as_dict())
    if proof.breaches:
        raise GateRefused(f"{proof.breaches[0]}; {len(proof.breaches)} in all, see reports/fold_leakage.json")
    figures = evaluate_predictions(predictions, settings.baselines, model.horizons, promote.horizons, settings.alpha)
    write_atomically(workspace.reports / "predictions.parquet", predictions.write_parquet)
    spans = {"horizons": model.horizons, "levels": LEVELS, "folds": [_in_time(fold, grid) for fold in folds]}
    write_json(workspace.reports / "metrics.json", {**spans, **figures})
    write_atomically(workspace.reports / "skill.csv", _skill_by_fold(figures).write_csv)
    workspace.forget_checkpoints("evaluate")
    say(f"evaluate: no leak in {len(folds)} folds, at {len(proof.cuts)} cuts")
    say(f"evaluate: {figures['verdict']}")


def _in_time(fold: Fold, grid: Grid) -> dict[str, Any]:
    return {
        "fold": fold.number,
        "train_start": iso(grid.opens_at(fold.train.start)),
        "train_end": iso(grid.closes_at(fold.train.end - 1)),
        "test_start": iso(grid.opens_at(fold.test.start)),
        "test_end": iso(grid.closes_at(fold.test.end - 1)),
        "n_bars": fold.test.end - fold.test.start,
    }


def _skill_by_fold(figures: dict[str, Any]) -> pl.DataFrame:
    """A row a fold and horizon, for `dvc plots`: 1 - pinball of the LSTM over that of the best baseline."""
    return pl.DataFrame(
        {"horizon": int(horizon), "fold": fold, "skill": 1 - lstm / best}
        for horizon, name in figures["best_baseline"].items()
        for fold, (lstm, best) in enumerate(
            zip(figures["by_fold"][LSTM][horizon], figures["by_fold"][name][horizon], strict=True)
        )
    )


if __name__ == "__main__":
    run_stage(run)
