"""Headlines from RSS and Atom feeds, which show the newest alone: what each has shown is kept.

An entry counts with the headline that it had when it was first read. Another headline under the same entry, an edited
one, counts from when that was read: its stamp is that of the first.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

import polars as pl
from filelock import FileLock

from gatecast.config_ingest import IngestConfig
from gatecast.errors import DataError, GatecastError, NetworkFault
from gatecast.market.addresses import without_secrets
from gatecast.market.fetch import Say
from gatecast.market.patience import Patience, Sleep
from gatecast.market.publications.syndication import ENTRY, ENTRY_SCHEMA, READ_AT, entries_in
from gatecast.market.publications.table import HEADLINES, PUBLISHED_AT, TEXT, as_publications
from gatecast.workspace import write_atomically

_HEADERS: Final = {
    "User-Agent": "gatecast",  # some refuse what Python says of its own accord
    "Accept": "application/rss+xml, application/atom+xml, application/xml;q=0.9, */*;q=0.5",
}
_MOST_BYTES: Final = 32 * 2**20
_N_RETRIES: Final = 1  # what a feed has not told now it tells the next run, which should not wait for a dead one
_SERVER_ERROR: Final = 500


def collect_feeds(config: IngestConfig, folder: Path, say: Say, sleep: Sleep = asyncio.sleep) -> pl.DataFrame:
    """Ask all feeds at once, and put what they show to what they have shown.

    Args:
        config: Addresses, time-out and tries.
        folder: Of what has been published.
        say: Takes lines of progress, and one about each feed that could not be read.
        sleep: Waits so many seconds between tries.

    Returns:
        The columns of `PUBLICATION_SCHEMA`: all that is kept of these feeds, each headline of an instant once.

    Raises:
        NetworkFault: None could be read, and nothing is kept of any.
        DataError: A kept file is damaged.
        GatecastError: The disk is full.
    """
    found = asyncio.run(_ask_all(config, sleep))
    faults: list[str] = []
    kept: list[pl.DataFrame] = []
    for address, answer in zip(config.feeds, found, strict=True):
        path = feed_file(folder, address)
        if isinstance(answer, GatecastError):
            faults.append(f"{without_secrets(address)}: {answer}")
            say(f"ingest: feed {faults[-1]}; the run goes on with what is kept of it")
            kept.append(read_entries(path))
        else:
            n_before = len(read_entries(path))
            kept.append(merge_entries(path, answer))
            say(f"ingest: feed {without_secrets(address)}: {len(kept[-1]) - n_before} new headlines")
    if len(faults) == len(config.feeds) and all(entries.is_empty() for entries in kept):
        raise NetworkFault(f"no feed could be read, and no headline is kept: {'; '.join(faults)}")
    return as_publications(pl.concat(map(known, kept)).unique(), HEADLINES)


def known(entries: pl.DataFrame) -> pl.DataFrame:
    """Headlines and when each could be known.

    Args:
        entries: The columns of `ENTRY_SCHEMA`, of one feed.

    Returns:
        `published_at` and `text`.
    """
    edited = pl.col(READ_AT) > pl.col(READ_AT).min().over(ENTRY)
    at = pl.when(edited).then(pl.max_horizontal(PUBLISHED_AT, READ_AT)).otherwise(PUBLISHED_AT)
    return entries.select(at.alias(PUBLISHED_AT), TEXT)


def feed_file(folder: Path, address: str) -> Path:
    """Where the entries of a feed are kept: named after its host and a hash, since its query may hold a secret."""
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    return folder / "feeds" / f"{urlsplit(address).hostname}-{digest}.parquet"


def read_entries(path: Path) -> pl.DataFrame:
    """What is kept of a feed; nothing where there is no file yet.

    Raises:
        DataError: The file is damaged.
    """
    if not path.exists():
        return pl.DataFrame(schema=ENTRY_SCHEMA)
    try:
        return pl.read_parquet(path).match_to_schema(ENTRY_SCHEMA)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): restore it, or delete it and lose what the feed"
            " shows no more"
        ) from None


def merge_entries(path: Path, entries: pl.DataFrame) -> pl.DataFrame:
    """Put entries to those kept, atomically; a second process that does so waits.

    Of an entry with the same headline the reading that came first counts, so merging is idempotent and order-free.

    Args:
        path: File of the feed.
        entries: The columns of `ENTRY_SCHEMA`, any order.

    Returns:
        All that is kept now, sorted.

    Raises:
        DataError: The file is damaged.
        GatecastError: The disk is full; the file is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        stored = read_entries(path)
        by_reading = pl.concat([stored, entries]).sort(READ_AT, PUBLISHED_AT)
        merged = by_reading.unique((ENTRY, TEXT), keep="first", maintain_order=True).sort(PUBLISHED_AT, ENTRY, TEXT)
        if not merged.equals(stored):
            write_atomically(path, merged.write_parquet)
    return merged


async def _ask_all(config: IngestConfig, sleep: Sleep) -> Sequence[pl.DataFrame | GatecastError]:
    async def ask(address: str) -> pl.DataFrame | GatecastError:
        patience = Patience(min(config.n_retries, _N_RETRIES), sleep)
        try:
            document = await patience.ask(lambda: asyncio.to_thread(_download, address, config.timeout_s), lambda: 0.0)
            return entries_in(document, datetime.now(UTC))
        except GatecastError as fault:
            return fault

    return await asyncio.gather(*map(ask, config.feeds))


def _download(address: str, timeout_s: float) -> bytes:
    """The document at an address.

    Raises:
        NetworkFault: The network or the server failed.
        DataError: The server refuses, or what it sends does not end.
    """
    deadline = time.monotonic() + 2 * timeout_s
    try:
        asked = request.Request(address, headers=_HEADERS)  # noqa: S310 - the configuration takes http and https alone
        with _opener().open(asked, timeout=timeout_s) as response:
            document = bytearray()
            while chunk := response.read1():
                document += chunk
                if len(document) > _MOST_BYTES or time.monotonic() > deadline:
                    raise DataError(f"{len(document)} bytes came, and no end of them")
            if response.length:
                raise NetworkFault(f"{response.length} bytes of the answer did not come")
            return bytes(document)
    except HTTPError as error:
        with error:
            kind = NetworkFault if error.code >= _SERVER_ERROR else DataError
            raise kind(f"HTTP {error.code} {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NetworkFault(without_secrets(f"{type(error).__name__}: {reason}")) from None


def _opener() -> request.OpenerDirector:
    """For the web alone: a redirection to a file or another protocol is refused."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
