"""Headlines of RSS and Atom: the only place that imports feedparser, which reads what careless hands have written."""

import calendar
import re
import time
from datetime import datetime
from html import unescape
from io import BytesIO
from typing import Any, Final

import feedparser
import polars as pl

from gatecast.errors import DataError
from gatecast.market.candles import TS_TYPE, from_ms, to_ms
from gatecast.market.publications.table import PUBLISHED_AT, TEXT

ENTRY: Final = "entry"  # what identifies it in its feed
READ_AT: Final = "read_at"
ENTRY_SCHEMA: Final = pl.Schema({ENTRY: pl.String(), PUBLISHED_AT: TS_TYPE, TEXT: pl.String(), READ_AT: TS_TYPE})
_DAY_MS: Final = 86_400_000
_ENDS: Final = (b"</rss>", b"</feed>", b"</rdf:rdf>")
_STAMPS: Final = ("published", "updated", "created")
_MIDNIGHT: Final = re.compile(r"(?<![\d:+-])00:00(:00)?(?![\d:])")  # of the hour, not of the minute or the zone
_TAG: Final = re.compile(r"</?[A-Za-z][^<>]*>")


def entries_in(document: bytes, read_at: datetime) -> pl.DataFrame:
    """The entries of a feed.

    An entry is published at its stamp, the later one where it has been updated; where that tells the day alone, when
    the day is over. Where it has none, or one that is yet to come, it is published at the moment of reading.

    Args:
        document: RSS or Atom, of any version.
        read_at: The moment of reading.

    Returns:
        The columns of `ENTRY_SCHEMA`, in the order of the feed; entries without a headline are none.

    Raises:
        DataError: It is neither RSS nor Atom, or has been cut short.
    """
    feed = feedparser.parse(BytesIO(document))
    if not feed.get("version"):
        raise DataError(f"neither RSS nor Atom: it begins with {document.strip()[:40]!r}")
    # mistakes in the middle, such as an undefined entity, are common and mended; a headline that is cut is another one
    if feed.bozo and not document.rstrip().lower().endswith(_ENDS):
        raise DataError(f"cut short or not XML: {feed.get('bozo_exception')}")
    rows = [
        (str(entry.get("id") or entry.get("link") or text), from_ms(_published(entry, to_ms(read_at))), text, read_at)
        for entry in feed.entries
        if (text := _plain(entry.get("title", "")))
    ]
    return pl.DataFrame(rows, schema=ENTRY_SCHEMA, orient="row")


def _plain(title: str) -> str:
    return " ".join(unescape(_TAG.sub(" ", title)).split())


def _published(entry: Any, read_at: int) -> int:
    """Milliseconds since the epoch."""
    told = [name for name in _STAMPS if f"{name}_parsed" in entry]  # to get one that is absent gives another
    stamps = [_known(entry[f"{name}_parsed"], str(entry[name])) for name in told if entry[f"{name}_parsed"]]
    return min(max(stamps, default=read_at), read_at)


def _known(stamp: time.struct_time, written: str) -> int:
    instant = calendar.timegm(stamp) * 1000
    tells_day = instant % _DAY_MS == 0 or ":" not in written or _MIDNIGHT.search(written)
    return instant + _DAY_MS if tells_day else instant
