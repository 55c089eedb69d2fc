"""The law of ingest, searched for its breach: whatever the faults and whenever the process dies, what is stored is a
subset of the truth and the ledger says what is missing; once the exchange answers rightly, the store is the truth."""

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.errors import GatecastError
from gatecast.market import exchange as exchange_module
from gatecast.market import intake
from gatecast.market.candles import TS
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.fetch import fetch
from gatecast.market.gaps import CAUSE, END, OURS, START, VENUE, read_gaps
from gatecast.market.sample import read_sample
from gatecast.market.store import Store, read_candles
from tests.conftest import MARKET
from tests.market.killed_ingest import ingest_until_killed, no_sleep
from tests.venue import DUPLICATES, EMPTY, OK, PAGE, RESET, STALE, TIMEOUT, TRUNCATED, Fault, Habits, StandInExchange
from tests.venue.faults import TRANSIENT

BAR = timedelta(hours=1)
BARS = read_sample(MARKET).tail(260)
PAGE_LIMIT = 20
OPENING_FAULTS = (429, 500, 503, RESET, TRUNCATED, PAGE, EMPTY, OK, OK, OK)
FAULTS = (*(kind for kind in TRANSIENT if kind != TIMEOUT), OK, OK, OK)  # a time-out takes its time


@dataclass(frozen=True)
class Round:
    """One run of ingest.

    Attributes:
        n_bars: By how much time has gone on since the run before.
        minutes: Of the bar that is open then.
        faults: What the exchange answers first.
        clock_hours: By how much its clock is off.
        is_listed: Whether it knows the market.
        opening: What it answers first when it is asked for markets and time.
        n_stale: By how many bars its stale answers are old.
    """

    n_bars: int
    minutes: int = 30
    faults: tuple[int | str, ...] = ()
    clock_hours: int = 0
    is_listed: bool = True
    opening: tuple[int | str, ...] = ()
    n_stale: int = 3


spells = st.builds(lambda kind, n: (kind,) * n, st.sampled_from(FAULTS), st.integers(1, 30))
rounds = st.builds(
    Round,
    n_bars=st.integers(0, 60),
    minutes=st.integers(1, 59),
    faults=st.lists(spells, max_size=5).map(lambda each: tuple(kind for kinds in each for kind in kinds)),
    clock_hours=st.sampled_from((0, 0, 0, -30, -1, 1, 30)),
    is_listed=st.sampled_from((True, True, True, False)),
    opening=st.lists(st.sampled_from(OPENING_FAULTS), max_size=5).map(tuple),
    n_stale=st.integers(1, 20),
)
# a venue that answers a span without candles with an empty page cannot be told from one that fails to answer it
USUAL = Habits()
HABITS = (USUAL, Habits(max_rows=7), Habits(max_rows=13))
holes = st.lists(st.tuples(st.integers(1, 250), st.integers(1, 45)), max_size=4)


@pytest.fixture(autouse=True)
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rate limit, which other tests are about."""
    client_class = exchange_module._client_class

    def make(*arguments: Any) -> type:
        parent: Any = client_class(*arguments)

        class Unthrottled(parent):  # type: ignore[misc]  # ccxt is not typed
            async def throttle(self, cost: float | None = None) -> None:
                del cost

        return Unthrottled

    monkeypatch.setattr(exchange_module, "_client_class", make)


@pytest.fixture
def ingest(config: Config) -> IngestConfig:
    changed = {"source": "exchange", "start": BARS[TS][0], "page_limit": PAGE_LIMIT, "n_retries": 2, "timeout_s": 5.0}
    return config.ingest.model_copy(update=changed)


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def truth_with(gaps: list[tuple[int, int]]) -> pl.DataFrame:
    """The bars without those that the exchange never had; the first and the last are there."""
    lost = {i for start, n in gaps for i in range(start, min(start + n, len(BARS) - 1))}
    return BARS[[i for i in range(len(BARS)) if i not in lost]]


def bars_in(store: Store, cause: str) -> set[datetime]:
    """Open times of all bars that the ledger puts down to a cause."""
    gaps = read_gaps(store.ledger, MARKET).filter(pl.col(CAUSE) == cause)
    return {ts for ts in BARS[TS] for start, end in gaps.select(START, END).rows() if start <= ts < end}


def assert_subset(store: Store, closed: pl.DataFrame) -> pl.DataFrame:
    stored = read_candles(store.candles, MARKET)
    assert stored.join(closed, on=closed.columns, how="anti").is_empty(), "a candle is stored that is not the truth"
    assert stored[TS].is_unique().all()
    assert not bars_in(store, VENUE) & set(closed[TS]), "a candle that exists is on record as none"
    return stored


def assert_truth(store: Store, closed: pl.DataFrame) -> None:
    assert read_candles(store.candles, MARKET).equals(closed)
    assert bars_in(store, OURS) == set()
    assert bars_in(store, VENUE) == set(BARS.filter(pl.col(TS) < closed[TS][-1])[TS]) - set(closed[TS])


def run_of(config: IngestConfig, store: Store) -> str | None:
    """Why an ingest failed; None if it did not."""
    try:
        fetch(config, (MARKET,), store, lambda _: None, (), no_sleep)
    except GatecastError as fault:
        return str(fault)
    return None


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
@given(
    gaps=holes,
    course=st.lists(rounds, min_size=1, max_size=4),
    page_limit=st.sampled_from((8, 20, 50)),
    habits=st.sampled_from(HABITS),
)
@example(
    gaps=[(100, 45)],
    course=[Round(200, faults=(EMPTY,) * 40), Round(5, faults=(STALE,) * 40)],
    page_limit=20,
    habits=Habits(),
)
@example(
    gaps=[],
    course=[Round(250, faults=(*[OK] * 6, *[500] * 40)), Round(0, faults=(EMPTY,) * 60)],
    page_limit=20,
    habits=Habits(),
)
@example(
    gaps=[],
    course=[Round(259, 59, faults=(OK, OK, STALE, EMPTY, DUPLICATES, RESET, 429, 418, 500))],
    page_limit=20,
    habits=Habits(),
)
@example(  # a stale answer ends inside a hole that is longer than a page
    gaps=[(17, 16)],
    course=[Round(31, faults=(*[OK] * 3, *[STALE] * 25), n_stale=12)],
    page_limit=8,
    habits=Habits(),
)
@example(  # answers are shorter than asked for, and the open candle is seen before those that lie before it
    gaps=[(180, 41), (221, 44)],
    course=[Round(136)],
    page_limit=50,
    habits=Habits(max_rows=13),
)
def test_whatever_the_faults_the_store_is_a_subset_of_the_truth_and_ends_equal_to_it(
    ingest: IngestConfig,
    monkeypatch: pytest.MonkeyPatch,
    gaps: list[tuple[int, int]],
    course: list[Round],
    page_limit: int,
    habits: Habits,
) -> None:
    monkeypatch.setattr(intake, "_FLUSH_S", 0.0)
    config = ingest.model_copy(update={"page_limit": page_limit})
    now = BARS[TS][0] + 3 * BAR
    with TemporaryDirectory() as name, StandInExchange(truth_with(gaps), now) as exchange:
        monkeypatch.setenv(URL_VARIABLE, exchange.url)
        exchange.habits = habits
        store = Store(Path(name) / "candles", Path(name) / "ledger")
        for each in course:
            now = min(now.replace(minute=0) + each.n_bars * BAR, BARS[TS][-1]) + timedelta(minutes=each.minutes)
            exchange.now, exchange.clock_off = now, timedelta(hours=each.clock_hours)
            exchange.faults = [Fault(kind, retry_after=0.01, n_bars=each.n_stale) for kind in each.faults]
            exchange.opening_faults = [Fault(kind, retry_after=0.01) for kind in each.opening]
            exchange.delisted = set() if each.is_listed else {MARKET.symbol}
            fault = run_of(config, store)
            stored = assert_subset(store, exchange.truth())
            absent = set(exchange.truth()[TS]) - set(stored[TS])
            if fault is None:
                assert all(ts > stored[TS][-1] for ts in absent), "a run that succeeds leaves no hole behind"
            else:
                told = now + min(exchange.clock_off, timedelta(0)) - BAR
                assert {ts for ts in absent if ts < told} <= bars_in(store, OURS), fault
        exchange.faults, exchange.opening_faults = [], []
        exchange.clock_off, exchange.delisted = timedelta(0), set()
        exchange.now = BARS[TS][-1] + BAR / 2  # during an outage its last candle waits for a later one
        assert run_of(config, store) is None
        assert_truth(store, exchange.truth())


def test_time_outs_are_faults_like_others(ingest: IngestConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder / "candles", folder / "ledger")
    with StandInExchange(BARS, BARS[TS][-1] + BAR / 2, faults=(OK, TIMEOUT, OK, TIMEOUT, TIMEOUT, TIMEOUT)) as exchange:
        monkeypatch.setenv(URL_VARIABLE, exchange.url)
        impatient = ingest.model_copy(update={"timeout_s": 0.3, "n_parallel": 1})
        assert "RequestTimeout" in (run_of(impatient, store) or "")
        assert not assert_subset(store, exchange.truth()).is_empty()
        assert run_of(ingest, store) is None
        assert_truth(store, exchange.truth())


def _killed_at(n_requests: int, config: IngestConfig, folder: Path, exchange: StandInExchange) -> bool:
    """Whether the process was still at work when it was killed, after the exchange had been asked so many times."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.market.killed_ingest"])
    until = len(exchange.requests) + n_requests
    process = context.Process(target=ingest_until_killed, args=(config, MARKET, folder, exchange.url))
    process.start()
    deadline = time.monotonic() + 60
    while process.is_alive() and len(exchange.requests) < until:
        assert time.monotonic() < deadline, "the process stands still"
        process.join(0.002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_moment_ingest_ends_equal_to_the_truth(
    ingest: IngestConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_killed = 0
    patient = ingest.model_copy(update={"n_retries": 20})
    for seed in range(50):
        generator = random.Random(seed)
        gaps = [(generator.randrange(1, 200), generator.randrange(1, 45)) for _ in range(3)]
        store = Store(folder / str(seed) / "candles", folder / str(seed) / "ledger")
        faults = generator.choices(FAULTS, k=10)
        with StandInExchange(truth_with(gaps), BARS[TS][-1] + BAR / 2, faults, latency_s=0.01) as exchange:
            monkeypatch.setenv(URL_VARIABLE, exchange.url)
            for _ in range(2):
                n_killed += _killed_at(generator.randrange(14), patient, folder / str(seed), exchange)
                assert_subset(store, exchange.truth())
            exchange.faults, exchange.latency_s = [], 0.0
            assert run_of(ingest, store) is None, f"seed {seed}"
            assert_truth(store, exchange.truth())
    assert n_killed >= 50
