"""Perpetual contracts and their funding rates, as Binance's interface for futures tells them."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from typing import Any, Final

import polars as pl

from gatecast.market.candles import CLOSE, PRICES, TS, to_ms
from gatecast.market.publications.table import PUBLISHED_AT, VALUE
from tests.venue.faults import EMPTY, FUTURE, GARBAGE, Fault
from tests.venue.weights import BINANCE_LIMIT

MAX_LIMIT: Final = 1000
_DEFAULT_LIMIT: Final = 100
_PERIOD: Final = "8h"
_FAR_MS: Final = 10**11


class Contracts:
    """Contracts such as BTC/USDT:USDT. All instants are milliseconds since the epoch."""

    def __init__(self, rates: Mapping[str, pl.DataFrame]) -> None:
        """Keep the rates of each contract: `published_at` and `value`."""
        self.rates = {
            symbol.partition(":")[0].replace("/", ""): frame.sort(PUBLISHED_AT).rows()
            for symbol, frame in ((name, each.select(PUBLISHED_AT, VALUE)) for name, each in rates.items())
        }
        self._symbols = list(rates)

    def info(self, now: int) -> dict[str, Any]:
        """The body of an answer about what is listed."""
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": BINANCE_LIMIT}
        listed = [_contract(symbol) for symbol in self._symbols]
        return {"timezone": "UTC", "serverTime": now, "rateLimits": [limit], "exchangeFilters": [], "symbols": listed}

    def page(self, query: Mapping[str, str], now: int, fault: Fault, span: int | None) -> str | None:
        """Rates settled from `startTime` to `endTime` and by now, the first `limit` of them; None for no such contract.

        Args:
            query: Of the request.
            now: What time it is.
            fault: What happens to the rows.
            span: Milliseconds after `startTime` at which an answer ends; None for none.
        """
        if query.get("symbol") not in self.rates:
            return None
        rows = self.rates[query["symbol"]]
        stamps = [to_ms(at) for at, _ in rows]
        start = int(query.get("startTime", 0))
        end = min(int(query.get("endTime", now)), now, now if span is None else start + span)
        limit = min(int(query.get("limit", _DEFAULT_LIMIT)), MAX_LIMIT)
        places = range(bisect_left(stamps, start), bisect_right(stamps, end))
        chosen = places[:limit] if "startTime" in query else places[-limit:]
        told = [_told(query["symbol"], stamps[place], f"{rows[place][1]:.8f}") for place in chosen]
        if fault.kind == EMPTY:
            return "[]"
        if fault.kind == GARBAGE and told:
            told[len(told) // 2]["fundingRate"] = "n/a"
        if fault.kind == FUTURE:
            told.append(_told(query["symbol"], now + _FAR_MS, "0.0001"))
        return json.dumps(told)


def derived_rates(candles: pl.DataFrame) -> pl.DataFrame:
    """Rates every eight hours that lean the way prices went, as they do: `published_at` and `value`."""
    moves = candles.sort(TS).group_by_dynamic(TS, every=_PERIOD).agg(pl.col(PRICES[0]).first(), pl.col(CLOSE).last())
    lean = (pl.col(CLOSE) / pl.col(PRICES[0])).log() * 0.01
    settled = pl.col(TS).dt.offset_by(_PERIOD).alias(PUBLISHED_AT)
    return moves.select(settled, (lean + 0.0001).clip(-0.003, 0.003).round(8).alias(VALUE))


def contracts_for(symbols: Collection[str]) -> dict[str, str]:
    """The perpetual contract of each spot symbol."""
    return {symbol: f"{symbol}:{symbol.partition('/')[2]}" for symbol in symbols}


def _told(market: str, at: int, rate: str) -> dict[str, Any]:
    return {"symbol": market, "fundingTime": at, "fundingRate": rate, "markPrice": "0.00000000"}


def _contract(symbol: str) -> dict[str, Any]:
    pair, _, settle = symbol.partition(":")
    base, _, quote = pair.partition("/")
    return {
        "symbol": base + quote,
        "pair": base + quote,
        "contractType": "PERPETUAL",
        "deliveryDate": 4_133_404_800_000,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": settle,
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "orderTypes": ["LIMIT"],
        "timeInForce": ["GTC"],
        "filters": [],
    }
