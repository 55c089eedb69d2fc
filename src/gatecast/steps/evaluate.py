"""The stage `evaluate`: walk-forward refits over the evaluation period → predictions, figures and a verdict."""

from dataclasses import asdict
from typing import Any

import polars as pl

from gatecast.config import EvaluateConfig, ModelConfig, PromoteConfig, SplitConfig, StrategyConfig, TuneConfig
from gatecast.database import database_url
from gatecast.errors import GateRefused
from gatecast.evaluation.findings import findings
from gatecast.evaluation.refits import Chosen
from gatecast.evaluation.splits import Fold, bars_of, walk_forward
from gatecast.evaluation.walk_forward import evaluate_folds
from gatecast.market.candles import iso
from gatecast.market.grid import Grid
from gatecast.market.snapshot import read_snapshot
from gatecast.model.predictions import LEVELS
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.folds import chosen_for
from gatecast.workspace import Workspace, write_atomically, write_json


def run(
    workspace: Workspace,
    *,
    settings: EvaluateConfig,
    model: ModelConfig,
    split: SplitConfig,
    tune: TuneConfig,
    promote: PromoteConfig,
    strategy: StrategyConfig,
) -> None:
    """Evaluate the procedure: that which `tune` fixed, or with `evaluate.search: every_fold` its search as well.

    Reads data/features/all.parquet, data/raw/snapshot.json and, in reports/, best.yaml, trials.csv and
    trial_returns.parquet; writes there fold_leakage.json, predictions.parquet, metrics.json, error_analysis.json and
    the tables scores.csv, equity.csv, calibration.csv, pit.csv and skill.csv.

    Raises:
        DataError: The history is too short for the folds or a baseline, or no forecast can be scored.
        GateRefused: Something that was fitted or forecast in a fold saw what came after it; only the proof is written.
    """
    rows = pl.read_parquet(workspace.all_features)
    trial_returns = pl.read_parquet(workspace.reports / "trial_returns.parquet")
    n_trials = pl.read_csv(workspace.reports / "trials.csv").height
    boundary, fold_bars = split.resolved
    grid = read_snapshot(workspace.raw).grid
    folds = walk_forward(bars_of(rows), grid.first_from(boundary), fold_bars, max(model.horizons))
    best, storage = workspace.reports / "best.yaml", database_url(workspace.state, "studies.db")
    chosen = chosen_for(rows, folds, settings.search, best, tune, model, strategy, storage, say)
    checkpoints = workspace.checkpoints("evaluate")
    evaluation = evaluate_folds(rows, folds, settings.baselines, chosen, model, say, checkpoints)
    proof = evaluation.proof
    write_json(workspace.reports / "fold_leakage.json", proof.as_dict())
    if proof.breaches:
        raise GateRefused(f"{proof.breaches[0]}; {len(proof.breaches)} in all, see reports/fold_leakage.json")
    horizons = (model.horizons, promote.horizons)
    found = findings(evaluation, rows, folds, trial_returns, n_trials, *horizons, settings, strategy)
    write_atomically(workspace.reports / "predictions.parquet", evaluation.predictions.write_parquet)
    spans = [_described(fold, model, grid, of_fold) for fold, of_fold in zip(folds, chosen, strict=True)]
    head = {"horizons": model.horizons, "levels": LEVELS, "search": settings.search, "folds": spans}
    write_json(workspace.reports / "metrics.json", {**head, **found.metrics})
    write_json(workspace.reports / "error_analysis.json", found.errors)
    for name, table in found.tables.items():
        write_atomically(workspace.reports / f"{name}.csv", table.write_csv)
    workspace.forget_checkpoints("evaluate")
    say(f"evaluate: no leak in any of the folds ({len(folds)}), in {proof.as_dict()['n_values']:,} values")
    say(f"evaluate: {found.metrics['verdict']}")


def _described(fold: Fold, model: ModelConfig, grid: Grid, chosen: Chosen) -> dict[str, Any]:
    (hyperparameters, n_steps), train = chosen, fold.train.newest(model.train_bars)
    return {
        "fold": fold.number,
        "train_start": iso(grid.opens_at(train.start)),
        "train_end": iso(grid.closes_at(train.end - 1)),
        "test_start": iso(grid.opens_at(fold.test.start)),
        "test_end": iso(grid.closes_at(fold.test.end - 1)),
        "n_bars": fold.test.n_bars,
        **asdict(hyperparameters),
        "n_steps": n_steps,
    }


if __name__ == "__main__":
    run_stage(run)
