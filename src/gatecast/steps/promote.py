"""The step `promote`: the gate, the registry, and then the report."""

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from gatecast.config import Config
from gatecast.errors import DataError
from gatecast.evaluation.report.document import write_report
from gatecast.logged_runs import asked_before, predictions_of
from gatecast.market.snapshot import require_snapshot
from gatecast.pipeline import fingerprint, stages
from gatecast.registry.models import Registered, champion, register, set_champion
from gatecast.registry.promotion import (
    Asked,
    Check,
    Decision,
    baseline_checks,
    champion_checks,
    evaluation_checks,
    fixed_checks,
    proof_checks,
)
from gatecast.tracking import log_outcome, pipeline_run
from gatecast.workspace import Workspace, file_sha256, write_json


def run(workspace: Workspace, config: Config, say: Callable[[str], None]) -> Decision:
    """Log the pipeline run, judge the challenger and write reports/promotion.json and reports/report.html.

    A refusal is a result: it is returned, not raised.

    Raises:
        DataError: The stages have not written what the gate judges.
        ConfigurationError: What they have written is about other candles than those configured.
    """
    require_snapshot(workspace.raw, config.ingest)
    for stale in workspace.reports.glob("forecast*"):  # of an earlier run, perhaps of another market
        stale.unlink()
    reports = {name: _read(workspace, f"{name}.json") for name in ("validation", "leakage", "fold_leakage", "metrics")}
    with pipeline_run(workspace, config, {s: fingerprint(workspace, s) for s in stages(workspace)}) as run_id:
        decision = _decide(workspace, config, reports, run_id)
        judged = {"metrics_sha256": file_sha256(workspace.reports / "metrics.json")}
        write_json(workspace.reports / "promotion.json", {**decision.as_dict(), **judged})
        log_outcome(decision.decision, reports["metrics"]["verdict"], write_report(workspace))
    say(f"promote: {decision.decision}" + (f": {decision.reason}" if decision.reason else ""))
    return decision


def _decide(workspace: Workspace, config: Config, reports: dict[str, Any], run_id: str) -> Decision:
    name = config.promote.model_name
    digest = file_sha256(workspace.model / "manifest.json")
    current = champion(name)
    asked = Asked(config.evaluate.baselines, config.promote.horizons, config.evaluate.alpha)
    checks = [
        *proof_checks(reports["validation"], reports["leakage"], reports["fold_leakage"]),
        *evaluation_checks(reports["metrics"]),
        *fixed_checks(asked, asked_before(run_id), name),
        *baseline_checks(reports["metrics"], config.promote.horizons, config.evaluate.alpha),
    ]
    if current and current.digest == digest:
        return Decision("already champion", name, current.version, current.version, tuple(checks), run_id)
    if current:
        checks += _against(current, workspace, config)
    if not all(check.passed for check in checks):
        return Decision("refused", name, None, current.version if current else None, tuple(checks), run_id)
    version = register(name, workspace.model, digest, run_id, _market(config), config.promote.horizons).version
    set_champion(name, version)
    return Decision("promoted", name, version, version, tuple(checks), run_id)


def _market(config: Config) -> str:
    return f"{config.ingest.exchange} {', '.join(config.ingest.symbols)} {config.ingest.timeframe}"


def _against(current: Registered, workspace: Workspace, config: Config) -> list[Check]:
    if current.market != _market(config):
        detail = f"champion version {current.version} forecasts {current.market}, not {_market(config)}"
        remedy = "set promote.model_name to register this market under its own name"
        return [Check("same market as the champion", False, f"{detail}: {remedy}")]
    rival = predictions_of(current.run_id)
    if rival is None:
        detail = f"the predictions of champion version {current.version} (run {current.run_id}) cannot be read"
        return [Check("not worse than the champion", False, detail)]
    own = pl.read_parquet(workspace.reports / "predictions.parquet")
    return champion_checks(own, rival, config.promote.horizons)


def _read(workspace: Workspace, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((workspace.reports / name).read_text(encoding="utf-8"))
        return content
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"reports/{name} is absent or damaged ({error}): run `gatecast run`") from None
