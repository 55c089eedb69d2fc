"""What others publish about markets, sentiment and funding: one long table, a row a publication.

A publication counts from the instant at which anyone could know it, never from the day or the period that it is about.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.config_ingest import IngestConfig
from gatecast.errors import DataError
from gatecast.market.candles import SYMBOL, TS_TYPE

SOURCE: Final = "source"
PUBLISHED_AT: Final = "published_at"
VALUE: Final = "value"
TEXT: Final = "text"

FEAR_GREED: Final = "fear_greed"  # daily index, 0 (extreme fear) to 100 (extreme greed)
HEADLINES: Final = "headlines"  # their value is the score of `gatecast.features.sentiment`, null before
FUNDING: Final = "funding"  # rate that longs pay to shorts at one settlement, share of the position
SOURCES: Final = (FEAR_GREED, HEADLINES, FUNDING)

PUBLICATION_SCHEMA: Final = pl.Schema(
    {SOURCE: pl.String(), SYMBOL: pl.String(), PUBLISHED_AT: TS_TYPE, VALUE: pl.Float64(), TEXT: pl.String()}
)
_FILE: Final = "publications.parquet"


def sources_of(config: IngestConfig) -> tuple[str, ...]:
    """The sources that are configured, in the order of `SOURCES`."""
    asked_for = {
        FEAR_GREED: config.fear_greed,
        HEADLINES: config.headlines or config.feeds,
        FUNDING: config.funding or config.funding_exchange,
    }
    return tuple(source for source in SOURCES if asked_for[source])


def as_publications(rows: pl.DataFrame, source: str, symbol: str | None = None) -> pl.DataFrame:
    """The long table of one source.

    Args:
        rows: `published_at` and, as the source has them, `value` or `text`.
        source: One of `SOURCES`.
        symbol: The market that they are about; None where they concern every market.
    """
    of = {SOURCE: source, SYMBOL: symbol, VALUE: None, TEXT: None}
    absent = [pl.lit(value, PUBLICATION_SCHEMA[name]).alias(name) for name, value in of.items() if name not in rows]
    return rows.with_columns(absent).select(PUBLICATION_SCHEMA.names()).cast(PUBLICATION_SCHEMA)


def together(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One table of many, each publication once, sorted by source, symbol and instant, whatever their order was."""
    rows = pl.concat([pl.DataFrame(schema=PUBLICATION_SCHEMA), *frames])
    return rows.unique().sort(SOURCE, SYMBOL, PUBLISHED_AT, TEXT, VALUE)


def write_publications(folder: Path, publications: pl.DataFrame) -> None:
    """Freeze the table beside the candles of a run; equal rows give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    publications.write_parquet(folder / _FILE)


def read_publications(folder: Path) -> pl.DataFrame:
    """The frozen table.

    Args:
        folder: Of the frozen candles.

    Returns:
        The columns of `PUBLICATION_SCHEMA`, sorted; no row where no source is configured.

    Raises:
        DataError: It is absent or damaged.
    """
    path = folder / _FILE
    try:
        found = pl.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path} is absent: run `gatecast ingest`, or `dvc pull` if it is in a remote") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}): run `gatecast ingest`") from None
    if found.schema != PUBLICATION_SCHEMA:
        columns = ", ".join(f"{name} {kind}" for name, kind in found.schema.items())
        raise DataError(f"{path} holds {columns}, which are not publications: run `gatecast ingest`")
    return found
