"""One market from its venue into the store: what is missing is asked for, and what is not there is asked for again.

Two rules keep out what cannot be trusted, whatever a venue answers:

- A candle counts as closed when the same answer shows a later one. No clock decides it, and an answer out of a stale
  cache, whose last candle was open when it was made, cannot bring a half-built one. The last one of an answer is taken
  too where a candle is known that is later by more than a day and than an answer can span, and where the market has not
  traded for a day: no cache is as stale as that.
- A hole counts as the venue's own when an answer shows the candles on both sides of it and none between. Where no
  answer can, because the hole is longer than the span that the venue answers, or has no candle before it, all answers
  about it have to be empty, at the second asking. The ledger says which of these it was.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from gatecast.errors import DataError, NetworkFault
from gatecast.market.candles import TS, Market, from_ms, iso, timeframe_ms, to_ms
from gatecast.market.exchange import Incomplete, Venue
from gatecast.market.gaps import (
    END,
    LOST,
    OURS,
    START,
    VENUE,
    Hole,
    as_gaps,
    confirmed,
    missing,
    read_gaps,
    without,
    write_gaps,
)
from gatecast.market.intake import Intake
from gatecast.market.store import Store, alone

_OLDEST: Final = to_ms(datetime(2009, 1, 1, tzinfo=UTC))  # no venue has candles from before the first bitcoin
_WEEK_MS: Final = 604_800_000  # by which the clock of a venue may be behind
_DAY_MS: Final = 86_400_000
_BOTH_SIDES: Final = "an answer shows the candles on both sides and none between"
_EMPTY: Final = "the answers about it are empty"
_NEVER: Final = to_ms(datetime(9999, 1, 1, tzinfo=UTC))


class Progress(Protocol):
    """Whom a backfill tells how far it is."""

    def plan(self, n_requests: int) -> None:
        """So many requests are to come."""

    def asked(self, market: Market, reached: int) -> None:
        """One request was answered, with candles up to an open time in milliseconds."""


class Backfill:
    """The fetch of one market."""

    def __init__(self, venue: Venue, market: Market, store: Store, progress: Progress) -> None:
        """Read what is stored; nothing is asked yet.

        Raises:
            DataError: A stored file is damaged.
        """
        self._venue = venue
        self._market = market
        self._store = store
        self._progress = progress
        self._length = timeframe_ms(market.timeframe)
        self._now = to_ms(datetime.now(UTC))
        self._reached = -1  # newest open time that an answer has shown
        self._was_full = False  # whether that answer may have been cut by the page limit
        self._evidence: dict[int, str] = {}  # how a hole was shown to be one, by its start; both its sides if not told
        self._withheld: list[int] = []  # open times that an answer has shown last, and that were not taken therefore
        self.n_unshown = 0  # candles asked for again that the venue does not show any more
        self._gaps = confirmed(read_gaps(store.ledger, market))
        self.intake = Intake(store, market)
        stamps = self.intake.stamps
        self._newest = int(stamps[-1]) if len(stamps) else -1  # open time of the newest candle known

    async def run(self, start: datetime | None, end: datetime | None, again: Sequence[Hole]) -> None:
        """Bring the market up to date.

        Args:
            start: First open time that is wanted; None for the earliest that the venue has.
            end: Nothing that opens at or after it is stored; None for up to now.
            again: Spans to ask for again, whatever is stored of them or on record.

        Raises:
            GatecastError: The venue failed or refused; what has come is stored, and the ledger says what is missing.
        """
        self._start = -(-to_ms(start) // self._length) * self._length if start else 0
        self._end = to_ms(end) if end else _NEVER
        self._again = again
        try:
            self._now = to_ms(await self._venue.open())  # its clock says how far there may be candles
            self._trading = self._venue.is_trading(self._market)
            self._page_limit = self._venue.page_limit(self._market)
            self._step = (self._page_limit - 1) * self._length  # the last candle of an answer is not taken
            for hole in again:
                self._gaps = without(self._gaps, hole)
            await _all(self._refetch(hole) for hole in again)
            await self._ask_for_what_is_missing()
            await self._ask_again()
        except BaseException as fault:
            await self.intake.flush()
            reason = str(fault) or type(fault).__name__
            self._write_ledger(as_gaps(self._holes(min(self._now, self._end)), OURS, reason, datetime.now(UTC)))
            raise
        await self.intake.flush()
        self._write_ledger(self._gaps.clear())

    async def _ask_for_what_is_missing(self) -> None:
        """Everything once: what came before the stored candles, between and after them."""
        stamps, until = self.intake.stamps, min(self._now, self._end)
        if stamps.is_empty():
            await self._fill(Hole(self._start, until))
        else:
            holes = self._holes(stamps[-1])
            tail = Hole(stamps[-1], until)
            long = [hole for hole in (*holes, tail) if hole.end - hole.start > self._step]
            short = [hole for hole in holes if hole.end - hole.start <= self._step]
            await _all([*map(self._fill, long), *map(self._ask, self._questions(short))])
        await self._follow()

    async def _ask_again(self) -> None:
        """What is still missing, each hole once more; what the answers then show as empty is the venue's own."""
        while holes := self._holes(self.intake.stamps[-1]):
            step, self._evidence, self._withheld = self._step, {}, []
            await _all(map(self._ask, self._questions(holes)))
            left = set(self._holes(self.intake.stamps[-1]))
            if self._step < step:  # answers are shorter than they were taken to be: nothing has been shown yet
                continue
            for hole in (hole for hole in holes if hole in left):
                if seen := [ts for ts in self._withheld if hole.start <= ts < hole.end]:
                    raise NetworkFault(
                        f"{self._market}: an answer ends with the candle of {iso(from_ms(seen[0]))}, though later "
                        "ones are stored; it may be stale, and what lies between stays open: run again to go on"
                    )
                reason = self._evidence.get(hole.start, _BOTH_SIDES)
                self._gaps = pl.concat([self._gaps, as_gaps([hole], VENUE, reason, datetime.now(UTC))])

    async def _refetch(self, hole: Hole) -> None:
        """Ask for a span that may be stored already; an answer should show the candles around it."""
        for start in range(hole.start, hole.end, self._step // 2):
            part = Hole(start, min(start + self._step // 2, hole.end))
            stamps = self.intake.stamps
            inside = stamps.filter(stamps.is_between(part.start, part.end, closed="left"))
            before, after = stamps.filter(stamps < part.start), stamps.filter(stamps >= part.end)
            around = [int(each) for each in (*before.tail(1), *after.head(1)) if abs(each - start) < self._step // 2]
            since = min([*around, start])
            try:
                await self._page(since, shows=[*around, *inside])
            except Incomplete:  # what is stored stays, whatever the venue has of it now
                shown = (await self._page(since))[TS].dt.epoch("ms")
                self.n_unshown += len(inside.filter(~inside.is_in(shown.implode())))

    async def _ask(self, question: "_Question") -> None:
        """Ask what a question wants to be shown, and learn from an answer that cannot show it.

        Raises:
            NetworkFault: No answer came, or none that tells anything.
        """
        left, step = question.left, self._step
        try:
            await self._show(question)
        except Incomplete as answer:
            if answer.first is None or answer.last is None:
                raise
            anchor = question.right if left is None else left
            if answer.first > anchor:  # it begins later: the venue serves nothing older
                served = _first(await self._page(anchor), answer.first)
                unserved = [hole for hole in self._holes(served) if left is None or left < hole.start]
                self._gaps = pl.concat([self._gaps, as_gaps(unserved, LOST, "no longer served", datetime.now(UTC))])
            elif self._length <= answer.last - anchor < step:  # it ends earlier: the venue gives fewer than asked for
                self._step = min(self._step, answer.last - anchor)
            else:
                raise

    async def _fill(self, hole: Hole) -> None:
        """Ask for a long span, page after page at once."""
        first = await self._page(hole.start)
        if first.is_empty() and hole.start < _OLDEST:
            first = await self._earliest(hole.end)
        reached = _last(first, hole.start + self._step)
        if reached >= hole.end:
            return
        last = await self._page(max(reached, hole.end - self._step))
        if last.is_empty() and not first.is_empty():  # the history ends before: page after page, to where it does
            while (page := await self._page(reached)).height and _last(page, reached) > reached:
                reached = _last(page, reached)
            return
        between = range(reached, hole.end - self._step, self._step)
        self._progress.plan(len(between))
        await _all(map(self._page, between))

    async def _earliest(self, end: int) -> pl.DataFrame:
        """The page in which the history begins, where the venue answers a span before it with an empty page."""
        low, high = _OLDEST, end - self._step
        found = await self._page(high)
        while not found.is_empty() and high - low > self._step:
            middle = (low + high) // 2
            page = await self._page(middle)
            low, high, found = (middle, high, found) if page.is_empty() else (low, middle, page)
        return found

    async def _follow(self) -> None:
        """From the last candle on, until an answer shows all that there should be, or twice nothing newer."""
        stamps = self.intake.stamps
        if stamps.is_empty():
            span = f"from {iso(from_ms(self._start))} to {iso(from_ms(min(self._now, self._end)))}"
            raise DataError(f"{self._market.exchange} has no candle of {self._market} {span}: check ingest.start")
        since, n_idle = int(stamps[-1]), 0
        while since + self._length < self._end:
            is_joined = self._reached <= since + self._length  # nothing can lie between
            is_newest = self._reached + self._length > self._now and not self._was_full
            if is_joined and (is_newest or self._reached >= self._end):
                return
            try:
                page = await self._page(since, shows=[since])
            except Incomplete as answer:
                if answer.first is None:
                    raise
                page = await self._page(since)  # its beginning is not served any more
            if _last(page, since) == since:  # where later ones are known, this venue answers no more than a span
                await _all(map(self._page, range(since + self._step, self._reached, self._step)))
            newest = max(_last(page, since), int(self.intake.stamps[-1]))
            n_idle = 0 if newest > since else n_idle + 1
            since = newest
            is_fresh = self._reached + 2 * self._length > self._now  # the bar that is open may have seen no trade yet
            if n_idle > 1 or (n_idle and (is_fresh or not self._trading)):
                return

    async def _show(self, question: "_Question") -> None:
        """Ask so that the answer shows the candles on both sides of what is missing.

        Raises:
            NetworkFault: No answer does.
        """
        left, right, step = question.left, question.right, self._step
        if left is None:
            await self._show_beginning(right)
        elif right - left <= step:
            await self._page(left, shows=question.known)
        else:  # longer than a page
            page = await self._page(left, shows=[left])
            if _last(page, left) > left:  # the venue skips what it does not have
                later = page[TS].dt.epoch("ms")[1]
                if later > right:
                    await self._page(left, shows=[left, right])
                return
            self._evidence[left + self._length] = _EMPTY
            for since in range(left + step, right - step, step):
                await self._page(since)
            await self._page(right - step, shows=[right])

    async def _show_beginning(self, right: int) -> None:
        """Ask for what may be before the first candle.

        An answer that begins with that candle says it all. Of a venue that answers a span before its history with an
        empty page, spans at doubling distances are asked for: a search by halves takes an outage for the beginning.
        """
        page = await self._page(self._start)
        if not page.is_empty() and from_ms(right) in page[TS]:
            self._evidence[self._start] = "the answer from there begins with the first candle"
            return
        self._evidence[self._start] = _EMPTY
        await self._page(max(self._start, right - self._step), shows=[right])
        distance = 2 * self._step
        while right - distance > max(self._start, _OLDEST):
            await self._page(right - distance)
            distance *= 2

    def _questions(self, holes: Sequence[Hole]) -> list["_Question"]:
        """Holes that one answer can show, taken together."""
        stamps = self.intake.stamps.to_numpy()
        questions: list[_Question] = []
        for hole in holes:
            before, after = np.searchsorted(stamps, hole.start), np.searchsorted(stamps, hole.end)
            left, right = int(stamps[before - 1]) if before else None, int(stamps[after])
            last = questions[-1] if questions else None
            if last and last.left is not None and right - last.left <= self._step:
                last.right, last.known = right, stamps[last.first : after + 1].tolist()
            else:
                first = max(int(before) - 1, 0)
                questions.append(_Question(left, right, first, stamps[first : after + 1].tolist()))
        return questions

    async def _page(self, since: int, shows: Sequence[int] = ()) -> pl.DataFrame:
        page = await self._venue.page(self._market, since, self._now + _WEEK_MS, shows)
        reached = _last(page, since)
        self._progress.asked(self._market, reached)
        if not page.is_empty() and reached >= self._reached:
            self._reached, self._was_full = reached, page.height >= self._page_limit
        if not page.is_empty():
            self._newest = max(self._newest, reached)
        trades = self._trading or reached + self._length + _DAY_MS > self._now  # a halt may be short
        may_be_open = trades and reached + max(self._step, _DAY_MS) >= self._newest
        closed = page[:-1] if may_be_open else page
        self._withheld += [reached] if closed.height < page.height else []
        await self.intake.take(closed.filter(pl.col(TS) < from_ms(self._end)))
        return page

    def _holes(self, until: int) -> list[Hole]:
        return missing(self.intake.stamps, self._gaps, Hole(self._start, min(until, self._end)), self._length)

    def _write_ledger(self, still_open: pl.DataFrame) -> None:
        with alone(self._store, self._market):  # another process may have confirmed holes meanwhile
            theirs = confirmed(read_gaps(self._store.ledger, self._market))
            for hole in self._again:
                theirs = without(theirs, hole)
            known = pl.concat([theirs, self._gaps]).unique([START, END], keep="first")
            write_gaps(self._store.ledger, self._market, pl.concat([known, still_open]))


@dataclass
class _Question:
    """What an answer has to show: the candles next to holes, and those between the holes."""

    left: int | None  # open time of the candle before, milliseconds; None before the first candle
    right: int
    first: int  # position of `left` among the stored
    known: list[int]


def _first(page: pl.DataFrame, otherwise: int) -> int:
    return otherwise if page.is_empty() else int(page[TS].dt.epoch("ms")[0])


def _last(page: pl.DataFrame, otherwise: int) -> int:
    return otherwise if page.is_empty() else int(page[TS].dt.epoch("ms")[-1])


async def _all(questions: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """All at once; the first that fails ends the others.

    Raises:
        Exception: Of the first that failed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for question in questions:
                group.create_task(question)
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
