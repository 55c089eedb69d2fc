"""MLflow runs that are over: found by name, with what they forecast and what they were judged against."""

import ast
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import mlflow
import polars as pl
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from gatecast.errors import ConfigurationError, DataError
from gatecast.evaluation.report.comparison import RunResults
from gatecast.registry.faults import mlflow_errors
from gatecast.registry.models import champion
from gatecast.registry.promotion import Asked

_LEAST_OF_ID = 6
_RUN_ID = re.compile(rf"[0-9a-f]{{{_LEAST_OF_ID},32}}")
_PAGE_RUNS = 1000


@mlflow_errors()
def run_of(name: str, model_name: str) -> Run:
    """A pipeline run that was logged earlier.

    Args:
        name: Its id or the beginning of it; `latest`: the newest that ended; `champion`: the one that made it.
        model_name: The registered model whose newest run or champion is meant.

    Raises:
        ConfigurationError: No run, or more than one, goes by the name.
    """
    client = MlflowClient()
    return client.get_run(_run_id(client, name, model_name))


def results_of(name: str, model_name: str) -> RunResults:
    """What a run forecast, and with which configuration; name and model as for `run_of`.

    Raises:
        ConfigurationError: No run, or more than one, goes by the name.
        DataError: It logged no predictions, or they are gone.
    """
    run = run_of(name, model_name)
    run_id, tags = run.info.run_id, run.data.tags
    predictions = predictions_of(run_id)
    if predictions is None:
        raise DataError(
            f"run {run_id[:8]} ({name}) holds no predictions: it ended before `evaluate`, it is a part of another run,"
            " or its files are gone"
        )
    started_at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    verdict = tags.get("mlflow.note.content")
    return RunResults(name, run_id, started_at, run.data.params, tags.get("decision"), verdict, predictions)


def _run_id(client: MlflowClient, name: str, model_name: str) -> str:
    if name == "champion":
        registered = champion(model_name)
        if registered is None:
            raise ConfigurationError(f"there is no champion of {model_name} to compare: name a run by its id")
        return registered.run_id
    if name == "latest":
        experiment = mlflow.get_experiment_by_name(model_name)
        ended = "attributes.status = 'FINISHED' AND attributes.run_name = 'train'"
        found = client.search_runs([experiment.experiment_id], ended, max_results=1) if experiment else []
        if not found:
            raise ConfigurationError(f"no run of {model_name} has ended yet: `gatecast run` makes one")
        return str(found[0].info.run_id)
    if not _RUN_ID.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} names no run: give an id as the MLflow UI shows it, or its first {_LEAST_OF_ID} characters or"
            " more, or `latest`, or `champion`"
        )
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"attributes.run_id LIKE '{name}%'", max_results=2)
    if len(found) != 1:
        what = "more than one run" if found else "no run"
        raise ConfigurationError(f"{what} has an id that begins with {name}: `gatecast ui` lists them")
    return str(found[0].info.run_id)


@mlflow_errors()
def asked_before(run_id: str) -> Asked:
    """What earlier pipeline runs under the same registered name were judged by, whatever came of it."""
    client = MlflowClient()
    own = client.get_run(run_id)
    asked = Asked()
    query, page = f"attributes.start_time < {own.info.start_time}", None
    while True:
        runs = client.search_runs([own.info.experiment_id], query, max_results=_PAGE_RUNS, page_token=page)
        for run in runs:
            if "decision" in run.data.tags:  # judged, and no trial or fold
                asked = _together(asked, run.data.params)
        page = runs.token
        if not page:
            return asked


def _together(asked: Asked, params: Mapping[str, str]) -> Asked:
    named = ("evaluate.baselines", "promote.horizons")
    baselines, horizons = (ast.literal_eval(params.get(key, "()")) for key in named)
    return Asked(
        tuple(sorted({*asked.baselines, *baselines})),
        tuple(sorted({*asked.horizons, *horizons})),
        min(asked.alpha, float(params.get("evaluate.alpha", asked.alpha))),
    )


def predictions_of(run_id: str) -> pl.DataFrame | None:
    """The out-of-sample predictions that a run logged; None if they are gone."""
    try:
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="reports/predictions.parquet")
        return pl.read_parquet(path)
    except (mlflow.exceptions.MlflowException, OSError):
        return None
