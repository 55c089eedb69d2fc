"""The stand-in exchange: Binance's addresses for candles, markets and time on a port of loopback."""

import asyncio
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, Self

import polars as pl
from aiohttp import web

from gatecast.market.candles import from_ms, iso, to_ms
from tests.venue.faults import HTML, OK, PAGE, RESET, TIMEOUT, TRUNCATED, Fault, refusal
from tests.venue.klines import MAX_LIMIT, Series
from tests.venue.streams import Streams

Candles = pl.DataFrame | Mapping[tuple[str, str], pl.DataFrame]


class StandInExchange:
    """Replays candles over HTTP and websockets; `with` starts and stops it, a second `with` on the same port.

    Attributes:
        now: What time it is there; may be set. Bars that open before exist, the one in which it lies is half-built.
        clock_off: What `/api/v3/time` adds to it.
        faults: What to answer next, one taken off the front by each request for klines; may be changed.
        delisted: Symbols that are gone: no klines, not in `exchangeInfo`.
        halted: Symbols that do not trade for now; their history is still served.
        latency_s: How long each request for klines waits for its answer.
        weight_limit: Requests for klines that `window_s` seconds allow; beyond, 429 without taking a fault.
        requests: Numbers in the query of each request for klines, faults included.
        asked: Market and interval of each, such as ("BTCUSDT", "1h").
        arrivals: When each came, by `time.monotonic()`.
        n_in_flight_max: Most requests for klines that waited for their answer at once.
        n_over_limit: Requests for klines that the weight limit refused.
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
    ) -> None:
        frames = {("BTC/USDT", "1h"): candles} if isinstance(candles, pl.DataFrame) else candles
        self.symbols = {symbol.replace("/", ""): symbol for symbol, _ in frames}
        self._series = {
            (symbol.replace("/", ""), timeframe): Series(frame, timeframe)
            for (symbol, timeframe), frame in frames.items()
        }
        self.now = now
        self.clock_off = clock_off
        self.faults: list[Fault | int | str] = list(faults)
        self.delisted: set[str] = set()
        self.halted: set[str] = set()
        self.latency_s = latency_s
        self.weight_limit = weight_limit
        self.window_s = 60.0
        self.port = port
        self.requests: list[dict[str, int]] = []
        self.asked: list[tuple[str, str]] = []
        self.arrivals: list[float] = []
        self.n_in_flight_max = 0
        self.n_over_limit = 0
        self.log: Callable[[str], None] | None = None
        self._n_in_flight = 0
        self._within_limit: deque[float] = deque()
        self._streams = Streams(self._series, lambda: to_ms(self.now))
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._stop: asyncio.Event

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

        self._on_loop(move)

    def drop_connections(self) -> None:
        """Cut every websocket."""
        self._on_loop(self._streams.drop)

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True, name="venue")
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._stop.set)
        self._thread.join()

    def _on_loop(self, action: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def act() -> None:
            try:
                done.set_result(action())  # type: ignore[func-returns-value]  # None says that it is done
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                done.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        done.result()

    async def _serve(self, started: "Future[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        # a request that is never answered ends with its client, or with the server
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.port = runner.addresses[0][1]
        except OSError as error:
            await runner.cleanup()
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stop.wait()
        self._streams.drop()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self._note(f"websocket {request.path_qs}")
            return await self._streams.serve(request)
        name = request.path.rpartition("/")[2]
        if name == "klines":
            return await self._klines(request)
        if name == "exchangeInfo":  # of the futures markets, which have addresses of their own, there is none
            return self._json(name, 200, self._exchange_info() if "/api/" in request.path else {"symbols": []})
        if name == "time":
            return self._json(name, 200, {"serverTime": to_ms(self.now + self.clock_off)})
        return self._json(name, *((200, {}) if name == "ping" else (404, {"code": -1000, "msg": "Not found."})))

    async def _klines(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        self.arrivals.append(time.monotonic())
        self.requests.append({key: int(value) for key, value in query.items() if value.isdigit()})
        self.asked.append((query.get("symbol", ""), query.get("interval", "")))
        self._n_in_flight += 1
        self.n_in_flight_max = max(self.n_in_flight_max, self._n_in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            return await self._page(request)
        finally:
            self._n_in_flight -= 1

    async def _page(self, request: web.Request) -> web.StreamResponse:
        wanted = _wanted(request)
        if (wait_s := self._over_limit()) is not None:
            return self._refused(f"{wanted}: over the limit", Fault(429, retry_after=math.ceil(wait_s)))
        fault = Fault.of(self.faults.pop(0)) if self.faults else Fault(OK)
        if isinstance(fault.kind, int):
            return self._refused(wanted, fault)
        if fault.kind == TIMEOUT:
            self._note(f"no answer to {wanted}")
            await asyncio.Event().wait()
        if fault.kind == PAGE:
            return self._text(f"{wanted}: page", 200, HTML, "text/html")
        try:
            rows = self._rows(request, fault)
        except _Illegal as words:
            return self._json(wanted, 400, words.args[0])
        text, said = f"[{','.join(rows)}]", f"{wanted}: {fault.kind}, {len(rows)} rows"
        if fault.kind == RESET:
            return await self._half(request, said, text)
        return self._text(said, 200, text[: len(text) // 2] if fault.kind == TRUNCATED else text)

    def _rows(self, request: web.Request, fault: Fault) -> list[str]:
        query = request.query
        try:
            start, end = (int(query[key]) if key in query else None for key in ("startTime", "endTime"))
            limit = min(int(query.get("limit", 500)), MAX_LIMIT)
        except ValueError:
            raise _Illegal(-1100, "Illegal characters found in a parameter.") from None
        symbol, interval = query.get("symbol", ""), query.get("interval", "")
        if self.symbols.get(symbol) in {None, *self.delisted}:
            raise _Illegal(-1121, "Invalid symbol.")
        if (symbol, interval) not in self._series:
            raise _Illegal(-1120, "Invalid interval.")
        if limit < 1:
            raise _Illegal(-1130, "Data sent for parameter 'limit' is not valid.")
        return self._series[symbol, interval].faulty_page(fault, start, end, limit, to_ms(self.now))

    def _over_limit(self) -> float | None:
        """Seconds until another request is allowed; None if this one is."""
        at, window = time.monotonic(), self._within_limit
        while window and window[0] <= at - self.window_s:
            window.popleft()
        if self.weight_limit is not None and len(window) >= self.weight_limit:
            self.n_over_limit += 1
            return window[0] + self.window_s - at if window else self.window_s
        window.append(at)
        return None

    def _exchange_info(self) -> dict[str, Any]:
        return {
            "timezone": "UTC",
            "serverTime": to_ms(self.now),
            "rateLimits": [],
            "exchangeFilters": [],
            "symbols": [
                _market(symbol, "BREAK" if symbol in self.halted else "TRADING")
                for symbol in self.symbols.values()
                if symbol not in self.delisted
            ],
        }

    async def _half(self, request: web.Request, said: str, text: str) -> web.StreamResponse:
        self._note(said)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(text))}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(text[: len(text) // 2].encode())
        if request.transport is not None:
            request.transport.close()
        return response

    def _refused(self, said: str, fault: Fault) -> web.Response:
        body, kind, headers = refusal(fault)
        return self._text(said, int(fault.kind), body, kind, headers)

    def _json(self, said: str, status: int, content: Any) -> web.Response:
        return self._text(said, status, json.dumps(content))

    def _text(
        self,
        said: str,
        status: int,
        body: str,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        self._note(f"{status} {said}")
        weight = {"X-MBX-USED-WEIGHT-1M": str(len(self._within_limit))}
        return web.Response(body=body.encode(), status=status, content_type=kind, headers={**weight, **(headers or {})})

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


def _market(symbol: str, status: str) -> dict[str, Any]:
    base, _, quote = symbol.partition("/")
    return {
        "symbol": base + quote,
        "status": status,
        "baseAsset": base,
        "quoteAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "orderTypes": ["LIMIT"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
        "filters": [],
    }
