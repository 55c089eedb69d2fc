"""From the configured sources of sentiment and funding into one table of publications."""

import asyncio
from pathlib import Path

import polars as pl

from gatecast.config_ingest import IngestConfig
from gatecast.market.candles import iso
from gatecast.market.fetch import Say
from gatecast.market.patience import Sleep
from gatecast.market.publications.files import read_fear_greed, read_funding, read_headlines
from gatecast.market.publications.table import PUBLISHED_AT, SOURCE, sources_of, together
from gatecast.market.sources import markets_of


def collect_publications(
    config: IngestConfig, root: Path, folder: Path, say: Say, sleep: Sleep = asyncio.sleep
) -> pl.DataFrame:
    """Everything that the configured sources have published, by now.

    Files are read afresh, and before anything is asked for. What feeds and venues tell is put to what they have told.

    Args:
        config: Sources, markets, time-out and tries.
        root: Folder to which relative paths refer.
        folder: Where publications of feeds and venues are kept.
        say: Takes lines of progress, and one about each feed that could not be read.
        sleep: Waits so many seconds between tries.

    Returns:
        The columns of `PUBLICATION_SCHEMA`, sorted by source, symbol and instant; no row where no source is configured.

    Raises:
        GatecastError: A file, the venue or all feeds cannot be used; what is kept is as it was, or has grown.
    """
    frames: list[pl.DataFrame] = []
    if config.fear_greed:
        frames.append(read_fear_greed(config.fear_greed, root))
    if config.headlines:
        frames.append(read_headlines(config.headlines, root))
    if config.funding:
        frames.append(read_funding(config.funding, root, markets_of(config)))
    if config.feeds:
        from gatecast.market.publications.feeds import collect_feeds

        frames.append(collect_feeds(config, folder, say, sleep))
    if config.funding_exchange:
        from gatecast.market.publications.funding import fetch_funding

        frames.append(fetch_funding(config, folder, say, sleep))
    publications = together(frames)
    for source in sources_of(config):
        own = publications.filter(pl.col(SOURCE) == source)[PUBLISHED_AT]
        span = f", {iso(own.sort()[0])} to {iso(own.sort()[-1])}" if len(own) else ""
        say(f"ingest: {source}: {len(own)} publications{span}")
    return publications
