"""Where a workspace stands: candles, stages, champion, last forecast."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatecast.config import Config
from gatecast.database import database_url
from gatecast.forecasts.columns import ISSUED_AT, MARKET, MODEL_NAME, MODEL_VERSION
from gatecast.forecasts.ledger import latest_forecast
from gatecast.market.candles import TS, Market, iso, timeframe_ms
from gatecast.market.snapshot import read_snapshot, snapshot_of
from gatecast.market.sources import markets_of
from gatecast.market.store import read_candles
from gatecast.pipeline import stages, up_to_date
from gatecast.registry.models import champion
from gatecast.workspace import Workspace


def read_status(workspace: Workspace, config: Config) -> dict[str, Any]:
    """Plain data: markets, stages, champion and forecasts."""
    frozen = read_snapshot(workspace.raw) if workspace.raw.is_dir() else None
    wanted = frozen and snapshot_of(config.ingest, frozen.end_at)
    current = champion(config.promote.model_name)
    return {
        "markets": [_market(workspace, market) for market in markets_of(config.ingest)],
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
    columns = ("market", "candles", "first", "last closed", "missing", "bars old")
    markets = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for market in status["markets"]:
        cells = ("n_candles", "first", "closed_at", "n_missing", "age_bars")
        markets.add_row(market["market"], *("-" if market[cell] is None else str(market[cell]) for cell in cells))
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
    lines = f"Stages     {stages_line}\nChampion   {champion_line}\nForecasts  {'; '.join(issued) or 'none yet'}"
    return Group(markets, Text(f"\n{lines}"))


def _stages(workspace: Workspace) -> dict[str, str]:
    if not (workspace.root / "data" / "raw.dvc").is_file():
        return dict.fromkeys(stages(workspace), "outdated")
    current = up_to_date(workspace)
    if current is None:
        return dict.fromkeys(stages(workspace), "in the hands of a run that is under way")
    return {stage: "up to date" if done else "outdated" for stage, done in current.items()}


def _market(workspace: Workspace, market: Market) -> dict[str, Any]:
    candles = read_candles(workspace.candles, market)
    empty = {
        "market": str(market),
        "n_candles": 0,
        "first": None,
        "closed_at": None,
        "n_missing": None,
        "age_bars": None,
    }
    if candles.is_empty():
        return empty
    length = timedelta(milliseconds=timeframe_ms(market.timeframe))
    stamps = candles[TS].unique().sort()
    closed_at = stamps[-1] + length
    return {
        "market": str(market),
        "n_candles": len(candles),
        "first": iso(stamps[0]),
        "closed_at": iso(closed_at),
        "n_missing": (stamps[-1] - stamps[0]) // length + 1 - len(stamps),
        "age_bars": (datetime.now(UTC) - closed_at) // length,
    }


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
