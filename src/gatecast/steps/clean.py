"""The stage `clean`: frozen raw candles → regular grid, quarantine and counts."""

import polars as pl

from gatecast.config import CleanConfig
from gatecast.market.candles import SYMBOL, TS
from gatecast.market.cleaning import clean_market
from gatecast.market.snapshot import read_snapshot
from gatecast.market.store import read_candles
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, write_atomically, write_json


def run(workspace: Workspace, *, settings: CleanConfig) -> None:
    """Clean every market of the snapshot.

    Reads data/raw; writes data/clean/candles.parquet, data/clean/counts.json and data/quarantine/quarantine.parquet.
    """
    snapshot = read_snapshot(workspace.raw)
    cleaned = {
        market.symbol: clean_market(read_candles(workspace.raw, market), market, snapshot.end_at, settings)
        for market in snapshot.markets()
    }
    candles = pl.concat(each.candles for each in cleaned.values()).sort(SYMBOL, TS)
    quarantine = pl.concat(each.quarantine for each in cleaned.values()).sort(SYMBOL, TS, maintain_order=True)
    write_atomically(workspace.clean, candles.write_parquet)
    write_atomically(workspace.quarantine, quarantine.write_parquet)
    counts = {"timeframe": snapshot.timeframe, "end": snapshot.end}
    write_json(workspace.clean_counts, {**counts, "markets": {name: each.counts for name, each in cleaned.items()}})
    for name, each in cleaned.items():
        found = each.counts
        say(f"clean: {name} {found['clean']} bars, {found['missing']} missing, {found['quarantined']} rows quarantined")


if __name__ == "__main__":
    run_stage(run)
