"""A small exchange on loopback that speaks Binance's dialect of candles and replays a frame of them."""

import json
import threading
from collections.abc import Iterable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlparse

import polars as pl

from gatecast.market.candles import TS, VALUES, to_ms

HOUR_MS = 3_600_000
RESET, TRUNCATED, PAGE, EMPTY = "reset", "truncated", "page", "empty"


class StandInExchange:
    """Serves klines of BTCUSDT from a frame; faults are served first, one a request for candles.

    Attributes:
        requests: Query of every request for candles, faults included.
        faults: What to answer first: an HTTP status, or `reset`, `truncated`, `page` (HTML), `empty`.
        now: What it tells as its time; candles that open before are served, the one still open included.
    """

    def __init__(self, candles: pl.DataFrame, now: datetime, faults: Iterable[int | str] = ()) -> None:
        self.rows = [(to_ms(row[0]), *row[1:]) for row in candles.select(TS, *VALUES).iter_rows()]
        self.now = now
        self.faults = list(faults)
        self.requests: list[dict[str, int]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlparse(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.endswith("/exchangeInfo"):
            _send(handler, 200, json.dumps({"symbols": [_BTCUSDT], "rateLimits": [], "serverTime": to_ms(self.now)}))
        elif url.path.endswith("/time"):
            _send(handler, 200, json.dumps({"serverTime": to_ms(self.now)}))
        elif url.path.endswith("/klines"):
            self.requests.append({key: int(value) for key, value in query.items() if value.isdigit()})
            self._klines(handler, query)
        else:
            _send(handler, 404, "{}")

    def _klines(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        start, limit = int(query.get("startTime", 0)), int(query.get("limit", 500))
        end = min(int(query.get("endTime", 2**60)), to_ms(self.now))
        text = json.dumps([_kline(row) for row in self.rows if start <= row[0] <= end][:limit])
        fault = self.faults.pop(0) if self.faults else None
        if fault == RESET:
            handler.connection.close()
        elif fault == TRUNCATED:
            _send(handler, 200, text[: len(text) // 2])
        elif fault == PAGE:
            _send(handler, 200, "<html><body>maintenance</body></html>", "text/html")
        elif fault == EMPTY:
            _send(handler, 200, "[]")
        elif isinstance(fault, int):
            _send(handler, fault, json.dumps(_WORDS.get(fault, {"code": -1000, "msg": "not now"})))
        else:
            _send(handler, 200, text)


_WORDS = {  # what Binance says with these
    401: {"code": -2014, "msg": "API-key format invalid."},
    451: {"code": 0, "msg": "Service unavailable from a restricted location"},
}


def _send(handler: BaseHTTPRequestHandler, status: int, text: str, kind: str = "application/json") -> None:
    body = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _kline(row: tuple[Any, ...]) -> list[Any]:
    ts, *values = row
    return [ts, *(repr(value) for value in values), ts + HOUR_MS - 1, "0", 0, "0", "0", "0"]


_BTCUSDT = {
    "symbol": "BTCUSDT",
    "status": "TRADING",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "baseAssetPrecision": 8,
    "quotePrecision": 8,
    "orderTypes": ["LIMIT"],
    "isSpotTradingAllowed": True,
    "isMarginTradingAllowed": False,
    "permissions": ["SPOT"],
    "permissionSets": [["SPOT"]],
    "filters": [],
}
