"""The stage `fit`: one more fold, up to now, by the same procedure as `evaluate` → the model folder."""

from dataclasses import asdict

import polars as pl

from gatecast.config import EvaluateConfig, FeaturesConfig, ModelConfig, SplitConfig, StrategyConfig, TuneConfig
from gatecast.database import database_url
from gatecast.evaluation.refits import refit_last
from gatecast.evaluation.splits import bars_of, newest_fold, walk_forward
from gatecast.market.candles import BAR, SYMBOL, iso
from gatecast.market.snapshot import read_snapshot
from gatecast.model.folder import ModelCard, save_model
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.folds import chosen_for
from gatecast.workspace import Workspace, file_sha256


def run(
    workspace: Workspace,
    *,
    spans: FeaturesConfig,
    model: ModelConfig,
    split: SplitConfig,
    tune: TuneConfig,
    settings: EvaluateConfig,
    strategy: StrategyConfig,
) -> None:
    """Fit on every bar; with `model.warm_start` through all folds again, since that is where its networks come from.

    Reads data/features/all.parquet, reports/best.yaml and data/raw/snapshot.json; writes model/.
    """
    rows = pl.read_parquet(workspace.all_features)
    snapshot = read_snapshot(workspace.raw)
    history, (boundary, fold_bars) = bars_of(rows), split.resolved
    earlier = walk_forward(history, snapshot.grid.first_from(boundary), fold_bars, max(model.horizons))
    now = newest_fold(history, len(earlier))
    folds = [*earlier, now] if model.warm_start else [now]
    best, storage = workspace.reports / "best.yaml", database_url(workspace.state, "studies.db")
    chosen = chosen_for(rows, folds, settings.search, best, tune, model, strategy, storage, say)
    fitted = refit_last(rows, folds, chosen, model, "fit", workspace.checkpoints("fit"))
    rows = now.train.newest(model.train_bars).rows(rows)
    hyperparameters, n_steps = chosen[-1]
    bars = rows.group_by(SYMBOL, maintain_order=True).agg(
        pl.col(BAR).min().alias("first"), pl.col(BAR).max().alias("last")
    )
    card = ModelCard(
        exchange=snapshot.exchange,
        symbols=snapshot.symbols,
        timeframe=snapshot.timeframe,
        calendar=snapshot.calendar,
        train_starts={symbol: iso(snapshot.grid.opens_at(first)) for symbol, first, _ in bars.iter_rows()},
        train_ends={symbol: iso(snapshot.grid.closes_at(last)) for symbol, _, last in bars.iter_rows()},
        spans=spans,
        sources=snapshot.sources,
    )
    provenance = {
        "hyperparameters": asdict(hyperparameters),
        "n_steps": n_steps,
        "seeds": list(range(model.seed, model.seed + model.n_seeds)),
        "features_sha256": file_sha256(workspace.all_features),
        "model": model.model_dump(mode="json"),
    }
    save_model(workspace.model, fitted, card, provenance)
    workspace.forget_checkpoints("fit")
    first, last = min(card.train_starts.values()), max(card.train_ends.values())
    say(f"fit: {model.n_seeds} network(s), {n_steps} steps, on {first} to {last}")


if __name__ == "__main__":
    run_stage(run)
