"""What the exchange lists, as Binance's `exchangeInfo` has it."""

from collections.abc import Collection
from typing import Any

from tests.venue.weights import BINANCE_LIMIT


def exchange_info(symbols: Collection[str], halted: Collection[str], now: int) -> dict[str, Any]:
    """The body of an answer about symbols such as BTC/USDT, at an instant in milliseconds."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": BINANCE_LIMIT}
    return {
        "timezone": "UTC",
        "serverTime": now,
        "rateLimits": [limit],
        "exchangeFilters": [],
        "symbols": [_market(symbol, "BREAK" if symbol in halted else "TRADING") for symbol in sorted(symbols)],
    }


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
