"""Two runs side by side: on real MLflow runs, what both forecast and nothing else."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from rich.console import Console

from gatecast.cli import cli
from gatecast.errors import ConfigurationError, DataError
from gatecast.evaluation.report.comparison import RunResults, compare_runs, cumulative_differences
from gatecast.evaluation.report.comparison_page import comparison_table, write_comparison
from gatecast.evaluation.report.plots import library
from gatecast.evaluation.verdict import compare, with_loss
from gatecast.logged_runs import results_of
from gatecast.model.predictions import LEVELS, QUANTILES
from gatecast.registry.models import set_champion
from gatecast.workspace import Workspace
from tests.conftest import REPOSITORY
from tests.evaluation.report.evaluated import HOSTILE, START, make_predictions

MODEL = "gatecast"
PARAMS = {"ingest.exchange": "binance", "ingest.timeframe": "1h", "model.n_seeds": "4", "tune.n_trials": "10"}
GOOD = make_predictions(n=1500)
WORSE = GOOD.with_columns(pl.col(name) * 1.6 for name in QUANTILES)  # ranges too wide by half


def _run(predictions: pl.DataFrame, run_id: str = "a" * 32, **params: str) -> RunResults:
    started_at = datetime(2024, 5, 1, tzinfo=UTC)
    return RunResults("a", run_id, started_at, {**PARAMS, **params}, "promoted", "It is better.", predictions)


def _pinball(rows: pl.DataFrame) -> float:
    """The mean loss by its definition."""
    total, n = 0.0, 0
    for row in rows.drop_nulls("target").iter_rows(named=True):
        for level, name in zip(LEVELS, QUANTILES, strict=True):
            error = row["target"] - row[name]
            total += max(level * error, (level - 1) * error)
            n += 1
    return total / n


def _lstm(predictions: pl.DataFrame) -> pl.DataFrame:
    return predictions.filter(pl.col("model") == "lstm")


def test_losses_and_skill_are_those_of_the_shared_forecasts_alone() -> None:
    first, second = _run(GOOD), _run(WORSE.filter(pl.col("ts") >= START + timedelta(hours=200)))
    found = compare_runs(first, second)["horizons"]["24"]
    shared = _lstm(GOOD).sort("ts").slice(200)
    ours, theirs = _pinball(shared), _pinball(_lstm(second.predictions))
    assert found["n"] == 1299  # 1,500 less 200 that the second lacks less one without a target
    assert found["first"]["pinball"] == pytest.approx(ours)
    assert found["second"]["pinball"] == pytest.approx(theirs)
    assert found["skill"] == pytest.approx(1 - theirs / ours)


def test_a_worse_run_is_found_worse_from_either_side() -> None:
    ahead, behind = (
        compare_runs(*pair)["horizons"]["24"] for pair in ((_run(WORSE), _run(GOOD)), (_run(GOOD), _run(WORSE)))
    )
    assert (ahead["better"], behind["better"]) == ("second", "first")
    assert ahead["p_value"] == behind["p_value"] <= 0.05
    assert ahead["sentence"].startswith("At 24 bars ahead the second run is better: the second has a")
    assert behind["sentence"].startswith("At 24 bars ahead the first run is better: the second has a")


def test_runs_that_differ_by_noise_alone_are_not_told_apart() -> None:
    noise = np.random.default_rng(1).normal(1, 0.02, len(GOOD))
    other = GOOD.with_columns(pl.Series("noise", noise)).with_columns(
        pl.col(name) * pl.col("noise") for name in QUANTILES
    )
    found = compare_runs(_run(GOOD), _run(other.drop("noise")))["horizons"]["24"]
    assert found["better"] is None
    assert found["sentence"].startswith("At 24 bars ahead no difference is proven: ")


def test_the_p_value_is_twice_that_of_the_better_side() -> None:
    noise = np.random.default_rng(1).normal(1, 0.02, len(GOOD))
    other = GOOD.with_columns(pl.col(name) * pl.Series(noise) for name in QUANTILES)
    ours, theirs = (with_loss(_lstm(each).drop_nulls("target")) for each in (GOOD, other))
    one_sided = min(compare(ours, theirs, 24).p_value, compare(theirs, ours, 24).p_value)
    assert compare_runs(_run(GOOD), _run(other))["horizons"]["24"]["p_value"] == pytest.approx(2 * one_sided)
    assert one_sided < 0.5


def test_the_same_run_twice_is_equal() -> None:
    found = compare_runs(_run(GOOD), _run(GOOD))
    assert found["same_run"]
    assert found["configuration"] == []
    horizon = found["horizons"]["24"]
    assert (horizon["skill"], horizon["p_value"], horizon["better"]) == (0.0, 1.0, None)
    assert horizon["sentence"].endswith("they are equal.")


def test_a_bar_that_was_scored_against_another_target_is_not_shared() -> None:
    revised = GOOD.with_columns(target=pl.when(pl.col("ts") < START + timedelta(hours=300))
                                .then(pl.col("target") + 1e-9).otherwise(pl.col("target")))  # fmt: skip
    assert compare_runs(_run(GOOD), _run(revised))["horizons"]["24"]["n"] == 1199


def test_skill_over_several_markets_is_that_of_the_geometric_mean() -> None:
    small = make_predictions("ETH/USDT", 1500, seed=9)
    first = pl.concat([GOOD, small])
    second = pl.concat([WORSE, small])
    found = compare_runs(_run(first), _run(second))["horizons"]["24"]
    ratio = _pinball(_lstm(WORSE)) / _pinball(_lstm(GOOD))
    assert found["skill"] == pytest.approx(1 - ratio**0.5)


def test_a_test_and_a_skill_that_contradict_each_other_prove_nothing() -> None:
    calm = make_predictions("ETH/USDT", 1200, seed=9).with_columns(
        pl.col(name) / 100 for name in (*QUANTILES, "target")
    )
    narrow = calm.with_columns(pl.col(name) * 0.1 for name in QUANTILES)
    wide = GOOD.with_columns(pl.col(name) * 2 for name in QUANTILES)
    first, second = pl.concat([wide, calm]), pl.concat([GOOD, narrow])
    found = compare_runs(_run(first), _run(second))["horizons"]["24"]
    assert (
        found["p_value"] < 0.05
    )  # the mean loss of the second is lower, for a market that moves a hundred times as much
    assert found["skill"] < 0
    assert found["better"] is None
    assert "no difference is proven" in found["sentence"]


def test_too_few_shared_bars_for_a_test_are_told_and_not_judged() -> None:
    few = GOOD.filter(pl.col("ts") < START + timedelta(hours=100))
    found = compare_runs(_run(GOOD), _run(few))["horizons"]["24"]
    assert found["p_value"] is None and found["better"] is None
    assert "they are equal" in found["sentence"]
    wide = compare_runs(_run(GOOD), _run(few.with_columns(pl.col(name) * 2 for name in QUANTILES)))["horizons"]["24"]
    assert wide["sentence"].endswith("the runs share too few bars to tell whether that is chance.")


def test_runs_of_different_markets_share_nothing_and_the_line_says_what_each_forecast() -> None:
    other = _run(make_predictions("ETH/USDT"), "b" * 32)
    with pytest.raises(
        DataError, match=r"share no bar: one forecast binance BTC/USDT 1h, .* the other binance ETH/USDT"
    ):
        compare_runs(_run(GOOD), other)


def test_runs_of_other_horizons_share_none_and_the_line_says_so() -> None:
    other = _run(GOOD.with_columns(pl.lit(6, pl.Int64).alias("horizon")), "b" * 32)
    with pytest.raises(DataError, match="share no horizon: one forecast 24 bars ahead, the other 6; compare runs"):
        compare_runs(_run(GOOD), other)


def test_only_parameters_that_differ_are_listed_with_both_values() -> None:
    second = replace(_run(GOOD, **{"model.n_seeds": "2"}), params={"ingest.exchange": "binance", "model.n_seeds": "2"})
    found = compare_runs(_run(GOOD), second)["configuration"]
    assert found == [
        {"key": "ingest.timeframe", "first": "1h", "second": None},
        {"key": "model.n_seeds", "first": "4", "second": "2"},
        {"key": "tune.n_trials", "first": "10", "second": None},
    ]


def test_the_difference_of_the_losses_adds_up_to_that_of_the_means() -> None:
    first, second = _run(WORSE), _run(GOOD)
    found, curve = compare_runs(first, second)["horizons"]["24"], cumulative_differences(first, second)[24]
    gained = found["first"]["pinball"] - found["second"]["pinball"]
    assert curve["ts"].is_sorted()
    assert curve["total"][-1] == pytest.approx(gained * found["n"])


def test_the_page_is_whole_safe_and_the_same_for_the_same_runs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    second = replace(_run(WORSE, **{"features.use": HOSTILE}), verdict=HOSTILE, decision=HOSTILE)
    path, _ = write_comparison(workspace, _run(GOOD), second)
    page = path.read_text(encoding="utf-8")
    assert path == workspace.reports / "comparison.html"
    own = page.replace(library(), "")
    assert "<script>alert" not in own and "<b>" not in own and "http" not in own.replace("http-equiv", "")
    write_comparison(workspace, _run(GOOD), second)
    assert path.read_text(encoding="utf-8") == page


def test_the_terminal_shows_losses_sentence_and_configuration() -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(comparison_table(compare_runs(_run(GOOD), _run(WORSE, **{"model.n_seeds": "2"}))))
    text = console.export_text()
    assert "the first run is better" in text
    assert "model.n_seeds: 4 -> 2" in text


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Ids of runs in a real MLflow store: good, worse, one of another market and one without predictions."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment(MODEL, artifact_location=(folder / "artifacts").as_uri())
    ids = {}
    tables = {"empty": None, "other": make_predictions("ETH/USDT"), "worse": WORSE, "good": GOOD}
    for place, (name, predictions) in enumerate(tables.items()):
        with mlflow.start_run(experiment_id=experiment, run_name="train" if name != "empty" else "fold 0") as run:
            mlflow.log_params({**PARAMS, "model.n_seeds": str(place)})
            mlflow.set_tags({"decision": "promoted", "mlflow.note.content": f"verdict of {name}"})
            if predictions is not None:
                path = folder / "predictions.parquet"
                predictions.write_parquet(path)
                mlflow.log_artifact(str(path), "reports")
            ids[name] = run.info.run_id
    client = mlflow.MlflowClient()
    client.create_registered_model(MODEL)
    version = client.create_model_version(MODEL, (folder / "model").as_uri(), ids["worse"])
    set_champion(MODEL, int(version.version))
    yield ids
    mlflow.set_tracking_uri(before or "")
    os.environ.pop("MLFLOW_TRACKING_URI")
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def test_a_run_goes_by_its_id_its_beginning_latest_and_champion(logged: dict[str, str]) -> None:
    for name, expected in (
        (logged["good"], "good"),
        (logged["good"][:6], "good"),
        ("latest", "good"),
        ("champion", "worse"),
    ):
        found = results_of(name, MODEL)
        assert found.run_id == logged[expected]
        assert found.verdict == f"verdict of {expected}"
        assert found.params["ingest.exchange"] == "binance"
    assert results_of("latest", MODEL).predictions.equals(GOOD)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ffffff", "no run has an id that begins with ffffff"),
        ("abc", "'abc' names no run: give an id"),
        ("newest", "'newest' names no run"),
        ("aaaaaa' OR 1=1", "names no run"),
    ],
)
@pytest.mark.usefixtures("logged")
def test_an_unknown_name_is_a_line_with_a_remedy(name: str, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        results_of(name, MODEL)


@pytest.mark.usefixtures("logged")
def test_latest_and_champion_of_a_model_without_any_say_so() -> None:
    with pytest.raises(ConfigurationError, match="no run of other has ended yet"):
        results_of("latest", "other")
    with pytest.raises(ConfigurationError, match="there is no champion of other"):
        results_of("champion", "other")


def test_a_run_without_predictions_is_named(logged: dict[str, str]) -> None:
    with pytest.raises(DataError, match=rf"run {logged['empty'][:8]} .* holds no predictions"):
        results_of(logged["empty"][:8], MODEL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A workspace with the shipped configuration and the code of this repository."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "params.yaml").write_bytes((REPOSITORY / "conf" / "params.yaml").read_bytes())
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    (tmp_path / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    return tmp_path


def _report(project: Path, *arguments: str) -> Any:
    with patch.dict(os.environ):  # which the command sets for the tools
        return CliRunner().invoke(cli, ["report", "--project", str(project), *arguments])


def test_the_command_writes_the_page_and_gives_the_figures(project: Path, logged: dict[str, str]) -> None:
    answer = _report(project, "--compare", "champion", "latest", "--json")
    assert answer.exit_code == 0, answer.exception
    found = json.loads(answer.stdout)
    assert [run["run_id"] for run in found["runs"]] == [logged["worse"], logged["good"]]
    assert found["horizons"]["24"]["better"] == "second"
    assert found["configuration"] == [{"key": "model.n_seeds", "first": "2", "second": "3"}]
    assert Path(found["comparison"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_prints_a_table_and_the_path(project: Path, logged: dict[str, str]) -> None:
    answer = _report(project, "--compare", logged["good"], logged["good"])
    assert answer.exit_code == 0, answer.exception
    assert "they are equal" in answer.stdout
    assert answer.stdout.splitlines()[-1] == str(project / "reports" / "comparison.html")


def test_help_teaches_how_to_compare() -> None:
    text = CliRunner().invoke(cli, ["report", "--help"]).stdout
    assert "gatecast report --compare champion latest" in text
    assert "`latest` or `champion`" in " ".join(text.split())
