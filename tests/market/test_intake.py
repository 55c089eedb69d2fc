"""No candle that has arrived is lost on its way into the store, whatever ends the run meanwhile."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import polars as pl
import pytest

from gatecast.errors import GatecastError
from gatecast.market import intake as intake_module
from gatecast.market.candles import CLOSE, Market
from gatecast.market.intake import Intake
from gatecast.market.sample import read_sample
from gatecast.market.store import Merged, Store, merge_candles, read_candles
from tests.conftest import MARKET

BARS = read_sample(MARKET).head(40)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(intake_module, "_FLUSH_S", 0.0)
    return Store(tmp_path / "candles", tmp_path / "ledger")


def test_a_run_that_ends_before_a_thread_takes_up_the_candles_stores_them(store: Store) -> None:
    async def ended_while_all_threads_are_busy() -> None:
        free = Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.ensure_future(asyncio.to_thread(free.wait))
        intake = Intake(store, MARKET)
        taking = asyncio.create_task(intake.take(BARS))
        await asyncio.sleep(0.01)  # long enough to hand the candles over
        taking.cancel()
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(busy, taking, return_exceptions=True)
        await intake.flush()

    asyncio.run(ended_while_all_threads_are_busy())
    assert read_candles(store.candles, MARKET).equals(BARS)


def test_what_came_last_is_what_is_stored_though_the_first_is_still_being_merged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, free = Event(), Event()

    def slow_at_first(store: Store, market: Market, candles: pl.DataFrame) -> Merged:
        if not begun.is_set():
            begun.set()
            free.wait()
        return merge_candles(store, market, candles)

    monkeypatch.setattr(intake_module, "merge_candles", slow_at_first)
    revised = BARS.with_columns(pl.col(CLOSE) * 1.001)

    async def ended_while_merging() -> Intake:
        intake = Intake(store, MARKET)
        taking = asyncio.create_task(intake.take(BARS))
        await asyncio.to_thread(begun.wait)
        await intake.take(revised)
        taking.cancel()
        asyncio.get_running_loop().call_later(0.05, free.set)  # after the flush has begun
        await intake.flush()
        return intake

    intake = asyncio.run(ended_while_merging())
    assert read_candles(store.candles, MARKET).equals(revised)
    assert (intake.n_new, intake.n_revised) == (len(BARS), len(BARS))


def test_candles_that_could_not_be_stored_are_kept_for_the_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Merged:
        raise GatecastError("the disk is full")

    async def full_at_first() -> None:
        intake = Intake(store, MARKET)
        with monkeypatch.context() as patch:
            patch.setattr(intake_module, "merge_candles", full)
            with pytest.raises(GatecastError, match="the disk is full"):
                await intake.take(BARS[:20])
        await intake.take(BARS[20:])
        await intake.flush()

    asyncio.run(full_at_first())
    assert read_candles(store.candles, MARKET).equals(BARS)
