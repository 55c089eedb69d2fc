"""The stage `evaluate` writes no forecast of folds that saw the future, and says what they saw."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ruamel.yaml import YAML

from gatecast.config import Config, SplitConfig
from gatecast.errors import GateRefused
from gatecast.evaluation import walk_forward
from gatecast.evaluation.baselines import BASELINES, naive
from gatecast.evaluation.splits import Fold, Span
from gatecast.market.grid import Grid
from gatecast.model.procedure import TrainingInputs
from gatecast.steps import evaluate
from gatecast.workspace import Workspace
from tests.evaluation.small_market import HORIZONS, START, small_market

OUTPUTS = ("predictions.parquet", "metrics.json", "skill.csv")


class FrozenGrid:
    grid = Grid("1h")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with the feature rows of a small market and the result of a search."""
    found = Workspace(tmp_path)
    found.all_features.parent.mkdir(parents=True)
    found.reports.mkdir()
    small_market().write_parquet(found.all_features)
    best = {"hidden_size": 4, "learning_rate": 0.01, "dropout": 0.0, "weight_decay": 0.01, "n_steps": 2}
    YAML().dump(best, found.reports / "best.yaml")
    monkeypatch.setattr(evaluate, "read_snapshot", lambda _: FrozenGrid())
    return found


def run(workspace: Workspace, config: Config) -> None:
    small = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 1, "batch_blocks": 4}
    evaluate.run(
        workspace,
        settings=config.evaluate,
        model=config.model.model_copy(update=small),
        split=SplitConfig(development_end=START + timedelta(hours=200), fold_bars=100),
        promote=config.promote.model_copy(update={"horizons": HORIZONS}),
    )


def proof(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace.reports / "fold_leakage.json").read_text(encoding="utf-8"))
    return found


def test_forecasts_are_written_with_the_proof_of_their_folds(workspace: Workspace, config: Config) -> None:
    run(workspace, config)
    assert all((workspace.reports / name).is_file() for name in OUTPUTS)
    assert (proof(workspace)["n_folds"], proof(workspace)["n_cuts"], proof(workspace)["breaches"]) == (2, 6, [])
    written = (workspace.reports / "fold_leakage.json").read_bytes()
    run(workspace, config)
    assert (workspace.reports / "fold_leakage.json").read_bytes() == written


def test_a_leak_in_a_fold_stops_the_stage_and_names_row_and_values(
    workspace: Workspace, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(history: pl.DataFrame, fold: Fold, horizons: tuple[int, ...]) -> pl.DataFrame:
        return naive(history, replace(fold, train=Span(fold.train.start, fold.test.end)), horizons)

    monkeypatch.setitem(BASELINES, "naive", leaking)
    with pytest.raises(
        GateRefused, match=r"fold 1: q0\.05 of the forecasts of naive .*see reports/fold_leakage"
    ) as caught:
        run(workspace, config)
    breaches = proof(workspace)["breaches"]
    first = breaches[0]
    assert (first["what"], first["symbol"], first["ts"]) == ("forecasts of naive", "BTC/USDT", "2024-01-09T08:00Z")
    for value in (first["known"], first["after"], first["ts"], f"{len(breaches)} in all"):
        assert str(value) in str(caught.value)
    assert not any((workspace.reports / name).exists() for name in OUTPUTS)


def test_every_fold_is_proven_with_the_very_function_that_it_is_trained_by(
    workspace: Workspace, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, seen = walk_forward.fold_inputs, []

    def watched(rows: pl.DataFrame, fold: Fold, *arguments: object) -> TrainingInputs:
        seen.append((fold.number, len(rows)))
        return honest(rows, fold, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(walk_forward, "fold_inputs", watched)
    run(workspace, config)
    whole = 2 * 420
    # once to be trained and four times to be proven; the next fold is under way while one is proven
    assert sorted(seen) == [
        (0, 2 * 200), (0, whole), (0, whole), (0, whole), (0, whole),
        (1, 2 * 300), (1, whole), (1, whole), (1, whole), (1, whole),
    ]  # fmt: skip
