"""The step `ingest`: source → candle store → frozen snapshot for DVC, and the split resolved once."""

from collections.abc import Callable, Sequence
from datetime import datetime

import polars as pl

from gatecast import pipeline
from gatecast.config import Config
from gatecast.evaluation.splits import Span, resolve_split
from gatecast.market.candles import TS, from_ms, iso, timeframe_ms, to_ms
from gatecast.market.snapshot import freeze, snapshot_of
from gatecast.market.sources import collect
from gatecast.market.store import Store
from gatecast.params import freeze_split
from gatecast.workspace import Workspace


def run(workspace: Workspace, config: Config, say: Callable[[str], None], refetch: Sequence[datetime] = ()) -> None:
    """Bring the store up to date and freeze the candles of this run.

    Args:
        workspace: Where to.
        config: Source, markets and span.
        say: Takes lines of progress.
        refetch: Days (UTC) to ask the exchange for again.

    Writes data/candles, data/ledger, data/raw with data/raw.dvc and, when the section is empty, `split` in
    conf/params.yaml.

    Raises:
        GatecastError: The source, the store or DVC failed; the frozen candles are as before.
    """
    settings = config.ingest
    candles = collect(settings, workspace.root, Store(workspace.candles, workspace.ledger), say, refetch)
    length = timeframe_ms(settings.timeframe)
    everything = pl.concat(rows.select(TS) for rows in candles.values())
    stamps = everything.select(pl.col(TS).min().alias("first"), pl.col(TS).max().alias("last")).row(0)
    span = Span(to_ms(stamps[0]) // length, to_ms(stamps[1]) // length + 1)
    if config.split.development_end is None:
        boundary, fold_bars = resolve_split(span, config.evaluate.n_folds)
        freeze_split(workspace, iso(from_ms(boundary * length)), fold_bars)
        say(f"ingest: split resolved: development ends {iso(from_ms(boundary * length))}, folds of {fold_bars} bars")
    freeze(workspace.raw, snapshot_of(settings, from_ms(span.end * length)), candles)
    pipeline.freeze(workspace, workspace.raw)
    say(
        f"ingest: {sum(map(len, candles.values()))} candles frozen,"
        f" {iso(stamps[0])} to {iso(from_ms(span.end * length))}"
    )
