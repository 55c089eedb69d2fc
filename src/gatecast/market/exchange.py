"""Candles and funding rates from an exchange, asked for asynchronously: the only place that imports ccxt.

What goes wrong is told apart by ccxt's own classes. Network faults (time-outs, refused connections, rate limits, 5xx)
and answers that cannot be right are tried again and then given up as a `NetworkFault`. What the venue refuses for good
(unknown symbol, bad credentials, blocked region) is an error at once.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final, Self

import ccxt.async_support as ccxt
import polars as pl

from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError, NetworkFault
from gatecast.market.addresses import is_address, replaced, without_secrets
from gatecast.market.candles import CANDLE_SCHEMA, TS, TS_TYPE, Market, from_ms, iso
from gatecast.market.patience import Patience, Sleep, retry_after_s
from gatecast.market.publications.funding_rates import as_rates

URL_VARIABLE: Final = (
    "GATECAST_EXCHANGE_URL"  # stands in for every address of the venue: a proxy, or a venue of one's own
)
CREDENTIALS: Final = {  # variable of the environment to ccxt's name
    "GATECAST_EXCHANGE_API_KEY": "apiKey",
    "GATECAST_EXCHANGE_SECRET": "secret",
    "GATECAST_EXCHANGE_PASSWORD": "password",
}
FUNDING_LIMITS: Final = {"binance": 1000, "binanceusdm": 1000, "binancecoinm": 1000}  # rates of one answer
FEWEST_FUNDING: Final = 100  # no venue of ccxt refuses so few
_FIRST_ERROR: Final = 400  # of the statuses of HTTP
_FIRST_SERVER_ERROR: Final = 500
_SHARE_OF_LIMIT: Final = 0.99  # ccxt lets a burst of one token through on top: a whole minute stays below the limit
_NO_TRADES: Final = ([None] * 4 + [None], [None] * 4 + [0])
_MAX_REASON: Final = 200  # characters of an answer that are shown


class Incomplete(NetworkFault):
    """An answer that lacks candles which are known to exist, after all tries.

    Attributes:
        first: Open time of the first candle that it shows, milliseconds; None if it shows none.
        last: Open time of the last one.
    """

    def __init__(self, market: Market, absent: int, page: pl.DataFrame) -> None:
        super().__init__(f"{market}: the answer lacks the candle of {iso(from_ms(absent))}, which is stored")
        stamps = page[TS].dt.epoch("ms")
        self.first = None if page.is_empty() else int(stamps[0])
        self.last = None if page.is_empty() else int(stamps[-1])


@dataclass
class _Answer:
    """What came last, over HTTP; filled in place, since ccxt may ask in a task of its own."""

    status: int = 0  # of HTTP; 0 where no answer came, or not to its end
    retry_after: str = ""
    text: str = ""

    @property
    def may_pass(self) -> bool:
        """Whether the venue, whatever it says, may answer rightly soon."""
        return self.status in (0, 418, 429) or self.status >= _FIRST_SERVER_ERROR

    @property
    def words(self) -> str:
        """The status, as a part of a reason."""
        return f"HTTP {self.status}: " if self.status >= _FIRST_ERROR else ""


_answer: ContextVar[_Answer] = ContextVar("answer")  # of the task that asked


class Venue:
    """One exchange, opened for its candles or funding rates; `async with` closes its connections.

    ccxt's own throttle keeps below the rate limit of the venue, whatever the number of requests under way.
    """

    def __init__(
        self,
        exchange: str,
        config: IngestConfig,
        sleep: Sleep = asyncio.sleep,
        symbols: Sequence[str] | None = None,
        key: str = "ingest.exchange",
    ) -> None:
        """Open a venue by its ccxt id, inside a running event loop; nothing is asked yet.

        Args:
            exchange: Its ccxt id.
            config: Page size, time-out and tries.
            sleep: Waits so many seconds between tries.
            symbols: What it will be asked about; None for the symbols of the configuration.
            key: Of the configuration, that names the venue.

        Raises:
            ConfigurationError: ccxt knows no such venue, or the address that stands in for it is none.
        """
        if exchange not in ccxt.exchanges:
            hint = _did_you_mean(exchange, ccxt.exchanges)
            raise ConfigurationError(f"{key} = {exchange!r} is not a venue that ccxt knows{hint}")
        self.exchange = exchange
        self.n_requests = 0
        self._opening: asyncio.Future[datetime] | None = None
        self._places = asyncio.Semaphore(config.n_parallel)
        self._patience = Patience(config.n_retries, sleep)
        self._credentials = {CREDENTIALS[name]: os.environ[name] for name in CREDENTIALS if os.environ.get(name)}
        self._client: Any = _client_class(exchange, self._patience)(
            {**self._credentials, "enableRateLimit": True, "timeout": int(config.timeout_s * 1000)}
        )
        self._client.tokenBucket["refillRate"] *= _SHARE_OF_LIMIT
        self._client.init_throttler()
        for private in ("fetchCurrencies", "fetchMargins"):  # requests of ccxt's own accord where there are credentials
            self._client.options[private] = False
        fetched = self._client.options.get("fetchMarkets")
        contracts = any(":" in symbol for symbol in symbols or config.symbols)  # a contract has a colon in its symbol
        if isinstance(fetched, dict) and "spot" in fetched.get("types", ()) and not contracts:
            fetched["types"] = ["spot"]  # fewer requests
        if address := os.environ.get(URL_VARIABLE):
            if not is_address(address):  # not shown: it may hold a password
                raise ConfigurationError(f"{URL_VARIABLE} is not an address such as http://127.0.0.1:8765")
            self._client.urls["api"] = replaced(self._client.urls["api"], address.rstrip("/"))
        self._page_limit = config.page_limit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def open(self) -> datetime:
        """Ask for what the venue lists, and for its time; once, whoever calls it.

        Returns:
            The venue's clock where it tells it, this machine's otherwise.

        Raises:
            NetworkFault: It did not answer.
            DataError: It refused.
        """
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> datetime:
        async def markets() -> None:
            if not await self._client.load_markets(reload=True):
                raise ccxt.BadResponse("the answer lists no market")

        async def clock() -> int:
            told = await self._client.fetch_time()
            if not isinstance(told, int):
                raise ccxt.BadResponse("the answer tells no time")
            return told

        await self._ask(markets)
        return from_ms(await self._ask(clock)) if self._client.has.get("fetchTime") else datetime.now(UTC)

    def page_limit(self, market: Market) -> int:
        """Candles of one answer, as far as ccxt knows the venue; known after `open`."""
        largest = self._client.feature_value(market.symbol, "fetchOHLCV", "limit")
        return min(self._page_limit, largest or self._page_limit)

    def is_trading(self, market: Market) -> bool:
        """Whether a market that the venue lists is open for trading; known after `open`.

        Raises:
            ConfigurationError: It has no such symbol or timeframe.
        """
        listed = self._client.markets
        if market.symbol not in listed:
            hint = _did_you_mean(market.symbol, listed)
            raise ConfigurationError(f"{market.exchange} has no market {market.symbol}{hint}")
        known = self._client.timeframes or {}
        if known and market.timeframe not in known:
            raise ConfigurationError(
                f"{market.exchange} has no timeframe {market.timeframe}; it has {', '.join(known)}"
            )
        return listed[market.symbol].get("active") is not False

    async def page(self, market: Market, since: int, before: int, shows: Iterable[int] = ()) -> pl.DataFrame:
        """One answer: the candles that the venue has from an instant on, the one that is still open included.

        Args:
            market: What to ask for.
            since: First open time, milliseconds.
            before: Instant, milliseconds, from which on no candle can have opened yet.
            shows: Open times, milliseconds, that a right answer holds, because the candles are known to be there.

        Returns:
            Candle columns, sorted, each open time once; empty where the venue has nothing.

        Raises:
            Incomplete: The answer lacks one of `shows`.
            NetworkFault: The network or the venue failed, or what it answered cannot be right, all tries included.
            DataError: The venue refused.
        """
        limit = self.page_limit(market)

        async def fetch() -> pl.DataFrame:
            rows = await self._client.fetch_ohlcv(market.symbol, market.timeframe, since=since, limit=limit)
            page = _as_page(rows, since, before)
            if absent := set(shows) - set(page[TS].dt.epoch("ms")):
                raise Incomplete(market, min(absent), page)
            return page

        async with self._places:
            page: pl.DataFrame = await self._ask(fetch)
        return page

    @property
    def tells_funding(self) -> bool:
        """Whether it has a history of funding rates, as far as ccxt knows."""
        return bool(self._client.has.get("fetchFundingRateHistory"))

    def require_perpetual(self, contract: str) -> None:
        """Make sure that the venue lists a perpetual contract; known after `open`.

        Raises:
            ConfigurationError: It does not.
        """
        perpetuals = [symbol for symbol, market in self._client.markets.items() if market.get("swap")]
        if contract not in perpetuals:
            hint = _did_you_mean(contract, perpetuals)
            raise ConfigurationError(f"ingest.funding_symbols: {self.exchange} has no perpetual {contract}{hint}")

    async def funding_rates(self, contract: str, since: int, before: int) -> pl.DataFrame:
        """One answer: the funding rates that the venue has from an instant on.

        Args:
            contract: A perpetual contract, such as BTC/USDT:USDT.
            since: First instant of settlement, milliseconds.
            before: Instant, milliseconds, from which on nothing can have been settled yet.

        Returns:
            `published_at` and `value` (share of the position), sorted; empty where the venue has nothing.

        Raises:
            NetworkFault: The network or the venue failed, or what it answered cannot be right, all tries included.
            DataError: The venue refused.
        """
        limit = FUNDING_LIMITS.get(self.exchange, FEWEST_FUNDING)

        async def fetch() -> pl.DataFrame:
            rows = await self._client.fetch_funding_rate_history(contract, since=since, limit=limit)
            return as_rates([(row["timestamp"], row["fundingRate"]) for row in rows], since, before)

        async with self._places:
            rates: pl.DataFrame = await self._ask(fetch)
        return rates

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        async def once() -> Any:
            _answer.set(_Answer())
            self.n_requests += 1
            with _translated(self.exchange, self._credentials.values()):
                return await question()

        return await self._patience.ask(once, lambda: retry_after_s(_answer.get().retry_after))


def _client_class(exchange: str, patience: Patience) -> type:
    """A client of ccxt that keeps silent when it has to, takes nothing but JSON, and keeps what came last."""
    parent: Any = getattr(ccxt, exchange)

    class Client(parent):  # type: ignore[misc]  # ccxt is not typed
        async def throttle(self, cost: float | None = None) -> None:
            await super().throttle(cost)
            while patience.is_silent:  # and then in turn, not all at once with what the bucket has gathered meanwhile
                await patience.turn()
                await super().throttle(cost)

        async def fetch(self, *arguments: Any, **options: Any) -> Any:
            found = await super().fetch(*arguments, **options)
            if not _is_json(_answer.get().text):  # ccxt takes it for an answer without content
                raise ccxt.BadResponse("the answer is not JSON")
            return found

        def on_rest_response(self, *arguments: Any) -> str:
            answer = _answer.get()
            answer.text = super().on_rest_response(*arguments)
            headers = {name.lower(): value for name, value in arguments[4].items()}
            answer.status, answer.retry_after = arguments[0], headers.get("retry-after", "")
            return answer.text

    return Client


@contextmanager
def _translated(exchange: str, secrets: Iterable[str]) -> Iterator[None]:
    """Errors of ccxt as ours, one line each, without what a request may have carried."""

    def reason(error: Exception) -> str:
        cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) else ""
        words = without_secrets(_answer.get().words + " ".join(f"{error}{cause}".split()), secrets)
        return words if len(words) <= _MAX_REASON else words[:_MAX_REASON] + "…"

    try:
        yield
    except ccxt.AuthenticationError as error:
        named = ", ".join(name for name in CREDENTIALS if os.environ.get(name))
        wanted = f"other credentials than {named} hold" if named else f"credentials: set {', '.join(CREDENTIALS)}"
        raise DataError(f"{exchange} wants {wanted}: {reason(error)}") from None
    except ccxt.BaseError as error:
        if _answer.get().status in (403, 451):
            raise DataError(f"{exchange} refuses to serve this address (region blocked?): {reason(error)}") from None
        if isinstance(error, ccxt.OperationFailed | ccxt.BadResponse) or _answer.get().may_pass:
            raise NetworkFault(f"{exchange} gave no usable answer: {type(error).__name__}: {reason(error)}") from None
        raise DataError(f"{exchange} refuses: {type(error).__name__}: {reason(error)}") from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # in ccxt
        raise NetworkFault(f"{exchange} gave an answer that makes no sense: {reason(error)}") from None


def _as_page(rows: list[list[Any]], since: int, before: int) -> pl.DataFrame:
    """The rows asked for, in order; a bar in which nobody traded, given without prices, is none.

    Raises:
        ccxt.BadResponse: A row that is none, one of the future, or two that contradict each other.
    """
    n_cells = len(CANDLE_SCHEMA)
    rows = [row for row in rows if row[1:n_cells] not in _NO_TRADES]
    for row in rows:
        if len(row) < n_cells or not all(isinstance(cell, int | float) and isfinite(cell) for cell in row[:n_cells]):
            raise ccxt.BadResponse(f"the answer holds {row!r}, which is no candle")
        if row[0] >= before:
            raise ccxt.BadResponse(f"the answer holds a candle of the future, {row!r}")
    wanted = [row[:n_cells] for row in rows if row[0] >= since]
    page = pl.DataFrame(wanted, schema={**CANDLE_SCHEMA, TS: pl.Int64}, orient="row", strict=False).unique().sort(TS)
    if page[TS].is_duplicated().any():
        raise ccxt.BadResponse("the answer gives one candle twice, with different values")
    return page.with_columns(pl.col(TS).cast(TS_TYPE))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
