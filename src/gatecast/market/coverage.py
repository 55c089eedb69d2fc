"""How much of a market is stored, what is missing of it and why, and how old its last candle is."""

from datetime import UTC, datetime
from typing import Any

import polars as pl

from gatecast.market.candles import TS, Market, from_ms, iso, timeframe_ms, to_ms
from gatecast.market.gaps import CAUSE, END, LOST, OURS, REASON, START, VENUE, Hole, confirmed, missing, read_gaps
from gatecast.market.grid import Grid
from gatecast.market.revisions import read_revisions
from gatecast.market.store import Store, read_candles

KNOWN = (VENUE, LOST)


def coverage(
    store: Store, market: Market, start: datetime | None, end: datetime | None, calendar: str | None = None
) -> dict[str, Any]:
    """What is stored of a market, between the first candle that is wanted, or stored, and the last one stored.

    Args:
        store: Candles and ledger.
        market: Which market.
        start: First open time that is wanted; None for the earliest that the venue has.
        end: Nothing that opens at or after it counts; None for no bound.
        calendar: Code of the calendar of its sessions, whose closed days are no holes; None if it is never closed.

    Returns:
        Plain data: market, n_candles, n_revisions, open_because (why the last fetch left holes open); and, where there
        are candles, first and closed_at (ISO 8601), covered (share of the bars), holes (number and bars by cause: those
        of the `venue`, confirmed by it as empty, those `lost`, which it does not serve any more, and `ours`, still to
        be fetched), age_bars of the last closed candle.

    Raises:
        DataError: A stored file is damaged.
    """
    stamps = read_candles(store.candles, market, end=end)[TS].dt.epoch("ms").unique().sort()
    gaps = read_gaps(store.ledger, market)
    length = timeframe_ms(market.timeframe)
    found: dict[str, Any] = {
        "market": str(market),
        "n_candles": len(stamps),
        "n_revisions": len(read_revisions(store.ledger, market)),
        "open_because": gaps.filter(pl.col(CAUSE) == OURS)[REASON].unique(maintain_order=True).to_list(),
    }
    if stamps.is_empty():
        return found
    first, closed_at = int(stamps[0]), int(stamps[-1]) + length
    stored, wanted = Hole(first, closed_at), Hole(min(to_ms(start), first) if start else first, closed_at)
    grid = Grid(market.timeframe, calendar)
    closed_days = grid.closed_days(from_ms(wanted.start), from_ms(closed_at)).dt.epoch("ms")
    open_or_not = pl.concat([stamps, closed_days])
    ours = _size(missing(open_or_not, confirmed(gaps), wanted, length), length)
    by_venue = {cause: _explained(open_or_not, gaps.filter(pl.col(CAUSE) == cause), stored, length) for cause in KNOWN}
    n_bars = len(stamps) + sum(each["bars"] for each in (ours, *by_venue.values()))
    return found | {
        "first": iso(from_ms(first)),
        "closed_at": iso(from_ms(closed_at)),
        "covered": len(stamps) / n_bars,
        "holes": {**by_venue, OURS: ours},
        "age_bars": grid.first_open(datetime.now(UTC)) - grid.first_open(from_ms(closed_at)),
    }


def _explained(stamps: pl.Series, gaps: pl.DataFrame, span: Hole, length: int) -> dict[str, int]:
    """Number and bars of the holes in a span that the ledger explains."""
    start, end = from_ms(span.start), from_ms(span.end)
    inside = gaps.filter((pl.col(END) > start) & (pl.col(START) < end))
    every, rest = (_size(missing(stamps, each, span, length), length) for each in (gaps.clear(), gaps))
    return {"n": len(inside), "bars": every["bars"] - rest["bars"]}


def _size(holes: list[Hole], length: int) -> dict[str, int]:
    return {"n": len(holes), "bars": sum(hole.end - hole.start for hole in holes) // length}
