"""The stand-in exchange: Binance's addresses for candles, markets and time on a port of loopback."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Self

import polars as pl
from aiohttp import web

from gatecast.market.candles import from_ms, iso, to_ms
from tests.venue.faults import BREAK, DELISTED, EMPTY, HTML, OK, PAGE, RESET, TIMEOUT, TRUNCATED, Fault, refusal
from tests.venue.funding import Contracts
from tests.venue.habits import Habits
from tests.venue.klines import MAX_LIMIT, Series
from tests.venue.listing import exchange_info
from tests.venue.loopback import Loopback
from tests.venue.streams import Streams
from tests.venue.weights import WEIGHTS, Meter

Candles = pl.DataFrame | Mapping[tuple[str, str], pl.DataFrame]
_MANDATORY = ("symbol", "interval")
_FUNDING_SPAN_MS = 33 * 86_400_000  # a hundred rates


class StandInExchange:
    """Replays candles over HTTP and websockets; `with` starts and stops it, a second `with` on the same port.

    Attributes:
        now: What time it is there; may be set. Bars that open before exist, the one in which it lies is half-built.
        clock_off: What `/api/v3/time` adds to it.
        faults: What to answer next, one taken off the front by each request for klines; may be changed.
        opening_faults: The same for requests about markets and time.
        funding_faults: The same for requests for funding rates.
        habits: How its pages differ from those of Binance; may be set.
        delisted: Symbols that are gone: no klines, not in `exchangeInfo`.
        halted: Symbols that are listed with status BREAK; what candles they have is served. See `halt`.
        latency_s: How long each request waits for its answer.
        meter: Weighs the requests, and answers those beyond its limit with 429 (no fault is taken for them).
        contracts: The perpetual contracts, and their funding rates.
        requests: Numbers in the query of each request for klines, faults included.
        funding_requests: The same of each request for funding rates.
        asked: Market and interval of each, such as ("BTCUSDT", "1h").
        arrivals: When each came, by `time.monotonic()`.
        n_in_flight_max: Most requests for klines that waited for their answer at once.
        log: Is given one line about each answer.
    """

    def __init__(
        self,
        candles: Candles,
        now: datetime,
        faults: Iterable[Fault | int | str] = (),
        latency_s: float = 0.0,
        weight_limit: int | None = None,
        clock_off: timedelta = timedelta(0),
        port: int = 0,
        funding: Mapping[str, pl.DataFrame] | None = None,
    ) -> None:
        frames = {("BTC/USDT", "1h"): candles} if isinstance(candles, pl.DataFrame) else candles
        self.symbols = {symbol.replace("/", ""): symbol for symbol, _ in frames}
        self._series = {
            (symbol.replace("/", ""), timeframe): Series(frame, timeframe)
            for (symbol, timeframe), frame in frames.items()
        }
        self.contracts = Contracts(funding or {})
        self.now = now
        self.clock_off = clock_off
        self.faults: list[Fault | int | str] = list(faults)
        self.opening_faults: list[Fault | int | str] = []
        self.funding_faults: list[Fault | int | str] = []
        self.habits = Habits()
        self.delisted: set[str] = set()
        self.halted: set[str] = set()
        self.latency_s = latency_s
        self.meter = Meter(weight_limit)
        self.requests: list[dict[str, int]] = []
        self.funding_requests: list[dict[str, int]] = []
        self.asked: list[tuple[str, str]] = []
        self.arrivals: list[float] = []
        self.n_in_flight_max = 0
        self.log: Callable[[str], None] | None = None
        self._n_in_flight = 0
        self._streams = Streams(self._series, lambda: to_ms(self.now))
        self._loopback = Loopback(self._answer, self._streams.drop, port)

    @property
    def port(self) -> int:
        return self._loopback.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def n_connections(self) -> int:
        """Websockets that are open."""
        return len(self._streams.listeners)

    def truth(self, symbol: str = "BTC/USDT", timeframe: str = "1h") -> pl.DataFrame:
        """The candles that are closed by now, final."""
        return self._series[symbol.replace("/", ""), timeframe].closed(to_ms(self.now))

    def advance(self, to: datetime) -> None:
        """Move the clock on and tell the websockets of every bar that closes on the way."""

        def move() -> None:
            begin, self.now = to_ms(self.now), to
            self._streams.advance(begin, to_ms(to))

        self._loopback.call(move)

    def halt(self, symbol: str) -> None:
        """End the trading of a symbol: status BREAK, and no candle after the one in which it is now."""
        self.halted.add(symbol)
        for (market, _), series in self._series.items():
            if self.symbols[market] == symbol:
                series.end_after(to_ms(self.now))

    def drop_connections(self) -> None:
        """Cut every websocket."""
        self._loopback.call(self._streams.drop)

    def __enter__(self) -> Self:
        self._loopback.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loopback.__exit__()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self._note(f"websocket {request.path_qs}")
            return await self._streams.serve(request)
        name = request.path.rpartition("/")[2]
        over = self.meter.weigh(WEIGHTS.get(name, 1))
        if name != "klines":
            await asyncio.sleep(self.latency_s)
            if over:
                return self._refused(f"{name}: over the limit", over)
            return await (self._rates(request) if name == "fundingRate" else self._about(request, name))
        self._count(request.query)
        self._n_in_flight += 1
        self.n_in_flight_max = max(self.n_in_flight_max, self._n_in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            wanted = _wanted(request)
            return self._refused(f"{wanted}: over the limit", over) if over else await self._page(request, wanted)
        finally:
            self._n_in_flight -= 1

    def _count(self, query: Mapping[str, str]) -> None:
        self.arrivals.append(time.monotonic())
        self.requests.append({key: int(value) for key, value in query.items() if value.isdigit()})
        self.asked.append((query.get("symbol", ""), query.get("interval", "")))

    async def _about(self, request: web.Request, name: str) -> web.StreamResponse:
        contents: dict[str, Callable[[], dict[str, Any]]] = {
            "exchangeInfo": lambda: self._listing(request),
            "time": lambda: {"serverTime": to_ms(self.now + self.clock_off)},
            "ping": lambda: {},
        }
        if name not in contents:
            return self._json(name, 404, {"code": -1000, "msg": "Not found."})
        fault = Fault.of(self.opening_faults.pop(0)) if self.opening_faults else Fault(OK)
        if isinstance(fault.kind, int):
            return self._refused(name, fault, request)
        content = {} if fault.kind == EMPTY else contents[name]()
        return await self._written(request, f"{name}: {fault.kind}", json.dumps(content), fault)

    def _listing(self, request: web.Request) -> dict[str, Any]:
        """Futures have addresses of their own: those settled in dollars are the contracts, of others there is none."""
        now = to_ms(self.now)
        if "/fapi/" in request.path:
            return self.contracts.info(now)
        spot = set(self.symbols.values()) - self.delisted if "/api/" in request.path else set()
        return exchange_info(spot, self.halted, now)

    async def _rates(self, request: web.Request) -> web.StreamResponse:
        self.funding_requests.append({key: int(value) for key, value in request.query.items() if value.isdigit()})
        said = f"fundingRate {request.query.get('symbol')}"
        fault = Fault.of(self.funding_faults.pop(0)) if self.funding_faults else Fault(OK)
        if isinstance(fault.kind, int):
            return self._refused(said, fault, request)
        span = _FUNDING_SPAN_MS if self.habits.spans_only else None
        page = self.contracts.page(request.query, to_ms(self.now), fault, span)
        if page is None:
            return self._json(said, 400, {"code": -1121, "msg": "Invalid symbol."})
        return await self._written(request, f"{said}: {fault.kind}", page, fault)

    async def _page(self, request: web.Request, wanted: str) -> web.StreamResponse:
        fault = Fault.of(self.faults.pop(0)) if self.faults else Fault(OK)
        if isinstance(fault.kind, int):
            return self._refused(wanted, fault, request)
        try:
            rows = self._rows(request.query, fault)
        except _Illegal as words:
            return self._json(wanted, 400, words.args[0])
        return await self._written(request, f"{wanted}: {fault.kind}, {len(rows)} rows", f"[{','.join(rows)}]", fault)

    async def _written(self, request: web.Request, said: str, text: str, fault: Fault) -> web.StreamResponse:
        """An answer, with what a fault does to it on its way."""
        if fault.kind == TIMEOUT:
            self._note(f"no answer: {said}")
            await asyncio.Event().wait()
        if fault.kind == PAGE:
            return self._text(f"{said}: page", 200, HTML, "text/html")
        if fault.kind == RESET:
            return await self._half(request, said, text)
        return self._text(said, 200, text[: len(text) // 2] if fault.kind == TRUNCATED else text)

    def _rows(self, query: Mapping[str, str], fault: Fault) -> list[str]:
        if absent := [name for name in _MANDATORY if not query.get(name)]:
            words = f"Mandatory parameter '{absent[0]}' was not sent, was empty/null, or malformed."
            raise _Illegal(-1102, words)
        try:
            start, end = (int(query[key]) if key in query else None for key in ("startTime", "endTime"))
            limit = min(int(query.get("limit", 500)), MAX_LIMIT)
        except ValueError:
            raise _Illegal(-1100, "Illegal characters found in a parameter.") from None
        symbol, interval = query["symbol"], query["interval"]
        self._end(self.symbols.get(symbol, ""), fault)
        if self.symbols.get(symbol) in {None, *self.delisted}:
            raise _Illegal(-1121, "Invalid symbol.")
        if (symbol, interval) not in self._series:
            raise _Illegal(-1120, "Invalid interval.")
        if limit < 1:
            raise _Illegal(-1130, "Data sent for parameter 'limit' is not valid.")
        series, now = self._series[symbol, interval], to_ms(self.now)
        start, end, limit = self.habits.applied(start, end, limit, series.length, now)
        return series.faulty_page(fault, start, end, limit, now)

    def _end(self, symbol: str, fault: Fault) -> None:
        if fault.kind == BREAK:
            self.halt(symbol)
        elif fault.kind == DELISTED:
            self.delisted.add(symbol)

    async def _half(self, request: web.Request, said: str, text: str) -> web.StreamResponse:
        self._note(said)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(text))}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(text[: len(text) // 2].encode())
        if request.transport is not None:
            request.transport.close()
        return response

    def _refused(self, said: str, fault: Fault, request: web.Request | None = None) -> web.Response:
        body, kind, headers = refusal(fault)
        if request is not None and self.habits.echoes:  # as careless venues do
            body += f" {dict(request.headers)} {request.path_qs}"
        return self._text(said, int(fault.kind), body, kind, headers)

    def _json(self, said: str, status: int, content: Any) -> web.Response:
        return self._text(said, status, json.dumps(content))

    def _text(
        self, said: str, status: int, body: str, kind: str = "application/json", more: Mapping[str, str] | None = None
    ) -> web.Response:
        self._note(f"{status} {said}")
        used = str(self.meter.used())
        headers = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used, **(more or {})}
        return web.Response(body=body.encode(), status=status, content_type=kind, headers=headers)

    def _note(self, line: str) -> None:
        if self.log is not None:
            self.log(line)


class _Illegal(Exception):
    """A request that Binance refuses with status 400."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__({"code": code, "msg": words})


def _wanted(request: web.Request) -> str:
    """What a request for klines wants, as the log tells it."""
    since = request.query.get("startTime", "")
    when = f" from {iso(from_ms(int(since)))}" if since.isdigit() else ""
    return f"klines {request.query.get('symbol')} {request.query.get('interval')}{when}"
