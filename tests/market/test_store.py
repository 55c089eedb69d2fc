from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS
from gatecast.market.snapshot import Snapshot, freeze, read_snapshot, require_snapshot, snapshot_of
from gatecast.market.store import merge_candles, read_candles
from tests.conftest import MARKET, random_candles

CANDLES = random_candles(1600)  # reaches over two month boundaries


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_batches_in_any_order_and_overlap_give_the_same_store(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, 1600), min_size=1, max_size=4)))
    bounds = [0, *cuts, 1600]
    batches = [CANDLES[max(low - 30, 0) : high] for low, high in pairwise(bounds) if high > low]
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    for batch in batches:
        merge_candles(one, MARKET, batch)
    for batch in data.draw(st.permutations(batches)) + batches[:1]:
        merge_candles(other, MARKET, batch.sample(fraction=1.0, shuffle=True, seed=1))
    assert contents(one) == contents(other)
    assert read_candles(one, MARKET).equals(CANDLES)


def test_the_newest_value_of_a_candle_counts(tmp_path: Path) -> None:
    merge_candles(tmp_path, MARKET, CANDLES)
    revised = CANDLES[10:12].with_columns(close=pl.lit(1.0))
    assert merge_candles(tmp_path, MARKET, revised) == 0
    assert read_candles(tmp_path, MARKET)["close"][10:12].to_list() == [1.0, 1.0]
    assert len(read_candles(tmp_path, MARKET)) == len(CANDLES)


def test_rows_of_one_batch_that_share_a_stamp_are_all_kept_for_clean_to_judge(tmp_path: Path) -> None:
    twice = pl.concat([CANDLES[:5], CANDLES[2:3].with_columns(volume=pl.lit(7.0))])
    merge_candles(tmp_path, MARKET, twice)
    merge_candles(tmp_path, MARKET, twice)
    assert len(read_candles(tmp_path, MARKET)) == 6


def test_a_truncated_file_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    merge_candles(tmp_path, MARKET, CANDLES)
    victim = sorted(tmp_path.rglob("*.parquet"))[1]
    victim.write_bytes(victim.read_bytes()[:100])
    before = contents(tmp_path)
    with pytest.raises(DataError, match=victim.name):
        merge_candles(tmp_path, MARKET, CANDLES)
    assert contents(tmp_path) == before


def test_the_span_that_is_asked_for_is_half_open(tmp_path: Path) -> None:
    merge_candles(tmp_path, MARKET, CANDLES)
    start, end = datetime(2024, 1, 5, tzinfo=UTC), datetime(2024, 1, 6, tzinfo=UTC)
    stamps = read_candles(tmp_path, MARKET, start, end)[TS]
    assert (stamps[0], len(stamps)) == (start, 24)


def test_frozen_candles_are_byte_identical_and_replace_those_before(tmp_path: Path) -> None:
    snapshot = Snapshot(
        "binance", ("BTC/USDT",), "1h", None, None, (), "2024-03-07T16:00:00+00:00", "sample", (None, None)
    )
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES})
    first = contents(tmp_path / "raw")
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES[:100]})
    assert len(read_candles(tmp_path / "raw", MARKET)) == 100
    freeze(tmp_path / "raw", snapshot, {MARKET: CANDLES})
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
    ],
)
def test_frozen_candles_that_are_not_those_configured_are_refused(
    tmp_path: Path, config: Config, change: dict[str, object]
) -> None:
    freeze(tmp_path / "raw", snapshot_of(config.ingest, CANDLES[TS][-1]), {MARKET: CANDLES})
    require_snapshot(tmp_path / "raw", config.ingest)
    with pytest.raises(ConfigurationError, match="run `gatecast ingest` first"):
        require_snapshot(tmp_path / "raw", config.ingest.model_copy(update=change))
