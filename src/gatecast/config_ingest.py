"""The section `ingest` of the configuration: which candles and publications, from where."""

from typing import Literal, Self

from pydantic import Field, model_validator

from gatecast.config_types import Feed, Instant, Name, Section, Symbol, Timeframe, timeframe_s


class IngestConfig(Section):
    """Which candles, from where."""

    source: Literal["sample", "exchange", "files"] = Field(
        description="the embedded sample, a ccxt venue, or files on disk"
    )
    exchange: Name = Field(
        description="ccxt id of the venue; with files or the sample, the name under which candles are kept"
    )
    symbols: tuple[Symbol, ...] = Field(min_length=1, description="ccxt symbols, such as BTC/USDT")
    timeframe: Timeframe = Field(description="length of a candle: a count with a unit of s, m, h or d")
    more_timeframes: tuple[Timeframe, ...] = Field(
        description="kept in the store beside `timeframe`, which alone a run works on; from an exchange only"
    )
    calendar: Name | None = Field(
        description="exchange_calendars code of a venue with closed days, such as XNYS; null: it trades at every hour"
    )
    reference_exchange: Name | None = Field(
        description="a second venue against which validation holds the candles; null: none"
    )
    reference_symbols: tuple[Symbol, ...] = Field(
        description="its symbols, one for each of ingest.symbols in their order; empty: the same symbols"
    )
    start: Instant | None = Field(description="open time of the first candle, UTC; null: the earliest there is")
    end: Instant | None = Field(
        description="candles that open at or after this instant (UTC) are left out; null: up to now"
    )
    files: str | None = Field(
        description="path template with {exchange}, {symbol} (as BTC-USDT), {pair} (as BTCUSDT), {timeframe} and *"
        " for any text, such as the month of a file; needed by source: files"
    )
    fear_greed: str | None = Field(
        description="path of the daily fear and greed index, 0 to 100, CSV or Parquet; null: none"
    )
    headlines: str | None = Field(
        description="path of headlines, CSV or Parquet, with * for any text; null: none from files"
    )
    feeds: tuple[Feed, ...] = Field(
        description="RSS or Atom addresses, asked by each ingest and forecast; their headlines are kept"
    )
    funding: str | None = Field(
        description="path template of funding rates, with the placeholders of ingest.files; null: none from files"
    )
    funding_exchange: Name | None = Field(
        description="ccxt id of a venue of perpetuals, such as binanceusdm, asked for funding rates; null: none"
    )
    funding_symbols: tuple[Symbol, ...] = Field(
        description="its contracts, one for each of ingest.symbols in their order; empty: such as BTC/USDT:USDT"
    )
    page_limit: int = Field(ge=2, le=5000, description="candles asked for in one request to an exchange")
    n_parallel: int = Field(
        ge=1, le=256, description="requests under way at once; the venue's rate limit holds whatever their number"
    )
    timeout_s: float = Field(gt=0, le=600, description="seconds to wait for one answer of an exchange")
    n_retries: int = Field(ge=0, le=20, description="further tries of a request that met a network fault")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == "files" and not self.files:
            raise ValueError("source: files needs a path template in ingest.files")
        if len({symbol.replace("/", "-") for symbol in self.symbols}) < len(self.symbols):  # as folders have them
            raise ValueError("each symbol can be named once")
        if self.timeframe in self.more_timeframes or len(set(self.more_timeframes)) < len(self.more_timeframes):
            raise ValueError("each timeframe can be named once, in timeframe or in more_timeframes")
        if self.calendar and (self.timeframe, self.more_timeframes) != ("1d", ()):
            timeframes = ", ".join((self.timeframe, *self.more_timeframes))
            raise ValueError(f"calendar {self.calendar} counts days, and the timeframes are {timeframes}")
        if self.reference_exchange == self.exchange:
            raise ValueError(f"reference_exchange {self.exchange} is the venue that it would be held against")
        if self.reference_symbols and len(self.reference_symbols) != len(self.symbols):
            raise ValueError("reference_symbols names another number of symbols than symbols")
        for key, instant in (("start", self.start), ("end", self.end)):
            if instant and instant.timestamp() % timeframe_s(self.timeframe):
                raise ValueError(f"{key} {instant.isoformat()} is not the open time of a candle of {self.timeframe}")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"start {self.start.isoformat()} is not before end {self.end.isoformat()}")
        return self

    @model_validator(mode="after")
    def _consistent_sources(self) -> Self:
        if len(set(self.feeds)) < len(self.feeds):
            raise ValueError("each of feeds can be named once")
        if self.funding and self.funding_exchange:
            raise ValueError(
                "funding rates come from files (funding) or from a venue (funding_exchange), not from both"
            )
        if self.funding_symbols and not self.funding_exchange:
            raise ValueError("funding_symbols are contracts of funding_exchange, which is null")
        if self.funding_symbols and len(self.funding_symbols) != len(self.symbols):
            raise ValueError("funding_symbols names another number of contracts than symbols")
        return self
