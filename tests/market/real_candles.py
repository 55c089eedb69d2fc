"""Real candles, which lie beside the checkout and are no part of it."""

import os
from pathlib import Path

import polars as pl
import pytest

from gatecast.market.candles import CANDLE_SCHEMA, TS, TS_TYPE
from tests.conftest import REPOSITORY

FOLDER_VARIABLE = "GATECAST_REAL_DATA"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, REPOSITORY.parent / "shared" / "data"))


def real_file(name: str, folder: str = "candles") -> Path:
    """The file of a name such as `binance-BTC-USDT-1h`; skips the test where there is none."""
    path = FOLDER / folder / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is absent: real candles lie beside the checkout, or where {FOLDER_VARIABLE} says")
    return path


def real_candles(name: str, folder: str = "candles") -> pl.DataFrame:
    """The raw candles in it."""
    return pl.read_parquet(real_file(name, folder)).select(CANDLE_SCHEMA.names()).cast({TS: TS_TYPE})
