"""The stage `clean`: frozen raw candles → regular grid, quarantine and counts."""

import polars as pl

from gatecast.config import CleanConfig
from gatecast.market.candles import SYMBOL, TS, Market
from gatecast.market.cleaning import CleanMarket, clean_market
from gatecast.market.snapshot import Snapshot, read_snapshot
from gatecast.market.store import read_candles
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, write_atomically, write_json


def run(workspace: Workspace, *, settings: CleanConfig) -> None:
    """Clean every market of the snapshot, and the second venue where it has one.

    Reads data/raw; writes data/clean/candles.parquet, data/clean/counts.json, data/quarantine/quarantine.parquet and,
    of a second venue, data/clean/reference.parquet: its candles under the symbols of the markets that are held against
    them. What cannot be of those goes neither to the quarantine nor into the counts, which are about the own markets.
    """
    snapshot = read_snapshot(workspace.raw)
    cleaned = {market.symbol: _clean(workspace, market, snapshot, settings) for market in snapshot.markets()}
    candles = pl.concat(each.candles for each in cleaned.values()).sort(SYMBOL, TS)
    quarantine = pl.concat(each.quarantine for each in cleaned.values()).sort(SYMBOL, TS, maintain_order=True)
    write_atomically(workspace.clean, candles.write_parquet)
    write_atomically(workspace.quarantine, quarantine.write_parquet)
    counts = {"timeframe": snapshot.timeframe, "end": snapshot.end}
    write_json(workspace.clean_counts, {**counts, "markets": {name: each.counts for name, each in cleaned.items()}})
    _clean_references(workspace, snapshot, settings)
    for name, each in cleaned.items():
        found = each.counts
        say(f"clean: {name} {found['clean']} bars, {found['missing']} missing, {found['quarantined']} rows quarantined")


def _clean(workspace: Workspace, market: Market, snapshot: Snapshot, settings: CleanConfig) -> CleanMarket:
    raw = read_candles(workspace.raw, market)
    return clean_market(raw, market, snapshot.end_at, settings, snapshot.calendar)


def _clean_references(workspace: Workspace, snapshot: Snapshot, settings: CleanConfig) -> None:
    grids = [
        _clean(workspace, reference, snapshot, settings).candles.with_columns(pl.lit(market.symbol).alias(SYMBOL))
        for market, reference in snapshot.references().items()
    ]
    if grids:
        write_atomically(workspace.clean_reference, pl.concat(grids).sort(SYMBOL, TS).write_parquet)
    else:
        workspace.clean_reference.unlink(missing_ok=True)


if __name__ == "__main__":
    run_stage(run)
