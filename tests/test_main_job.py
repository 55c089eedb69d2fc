"""The main job as a user runs it: the real command line, Prefect, DVC, Great Expectations, Optuna and MLflow."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from mlflow.tracking import MlflowClient

from gatecast.forecasts.columns import FORECAST_COLUMNS
from gatecast.forecasts.ledger import latest_forecast
from gatecast.market.candles import Market
from gatecast.market.sample import read_sample
from tests.benches.run import copy_workspace
from tests.command_line import SMALL, dvc, environment, gatecast, left_behind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace").resolve()
    copy_workspace(folder)
    return folder


@pytest.fixture(scope="module")
def first(root: Path) -> subprocess.CompletedProcess[str]:
    """The first run of the whole chain; every test that follows works on what it left."""
    return gatecast(root, "run", *SMALL)


@pytest.fixture
def store(root: Path) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{root / '.gatecast' / 'mlflow.db'}")
    yield
    mlflow.set_tracking_uri(before)


def reports(root: Path, name: str) -> Any:
    return json.loads((root / "reports" / name).read_text())


def test_the_first_run_ends_with_a_summary_that_a_person_understands(
    root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    assert first.returncode == 0, first.stderr
    for words in ("BTC/USDT 1h", "missing", "Best hyperparameters", "ewma", "naive", "At 24 bars", "90 % range"):
        assert words in first.stdout
    for words in ("reports/report.html", "reports/data_docs/index.html", "gatecast ui", "Promoted: gatecast version 1"):
        assert words in first.stdout
    assert "Traceback" not in first.stderr
    assert left_behind(root) == []


def test_the_lstm_beats_both_baselines_out_of_sample(root: Path, first: subprocess.CompletedProcess[str]) -> None:
    del first
    metrics = reports(root, "metrics.json")
    assert len(metrics["folds"]) >= 4
    losses = {name: metrics["models"][name]["24"]["pinball"] for name in ("lstm", "naive", "ewma")}
    assert losses["lstm"] < min(losses["naive"], losses["ewma"])
    predictions = pl.read_parquet(root / "reports" / "predictions.parquet")
    assert predictions.columns[:6] == ["symbol", "ts", "horizon", "model", "fold", "target"]
    quantiles = predictions.select(pl.col("^q.*$"))
    assert all(
        (quantiles[a] <= quantiles[b]).all() for a, b in zip(quantiles.columns, quantiles.columns[1:], strict=False)
    )


@pytest.mark.usefixtures("store")
def test_mlflow_shows_the_run_with_its_trials_and_folds_and_serves_the_champion(
    root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    del first
    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'gatecast'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    parent = min(parents, key=lambda run: run.info.start_time)
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == 2 + len(reports(root, "metrics.json")["folds"])
    assert parent.data.metrics["skill.24"] == pytest.approx(reports(root, "metrics.json")["skill"]["24"])
    assert parent.data.params["tune.n_trials"] == "2"
    assert parent.data.tags["made_by.tune"] == parent.info.run_id
    assert parent.inputs is not None
    assert len(parent.inputs.dataset_inputs) == 3
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "reports")}
    assert {"reports/report.html", "reports/metrics.json"} <= names
    assert {"reports/validation.json", "reports/feature_validation.json", "reports/data_docs"} <= names
    quality = reports(root, "validation.json")
    assert parent.data.metrics["validate.expectations"] == len(quality["expectations"])
    assert parent.data.metrics["validate.keys_unique"] == 1
    hole = next(each for each in quality["expectations"] if each["rule"] == "hole_bars.fail")
    assert parent.data.metrics["validate.hole_bars.fail"] == hole["observed"] == 5
    assert parent.data.metrics["validate.features.values_in_range"] == 1
    model = mlflow.pyfunc.load_model("models:/gatecast@champion")
    answer = pl.from_pandas(model.predict(read_sample(Market("binance", "BTC/USDT", "1h")).to_pandas()))
    assert tuple(answer.columns) == FORECAST_COLUMNS
    ledger = latest_forecast(f"sqlite:///{root / '.gatecast' / 'forecasts.db'}").sort("horizon", "level")
    assert answer.sort("horizon", "level")["price"].to_list() == pytest.approx(ledger["price"].to_list(), rel=1e-6)


def test_a_second_run_computes_nothing_and_knows_its_champion(
    root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    del first
    before = (root / "dvc.lock").read_bytes()
    second = gatecast(root, "run", "--json")
    assert second.returncode == 0, second.stderr
    assert "Running stage" not in second.stderr
    summary = json.loads(second.stdout)
    assert summary["promotion"]["decision"] == "already champion"
    assert summary["promotion"]["version"] == 1
    assert (root / "dvc.lock").read_bytes() == before


def test_dvc_plots_draw_one_model_horizon_by_horizon(root: Path, first: subprocess.CompletedProcess[str]) -> None:
    del first
    shown = dvc(root, "plots", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    plots = json.loads(shown.stdout)["data"]
    assert list(plots) == ["skill by fold", "search", "calibration", "equity", "outcomes among the levels"]
    for plot, *_ in plots.values():
        content = plot["content"]
        values = content["data"]["values"]
        if "model" in values[0]:
            assert {"filter": "datum.model == 'lstm'"} in content["transform"]
            assert "lstm" in {row["model"] for row in values}
        if "horizon" in values[0]:
            assert content["encoding"]["row"]["field"] == "bars_ahead"
            assert {row["horizon"] for row in values} == {"1", "6", "24"}


def test_a_forecast_is_shown_to_people_in_prices_and_to_programs_with_every_quantile(
    root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    del first
    ledger = latest_forecast(f"sqlite:///{root / '.gatecast' / 'forecasts.db'}")
    told = json.loads(gatecast(root, "forecast", "--json").stdout)
    (forecast,) = told["forecasts"]
    assert (told["step"], told["status"]) == ("forecast", "done")
    by_row = {(row["horizon"], row["level"]): row["price"] for row in forecast["quantiles"]}
    assert by_row == {(row["horizon"], row["level"]): row["price"] for row in ledger.iter_rows(named=True)}
    shown = gatecast(root, "forecast").stdout
    assert "90 % range" in shown
    assert all(f"{by_row[horizon, level]:,.2f}" in shown for horizon in (1, 6, 24) for level in (0.05, 0.5, 0.95))


def test_a_gate_that_refuses_ends_with_status_3_and_names_expectation_rows_and_key(
    root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    del first
    refused = gatecast(root, "validate", "--set", "validate.log_return={warn: null, fail: 0.05}")
    assert refused.returncode == 3
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("gatecast:")]
    assert "the move of one bar, in log, is 0.2" in line
    assert "validate.log_return.fail" in line
    assert "[rule log_return.fail]" in line
    assert "reports/data_docs/index.html" in line
    assert "BTC/USDT 2020-" in line
    features = dvc(root, "repro", "--single-item", "--force", "features")
    assert features.returncode != 0
    assert json.loads((root / ".gatecast" / "failure.json").read_text())["status"] == 3
    assert gatecast(root, "features", "--set", "validate.log_return={warn: 0.3, fail: 0.7}").returncode == 0


def test_outside_a_clone_and_with_bad_usage_there_is_one_line_and_status_2(
    tmp_path: Path, root: Path, first: subprocess.CompletedProcess[str]
) -> None:
    del first
    for folder, arguments in (
        (tmp_path, ["run"]),
        (root, ["run", "--set", "tune.n_trials=none"]),
        (root, ["run", "--profile", "nope"]),
        (root, ["run", "--project", str(tmp_path / "absent")]),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "gatecast.cli", *arguments],
            cwd=folder,
            env=environment(root),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
        assert ended.stdout == ""
