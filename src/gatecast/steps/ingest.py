"""The step `ingest`: sources → what is kept of them → frozen snapshot for DVC, and the split resolved once."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import polars as pl

from gatecast import pipeline
from gatecast.config import Config
from gatecast.evaluation.splits import Span, resolve_split
from gatecast.market.candles import TS, iso
from gatecast.market.cleaning import clean_grid
from gatecast.market.grid import Grid
from gatecast.market.publications.collect import collect_publications
from gatecast.market.publications.table import PUBLISHED_AT, SOURCE, sources_of
from gatecast.market.snapshot import freeze, snapshot_of
from gatecast.market.sources import collect, markets_of
from gatecast.market.store import Store
from gatecast.params import freeze_split
from gatecast.workspace import Workspace


def run(workspace: Workspace, config: Config, say: Callable[[str], None], refetch: Sequence[datetime] = ()) -> None:
    """Bring candles and publications up to date and freeze those of this run.

    Args:
        workspace: Where to.
        config: Sources, markets and span.
        say: Takes lines of progress.
        refetch: Days (UTC) to ask the exchange for again.

    Writes data/candles, data/ledger, data/publications, data/raw with data/raw.dvc and, when the section is empty,
    `split` in conf/params.yaml.

    Raises:
        GatecastError: A source, a store or DVC failed; what is frozen is as before.
    """
    settings = config.ingest
    grid = Grid(settings.timeframe, settings.calendar)
    grid.first_open(datetime.now(UTC))  # an unknown calendar is found before anything is fetched
    # first, since they are few: what is wrong with them is known before candles are fetched
    publications = collect_publications(settings, workspace.root, workspace.publications, say)
    candles = collect(settings, workspace.root, Store(workspace.candles, workspace.ledger), say, refetch)
    now = datetime.now(UTC)
    grids = [clean_grid(candles[market], market, now, settings.calendar)[0][TS] for market in markets_of(settings)]
    first, last = min(stamps[0] for stamps in grids), max(stamps[-1] for stamps in grids)  # of what `clean` will keep
    span = Span(grid.bar_of(first), grid.bar_of(last) + 1)
    end = grid.closes_at(span.end - 1)
    if config.split.development_end is None:
        boundary, fold_bars = resolve_split(span, config.evaluate.n_folds)
        development_end = iso(grid.opens_at(boundary))
        freeze_split(workspace, development_end, fold_bars)
        say(f"ingest: split resolved: development ends {development_end}, folds of {fold_bars} bars")
    freeze(workspace.raw, snapshot_of(settings, end), candles, publications)
    for source in sources_of(settings):
        own = publications.filter(pl.col(SOURCE) == source)[PUBLISHED_AT]
        n_frozen = int(((own >= first) & (own < end)).sum())
        remedy = "" if n_frozen else ": its features will be null throughout; do its stamps fit ingest.start and end?"
        say(f"ingest: {source}: {n_frozen} of {len(own)} publications fall into the span of the candles{remedy}")
    pipeline.freeze(workspace, workspace.raw)
    say(f"ingest: {sum(map(len, candles.values()))} candles frozen, {iso(first)} to {iso(end)}")
