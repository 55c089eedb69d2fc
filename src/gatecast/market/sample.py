"""The embedded sample: real candles that need no network. Where they come from stands beside them."""

from importlib.resources import as_file, files
from typing import Final

import polars as pl

from gatecast.errors import ConfigurationError
from gatecast.market.candles import Market, as_candles

SAMPLE_MARKET: Final = Market("binance", "BTC/USDT", "1h")


def read_sample(market: Market) -> pl.DataFrame:
    """The candles of the sample, 2020 to 2023, as the exchange gave them.

    Raises:
        ConfigurationError: The sample holds one market only, and not this one.
    """
    if market != SAMPLE_MARKET:
        raise ConfigurationError(
            f"the embedded sample holds {SAMPLE_MARKET} and not {market}: set ingest.source to exchange or files"
        )
    name = f"{market.exchange}-{market.slug}-{market.timeframe}.parquet"
    with as_file(files("gatecast.market") / "sample_data" / name) as path:
        return as_candles(pl.read_parquet(path), "the embedded sample")
