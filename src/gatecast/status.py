"""Where a workspace stands: candles, stages, champion, last forecast."""

import json
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatecast.config import Config
from gatecast.database import database_url
from gatecast.forecasts.columns import ISSUED_AT, MARKET, MODEL_NAME, MODEL_VERSION
from gatecast.forecasts.ledger import latest_forecast
from gatecast.market.coverage import coverage
from gatecast.market.snapshot import read_snapshot, snapshot_of
from gatecast.market.sources import kept_markets
from gatecast.market.store import Store
from gatecast.pipeline import stages, up_to_date
from gatecast.registry.models import champion
from gatecast.workspace import Workspace


def read_status(workspace: Workspace, config: Config) -> dict[str, Any]:
    """Plain data: markets, stages, champion and forecasts."""
    store = Store(workspace.candles, workspace.ledger)
    frozen = read_snapshot(workspace.raw) if workspace.raw.is_dir() else None
    wanted = frozen and snapshot_of(config.ingest, frozen.end_at)
    current = champion(config.promote.model_name)
    return {
        "markets": [
            coverage(store, market, config.ingest.start, config.ingest.end, config.ingest.calendar)
            for market in kept_markets(config.ingest)
        ],
        "frozen": str(frozen) if frozen else None,
        "frozen_is_configured": frozen == wanted,
        "stages": _stages(workspace),
        "champion": {"name": config.promote.model_name, "version": current.version, "run_id": current.run_id}
        if current
        else None,
        "forecasts": _forecasts(workspace),
    }


def render_status(status: dict[str, Any]) -> RenderableType:
    """The status as terminal tables."""
    return Group(_markets(status["markets"]), Text(f"\n{_results(status)}"))


def _markets(markets: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (
        "market",
        "candles",
        "since",
        "last closed",
        "covered",
        "venue's",
        "lost",
        "open",
        "revised",
        "age, bars",
    ):
        table.add_column(name, no_wrap=True)
    for market in markets:
        if not market["n_candles"]:
            table.add_row(market["market"], "none")
            continue
        table.add_row(
            market["market"],
            str(market["n_candles"]),
            market["first"][:10],
            market["closed_at"],
            f"{market['covered']:.2%}",
            *(f"{holes['n']} ({holes['bars']})" if holes["n"] else "0" for holes in market["holes"].values()),
            str(market["n_revisions"]),
            str(market["age_bars"]),
        )
    words = "holes (their bars): those that the venue confirms as its own, no longer serves, and those still open"
    legend = Text(words, style="dim")
    reasons = [f"{market['market']}: {reason}" for market in markets for reason in market["open_because"]]
    return Group(table, legend, *(Text(f"left open by the last fetch: {reason}") for reason in reasons))


def _results(status: dict[str, Any]) -> str:
    by_state: dict[str, list[str]] = {}
    for stage, state in status["stages"].items():
        by_state.setdefault(state, []).append(stage)
    stages_line = "; ".join(f"{', '.join(names)} {state}" for state, names in by_state.items())
    if not status["frozen_is_configured"]:
        stages_line = f"for {status['frozen']}, which is not what is configured: run `gatecast ingest`"
    found = status["champion"]
    champion_line = f"{found['name']} version {found['version']}, run {found['run_id']}" if found else "none yet"
    issued = [
        f"{row['market']} at {row['issued_at']} by {row['model_name']} version {row['model_version']}"
        for row in status["forecasts"]
    ]
    return f"Stages     {stages_line}\nChampion   {champion_line}\nForecasts  {'; '.join(issued) or 'none yet'}"


def _stages(workspace: Workspace) -> dict[str, str]:
    if not (workspace.root / "data" / "raw.dvc").is_file():
        return dict.fromkeys(stages(workspace), "outdated")
    current = up_to_date(workspace)
    if current is None:
        return dict.fromkeys(stages(workspace), "in the hands of a run that is under way")
    return {stage: "up to date" if done else "outdated" for stage, done in current.items()}


def _forecasts(workspace: Workspace) -> list[dict[str, Any]]:
    rows = latest_forecast(database_url(workspace.state, "forecasts.db"))
    if rows.is_empty():
        return []
    newest = (
        rows.select(MARKET, pl.col(ISSUED_AT).dt.to_string("%Y-%m-%dT%H:%MZ"), MODEL_NAME, MODEL_VERSION)
        .unique()
        .sort(MARKET, MODEL_NAME, MODEL_VERSION)
    )
    found: list[dict[str, Any]] = json.loads(newest.write_json())
    return found
