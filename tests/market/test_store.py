import errno
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatecast.errors import DataError, GatecastError
from gatecast.market.candles import TS
from gatecast.market.revisions import read_revisions
from gatecast.market.store import Merged, Store, merge_candles, read_candles, write_candles
from tests.conftest import MARKET, random_candles

CANDLES = random_candles(1600)  # reaches over two month boundaries


def store_in(folder: Path) -> Store:
    return Store(folder / "candles", folder / "ledger")


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
    one, other = (store_in(tmp_path_factory.mktemp(name)) for name in ("one", "other"))
    for batch in batches:
        merge_candles(one, MARKET, batch)
    for batch in data.draw(st.permutations(batches)) + batches[:1]:
        merge_candles(other, MARKET, batch.sample(fraction=1.0, shuffle=True, seed=1))
    assert contents(one.candles) == contents(other.candles)
    assert read_candles(one.candles, MARKET).equals(CANDLES)
    assert read_revisions(one.ledger, MARKET).is_empty()


def test_the_newest_value_of_a_candle_counts_and_both_are_on_record(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, CANDLES)
    revised = CANDLES[10:12].with_columns(close=pl.lit(1.0))
    assert merge_candles(store, MARKET, revised) == Merged(n_new=0, n_revised=2)
    assert read_candles(store.candles, MARKET)["close"][10:12].to_list() == [1.0, 1.0]
    assert len(read_candles(store.candles, MARKET)) == len(CANDLES)
    on_record = read_revisions(store.ledger, MARKET)
    assert on_record[TS].to_list() == CANDLES[TS][10:12].to_list()
    assert on_record["old_close"].to_list() == CANDLES["close"][10:12].to_list()
    assert on_record["new_close"].to_list() == [1.0, 1.0]


def test_a_candle_that_changes_to_and_fro_is_on_record_each_time(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, CANDLES)
    other = CANDLES[10:11].with_columns(close=pl.lit(1.0))
    for batch in (other, other, CANDLES[10:11], other):
        merge_candles(store, MARKET, batch)
    assert read_revisions(store.ledger, MARKET)["new_close"].to_list() == [1.0, CANDLES["close"][10], 1.0]


def test_a_kill_between_ledger_and_store_does_not_record_a_revision_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, CANDLES)
    revised = CANDLES[10:11].with_columns(close=pl.lit(1.0))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gatecast.market.store._write", die)
        merge_candles(store, MARKET, revised)
    assert read_candles(store.candles, MARKET).equals(CANDLES)
    merge_candles(store, MARKET, revised)
    assert len(read_revisions(store.ledger, MARKET)) == 1


def test_rows_of_one_batch_that_share_a_stamp_are_all_kept_for_clean_to_judge(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    twice = pl.concat([CANDLES[:5], CANDLES[2:3].with_columns(volume=pl.lit(7.0))])
    for _ in range(2):
        merge_candles(store, MARKET, twice)
    assert len(read_candles(store.candles, MARKET)) == 6
    assert read_revisions(store.ledger, MARKET).is_empty()


def test_a_truncated_file_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, CANDLES)
    victim = sorted(store.candles.rglob("*.parquet"))[1]
    victim.write_bytes(victim.read_bytes()[:100])
    before = contents(tmp_path)
    with pytest.raises(DataError, match=victim.name):
        merge_candles(store, MARKET, CANDLES.with_columns(close=pl.lit(2.0)))
    assert contents(tmp_path) == before


def test_a_full_disk_is_named_and_each_month_is_as_before_or_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, CANDLES)
    revised = CANDLES.with_columns(close=pl.col("close") * 2, high=pl.col("high") * 2)
    write = pl.DataFrame.write_parquet

    def full(frame: pl.DataFrame, path: Path, **options: Any) -> None:
        if "2024-02" in path.name:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(frame, path, **options)

    with monkeypatch.context() as patch, pytest.raises(GatecastError, match="No space left on device"):
        patch.setattr(pl.DataFrame, "write_parquet", full)
        merge_candles(store, MARKET, revised)
    for month in ("2024-01", "2024-02", "2024-03"):
        of_month = pl.col(TS).dt.strftime("%Y-%m") == month
        stored = read_candles(store.candles, MARKET).filter(of_month)
        assert any(stored.equals(whole.filter(of_month)) for whole in (CANDLES, revised))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".2")]
    merge_candles(store, MARKET, revised)
    assert read_candles(store.candles, MARKET).equals(revised)


def test_two_processes_that_merge_into_one_market_lose_nothing(tmp_path: Path) -> None:
    parts = [CANDLES[start::8] for start in range(8)]  # every part reaches into every month
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(merge_candles, [store_in(tmp_path)] * 8, [MARKET] * 8, parts))
    assert read_candles(tmp_path / "candles", MARKET).equals(CANDLES)


def test_the_span_that_is_asked_for_is_half_open(tmp_path: Path) -> None:
    write_candles(tmp_path, MARKET, CANDLES)
    start, end = datetime(2024, 1, 5, tzinfo=UTC), datetime(2024, 1, 6, tzinfo=UTC)
    stamps = read_candles(tmp_path, MARKET, start, end)[TS]
    assert (stamps[0], len(stamps)) == (start, 24)
