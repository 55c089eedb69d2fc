"""The step `forecast`: champion and what is newest → forecast ledger, reports/forecast.json and fan chart."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from gatecast.config import Config
from gatecast.database import database_url
from gatecast.errors import DataError, GateRefused
from gatecast.evaluation.report.document import write_report
from gatecast.evaluation.report.figures import fan_chart, save_png
from gatecast.forecasts.columns import ISSUED_AT, MARKET, MODEL_NAME, MODEL_VERSION, TARGET_AT
from gatecast.forecasts.issue import bars_needed, issue_forecast
from gatecast.forecasts.ledger import append_forecast
from gatecast.market.candles import CLOSE, SYMBOL, TS, Market, iso, symbol_slug
from gatecast.market.cleaning import clean_grid
from gatecast.market.gate import require_believable
from gatecast.market.grid import Grid
from gatecast.market.publications.collect import collect_publications
from gatecast.market.sources import collect, is_closed, markets_of
from gatecast.market.store import Store
from gatecast.registry.models import load_champion
from gatecast.workspace import Workspace, write_json


def run(workspace: Workspace, config: Config, say: Callable[[str], None]) -> pl.DataFrame:
    """Forecast from the newest closed candle of every market of the champion, and what was published before it closed.

    Returns:
        The rows issued, as the ledger has them: market, issued_at, horizon, target_at, level, log_return, price,
        model_name and model_version.

    Raises:
        GateRefused: There is no champion, or the newest candles are not believable.
        DataError: The champion forecasts other markets than those configured.
    """
    name = config.promote.model_name
    loaded = load_champion(name)
    if loaded is None:
        raise GateRefused(f"there is no champion of {name} to forecast with: no model has passed promotion yet")
    model, card, registered = loaded
    wanted = (config.ingest.exchange, config.ingest.symbols, config.ingest.timeframe, config.ingest.calendar)
    if (card.exchange, card.symbols, card.timeframe, card.calendar) != wanted:
        raise DataError(
            f"champion {name} version {registered.version} forecasts {card.exchange} {', '.join(card.symbols)}"
            f" {card.timeframe} on calendar {card.calendar}, not {wanted[0]} {', '.join(wanted[1])} {wanted[2]} on"
            f" calendar {wanted[3]}: set promote.model_name"
        )
    for stale in workspace.reports.glob("forecast*"):
        stale.unlink()
    kept = collect(config.ingest, workspace.root, Store(workspace.candles, workspace.ledger), say)
    publications = collect_publications(config.ingest, workspace.root, workspace.publications, say)
    closed = is_closed(card.timeframe)
    by_market = {market: kept[market].filter(closed) for market in markets_of(config.ingest)}
    for market, rows in by_market.items():
        _require_believable(rows.sort(TS, maintain_order=True).tail(bars_needed(model, card)), market, config, say)
    candles = pl.concat(rows.with_columns(pl.lit(m.symbol).alias(SYMBOL)) for m, rows in by_market.items())
    of = {MODEL_NAME: pl.lit(name), MODEL_VERSION: pl.lit(str(registered.version))}
    n_new, forecast = append_forecast(
        database_url(workspace.state, "forecasts.db"),
        issue_forecast(model, card, candles, publications, lambda line: say(f"forecast: {line}")).with_columns(**of),
    )
    issued_at = forecast[ISSUED_AT].max()
    assert isinstance(issued_at, datetime)
    grid = Grid(card.timeframe, card.calendar)
    age_bars = grid.first_open(datetime.now(UTC)) - grid.first_open(issued_at)
    known = {"age_bars": age_bars, "proven_horizons": registered.proven_horizons}
    _write_reports(workspace, forecast, candles, config, known)
    if (workspace.reports / "metrics.json").is_file():
        write_report(workspace)  # the newest forecast is one of its pictures
    say(f"forecast: version {registered.version}, issued {iso(issued_at)}, {n_new} rows new in the ledger")
    if age_bars > 1:
        say(
            f"forecast: the newest candle closed {age_bars} bars ago: this is a replay of the past, not a live forecast"
        )
    return forecast


def _require_believable(newest: pl.DataFrame, market: Market, config: Config, say: Callable[[str], None]) -> None:
    own = Grid(market.timeframe, config.ingest.calendar)
    end = own.closes_at(own.bar_of(newest[TS][-1]))
    grid, _, _ = clean_grid(newest, market, end, config.ingest.calendar)
    require_believable(grid, market, config.validate_)
    if grid[TS][-1] < newest[TS][-1]:
        say(f"forecast: {market}: the candle of {iso(newest[TS][-1])} cannot be; the last good one is used")


def _write_reports(
    workspace: Workspace, forecast: pl.DataFrame, candles: pl.DataFrame, config: Config, known: dict[str, Any]
) -> None:
    for (market,), rows in forecast.partition_by(MARKET, as_dict=True).items():
        symbol = str(market).split()[1]
        history = candles.filter(pl.col(SYMBOL) == symbol).sort(TS).select(TS, CLOSE)
        newest = history.tail(config.forecast.chart_bars)
        name = "forecast" if len(config.ingest.symbols) == 1 else f"forecast-{symbol_slug(symbol)}"
        save_png(
            fan_chart(newest, rows, title=f"{market}, issued {iso(rows[ISSUED_AT][0])}"),
            workspace.reports / f"{name}.png",
        )
        write_json(
            workspace.reports / f"{name}.json",
            {
                "market": market,
                "issued_at": iso(rows[ISSUED_AT][0]),
                "last_close": newest[CLOSE][-1],
                "model_version": rows[MODEL_VERSION][0],
                **known,
                "quantiles": rows.with_columns(pl.col(ISSUED_AT, TARGET_AT).dt.to_string("%Y-%m-%dT%H:%MZ")).to_dicts(),
            },
        )
