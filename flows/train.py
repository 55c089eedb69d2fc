"""The flow `train`: ingest, the DVC stages, promote, forecast, a task each."""

from pathlib import Path
from typing import Any

import polars as pl
from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from flows.quality import publish_quality
from gatecast import pipeline
from gatecast.errors import NetworkFault
from gatecast.forecasts.columns import ISSUED_AT, TARGET_AT
from gatecast.params import read_config
from gatecast.registry.promotion import Decision
from gatecast.steps import ingest as ingest_step
from gatecast.steps.stage import say
from gatecast.summary import quality_warnings
from gatecast.workspace import Workspace

_N_RETRIES = 3  # of a whole step; single requests are tried again within it
_BACKOFF = exponential_backoff(backoff_factor=5)  # 5, 10, 20 s
_JITTER = 0.5


def _is_network_fault(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's order
    """Only what may pass by itself is worth another try."""
    return isinstance(state.result(raise_on_failure=False), NetworkFault)


@task(
    retries=_N_RETRIES,
    retry_delay_seconds=_BACKOFF,
    retry_jitter_factor=_JITTER,
    retry_condition_fn=_is_network_fault,
)
def ingest(root: Path) -> None:
    """Bring the candles up to date and freeze those of this run."""
    workspace = Workspace(root)
    ingest_step.run(workspace, read_config(workspace), say)


@task(task_run_name="{stage}")
def reproduce(root: Path, stage: str) -> str:
    """One DVC stage, by name; DVC skips it when nothing that it stands on has changed, but not its warnings."""
    workspace = Workspace(root)
    try:
        outcome = pipeline.reproduce(workspace, stage, alone=True, say=say)
    finally:
        publish_quality(workspace, stage)
    if outcome is pipeline.Outcome.SKIPPED:
        for warning in quality_warnings(workspace, stage):
            say(warning)
    return outcome


@task
def promote(root: Path) -> Decision:
    """The gate, the registry and the report."""
    from gatecast.steps import promote as promote_step  # MLflow: not beside `evaluate`, which needs the memory

    workspace = Workspace(root)
    decision = promote_step.run(workspace, read_config(workspace), say)
    checks = [f"- {'passed' if check.passed else '**failed**'}: {check.detail}" for check in decision.checks]
    create_markdown_artifact(
        "\n".join([f"# {decision.decision}", "", *checks]),
        key="verdict",
        description="Decision of the promotion gate",
    )
    report = (workspace.reports / "report.html").as_uri()
    create_link_artifact(report, key="report", link_text="Report", description="Everything that this run found")
    return decision


@task(
    retries=_N_RETRIES,
    retry_delay_seconds=_BACKOFF,
    retry_jitter_factor=_JITTER,
    retry_condition_fn=_is_network_fault,
)
def forecast(root: Path) -> None:
    """Forecast with the champion."""
    from gatecast.steps import forecast as forecast_step  # and PyTorch

    workspace = Workspace(root)
    rows = forecast_step.run(workspace, read_config(workspace), say)
    table = rows.with_columns(pl.col(ISSUED_AT, TARGET_AT).dt.to_string("iso:strict")).to_dicts()
    create_table_artifact(table, key="forecast", description="Quantiles by horizon, with prices")


@flow(validate_parameters=False)
def train(root: Path) -> Decision:
    """Run the whole lifecycle in one workspace.

    Args:
        root: Its folder.

    Returns:
        What the promotion gate decided. With no champion there is no forecast.
    """
    ingest(root)
    for stage in pipeline.stages(Workspace(root)):
        reproduce(root, stage)
    decision = promote(root)
    if decision.champion_version is not None:
        forecast(root)
    return decision
