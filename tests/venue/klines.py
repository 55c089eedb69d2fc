"""Candle frames as Binance's klines: serialised once, cut into pages, the open bar half-built."""

import json
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, Final

import polars as pl

from gatecast.market.candles import CANDLE_SCHEMA, CLOSE, HIGH, LOW, OPEN, PRICES, TS, VALUES, VOLUME, timeframe_ms
from tests.venue.faults import DUPLICATES, EMPTY, FUTURE, GARBAGE, OVERLAP, SHUFFLED, STALE, Fault

MAX_LIMIT: Final = 1000
FAR_BARS: Final = 100_000  # how far ahead a row of the future opens
Values = tuple[float, float, float, float, float]  # open, high, low, close, volume


class Series:
    """The candles of one market and timeframe. All instants are milliseconds since the epoch."""

    def __init__(self, candles: pl.DataFrame, timeframe: str) -> None:
        self.length = timeframe_ms(timeframe)
        self.candles = candles.select(CANDLE_SCHEMA.names()).sort(TS, maintain_order=True)
        self.stamps: list[int] = self.candles[TS].dt.epoch("ms").to_list()
        self.values: list[Values] = self.candles.select(VALUES).rows()
        self.rows = [self._row(ts, values) for ts, values in zip(self.stamps, self.values, strict=True)]

    def page(self, start: int | None, end: int | None, limit: int, now: int) -> list[str]:
        """Rows that open from `start` to `end`, both included, and before `now`.

        The first `limit` of them or, without a start, the newest. The bar in which `now` lies is half-built.
        """
        stop = bisect_left(self.stamps, now)
        if end is not None:
            stop = min(stop, bisect_right(self.stamps, end))
        begin = max(stop - limit, 0) if start is None else bisect_left(self.stamps, start)
        stop = max(min(stop, begin + limit), begin)
        rows = self.rows[begin:stop]
        if rows and self.stamps[stop - 1] + self.length > now:
            rows[-1] = self._row(self.stamps[stop - 1], self.half_built(stop - 1, now))
        return rows

    def faulty_page(self, fault: Fault, start: int | None, end: int | None, limit: int, now: int) -> list[str]:
        """The page with a fault in its rows; the same question meets the same fault."""
        if fault.kind == STALE:
            then = now - fault.n_bars * self.length
            return self.page(start, end, limit, then if then % self.length else then - self.length // 2)
        rows = self.page(start, end, limit, now)
        if fault.kind == OVERLAP and start is not None:
            return [*self.page(start - fault.n_bars * self.length, start - 1, MAX_LIMIT, now), *rows]
        if fault.kind == FUTURE:
            values = self.values[-1] if self.values else (1.0,) * 5
            return [*rows, self._row((now // self.length + FAR_BARS) * self.length, values)]
        spoil = _SPOILS.get(fault.kind)
        return spoil(rows, random.Random(start or 0)) if spoil else rows

    def end_after(self, now: int) -> None:
        """Forget the bars that open at an instant or later: trading has ended."""
        n_left = bisect_left(self.stamps, now)
        self.candles = self.candles.head(n_left)
        del self.stamps[n_left:], self.values[n_left:], self.rows[n_left:]

    def closed(self, now: int) -> pl.DataFrame:
        """The candles that are closed at an instant."""
        return self.candles.head(bisect_right(self.stamps, now - self.length))

    def closed_between(self, begin: int, end: int) -> range:
        """Places of the bars that close after `begin` and not after `end`."""
        return range(bisect_right(self.stamps, begin - self.length), bisect_right(self.stamps, end - self.length))

    def open_at(self, now: int) -> int | None:
        """Place of the bar in which an instant lies; None in a hole, at the end or where a bar only begins."""
        place = bisect_left(self.stamps, now) - 1
        return place if place >= 0 and self.stamps[place] + self.length > now else None

    def half_built(self, place: int, now: int) -> Values:
        """A bar as it stands before its end: price and range have gone part of the way, volume is in part traded."""
        opened, high, low, close, volume = self.values[place]
        part = (now - self.stamps[place]) / self.length
        price = opened + (close - opened) * part
        highest, lowest = max(opened + (high - opened) * part, price), min(opened + (low - opened) * part, price)
        return (opened, round(highest, 8), round(lowest, 8), round(price, 8), round(volume * part, 8))

    def _row(self, ts: int, values: tuple[Any, ...]) -> str:
        numbers = ",".join("null" if value is None else f'"{value!r}"' for value in values)
        return f'[{ts},{numbers},{ts + self.length - 1},"0",0,"0","0","0"]'


def _some_twice(rows: list[str], generator: random.Random) -> list[str]:
    chosen = {len(rows) - 1, *generator.sample(range(len(rows)), len(rows) // 3)}
    return [row for i, row in enumerate(rows) for row in [row] * (2 if i in chosen else 1)]


def _in_no_order(rows: list[str], generator: random.Random) -> list[str]:
    shuffled = generator.sample(rows, len(rows))
    return shuffled if shuffled != rows else rows[::-1]


def _with_garbage(rows: list[str], _: random.Random) -> list[str]:
    spoilt, middle = list(rows), len(rows) // 2
    for place, column, value in ((middle, 4, None), (middle + 1, 2, "n/a")):
        if place < len(rows):
            row = json.loads(rows[place])
            row[column] = value
            spoilt[place] = json.dumps(row)
    return spoilt


_SPOILS: Final[dict[int | str, Callable[[list[str], random.Random], list[str]]]] = {
    DUPLICATES: _some_twice,
    SHUFFLED: _in_no_order,
    GARBAGE: _with_garbage,
    EMPTY: lambda *_: [],
}


def aggregated(candles: pl.DataFrame, timeframe: str, into: str) -> pl.DataFrame:
    """Longer bars from shorter ones. A last bar that the shorter ones do not fill to its end is left out."""
    covered = candles[TS].dt.epoch("ms")[-1] + timeframe_ms(timeframe) - timeframe_ms(into)
    return (
        candles.sort(TS)
        .group_by_dynamic(TS, every=into)
        .agg(
            pl.col(OPEN).first(),
            pl.col(HIGH).max(),
            pl.col(LOW).min(),
            pl.col(CLOSE).last(),
            pl.col(VOLUME).sum().round(8),
        )
        .filter(pl.col(TS).dt.epoch("ms") <= covered)
    )


def derived_markets(candles: pl.DataFrame, symbol: str, timeframe: str) -> dict[tuple[str, str], pl.DataFrame]:
    """A market, an ETH/USDT that moves like it, and both in 4h and 1d where those are longer bars."""
    scaled = candles.with_columns((pl.col(PRICES) * 0.06).round(4), (pl.col(VOLUME) * 12).round(4))
    markets: dict[tuple[str, str], pl.DataFrame] = {}
    for name, frame in {"ETH/USDT": scaled, symbol: candles}.items():
        markets[name, timeframe] = frame
        for into in ("4h", "1d"):
            if timeframe_ms(into) > timeframe_ms(timeframe):
                markets[name, into] = aggregated(frame, timeframe, into)
    return markets
