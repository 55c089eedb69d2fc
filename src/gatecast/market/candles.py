"""What a candle is: column names, schema, timeframes and the rules of time.

All instants are UTC. A candle's `ts` is its open time; its values are known at `ts + timeframe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.config_types import timeframe_s
from gatecast.errors import ConfigurationError, DataError

SYMBOL: Final = "symbol"
TS: Final = "ts"
BAR: Final = "bar"  # consecutive number of a candle on the grid of its market
OPEN: Final = "open"
HIGH: Final = "high"
LOW: Final = "low"
CLOSE: Final = "close"
VOLUME: Final = "volume"  # in base units
MISSING: Final = "missing"
OUTLIER: Final = "outlier"
REASON: Final = "reason"

PRICES: Final = (OPEN, HIGH, LOW, CLOSE)
VALUES: Final = (*PRICES, VOLUME)
TS_TYPE: Final = pl.Datetime("ms", "UTC")
CANDLE_SCHEMA: Final = pl.Schema({TS: TS_TYPE, **{name: pl.Float64() for name in VALUES}})


@dataclass(frozen=True, order=True)
class Market:
    """One stream of candles: an exchange, a symbol and a timeframe, such as binance, BTC/USDT and 1h."""

    exchange: str
    symbol: str
    timeframe: str

    @property
    def slug(self) -> str:
        """The symbol as it stands in paths: BTC-USDT."""
        return symbol_slug(self.symbol)

    @property
    def folder(self) -> Path:
        """Where its candles lie, relative to a candle folder."""
        return Path(f"exchange={self.exchange}") / f"symbol={self.slug}" / f"timeframe={self.timeframe}"

    def __str__(self) -> str:
        return f"{self.exchange} {self.symbol} {self.timeframe}"


def paired(markets: Sequence[Market], exchange: str | None, symbols: Sequence[str]) -> dict[Market, Market]:
    """The market of a second venue that each market is held against.

    Args:
        markets: Markets of a run.
        exchange: The second venue; None where there is none.
        symbols: Its symbols, one for each market; empty where they are the same.
    """
    if exchange is None:
        return {}
    others = symbols or [market.symbol for market in markets]
    return {market: Market(exchange, symbol, market.timeframe) for market, symbol in zip(markets, others, strict=True)}


def symbol_slug(symbol: str) -> str:
    """The symbol as it stands in paths and file names: `BTC/USDT` becomes `BTC-USDT`."""
    return symbol.replace("/", "-").replace(":", "_")


def timeframe_ms(timeframe: str) -> int:
    """Length of a timeframe such as `5m`, `1h` or `1d`, in milliseconds.

    Raises:
        ConfigurationError: Not a whole positive number followed by one of s, m, h, d.
    """
    try:
        return 1000 * timeframe_s(timeframe)
    except ValueError as error:
        raise ConfigurationError(f"timeframe {timeframe!r}: {error}") from None


def floor_ts(instant: datetime, timeframe: str) -> datetime:
    """The open time of the candle in which an instant lies."""
    length = timeframe_ms(timeframe)
    return from_ms(to_ms(instant) // length * length)


def to_ms(instant: datetime) -> int:
    """Whole milliseconds since the epoch."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """The UTC instant so many milliseconds after the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def iso(instant: datetime) -> str:
    """An instant as users read and write it: 2024-03-01T05:00Z."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def as_candles(frame: pl.DataFrame, origin: str) -> pl.DataFrame:
    """The frame with exactly the candle columns and types, rows untouched (bad values are `clean`'s to judge).

    Args:
        frame: Any frame that has at least the candle columns; numbers may be integers, stamps any UTC datetime.
        origin: What to call the source in an error, a path or a market.

    Raises:
        DataError: No rows, a missing column, a type that is not a number or a stamp, or an empty stamp.
    """
    if absent := [name for name in CANDLE_SCHEMA if name not in frame.columns]:
        raise DataError(f"{origin} lacks the column(s) {', '.join(absent)}; candles need {', '.join(CANDLE_SCHEMA)}")
    if frame.is_empty():
        raise DataError(f"{origin} holds no candle")
    for name in VALUES:
        if not frame.schema[name].is_numeric():
            raise DataError(f"{origin} has {frame.schema[name]} in column {name}, where numbers are needed")
    if not isinstance(frame.schema[TS], pl.Datetime):
        raise DataError(f"{origin} has {frame.schema[TS]} in column {TS}, where UTC open times are needed")
    stamps = pl.col(TS)
    if frame.schema[TS].time_zone is None:
        stamps = stamps.dt.replace_time_zone("UTC")
    candles = frame.select(stamps.dt.convert_time_zone("UTC").dt.cast_time_unit("ms"), pl.col(VALUES).cast(pl.Float64))
    if candles[TS].null_count():
        raise DataError(f"{origin} has {candles[TS].null_count()} row(s) without an open time in column {TS}")
    return candles
