"""The real ccxt client against an exchange on loopback."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, IngestConfig
from gatecast.errors import ConfigurationError, DataError, NetworkFault
from gatecast.market.candles import TS, to_ms
from gatecast.market.exchange import URL_VARIABLE, Venue
from gatecast.market.sample import read_sample
from gatecast.market.sources import collect
from gatecast.market.store import merge_candles, read_candles
from tests.conftest import MARKET
from tests.market.venue import EMPTY, PAGE, RESET, TRUNCATED, StandInExchange

SAMPLE = read_sample(MARKET)
RECENT = SAMPLE.tail(2500)
NOW = SAMPLE[TS][-1] + timedelta(minutes=90)  # half way through the next candle, which the sample does not have
Start = Callable[..., StandInExchange]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    with ExitStack() as stack:

        def serve(
            candles: pl.DataFrame = RECENT, now: datetime = NOW, faults: tuple[int | str, ...] = ()
        ) -> StandInExchange:
            exchange = stack.enter_context(StandInExchange(candles, now, faults))
            monkeypatch.setenv(URL_VARIABLE, exchange.url)
            return exchange

        yield serve


@pytest.fixture
def ingest(config: Config) -> IngestConfig:
    first = RECENT[TS][0]
    return config.ingest.model_copy(update={"source": "exchange", "start": first, "n_retries": 3, "timeout_s": 5.0})


def fetched(config: IngestConfig, begin: datetime | None, end: datetime) -> pl.DataFrame:
    return pl.concat(Venue(config, sleep=lambda _: None).pages(MARKET, begin, end))


def silent(line: str) -> None:
    del line


def test_a_full_backfill_equals_the_sample_bar_for_bar(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    start(SAMPLE)
    (candles,) = collect(ingest.model_copy(update={"start": None}), tmp_path, tmp_path, silent).values()
    assert candles.equals(SAMPLE)
    assert read_candles(tmp_path, MARKET).equals(SAMPLE)


def test_a_candle_that_is_still_open_is_never_stored(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    start(now=RECENT[TS][-1] + timedelta(minutes=59))
    (candles,) = collect(ingest, tmp_path, tmp_path, silent).values()
    assert candles.equals(RECENT[:-1])


@pytest.mark.parametrize("fault", [429, 418, 500, 502, 503, RESET, TRUNCATED, PAGE])
def test_what_passes_by_itself_is_tried_again_and_leaves_no_trace(
    start: Start, ingest: IngestConfig, fault: int | str
) -> None:
    exchange = start(faults=(fault, fault))
    assert fetched(ingest, RECENT[TS][0], NOW).equals(RECENT)
    assert len(exchange.requests) == 3 + 2


def test_an_interrupted_backfill_resumes_without_refetching(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start(faults=())
    pages = Venue(ingest, sleep=silent).pages(MARKET, ingest.start, NOW)  # type: ignore[arg-type]  # takes anything
    merge_candles(tmp_path, MARKET, next(pages))
    asked = len(exchange.requests)
    collect(ingest, tmp_path, tmp_path, silent)
    assert read_candles(tmp_path, MARKET).equals(RECENT)
    since = [request["startTime"] for request in exchange.requests[asked:]]
    assert min(since) == to_ms(RECENT[TS][999]) + 3_600_000
    assert len(since) == 2


def test_a_hole_of_our_own_making_is_fetched_and_one_of_the_exchange_stays(
    start: Start, ingest: IngestConfig, tmp_path: Path
) -> None:
    truth = pl.concat([RECENT[:800], RECENT[810:]])
    start(truth)
    merge_candles(tmp_path, MARKET, pl.concat([RECENT[:300], RECENT[400:500]]))
    collect(ingest, tmp_path, tmp_path, silent)
    assert read_candles(tmp_path, MARKET).equals(truth)


def test_an_earlier_start_fetches_what_lies_before(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start()
    merge_candles(tmp_path, MARKET, RECENT[2000:])
    collect(ingest, tmp_path, tmp_path, silent)
    assert read_candles(tmp_path, MARKET).equals(RECENT)
    assert len(exchange.requests) == 2


def test_an_outage_longer_than_a_page_does_not_end_the_history(start: Start, ingest: IngestConfig) -> None:
    start(faults=(EMPTY,))  # a venue that answers an outage with an empty page, where Binance would skip it
    candles = fetched(ingest.model_copy(update={"page_limit": 500}), RECENT[TS][0] - timedelta(hours=500), NOW)
    assert candles.equals(RECENT)


def test_nothing_after_the_wanted_end_is_stored(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    start()
    end = RECENT[TS][1500]
    (candles,) = collect(ingest.model_copy(update={"end": end}), tmp_path, tmp_path, silent).values()
    assert candles.equals(RECENT[:1500])


def test_a_venue_that_stays_down_is_a_network_fault_after_the_last_try(start: Start, ingest: IngestConfig) -> None:
    exchange = start(faults=(503,) * 50)
    with pytest.raises(NetworkFault, match="binance gave no usable answer"):
        fetched(ingest, RECENT[TS][0], NOW)
    assert len(exchange.requests) == 1 + ingest.n_retries


def test_a_fault_half_way_keeps_the_pages_that_came(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    start(faults=())
    venue_down = ingest.model_copy(update={"n_retries": 0})
    exchange = start()
    answer = exchange._klines

    def failing(handler: object, query: dict[str, str]) -> None:
        if len(exchange.requests) == 2:
            exchange.faults = [500]
        answer(handler, query)  # type: ignore[arg-type]  # the handler is passed on

    exchange._klines = failing  # type: ignore[method-assign]  # plants the fault on the second page
    with pytest.raises(NetworkFault):
        collect(venue_down, tmp_path, tmp_path, silent)
    assert read_candles(tmp_path, MARKET).equals(RECENT[:1000])


@pytest.mark.parametrize(("status", "words"), [(451, "refuses to serve this address"), (401, "credentials")])
def test_what_is_refused_for_good_is_not_tried_again_and_shows_no_query(
    start: Start, ingest: IngestConfig, status: int, words: str
) -> None:
    exchange = start(faults=(status,) * 9)
    with pytest.raises(DataError, match=words) as error:
        fetched(ingest, RECENT[TS][0], NOW)
    assert len(exchange.requests) == 1
    assert "startTime" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"exchange": "binanze"}, "did you mean binance"),
        ({"symbols": ("BTC/USDC",)}, "has no market BTC/USDC; did you mean BTC/USDT"),
        ({"timeframe": "7m"}, "has no timeframe 7m"),
    ],
)
def test_what_the_venue_does_not_have_is_one_line(
    start: Start, ingest: IngestConfig, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    start()
    with pytest.raises(ConfigurationError, match=words) as error:
        collect(ingest.model_copy(update=changed), tmp_path, tmp_path, silent)
    assert "\n" not in str(error.value)


def test_an_address_that_is_none_is_named(ingest: IngestConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "ftp://localhost")
    with pytest.raises(ConfigurationError, match="ftp://localhost is not an http address"):
        Venue(ingest)


def test_the_clock_of_the_venue_decides_what_is_closed(start: Start, ingest: IngestConfig) -> None:
    start(now=datetime(2023, 6, 1, 12, 30, tzinfo=UTC))
    assert Venue(ingest).last_closed_end(MARKET) == datetime(2023, 6, 1, 12, tzinfo=UTC)
