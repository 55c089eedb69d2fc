"""The stage `tune` leaves the choice, all trials, and what trading on the forecasts of each would have earned."""

from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, StrategyConfig
from gatecast.model.ensemble import N_WORKERS_VARIABLE
from gatecast.steps import tune
from gatecast.tuning.result import read_best
from gatecast.workspace import Workspace
from tests.evaluation.small_market import HORIZONS, small_market

OUTPUTS = ("best.yaml", "trials.csv", "trial_returns.parquet")


def test_the_search_leaves_the_same_bytes_however_many_workers_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Config
) -> None:
    workspace = Workspace(tmp_path)
    workspace.development_features.parent.mkdir(parents=True)
    workspace.state.mkdir()
    small_market().write_parquet(workspace.development_features)
    small_model = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 1, "batch_blocks": 4}
    small_search = {"n_trials": 3, "n_startup_trials": 1, "n_inner_folds": 2, "max_epochs": 1, "batch_trials": 2}

    def outputs(n_workers: int) -> list[bytes]:
        monkeypatch.setenv(N_WORKERS_VARIABLE, str(n_workers))
        tune.run(
            workspace,
            settings=config.tune.model_copy(update={**small_search, "hidden_size": (4,)}),
            model=config.model.model_copy(update=small_model),
            strategy=StrategyConfig(fee_bps=1, slippage_bps=0, threshold_bps=0),
        )
        return [(workspace.reports / name).read_bytes() for name in OUTPUTS]

    assert outputs(2) == outputs(1)
    trials = pl.read_csv(workspace.reports / "trials.csv")
    returns = pl.read_parquet(workspace.reports / "trial_returns.parquet")
    completed = trials.filter(pl.col("state") == "COMPLETE")
    assert returns["number"].unique().sort().to_list() == completed["number"].to_list()
    assert returns.columns == ["number", "horizon", "date", "return"]
    assert returns.group_by("number", "horizon").agg(pl.col("date").sort())["date"].n_unique() == 1
    assert returns.equals(returns.sort("number", "horizon", "date"))
    assert read_best(workspace.reports / "best.yaml")[0].hidden_size == 4
