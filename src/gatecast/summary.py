"""What a pipeline run ends with: a summary that a person understands, from the files that the steps wrote."""

import json
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from ruamel.yaml import YAML

from gatecast.evaluation.notation import interval, p_value, signed
from gatecast.evaluation.report.merit import at, n_beaten
from gatecast.evaluation.report.wording import forecast_caveats
from gatecast.model.predictions import LSTM
from gatecast.workspace import Workspace

VALIDATIONS: Final = {  # by stage: report and Data Docs, in the folder of the reports
    "validate": ("validation.json", "data_docs"),
    "features": ("feature_validation.json", "feature_docs"),
}


def quality_warnings(workspace: Workspace, stage: str) -> list[str]:
    """What a stage that validates warned of when it last ran, a line each; none for other stages."""
    report = _json(workspace.reports / VALIDATIONS[stage][0]) if stage in VALIDATIONS else None
    return [f"{stage}: warning: {warning}" for warning in report["warnings"]] if report else []


def read_summary(workspace: Workspace) -> dict[str, Any]:
    """Data, hyperparameters, figures, promotion, forecast and where to look, as plain data; absent parts are None."""
    reports = workspace.reports
    best = reports / "best.yaml"
    promotion = _json(reports / "promotion.json")
    forecasts = read_forecasts(workspace)
    return {
        "data": _json(workspace.clean_counts),
        "warnings": [line for stage in VALIDATIONS for line in quality_warnings(workspace, stage)],
        "best": YAML(typ="safe").load(best.read_text(encoding="utf-8")) if best.is_file() else None,
        "metrics": _json(reports / "metrics.json"),
        "promotion": promotion,
        "forecasts": forecasts if promotion and promotion["champion_version"] is not None else [],
        "report": workspace.relative(reports / "report.html"),
        "data_docs": workspace.relative(reports / "data_docs" / "index.html"),
    }


def read_forecasts(workspace: Workspace) -> list[dict[str, Any]]:
    """The newest forecast of each market: issued_at, last_close, model_version and its quantiles."""
    return [_json(path) for path in sorted(workspace.reports.glob("forecast*.json"))]


def render_summary(summary: dict[str, Any]) -> RenderableType:
    """The summary as terminal tables."""
    parts: list[RenderableType] = []
    if summary["data"]:
        parts.append(_data(summary["data"]))
    if summary["warnings"]:
        parts.append(Text("\n".join(summary["warnings"]), style="yellow"))
    if summary["best"]:
        words = ", ".join(f"{key} {value:.4g}" for key, value in summary["best"].items() if key != "value")
        parts.append(Text(f"Best hyperparameters: {words}"))
    if summary["metrics"]:
        parts.append(_skill(summary["metrics"]))
        parts.append(Text(summary["metrics"]["verdict"], style="bold"))
    if summary["promotion"]:
        parts.append(_promotion(summary["promotion"]))
    parts += [render_forecast(forecast) for forecast in summary["forecasts"]]
    parts.append(Text(f"Report      {summary['report']}\nData Docs   {summary['data_docs']}\nMLflow UI   gatecast ui"))
    return Group(*(part for each in parts for part in (each, Text(""))))


def render_forecast(forecast: dict[str, Any]) -> Table:
    """A forecast as a terminal table, in prices."""
    title = f"Forecast of {forecast['market']}, issued {forecast['issued_at']} by version {forecast['model_version']}"
    title += f", last close {forecast['last_close']:,.2f}"
    for caveat in forecast_caveats(forecast):
        title += f"\n{caveat}"
    table = Table("bars ahead", "at", "median", "90 % range", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    prices: dict[int, dict[float, float]] = {}
    at: dict[int, str] = {}
    for row in forecast["quantiles"]:
        prices.setdefault(row["horizon"], {})[row["level"]] = row["price"]
        at[row["horizon"]] = row["target_at"]
    for horizon, levels in prices.items():
        table.add_row(str(horizon), at[horizon], f"{levels[0.5]:,.2f}", f"{levels[0.05]:,.2f} to {levels[0.95]:,.2f}")
    return table


def _data(data: dict[str, Any]) -> Text:
    lines = ["Data"]
    for symbol, counts in data["markets"].items():
        reasons = "".join(f", {n} times {reason}" for reason, n in counts["reasons"].items())
        span = f"{counts['first'][:16]}Z to {counts['last'][:16]}Z"
        lines += [
            f"  {symbol} {data['timeframe']}, {span}: {counts['clean']:,} bars",
            f"  missing bars: {counts['missing']}, the longest hole {counts['longest_hole']}",
            f"  raw rows: {counts['quarantined']} in quarantine{reasons}, {counts['duplicates']} repeated",
            f"  outliers marked: {counts['outliers']}",
        ]
    return Text("\n".join(lines))


def _skill(metrics: dict[str, Any]) -> Table:
    n_folds = len(metrics["folds"])
    title = f"Pinball loss by bars ahead, out of sample, {n_folds} fold{'' if n_folds == 1 else 's'}; lower is better"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for heading in ("bars", LSTM, "best baseline", "its loss", "skill", "95 % interval", "p", "beaten"):
        table.add_column(heading, justify="left" if heading in ("bars", "best baseline") else "right", no_wrap=True)
    for horizon, skill in metrics["skill"].items():
        best = metrics["best_baseline"][horizon]
        ours, theirs = (f"{metrics['models'][name][horizon]['pinball']:.6f}" for name in (LSTM, best))
        within = interval(at(metrics, "skill_over", int(horizon)).get(best))
        beaten, n_baselines = n_beaten(metrics, int(horizon))
        figures = (signed(skill), within, p_value(metrics["p_value"][horizon]), f"{beaten} of {n_baselines}")
        table.add_row(horizon, ours, best, theirs, *figures)
    return table


def _promotion(promotion: dict[str, Any]) -> Text:
    decision, name = promotion["decision"], promotion["model_name"]
    if decision == "refused":
        kept = promotion["champion_version"]
        after = f"champion stays version {kept}" if kept is not None else "there is no champion yet"
        return Text(f"Refused: {promotion['reason']} ({after})", style="bold yellow")
    if decision == "already champion":
        return Text(f"Already champion: {name} version {promotion['version']} is this very model", style="bold green")
    return Text(f"Promoted: {name} version {promotion['version']} is now champion", style="bold green")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
