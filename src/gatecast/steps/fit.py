"""The stage `fit`: one more fold, up to now, by the same procedure as `evaluate` → the model folder."""

from dataclasses import asdict

import polars as pl

from gatecast.config import FeaturesConfig, ModelConfig
from gatecast.market.candles import BAR, SYMBOL, iso
from gatecast.market.snapshot import read_snapshot
from gatecast.model.folder import ModelCard, save_model
from gatecast.model.procedure import fit_model
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.result import read_best
from gatecast.workspace import Workspace, file_sha256


def run(workspace: Workspace, *, spans: FeaturesConfig, model: ModelConfig) -> None:
    """Fit on every bar.

    A bar whose targets are not known yet trains nothing, so that no purge is needed at the end.

    Reads data/features/all.parquet, reports/best.yaml and data/raw/snapshot.json; writes model/.
    """
    rows = pl.read_parquet(workspace.all_features)
    hyperparameters, n_steps = read_best(workspace.reports / "best.yaml")
    snapshot = read_snapshot(workspace.raw)
    fitted = fit_model(rows, hyperparameters, n_steps, model, workspace.checkpoints("fit"))
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
