"""Binance's websocket streams of klines."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import WSMsgType, web

from tests.venue.klines import Series, Values

PULSE_S: Final = 2.0  # Binance tells each open bar so often


@dataclass(eq=False)
class Listener:
    """One connection: what it subscribed to and what waits to be sent."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    combined: bool  # events come wrapped in the name of their stream
    names: list[str] = field(default_factory=list)
    outbox: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    def tell(self, message: Any) -> None:
        self.outbox.put_nowait(json.dumps(message))

    async def send_all(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self.socket.send_str(await self.outbox.get())


class Streams:
    """All connections. Everything here runs on the loop of the server."""

    def __init__(self, series: Mapping[tuple[str, str], Series], now: Callable[[], int]) -> None:
        self._series = {f"{market.lower()}@kline_{interval}": one for (market, interval), one in series.items()}
        self._now = now
        self.pulse_s = PULSE_S
        self.listeners: list[Listener] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One connection from its beginning to its end.

        `/stream` wraps events, `/ws` does not; streams are named in the address or subscribed to. ccxt connects to
        `/ws/0`, `/ws/1` and so on.
        """
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        listener = Listener(socket, request.transport, combined=request.path.endswith("/stream"))
        self.listeners.append(listener)
        tasks = [asyncio.ensure_future(listener.send_all()), asyncio.ensure_future(self._repeat(listener))]
        try:
            named = request.query.get("streams", "").split("/") + request.path.split("/")
            self._subscribe(listener, [name for name in named if "@" in name])
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._obey(listener, message.data)
        finally:
            for task in tasks:
                task.cancel()
            self.listeners.remove(listener)
        return socket

    def advance(self, begin: int, end: int) -> None:
        """Tell everyone of each bar that closes after `begin` and not after `end`, then of the bars open at `end`."""
        for listener in self.listeners:
            closed = [
                (one.stamps[place] + one.length, name, one, place)
                for name, one in self._known(listener.names)
                for place in one.closed_between(begin, end)
            ]
            for closed_at, name, one, place in sorted(closed, key=lambda event: event[:2]):
                self._tell(listener, name, _event(name, one, place, one.values[place], closed_at, is_closed=True))
            self._tell_open_bars(listener, listener.names)

    async def _repeat(self, listener: Listener) -> None:
        while True:
            await asyncio.sleep(self.pulse_s)
            self._tell_open_bars(listener, listener.names)

    def drop(self) -> None:
        """Cut every connection without a goodbye."""
        for listener in self.listeners:
            if listener.transport is not None:
                listener.transport.abort()

    def _obey(self, listener: Listener, text: str) -> None:
        try:
            command = json.loads(text)
            method, number, names = command["method"], command["id"], command.get("params", [])
        except (ValueError, TypeError, KeyError):
            listener.tell({"error": {"code": 2, "msg": "Invalid request"}})
            return
        listener.tell({"result": listener.names if method == "LIST_SUBSCRIPTIONS" else None, "id": number})
        if method == "SUBSCRIBE":
            self._subscribe(listener, names)
        elif method == "UNSUBSCRIBE":
            listener.names = [name for name in listener.names if name not in names]

    def _subscribe(self, listener: Listener, names: list[str]) -> None:
        listener.names += [name for name in names if name not in listener.names]
        self._tell_open_bars(listener, names)

    def _tell_open_bars(self, listener: Listener, names: list[str]) -> None:
        now = self._now()
        for name, one in self._known(names):
            place = one.open_at(now)
            if place is not None:
                event = _event(name, one, place, one.half_built(place, now), now, is_closed=False)
                self._tell(listener, name, event)

    def _known(self, names: list[str]) -> Iterator[tuple[str, Series]]:
        # Binance acknowledges a stream that does not exist and never sends anything on it
        return ((name, self._series[name]) for name in names if name in self._series)

    def _tell(self, listener: Listener, name: str, event: dict[str, Any]) -> None:
        listener.tell({"stream": name, "data": event} if listener.combined else event)


def _event(name: str, one: Series, place: int, values: Values, at: int, *, is_closed: bool) -> dict[str, Any]:
    market, _, interval = name.partition("@kline_")
    market = market.upper()
    opened, high, low, close, volume = (repr(value) for value in values)
    ts = one.stamps[place]
    return {
        "e": "kline",
        "E": at,
        "s": market,
        "k": {
            **{"t": ts, "T": ts + one.length - 1, "s": market, "i": interval, "f": 0, "L": 0},
            **{"o": opened, "c": close, "h": high, "l": low, "v": volume},
            **{"n": 0, "x": is_closed, "q": "0", "V": "0", "Q": "0", "B": "0"},
        },
    }
