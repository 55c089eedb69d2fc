"""The grid of a market: which open times its candles have, and the consecutive number of each.

A bar number is absolute: it depends on neither where the data begins nor on the day of the run, so that anchored blocks
stay where they are when candles are added.
"""

from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import BAR, TS, TS_TYPE, from_ms, iso, timeframe_ms, to_ms

_FIRST_DAY = "1970-01-01"
_LAST_DAY = "2050-12-31"  # fixed: the library's own choice, a year from today, would make numbers depend on the clock
_ANCHOR_MS = 946_684_800_000  # 2000-01-01: the first session from here on is bar 0
_CLOSED = "open time is off the grid: market closed that day"
_OFF = "open time is off the grid"

Milliseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Open times and bar numbers.

    Without a calendar every multiple of the timeframe since the epoch opens a bar, and its number is that multiple.
    With one, bars are its sessions: weekends and holidays are no holes, and a horizon counts sessions. A session's
    candle is stamped with its date at 00:00 UTC and counts as closed, and its values as known, at `ts + timeframe`, the
    end of that date in UTC: after the venue's closing bell, never before it.

    Attributes:
        timeframe: Length of a candle.
        calendar: exchange_calendars code; None for a market that is never closed. Session 0 is the first of the year
            2000, or the calendar's first where it begins later; a closure that a later version of that library adds
            moves the numbers after it, which is why its version is pinned with all others.

    Raises:
        ConfigurationError: (On first use) no such calendar.
    """

    timeframe: str
    calendar: str | None = None

    @property
    def length(self) -> int:
        """Of a candle, milliseconds."""
        return timeframe_ms(self.timeframe)

    def numbers(self, stamps: pl.Series) -> pl.Series:
        """Bar numbers of open times, null for an instant at which no bar opens; named `bar`."""
        instants = stamps.dt.epoch("ms")
        if self.calendar is None:
            number = pl.when(pl.col(TS) % self.length == 0).then(pl.col(TS) // self.length)
            return instants.to_frame(TS).select(number.alias(BAR))[BAR]
        sessions, anchor = _sessions(self.calendar)
        known = pl.DataFrame({TS: sessions, BAR: np.arange(len(sessions)) - anchor})
        return instants.to_frame(TS).join(known, on=TS, how="left", maintain_order="left")[BAR]

    def stamps(self, numbers: pl.Series) -> pl.Series:
        """Open times of bars; named `ts`.

        Raises:
            DataError: A bar outside the calendar.
        """
        if self.calendar is None:
            return (numbers * self.length).cast(TS_TYPE).alias(TS)
        sessions, anchor = _sessions(self.calendar)
        places = numbers.to_numpy() + anchor
        if len(places) and (places.min() < 0 or places.max() >= len(sessions)):
            raise self._outside()
        return pl.Series(TS, sessions[places]).cast(TS_TYPE)

    def opens_at(self, bar: int) -> datetime:
        """Open time of a bar.

        Raises:
            DataError: Outside the calendar.
        """
        opens: datetime = self.stamps(pl.Series([bar], dtype=pl.Int64))[0]
        return opens

    def closes_at(self, bar: int) -> datetime:
        """Instant from which a bar's values are known.

        Raises:
            DataError: Outside the calendar.
        """
        return from_ms(to_ms(self.opens_at(bar)) + self.length)

    def bar_of(self, instant: datetime) -> int:
        """The last bar that opens at or before an instant.

        Raises:
            DataError: Outside the calendar.
        """
        if self.calendar is None:
            return to_ms(instant) // self.length
        return self._place(instant, "right") - 1

    def first_from(self, instant: datetime) -> int:
        """The first bar that opens at or after an instant.

        Raises:
            DataError: Outside the calendar.
        """
        if self.calendar is None:
            return -(-to_ms(instant) // self.length)
        return self._place(instant, "left")

    def first_open(self, instant: datetime) -> int:
        """The first bar that is not closed yet at an instant: those before it are known.

        Raises:
            DataError: Outside the calendar.
        """
        return self.bar_of(from_ms(to_ms(instant) - self.length)) + 1

    def why_off(self, stamps: pl.Expr) -> pl.Expr:
        """Why an instant is not on the grid, for those that are not."""
        at_midnight = stamps.dt.epoch("ms") % self.length == 0
        return pl.when(at_midnight).then(pl.lit(_CLOSED)).otherwise(pl.lit(_OFF)) if self.calendar else pl.lit(_OFF)

    def closed_days(self, first: datetime, last: datetime) -> pl.Series:
        """Open times from `first` to `last`, both included, that the calendar has not; named `ts`, none without one.

        Raises:
            ConfigurationError: No such calendar.
        """
        if self.calendar is None:
            return pl.Series(TS, [], dtype=TS_TYPE)
        days = pl.datetime_range(first, last, "1d", time_unit="ms", eager=True).alias(TS)
        return days.filter(self.numbers(days).is_null())

    def _place(self, instant: datetime, side: str) -> int:
        assert self.calendar is not None
        sessions, anchor = _sessions(self.calendar)
        if not sessions[0] <= to_ms(instant) <= sessions[-1] + self.length:
            raise self._outside(instant)
        return int(np.searchsorted(sessions, to_ms(instant), side=side)) - anchor  # type: ignore[call-overload]

    def _outside(self, instant: datetime | None = None) -> DataError:
        assert self.calendar is not None
        sessions, _ = _sessions(self.calendar)
        which = iso(instant) if instant else "a bar that is needed"
        first, last = (iso(from_ms(int(sessions[end]))) for end in (0, -1))
        return DataError(
            f"calendar {self.calendar} is known from {first} to {last}, and {which} lies outside: update"
            " exchange_calendars, or shorten model.horizons or the history"
        )


@lru_cache
def _sessions(code: str) -> tuple[Milliseconds, int]:
    """The sessions of a calendar, as 00:00 UTC of their dates in milliseconds, and the place of the one that is bar 0.

    Raises:
        ConfigurationError: No such calendar, or one that the library cannot compute.
    """
    import exchange_calendars
    import pandas as pd

    names = exchange_calendars.get_calendar_names()
    if code not in names:
        near = get_close_matches(code.upper(), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(names))}"
        raise ConfigurationError(f"ingest.calendar = {code!r} is not a calendar of exchange_calendars: {hint}")
    try:
        kind = type(exchange_calendars.get_calendar(code))
        start = max(pd.Timestamp(_FIRST_DAY), kind.bound_min() or pd.Timestamp.min)
        end = min(pd.Timestamp(_LAST_DAY), kind.bound_max() or pd.Timestamp.max)
        days = exchange_calendars.get_calendar(code, start=start, end=end).sessions
    except (ValueError, NotImplementedError) as error:
        raise ConfigurationError(
            f"ingest.calendar = {code!r}: exchange_calendars {exchange_calendars.__version__} cannot compute it with"
            f" pandas {pd.__version__} ({str(error).splitlines()[0]:.80}); name another venue of the same country"
        ) from None
    sessions = days.as_unit("ms").asi8
    return sessions, int(np.searchsorted(sessions, _ANCHOR_MS))
