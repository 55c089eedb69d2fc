"""The stage `fit`: one more fold, up to now, by the same procedure as `evaluate` → the model folder."""

import polars as pl

from gatecast.config import FeaturesConfig, ModelConfig
from gatecast.evaluation.splits import bars_of
from gatecast.market.candles import BAR, SYMBOL, from_ms, iso, timeframe_ms
from gatecast.market.store import read_snapshot
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
    fitted = fit_model(rows, hyperparameters, n_steps, model)
    length = timeframe_ms(snapshot.timeframe)
    last_bars = rows.group_by(SYMBOL, maintain_order=True).agg(pl.col(BAR).max())
    card = ModelCard(
        exchange=snapshot.exchange,
        symbols=snapshot.symbols,
        timeframe=snapshot.timeframe,
        train_start=iso(from_ms(bars_of(rows).start * length)),
        train_ends={symbol: iso(from_ms((bar + 1) * length)) for symbol, bar in last_bars.iter_rows()},
        spans=spans,
    )
    provenance = {
        "n_steps": n_steps,
        "seeds": list(range(model.seed, model.seed + model.n_seeds)),
        "features_sha256": file_sha256(workspace.all_features),
        "model": model.model_dump(mode="json"),
    }
    save_model(workspace.model, fitted, card, provenance)
    say(f"fit: {model.n_seeds} network(s), {n_steps} steps, on {card.train_start} to {max(card.train_ends.values())}")


if __name__ == "__main__":
    run_stage(run)
