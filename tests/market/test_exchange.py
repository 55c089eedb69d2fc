"""The real ccxt client against an exchange on loopback."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import ccxt.async_support as ccxt
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError, GatecastError, NetworkFault
from gatecast.market.candles import TS, Market, from_ms, to_ms
from gatecast.market.exchange import CREDENTIALS, URL_VARIABLE, Venue
from gatecast.market.fetch import fetch
from gatecast.market.gaps import CAUSE, END, LOST, OURS, REASON, START, VENUE, Hole, as_gaps, read_gaps, write_gaps
from gatecast.market.revisions import read_revisions
from gatecast.market.sample import read_sample
from gatecast.market.store import Store, merge_candles, read_candles
from tests.conftest import MARKET
from tests.venue import (
    EMPTY,
    GARBAGE,
    OK,
    OVERLAP,
    PAGE,
    RESET,
    SHUFFLED,
    STALE,
    TIMEOUT,
    TRUNCATED,
    Fault,
    Habits,
    StandInExchange,
    peak_weight,
)

RECENT = read_sample(MARKET).tail(2500)
TRUTH = RECENT[:-1]
NOW = RECENT[TS][-1] + timedelta(minutes=30)  # half way through the last candle
Start = Callable[..., StandInExchange]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    with ExitStack() as stack:

        def serve(candles: object = RECENT, now: datetime = NOW, **options: object) -> StandInExchange:
            exchange = stack.enter_context(StandInExchange(candles, now, **options))  # type: ignore[arg-type]
            monkeypatch.setenv(URL_VARIABLE, exchange.url)
            return exchange

        yield serve


@pytest.fixture
def ingest(config: Config) -> IngestConfig:
    changed = {"source": "exchange", "start": RECENT[TS][0], "n_retries": 3, "timeout_s": 1.0}
    return config.ingest.model_copy(update=changed)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "candles", tmp_path / "ledger")


class Slept:
    """Stands in for waiting, and keeps how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def silent(line: str) -> None:
    del line


def fetched(config: IngestConfig, store: Store, *markets: Market, refetch: tuple[object, ...] = ()) -> pl.DataFrame:
    fetch(config, markets or (MARKET,), store, silent, refetch, Slept())  # type: ignore[arg-type]  # holes
    return read_candles(store.candles, MARKET)


def venue_gaps(store: Store) -> list[tuple[datetime, datetime]]:
    return read_gaps(store.ledger, MARKET).filter(pl.col(CAUSE) == VENUE).select(START, END).rows()


def test_a_full_backfill_equals_the_truth_bar_for_bar(start: Start, ingest: IngestConfig, store: Store) -> None:
    exchange = start(read_sample(MARKET), NOW)
    assert fetched(ingest.model_copy(update={"start": None}), store).equals(read_sample(MARKET)[:-1])
    n_holes = len(venue_gaps(store)) - 1  # one is what lies before the first candle
    assert n_holes == 15
    assert len(exchange.requests) <= 35_032 // 999 + 1 + n_holes + 1


def test_a_candle_that_is_still_open_is_never_stored(start: Start, ingest: IngestConfig, store: Store) -> None:
    start(now=RECENT[TS][-1] + timedelta(minutes=59))
    assert fetched(ingest, store).equals(TRUTH)


@pytest.mark.parametrize("hours", [-30, -2, 2, 30])
def test_a_clock_that_is_off_neither_brings_an_open_candle_nor_hides_a_closed_one(
    start: Start, ingest: IngestConfig, store: Store, hours: int
) -> None:
    start(clock_off=timedelta(hours=hours))
    assert fetched(ingest, store).equals(TRUTH)


@pytest.mark.parametrize(
    "fault", [429, 418, 500, 502, 503, RESET, TIMEOUT, TRUNCATED, PAGE, GARBAGE, SHUFFLED, OVERLAP, STALE]
)
def test_what_passes_by_itself_leaves_no_trace(
    start: Start, ingest: IngestConfig, store: Store, fault: int | str
) -> None:
    start(faults=(fault, fault))
    assert fetched(ingest, store).equals(TRUTH)


def test_an_empty_page_confirms_no_hole(start: Start, ingest: IngestConfig, store: Store) -> None:
    start(faults=[OK, EMPTY, EMPTY, EMPTY])
    assert fetched(ingest, store).equals(TRUTH)
    assert venue_gaps(store) == []


def test_empty_pages_alone_are_an_error_and_confirm_nothing(start: Start, ingest: IngestConfig, store: Store) -> None:
    exchange = start(faults=[EMPTY] * 50)
    with pytest.raises(DataError, match="has no candle"):
        fetched(ingest, store)
    assert venue_gaps(store) == []
    exchange.faults.clear()
    assert fetched(ingest, store).equals(TRUTH)


def test_a_resumed_backfill_asks_for_what_is_missing_and_once_more(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    exchange = start()
    merge_candles(store, MARKET, RECENT[:999])
    assert fetched(ingest, store).equals(TRUTH)
    assert len(exchange.requests) <= 2 + 1
    assert min(request["startTime"] for request in exchange.requests) == to_ms(RECENT[TS][998])
    exchange.requests.clear()
    assert fetched(ingest, store).equals(TRUTH)
    assert len(exchange.requests) == 1


def test_a_hole_of_our_own_making_is_fetched_and_one_of_the_venue_is_confirmed_once(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    truth = pl.concat([RECENT[:800], RECENT[810:]])
    exchange = start(truth)
    merge_candles(store, MARKET, pl.concat([RECENT[:300], RECENT[400:500]]))
    assert fetched(ingest, store).equals(truth[:-1])
    assert venue_gaps(store) == [(RECENT[TS][800], RECENT[TS][810])]
    exchange.requests.clear()
    fetched(ingest, store)
    assert len(exchange.requests) == 1, "a confirmed hole is not asked for again"


def test_a_hole_that_another_process_confirms_meanwhile_stays_on_record(
    start: Start, ingest: IngestConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    theirs = Hole(to_ms(RECENT[TS][0]) - 7_200_000, to_ms(RECENT[TS][0]) - 3_600_000)
    page = Venue.page

    async def meanwhile(self: Venue, *arguments: object) -> pl.DataFrame:
        write_gaps(store.ledger, MARKET, as_gaps([theirs], VENUE, "the venue shows none", NOW))
        return await page(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Venue, "page", meanwhile)
    fetched(ingest, store)
    assert venue_gaps(store) == [(from_ms(theirs.start), from_ms(theirs.end))]


def test_a_hole_longer_than_a_page_is_confirmed(start: Start, ingest: IngestConfig, store: Store) -> None:
    truth = pl.concat([RECENT[:800], RECENT[1200:]])
    start(truth)
    assert fetched(ingest.model_copy(update={"page_limit": 50}), store).equals(truth[:-1])
    assert venue_gaps(store) == [(RECENT[TS][800], RECENT[TS][1200])]


def test_many_small_holes_share_their_requests(start: Start, ingest: IngestConfig, store: Store) -> None:
    truth = RECENT.with_row_index().filter(pl.col("index") % 7 != 3).drop("index")
    exchange = start(truth)
    assert fetched(ingest, store).equals(truth[:-1])
    assert len(venue_gaps(store)) == 2500 // 7
    assert len(exchange.requests) <= 3 + 3 + 1


def test_an_earlier_start_fetches_what_lies_before(start: Start, ingest: IngestConfig, store: Store) -> None:
    start()
    merge_candles(store, MARKET, RECENT[2000:2100])
    assert fetched(ingest.model_copy(update={"start": None}), store).equals(TRUTH)
    assert venue_gaps(store) == [(from_ms(0), RECENT[TS][0])]


@pytest.mark.parametrize("n_lost", [0, 130, 400])
def test_a_venue_that_answers_only_the_span_asked_for_is_searched_for_its_beginning(
    start: Start, ingest: IngestConfig, store: Store, n_lost: int
) -> None:
    """Coinbase and others answer a span without candles with an empty page, where Binance skips it."""
    truth = pl.concat([RECENT[:800], RECENT[800 + n_lost :]])
    start(truth).habits = Habits(spans_only=True)
    found = fetched(ingest.model_copy(update={"start": None, "page_limit": 100}), store)
    assert found.equals(truth[:-1])
    hole = [(RECENT[TS][800], RECENT[TS][800 + n_lost])] if n_lost else []
    assert venue_gaps(store) == [(from_ms(0), RECENT[TS][0]), *hole]


@pytest.mark.parametrize("place", [200, 300])
def test_an_outage_where_the_search_for_the_beginning_looks_is_not_taken_for_it(
    start: Start, ingest: IngestConfig, store: Store, place: int
) -> None:
    truth = pl.concat([RECENT[:place], RECENT[place + 300 :]])  # the search by halves asks for a page in it
    start(truth).habits = Habits(spans_only=True)
    assert fetched(ingest.model_copy(update={"start": None, "page_limit": 100}), store).equals(truth[:-1])


def test_a_venue_that_gives_fewer_candles_than_asked_for_is_fetched_whole(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    truth = pl.concat([RECENT[:800], RECENT[850:]])
    start(truth).habits = Habits(max_rows=300)
    assert fetched(ingest, store).equals(truth[:-1])
    assert venue_gaps(store) == [(RECENT[TS][800], RECENT[TS][850])]


def test_what_a_venue_serves_no_more_is_on_record_as_lost_and_the_market_goes_on(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    """Kraken serves the newest 720 candles alone."""
    exchange = start(now=RECENT[TS][500] + timedelta(minutes=30))
    exchange.habits = Habits(n_served=300)
    first = fetched(ingest, store)
    assert first.equals(RECENT[200:500])
    exchange.now = NOW
    found = fetched(ingest, store)
    assert found.equals(pl.concat([RECENT[200:500], RECENT[2199:-1]]))
    gaps = read_gaps(store.ledger, MARKET)
    assert gaps.filter(pl.col(CAUSE) == LOST).select(START, END).rows() == [(RECENT[TS][500], RECENT[TS][2199])]
    exchange.requests.clear()
    assert fetched(ingest, store).equals(found)
    assert len(exchange.requests) == 1
    earlier = ingest.model_copy(update={"start": RECENT[TS][0] - timedelta(days=9)})
    assert fetched(earlier, store).equals(found), "nor what may have been before"


@pytest.mark.parametrize("fault", [PAGE, TRUNCATED, EMPTY, RESET, 503])
def test_a_venue_that_opens_badly_is_asked_again(
    start: Start, ingest: IngestConfig, store: Store, fault: int | str
) -> None:
    exchange = start()
    exchange.opening_faults = [fault, OK, fault]  # markets, then time
    assert fetched(ingest, store).equals(TRUTH)
    exchange.opening_faults = [OK, *[fault] * 50]
    with pytest.raises(NetworkFault):
        fetched(ingest, store)


def test_a_region_that_is_blocked_from_the_start_is_not_asked_again(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    exchange = start()
    exchange.opening_faults = [451, OK]
    with pytest.raises(DataError, match="refuses to serve this address"):
        fetched(ingest, store)
    assert exchange.opening_faults == [OK]


def test_nothing_after_the_wanted_end_is_stored(start: Start, ingest: IngestConfig, store: Store) -> None:
    exchange = start()
    wanted = ingest.model_copy(update={"end": RECENT[TS][1500]})
    assert fetched(wanted, store).equals(RECENT[:1500])
    exchange.requests.clear()
    fetched(wanted, store)
    assert exchange.requests == [], "a span that is complete needs no request"


def test_a_venue_that_stays_down_is_a_network_fault_and_the_ledger_says_what_is_missing(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    exchange = start(faults=(503,) * 50)
    with pytest.raises(NetworkFault, match="503"):
        fetched(ingest, store)
    assert len(exchange.requests) == 1 + ingest.n_retries
    (gap,) = read_gaps(store.ledger, MARKET).rows(named=True)
    assert (gap[CAUSE], gap[START]) == (OURS, RECENT[TS][0])
    assert "503" in gap[REASON]
    exchange.faults.clear()
    assert fetched(ingest, store).equals(TRUTH)
    assert read_gaps(store.ledger, MARKET).is_empty()


def test_a_fault_half_way_keeps_what_came(start: Start, ingest: IngestConfig, store: Store) -> None:
    start(faults=(OK, OK, *[503] * 20))
    with pytest.raises(NetworkFault):
        fetched(ingest, store)
    stored = read_candles(store.candles, MARKET)
    assert 900 < len(stored) < len(TRUTH)
    assert stored.join(TRUTH, on=TRUTH.columns, how="anti").is_empty()


def test_a_venue_that_wants_silence_gets_it_from_all_requests(start: Start, ingest: IngestConfig, store: Store) -> None:
    exchange = start(faults=(OK, OK, Fault(429, retry_after=1)), latency_s=0.05)
    fetch(ingest.model_copy(update={"page_limit": 50}), (MARKET,), store, silent)
    arrivals = exchange.arrivals[2:]
    silences = [later - earlier for earlier, later in pairwise(arrivals)]
    longest = silences.index(max(silences))
    assert silences[longest] >= 0.9, "requests that were under way may still arrive, and then none"
    after = [at for at in arrivals if arrivals[longest + 1] <= at < arrivals[longest + 1] + 0.2]
    assert len(after) <= 0.2 * 50 + 3, "they go on in turn, not all at once"


def test_too_long_a_silence_is_left_to_the_next_run(start: Start, ingest: IngestConfig, store: Store) -> None:
    exchange = start(faults=(Fault(418, retry_after=86_400),))
    with pytest.raises(NetworkFault, match=r"86400 s of silence"):
        fetched(ingest, store)
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(("status", "words"), [(451, "refuses to serve this address"), (401, "credentials")])
def test_what_is_refused_for_good_is_not_tried_again_and_shows_no_query(
    start: Start, ingest: IngestConfig, store: Store, status: int, words: str
) -> None:
    exchange = start(faults=(status,) * 9)
    with pytest.raises(DataError, match=words) as error:
        fetched(ingest, store)
    assert len(exchange.requests) == 1
    assert "startTime" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [401, 400, 503])
def test_secrets_of_the_environment_stand_in_no_error_and_in_no_file(
    start: Start, ingest: IngestConfig, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    exchange = start(faults=(status,) * 9)
    exchange.habits = Habits(echoes=True)
    for name in CREDENTIALS:
        monkeypatch.setenv(name, f"hidden-{name}")
    monkeypatch.setenv(URL_VARIABLE, exchange.url.replace("//", "//someone:hidden-word@"))
    signed = ccxt.binance.sign

    def sign(self: Any, *arguments: Any, **options: Any) -> Any:
        request = signed(self, *arguments, **options)
        return {**request, "headers": {"X-MBX-APIKEY": self.apiKey, "X-Secret": self.secret}}

    monkeypatch.setattr("gatecast.market.exchange._MAX_REASON", 9999)
    monkeypatch.setattr(ccxt.binance, "sign", sign)  # public candles are asked for without them
    said: list[str] = []
    with pytest.raises(GatecastError) as error:
        fetch(ingest, (MARKET,), store, said.append, (), Slept())
    assert "***" in str(error.value), "the venue has echoed a secret"
    assert "hidden" not in " ".join([str(error.value), *said])
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hidden" not in path.read_bytes()


@pytest.mark.parametrize(
    "address", ["someone:hidden@127.0.0.1:80", "http://someone:hid/den@127.0.0.1", "ftp://hidden", "hidden"]
)
def test_an_address_that_is_none_is_refused_and_not_shown(
    ingest: IngestConfig, store: Store, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv(URL_VARIABLE, address)
    with pytest.raises(ConfigurationError, match=URL_VARIABLE) as error:
        fetched(ingest, store)
    assert "hid" not in str(error.value)


def test_one_market_that_fails_lets_the_others_go_on(start: Start, ingest: IngestConfig, store: Store) -> None:
    markets = {("BTC/USDT", "1h"): RECENT, ("ETH/USDT", "1h"): RECENT, ("LTC/USDT", "1h"): RECENT}
    exchange = start(markets)
    exchange.delisted.add("LTC/USDT")
    others = [Market("binance", symbol, "1h") for symbol in ("ETH/USDT", "LTC/USDT")]
    with pytest.raises(DataError, match=r"1 of 3 markets failed, 2 .* LTC/USDT 1h: binance has no market LTC/USDT"):
        fetched(ingest, store, MARKET, *others)
    assert read_candles(store.candles, MARKET).equals(TRUTH)
    assert read_candles(store.candles, others[0]).equals(TRUTH)
    assert read_candles(store.candles, others[1]).is_empty()


def test_a_symbol_that_is_delisted_half_way_stops_with_its_reason_and_keeps_what_came(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    exchange = start()
    merge_candles(store, MARKET, RECENT[:500])

    class Delisting(list):  # type: ignore[type-arg]  # of faults
        def __bool__(self) -> bool:
            if len(exchange.requests) == 2:
                exchange.delisted.add("BTC/USDT")
            return False

    exchange.faults = Delisting()
    with pytest.raises(DataError, match="Invalid symbol"):
        fetched(ingest, store)
    stored = read_candles(store.candles, MARKET)
    assert stored.join(TRUTH, on=TRUTH.columns, how="anti").is_empty()
    assert len(stored) >= 500


def test_of_a_market_that_trades_no_more_the_last_candle_is_stored(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    exchange = start(RECENT, RECENT[TS][-1] + timedelta(days=400))
    exchange.halted.add("BTC/USDT")
    assert fetched(ingest, store).equals(RECENT)


def test_a_day_that_is_asked_for_again_brings_revisions_and_reopens_its_holes(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    start(pl.concat([RECENT[:100], RECENT[103:]]))
    fetched(ingest, store)
    corrected = RECENT.with_columns(volume=pl.when(pl.col(TS) == RECENT[TS][110]).then(7.0).otherwise("volume"))
    start(corrected)
    fetched(ingest, store)
    assert len(read_candles(store.candles, MARKET)) == len(TRUTH) - 3, "nothing asks again by itself"
    day = RECENT[TS][100].replace(hour=0, minute=0)
    found = fetched(ingest, store, refetch=(Hole(to_ms(day), to_ms(day + timedelta(days=2))),))
    assert found.equals(corrected[:-1])
    assert venue_gaps(store) == []
    assert read_revisions(store.ledger, MARKET)["new_volume"].to_list() == [7.0]


def test_several_timeframes_and_symbols_are_fetched_at_once_and_within_the_rate_limit(
    start: Start, ingest: IngestConfig, store: Store
) -> None:
    by_day = RECENT.group_by_dynamic(TS, every="1d").agg(
        pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(), pl.sum("volume")
    )
    exchange = start(
        {("BTC/USDT", "1h"): RECENT, ("BTC/USDT", "1d"): by_day, ("ETH/USDT", "1h"): RECENT},
        latency_s=0.1,
    )
    markets = [MARKET, Market("binance", "BTC/USDT", "1d"), Market("binance", "ETH/USDT", "1h")]
    exchange.meter.limit, exchange.meter.window_s = 107, 1.0  # a second's share, and what the bucket lets through
    fetched(ingest.model_copy(update={"page_limit": 50}), store, *markets)
    assert exchange.meter.n_refused == 0
    assert peak_weight(exchange.meter.weighed, 1.0) > 80, "the limit binds"
    assert exchange.n_in_flight_max > 2
    assert read_candles(store.candles, markets[1]).equals(by_day[1:-1])
    assert read_candles(store.candles, markets[2]).equals(TRUTH)


@pytest.mark.parametrize(
    ("changed", "market", "words"),
    [
        ({}, Market("binanze", "BTC/USDT", "1h"), "did you mean binance"),
        ({}, Market("binance", "BTC/USDC", "1h"), "has no market BTC/USDC; did you mean BTC/USDT"),
        ({}, Market("binance", "BTC/USDT", "7m"), "has no timeframe 7m"),
        ({"start": NOW + timedelta(days=9)}, MARKET, "has no candle of binance BTC/USDT 1h from 2024"),
    ],
)
def test_what_the_venue_does_not_have_is_one_line(
    start: Start, ingest: IngestConfig, store: Store, changed: dict[str, object], market: Market, words: str
) -> None:
    start()
    with pytest.raises((ConfigurationError, DataError), match=words) as error:
        fetched(ingest.model_copy(update=changed), store, market)
    assert "\n" not in str(error.value)


def test_progress_tells_rate_and_time_left(
    start: Start, ingest: IngestConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    monkeypatch.setattr("gatecast.market.fetch._SAY_EVERY_S", 0.0)
    said: list[str] = []
    fetch(ingest.model_copy(update={"page_limit": 100}), (MARKET,), store, said.append, (), Slept())
    assert any("a second" in line and "s left" in line and "to go" in line for line in said)
    assert said[-1].startswith("ingest: binance BTC/USDT 1h: 2499 new candles")


def test_the_venue_s_own_clock_is_read_where_it_has_one(start: Start, ingest: IngestConfig) -> None:
    now = datetime(2023, 6, 1, 12, 30, tzinfo=UTC)
    start(now=now)

    async def opened() -> datetime:
        async with Venue("binance", ingest) as venue:
            return await venue.open()

    assert asyncio.run(opened()) == now
