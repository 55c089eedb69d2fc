"""Candles from an exchange: the only place that imports ccxt.

What goes wrong is told apart by ccxt's own classes. Network faults (time-outs, refused connections, rate limits, 5xx)
and answers that cannot be read are tried again with exponential backoff and jitter, then given up as a `NetworkFault`.
What the exchange refuses for good (unknown symbol, credentials wanted, blocked region) is an error at once.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final

import ccxt
import polars as pl

from gatecast.config import IngestConfig
from gatecast.errors import ConfigurationError, DataError, NetworkFault
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market, floor_ts, from_ms, timeframe_ms, to_ms

URL_VARIABLE: Final = (
    "GATECAST_EXCHANGE_URL"  # stands in for every address of the venue: a proxy, or a venue of one's own
)
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_MAX_REASON: Final = 200  # characters of an answer that are shown

Sleep = Callable[[float], None]


class Venue:
    """One exchange, opened for public market data."""

    def __init__(self, config: IngestConfig, sleep: Sleep = time.sleep) -> None:
        """Open a venue by its ccxt id; nothing is asked yet.

        Args:
            config: Venue, page size, time-out and tries.
            sleep: Waits so many seconds between tries.

        Raises:
            ConfigurationError: ccxt knows no such venue.
        """
        if config.exchange not in ccxt.exchanges:
            near = get_close_matches(config.exchange, ccxt.exchanges, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigurationError(f"ingest.exchange = {config.exchange!r} is not a venue that ccxt knows{hint}")
        self.config = config
        self._sleep = sleep
        self._client = getattr(ccxt, config.exchange)(
            {
                "enableRateLimit": True,
                "timeout": int(config.timeout_s * 1000),
                "enableLastJsonResponse": True,
                # spot markets are all that candles need: fewer requests, and no credentials
                "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False},
            }
        )
        if address := os.environ.get(URL_VARIABLE):
            if not address.startswith(("http://", "https://")):
                raise ConfigurationError(f"{URL_VARIABLE}={address} is not an http address")
            self._client.urls["api"] = _replaced(self._client.urls["api"], address.rstrip("/"))

    def check(self, market: Market) -> None:
        """Make sure that the venue has the market.

        Raises:
            ConfigurationError: It has no such symbol or timeframe.
            NetworkFault: It did not answer.
        """
        symbols = self._ask(self._client.load_markets)
        if market.symbol not in symbols:
            near = get_close_matches(market.symbol, symbols, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigurationError(f"{market.exchange} has no market {market.symbol}{hint}")
        known = self._client.timeframes or {}
        if known and market.timeframe not in known:
            raise ConfigurationError(
                f"{market.exchange} has no timeframe {market.timeframe}; it has {', '.join(known)}"
            )

    def now(self) -> datetime:
        """The venue's clock where it tells it, this machine's otherwise: it decides which candle is closed."""
        if not self._client.has.get("fetchTime"):
            return datetime.now(UTC)
        return from_ms(self._ask(self._client.fetch_time))

    def pages(self, market: Market, start: datetime | None, end: datetime) -> Iterator[pl.DataFrame]:
        """Closed candles from `start` on, page after page, oldest first.

        The loop is ours because ccxt's own pagination returns nothing old when no end is given. An empty page is either
        the end of the history or an outage longer than a page; the next page tells which.

        Args:
            market: What to fetch.
            start: First open time; None for the earliest that the venue has.
            end: Nothing that opens at or after it is returned.

        Yields:
            Candle frames, sorted, each open time once; never empty.

        Raises:
            NetworkFault: The network or the venue failed, all tries included.
            DataError: The venue refused.
        """
        length = timeframe_ms(market.timeframe)
        since, stop = (to_ms(start) if start else 0), to_ms(end)
        while since + length <= stop:
            rows = self._ask(self._candles, market, since)
            page = _as_page(rows, since, stop, market)
            if page.is_empty():
                if since == 0:  # asked for the very beginning, and the venue does not skip to its first candle
                    raise DataError(
                        f"{market.exchange} returns no candle of {market.symbol} from 1970 on: set ingest.start"
                    )
                since += self.config.page_limit * length
                continue
            yield page
            since = to_ms(page[TS][-1]) + length

    def last_closed_end(self, market: Market) -> datetime:
        """The instant at which the newest closed candle ended, by the venue's clock."""
        return floor_ts(self.now(), market.timeframe)

    def _candles(self, market: Market, since: int) -> list[list[Any]]:
        rows: list[list[Any]] = self._client.fetch_ohlcv(
            market.symbol, market.timeframe, since=since, limit=self.config.page_limit
        )
        # ccxt takes a page that is not JSON, cut short or of HTML, for one without candles
        if not rows and self._client.last_json_response is None:
            raise ccxt.BadResponse(f"{market.exchange} answered with something that is not JSON")
        return rows

    def _ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """One request, tried again while the fault may pass."""
        for n_failed in range(self.config.n_retries + 1):
            try:
                with _translated(self.config.exchange):
                    return question(*arguments, **options)
            except NetworkFault:
                if n_failed == self.config.n_retries:
                    raise
                wait = min(_FIRST_WAIT_S * 2**n_failed, _LONGEST_WAIT_S)
                self._sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        raise AssertionError("the loop returns or raises")


@contextmanager
def _translated(exchange: str) -> Iterator[None]:
    """Errors of ccxt as ours, one line each, without what a request may have carried."""
    try:
        yield
    except ccxt.AuthenticationError as error:
        raise DataError(f"{exchange} wants credentials, which gatecast does not send: {_reason(error)}") from None
    except ccxt.ExchangeNotAvailable as error:
        if any(f" {status} " in str(error) for status in (403, 451)):
            raise DataError(f"{exchange} refuses to serve this address (region blocked?): {_reason(error)}") from None
        raise NetworkFault(f"{exchange} is not available: {_reason(error)}") from None
    except (ccxt.OperationFailed, ccxt.BadResponse) as error:  # the first is the parent of all that may pass
        raise NetworkFault(f"{exchange} gave no usable answer: {type(error).__name__}: {_reason(error)}") from None
    except ccxt.BaseError as error:
        raise DataError(f"{exchange} refuses: {type(error).__name__}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    words = re.sub(r"\?\S*", "", " ".join(str(error).split()))  # the query of an address is nobody's business
    return words if len(words) <= _MAX_REASON else words[:_MAX_REASON] + "…"


def _as_page(rows: list[list[Any]], since: int, stop: int, market: Market) -> pl.DataFrame:
    """The rows asked for that are closed, in order; of several with one open time the last counts."""
    length = timeframe_ms(market.timeframe)
    wanted = {int(row[0]): row for row in rows if since <= int(row[0]) and int(row[0]) + length <= stop}
    ordered = [wanted[ts][: len(CANDLE_SCHEMA)] for ts in sorted(wanted)]
    page = pl.DataFrame(ordered, schema={**CANDLE_SCHEMA, TS: pl.Int64}, orient="row", strict=False)
    stamps = pl.col(TS).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return page.with_columns(stamps)


def _replaced(addresses: Any, address: str) -> Any:
    if isinstance(addresses, dict):
        return {name: _replaced(value, address) for name, value in addresses.items()}
    if not isinstance(addresses, str) or "://" not in addresses:
        return addresses
    _, _, rest = addresses.partition("://")
    _, slash, path = rest.partition("/")
    return address + slash + path
