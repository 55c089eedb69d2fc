"""What the gate remembers of earlier runs, in a real MLflow store."""

import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from gatecast.logged_runs import asked_before
from gatecast.registry.promotion import Asked


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow.create_experiment("gatecast", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_tracking_uri(before or "")


def run(
    experiment: str, baselines: list[str] | None, decision: str | None, horizons: str = "[24]", alpha: float = 0.05
) -> str:
    with mlflow.start_run(experiment_id=experiment) as started:
        if baselines is not None:
            asked = {"evaluate.baselines": baselines, "promote.horizons": horizons, "evaluate.alpha": alpha}
            mlflow.log_params({key: str(value) for key, value in asked.items()})
        if decision is not None:
            mlflow.set_tag("decision", decision)
    time.sleep(0.005)  # MLflow counts in milliseconds
    return str(started.info.run_id)


def test_all_that_a_judged_run_was_asked_is_remembered_and_of_no_other(store: str) -> None:
    first = run(store, ["naive", "ewma", "lightgbm"], "refused")
    run(store, ["naive", "ewma", "har"], "promoted", "[1, 6]", 0.01)
    run(store, ["naive", "ewma", "prophet"], None, "[12]", 0.001)  # it did not come as far as the gate
    run(store, None, None)  # a trial
    other = mlflow.create_experiment("another name")
    run(other, ["naive", "ewma", "garch"], "refused")
    assert asked_before(first) == Asked()
    asked = Asked(("ewma", "har", "lightgbm", "naive"), (1, 6, 24), 0.01)
    assert asked_before(run(store, ["naive", "ewma"], None, "[1]")) == asked
