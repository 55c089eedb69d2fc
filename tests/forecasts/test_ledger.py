from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.database import DATABASE_VARIABLE, database_url
from gatecast.errors import ConfigurationError, GatecastError
from gatecast.forecasts.ledger import append_forecast, latest_forecast

UTC_MS = pl.Datetime("ms", "UTC")
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
            "model_name": "gatecast",
            "model_version": version,
        }
    )


def test_a_forecast_is_written_once_and_never_rewritten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'forecasts.db'}"
    assert latest_forecast(url).is_empty()
    assert append_forecast(url, forecast())[0] == 4
    n_new, kept = append_forecast(url, forecast(price=999.0))
    assert (n_new, kept["price"].to_list()) == (0, [100.0] * 4)
    assert kept.select(forecast().columns).equals(forecast().cast({"issued_at": UTC_MS, "target_at": UTC_MS}))
    assert latest_forecast(url)["price"].to_list() == [100.0] * 4
    assert append_forecast(url, forecast(version="2"))[0] == 4
    other = forecast(price=999.0).with_columns(model_name=pl.lit("trial"))
    assert append_forecast(url, other)[1]["price"].to_list() == [999.0] * 4


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


@pytest.mark.parametrize("address", ["mysql://localhost/x", "words", "postgresql+asyncpg://u:secret@h/x"])
def test_a_database_that_is_neither_sqlite_nor_postgresql_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, address)
    with pytest.raises(ConfigurationError) as error:
        database_url(tmp_path, "forecasts.db")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("installed", [True, False])
def test_a_postgresql_address_gets_the_driver_that_the_extra_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql://u:p@127.0.0.1:9/x")
    monkeypatch.setattr("gatecast.database.find_spec", lambda _: object() if installed else None)
    if installed:
        assert database_url(tmp_path, "forecasts.db") == "postgresql+psycopg://u:p@127.0.0.1:9/x"
        return
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[postgres\]'"):
        database_url(tmp_path, "forecasts.db")


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'absent' / 'forecasts.db'}"
    with pytest.raises(GatecastError, match="could not be read"):
        latest_forecast(url)
    with pytest.raises(GatecastError, match="could not be written"):
        append_forecast(url, forecast())


def test_a_database_that_cannot_hold_the_ledger_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SQLite or PostgreSQL"):
        append_forecast("mysql+mysqldb://localhost/x", forecast())
