"""MLflow runs: one parent a pipeline run, nested runs for trials and folds, logged from the files that stages wrote."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.polars_dataset import from_polars
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from gatecast.config import Config
from gatecast.registry.faults import mlflow_errors
from gatecast.registry.provenance import provenance, uncommitted
from gatecast.workspace import Workspace, file_sha256, write_json

_VALUE_LENGTH = 500  # MLflow cuts longer parameters
_VALIDATIONS = ("validation.json", "feature_validation.json")
_DOCS = ("data_docs", "feature_docs")  # the report links to them
_PROOFS = ("leakage.json", "fold_leakage.json")
_SEARCH = ("best.yaml", "trials.csv", "trial_returns.parquet")
_TABLES = ("scores.csv", "equity.csv", "calibration.csv", "pit.csv", "skill.csv")
_EVALUATION = ("metrics.json", "predictions.parquet", "error_analysis.json", *_TABLES)
_REPORTS = (*_VALIDATIONS, *_PROOFS, *_SEARCH, *_EVALUATION)


@dataclass(frozen=True)
class _Part:
    """A nested run."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, float]


@contextmanager
def pipeline_run(workspace: Workspace, config: Config, fingerprints: Mapping[str, str]) -> Iterator[str]:
    """Log what the stages wrote as a run, and keep it open for what comes after: promotion and report.

    A stage that DVC skipped shows its numbers all the same, with the run that made them in the tag `made_by.<stage>`.

    Args:
        workspace: Whose files.
        config: The resolved configuration.
        fingerprints: Hash of the outputs of each stage.

    Yields:
        The run's id.

    Raises:
        GatecastError: MLflow's store did not answer; what the stages wrote is kept.
    """
    with mlflow_errors():
        yield from _logged_run(workspace, config, fingerprints)


def _logged_run(workspace: Workspace, config: Config, fingerprints: Mapping[str, str]) -> Iterator[str]:
    experiment = _experiment(workspace, config.promote.model_name)
    client = MlflowClient()
    made_by = {stage: _first_with(client, experiment, stage, outputs) for stage, outputs in fingerprints.items()}
    with mlflow.start_run(experiment_id=experiment, run_name="train") as run:
        run_id: str = run.info.run_id
        tags = {f"outputs.{stage}": outputs for stage, outputs in fingerprints.items()}
        tags |= {f"made_by.{stage}": made_by[stage] or run_id for stage in fingerprints}
        mlflow.set_tags(tags)
        _log_configuration(workspace, config)
        _log_data(workspace)
        metrics = _json(workspace, "metrics.json")
        mlflow.log_metrics(_headline(metrics))
        mlflow.log_metrics(_quality(workspace))
        _log_parts(client, experiment, run_id, made_by["tune"] or run_id, _trials(workspace))
        _log_parts(client, experiment, run_id, made_by["evaluate"] or run_id, _folds(metrics))
        for name in _REPORTS:
            mlflow.log_artifact(str(workspace.reports / name), "reports")
        for name in _DOCS:
            if (workspace.reports / name).is_dir():  # not there where DVC brought the stage's outputs from its cache
                mlflow.log_artifacts(str(workspace.reports / name), f"reports/{name}")
        yield run_id


@mlflow_errors()
def log_outcome(decision: str, verdict: str, report: Path) -> None:
    """Add decision, verdict and report to the open run."""
    mlflow.set_tags({"decision": decision, "mlflow.note.content": verdict})
    mlflow.log_artifact(str(report), "reports")


def _experiment(workspace: Workspace, name: str) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # on SQLite artifacts would otherwise land in ./mlruns; a server knows its own place
    local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
    location = (workspace.state / "artifacts").as_uri() if local else None
    return str(mlflow.create_experiment(name, artifact_location=location))


def _first_with(client: MlflowClient, experiment: str, stage: str, outputs: str) -> str | None:
    query = f"tags.`outputs.{stage}` = '{outputs}'"
    runs = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1)
    return runs[0].info.run_id if runs else None


def _log_configuration(workspace: Workspace, config: Config) -> None:
    sections: dict[str, dict[str, Any]] = config.model_dump(mode="json", by_alias=True)
    values = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    mlflow.log_params({key: str(value)[:_VALUE_LENGTH] for key, value in values.items()})
    facts = provenance(workspace)
    write_json(workspace.reports / "provenance.json", facts)
    mlflow.log_dict(facts, "provenance/provenance.json")
    mlflow.set_tags({"commit": facts["commit"], "data": facts["data"], "dvc_lock": facts["dvc_lock"]})
    if difference := uncommitted(workspace):
        mlflow.log_text(difference, "provenance/uncommitted.patch")
    for path in (workspace.params, workspace.root / "dvc.lock", workspace.root / "data" / "raw.dvc"):
        if path.is_file():
            mlflow.log_artifact(str(path), "provenance")


def _log_data(workspace: Workspace) -> None:
    for name, path, context in (
        ("candles", workspace.clean, "candles"),
        ("development", workspace.development_features, "tune"),
        ("all", workspace.all_features, "evaluate"),
    ):
        source = CodeDatasetSource({"path": workspace.relative(path), "sha256": file_sha256(path)})
        dataset = from_polars(pl.read_parquet(path), source=source, name=name)
        mlflow.log_input(dataset, context=context)


def _headline(metrics: dict[str, Any]) -> dict[str, float]:
    """Figures of every model and horizon; what has no value is not there."""
    figures = {
        f"{prefix}{model}.{horizon}.{name}": value
        for prefix, table in (("", "models"), ("strategy.", "strategy"))
        for model, horizons in metrics[table].items()
        for horizon, scores in horizons.items()
        for name, value in scores.items()
    }
    for table in ("skill", "p_value"):
        figures |= {f"{table}.{horizon}": value for horizon, value in metrics[table].items()}
    for horizon in metrics["horizons"]:
        key = str(horizon)
        figures |= {f"spa.{key}": metrics["spa"][key]["p_value"]}
        figures |= {f"{name}.{key}": metrics["overfitting"][key][name] for name in ("deflated_sharpe", "pbo")}
    return {name: float(value) for name, value in figures.items() if value is not None}


def _quality(workspace: Workspace) -> dict[str, float]:
    """How many expectations there are and how they came out, and for each the worst value, or whether it holds."""
    figures: dict[str, float] = {}
    for name in _VALIDATIONS:
        prefix = "validate" if name == "validation.json" else "validate.features"
        found = _json(workspace, name)
        figures |= {f"{prefix}.{key}": float(value) for key, value in found["counts"].items()}
        for each in found["expectations"]:
            measured = each["limit"] is not None and each["observed"] is not None
            figures[f"{prefix}.{each['rule']}"] = each["observed"] if measured else float(each["success"])
    return figures


def _trials(workspace: Workspace) -> list[_Part]:
    rows = pl.read_csv(workspace.reports / "trials.csv").to_dicts()
    shown = ("state", "hidden_size", "learning_rate", "dropout", "weight_decay", "n_steps")
    return [
        _Part(f"trial {row['number']}", {key: row[key] for key in shown}, {"value": float(row["value"])})
        for row in rows
    ]


def _folds(metrics: dict[str, Any]) -> list[_Part]:
    losses = {
        (model, horizon): values
        for model, horizons in metrics["by_fold"].items()
        for horizon, values in horizons.items()
    }
    return [
        _Part(
            f"fold {fold['fold']}",
            {key: fold[key] for key in ("train_start", "train_end", "test_start", "test_end")},
            {f"{model}.{horizon}.pinball": v[number] for (model, horizon), v in losses.items() if number < len(v)},
        )
        for number, fold in enumerate(metrics["folds"])
    ]


def _log_parts(client: MlflowClient, experiment: str, parent: str, made_by: str, parts: list[_Part]) -> None:
    for part in parts:
        tags = {"mlflow.parentRunId": parent, "made_by": made_by}
        run = client.create_run(experiment, run_name=part.name, tags=tags)
        now = run.info.start_time
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, value, now, 0) for key, value in part.metrics.items()],
            params=[Param(key, str(value)) for key, value in part.params.items()],
            tags=[RunTag("part_of", "train")],
        )
        client.set_terminated(run.info.run_id)


def _json(workspace: Workspace, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.reports / name).read_text(encoding="utf-8"))
    return content
