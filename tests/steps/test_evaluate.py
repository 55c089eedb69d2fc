"""The stage `evaluate` writes no forecast of folds that saw the future, and says what they saw."""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ruamel.yaml import YAML

from gatecast.config import Config, SplitConfig
from gatecast.errors import GateRefused
from gatecast.evaluation import refits, walk_forward
from gatecast.evaluation.baselines import BASELINES, Forecaster, naive
from gatecast.evaluation.splits import Fold
from gatecast.market.grid import Grid
from gatecast.model.ensemble import N_WORKERS_VARIABLE
from gatecast.model.procedure import TrainingInputs
from gatecast.steps import evaluate
from gatecast.tuning import folds as folds_module
from gatecast.tuning.search import tuned
from gatecast.workspace import Workspace
from tests.evaluation.small_market import FIRST_BAR, HORIZONS, START, small_market

TABLES = ("scores.csv", "equity.csv", "calibration.csv", "pit.csv", "skill.csv")
OUTPUTS = ("predictions.parquet", "metrics.json", "error_analysis.json", *TABLES)


class FrozenGrid:
    grid = Grid("1h")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with the feature rows of a small market and the result of a search."""
    found = Workspace(tmp_path)
    found.all_features.parent.mkdir(parents=True)
    found.reports.mkdir()
    found.state.mkdir()
    small_market().write_parquet(found.all_features)
    days = [date(2023, 1, 1) + timedelta(days=day) for day in range(40)]
    returns = [
        (number, horizon, day, 0.001 * ((day.day * number) % 7 - 3))
        for number in (1, 2)
        for horizon in HORIZONS
        for day in days
    ]
    columns = {"number": pl.Int64, "horizon": pl.Int64, "date": pl.Date, "return": pl.Float64}
    pl.DataFrame(returns, schema=columns, orient="row").write_parquet(found.reports / "trial_returns.parquet")
    pl.DataFrame({"number": range(3)}).write_csv(found.reports / "trials.csv")
    best = {"hidden_size": 4, "learning_rate": 0.01, "dropout": 0.0, "weight_decay": 0.01, "n_steps": 2}
    YAML().dump(best, found.reports / "best.yaml")
    monkeypatch.setattr(evaluate, "read_snapshot", lambda _: FrozenGrid())
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")  # another process would not have what a test plants
    return found


def run(workspace: Workspace, config: Config, **settings: Any) -> None:
    small = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 1, "batch_blocks": 4}
    evaluate.run(
        workspace,
        settings=config.evaluate.model_copy(update={"baselines": ("naive", "ewma"), **settings}),
        model=config.model.model_copy(update=small),
        split=SplitConfig(development_end=START + timedelta(hours=200), fold_bars=100),
        tune=config.tune.model_copy(update={"n_trials": 2, "n_inner_folds": 1, "max_epochs": 2, "hidden_size": (4,)}),
        promote=config.promote.model_copy(update={"horizons": HORIZONS}),
        strategy=config.strategy,
    )


def proof(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace.reports / "fold_leakage.json").read_text(encoding="utf-8"))
    return found


def test_forecasts_are_written_with_the_proof_of_their_folds(workspace: Workspace, config: Config) -> None:
    run(workspace, config)
    assert all((workspace.reports / name).is_file() for name in OUTPUTS)
    assert (proof(workspace)["n_folds"], proof(workspace)["n_cuts"], proof(workspace)["breaches"]) == (2, 8, [])
    written = (workspace.reports / "fold_leakage.json").read_bytes()
    run(workspace, config)
    assert (workspace.reports / "fold_leakage.json").read_bytes() == written


def test_a_leak_in_a_fold_stops_the_stage_and_names_row_and_values(
    workspace: Workspace, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        del train
        return lambda history, test: naive(history, horizons)(history, test)

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
    honest, seen = refits.fold_inputs, []

    def watched(rows: pl.DataFrame, fold: Fold, *arguments: object) -> TrainingInputs:
        seen.append((fold.number, len(rows)))
        return honest(rows, fold, *arguments)  # type: ignore[arg-type]

    for module in (refits, walk_forward):
        monkeypatch.setattr(module, "fold_inputs", watched)
    run(workspace, config)
    whole = 2 * 420
    # once to be trained and four times to be proven; the next fold is under way while one is proven
    assert sorted(seen) == [
        (0, 2 * 200), (0, whole), (0, whole), (0, whole), (0, whole),
        (1, 2 * 300), (1, whole), (1, whole), (1, whole), (1, whole),
    ]  # fmt: skip


def test_a_nested_search_sees_each_train_span_and_nothing_else(
    workspace: Workspace, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    honest = tuned

    def watched(name: Any, span: pl.DataFrame, *arguments: Any, **options: Any) -> Any:
        seen.append((span["bar"].min(), span["bar"].max()))  # type: ignore[arg-type]
        return honest(name, span, *arguments, **options)

    monkeypatch.setattr(folds_module, "tuned", watched)
    run(workspace, config, search="every_fold")
    metrics = json.loads((workspace.reports / "metrics.json").read_text(encoding="utf-8"))
    purge = max(HORIZONS)
    assert seen == [(FIRST_BAR, FIRST_BAR + 200 - purge - 1), (FIRST_BAR, FIRST_BAR + 300 - purge - 1)]
    assert all(fold["learning_rate"] != 0.01 for fold in metrics["folds"])  # which is what best.yaml says
    seen.clear()
    run(workspace, config, search="every_fold")  # whoever asks again wants it computed, to the same result
    assert len(seen) == 2
    assert json.loads((workspace.reports / "metrics.json").read_text(encoding="utf-8")) == metrics


def test_a_nested_search_passes_over_a_market_that_begins_within_it(workspace: Workspace, config: Config) -> None:
    rows = pl.read_parquet(workspace.all_features)
    late = (pl.col("symbol") == "ETH/USDT") & (pl.col("bar") < FIRST_BAR + 130)
    rows.filter(~late).write_parquet(workspace.all_features)
    run(workspace, config, search="every_fold")
    predictions = pl.read_parquet(workspace.reports / "predictions.parquet")
    assert set(predictions["symbol"]) == {"BTC/USDT", "ETH/USDT"}
