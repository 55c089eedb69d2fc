from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.errors import ConfigurationError
from gatecast.forecasts.ledger import append_forecast, latest_forecast

ISSUED = datetime(2024, 1, 1, tzinfo=UTC)


def forecast(version: str = "1", issued_at: datetime = ISSUED, price: float = 100.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "market": "binance BTC/USDT 1h",
            "issued_at": issued_at,
            "horizon": [1, 1, 24, 24],
            "target_at": [issued_at + timedelta(hours=h) for h in (1, 1, 24, 24)],
            "level": [0.05, 0.5, 0.05, 0.5],
            "log_return": [-0.1, 0.0, -0.2, 0.0],
            "price": price,
            "model_version": version,
        }
    )


def test_a_forecast_is_written_once_and_never_rewritten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'forecasts.db'}"
    assert latest_forecast(url).is_empty()
    assert append_forecast(url, forecast()) == 4
    assert append_forecast(url, forecast(price=999.0)) == 0
    assert latest_forecast(url)["price"].to_list() == [100.0] * 4
    assert append_forecast(url, forecast(version="2")) == 4


def test_the_latest_forecast_is_the_last_issued_of_each_market(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'forecasts.db'}"
    append_forecast(url, forecast(issued_at=ISSUED + timedelta(hours=1), price=101.0))
    append_forecast(url, forecast())
    append_forecast(url, forecast().with_columns(market=pl.lit("binance ETH/USDT 1h")))
    latest = latest_forecast(url)
    assert dict(latest.group_by("market").agg(pl.col("price").max()).iter_rows()) == {
        "binance BTC/USDT 1h": 101.0,
        "binance ETH/USDT 1h": 100.0,
    }


def test_a_database_that_cannot_hold_the_ledger_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SQLite or PostgreSQL"):
        append_forecast("mysql+mysqldb://localhost/x", forecast())
