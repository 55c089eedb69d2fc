from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatecast.config import Config
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS
from gatecast.market.publications.table import together
from gatecast.market.snapshot import Snapshot, freeze, read_snapshot, require_snapshot, snapshot_of
from gatecast.market.store import read_candles
from tests.conftest import MARKET, random_candles

NOTHING = together([])
CANDLES = random_candles(1600)  # reaches over two month boundaries


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_frozen_candles_are_byte_identical_and_replace_those_before(tmp_path: Path) -> None:
    snapshot = Snapshot(
        "binance", ("BTC/USDT",), "1h", None, None, (), "2024-03-07T16:00:00+00:00", "sample", (None, None), ()
    )
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES}, NOTHING)
    first = contents(tmp_path / "raw")
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES[:100]}, NOTHING)
    assert len(read_candles(tmp_path / "raw", MARKET)) == 100
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES}, NOTHING)
    assert contents(tmp_path / "raw") == first
    assert read_snapshot(tmp_path / "raw") == snapshot


def test_a_snapshot_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gatecast ingest"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"symbols": ("ETH/USDT",)},
        {"exchange": "kraken"},
        {"timeframe": "4h"},
        {"source": "exchange"},
        {"start": datetime(2021, 1, 1, tzinfo=UTC)},
        {"end": datetime(2023, 1, 1, tzinfo=UTC)},
        {"fear_greed": "index.csv"},
        {"funding_exchange": "binanceusdm"},
    ],
)
def test_frozen_candles_that_are_not_those_configured_are_refused(
    tmp_path: Path, config: Config, change: dict[str, object]
) -> None:
    freeze(tmp_path / "raw", snapshot_of(config.ingest, CANDLES[TS][-1]), {MARKET: CANDLES}, NOTHING)
    require_snapshot(tmp_path / "raw", config.ingest)
    with pytest.raises(ConfigurationError, match="run `gatecast ingest` first"):
        require_snapshot(tmp_path / "raw", config.ingest.model_copy(update=change))
