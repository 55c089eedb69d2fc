"""Funding rates from the real ccxt client of binanceusdm against an exchange on loopback."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError, GatecastError, NetworkFault
from gatecast.market.candles import SYMBOL, to_ms
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.publications.funding import contracts_of, fetch_funding
from gatecast.market.publications.funding_rates import RATE_SCHEMA, merge_rates, rates_file, read_rates
from gatecast.market.publications.table import FUNDING, PUBLICATION_SCHEMA, PUBLISHED_AT, SOURCE, VALUE
from tests.conftest import random_candles
from tests.market.real_candles import real_file
from tests.venue import EMPTY, FUTURE, GARBAGE, OK, PAGE, RESET, TRUNCATED, Habits, StandInExchange

BEGIN = datetime(2021, 1, 1, tzinfo=UTC)
PERIOD = timedelta(hours=8)


def rates_of(n: int, begin: datetime = BEGIN, scale: float = 1e-4) -> pl.DataFrame:
    stamps = [begin + place * PERIOD for place in range(n)]
    return pl.DataFrame(
        {PUBLISHED_AT: stamps, VALUE: [round(scale * (place % 7 - 2), 8) for place in range(n)]}, RATE_SCHEMA
    )


RATES = rates_of(2500)
NOW = RATES[PUBLISHED_AT][-1] + timedelta(hours=3)
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
Start = Callable[..., StandInExchange]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    with ExitStack() as stack:

        def serve(funding: dict[str, pl.DataFrame] | None = None, now: datetime = NOW) -> StandInExchange:
            exchange = StandInExchange(random_candles(10), now, funding=funding or {BTC: RATES})
            stack.enter_context(exchange)
            monkeypatch.setenv(URL_VARIABLE, exchange.url)
            return exchange

        yield serve


@pytest.fixture
def ingest(config: Config) -> IngestConfig:
    changed = {"funding_exchange": "binanceusdm", "n_retries": 2, "timeout_s": 2.0}
    return config.ingest.model_copy(update=changed)


async def no_sleep(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)


def fetched(config: IngestConfig, folder: Path, said: list[str] | None = None) -> pl.DataFrame:
    found = fetch_funding(config, folder, (said if said is not None else []).append, no_sleep)
    assert found.schema == PUBLICATION_SCHEMA
    assert found[SOURCE].unique().to_list() == [FUNDING]
    return found


def test_the_whole_history_comes_once_and_then_what_is_new(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start(now=RATES[PUBLISHED_AT][2400] + timedelta(minutes=1))
    said: list[str] = []
    found = fetched(ingest, tmp_path, said)
    assert found.select(PUBLISHED_AT, VALUE).equals(RATES[:2401])
    assert found[SYMBOL].unique().to_list() == ["BTC/USDT"]
    assert len(exchange.funding_requests) == 4, "three pages of 1,000, and the empty one that is the end"
    last = RATES[PUBLISHED_AT][2400]
    assert said == [
        f"ingest: binanceusdm {BTC}: 2401 new funding rates, the last one settled at {last:%Y-%m-%dT%H:%MZ}"
    ]
    exchange.funding_requests.clear()
    exchange.now = NOW
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(RATES)
    assert [request["startTime"] for request in exchange.funding_requests] == [
        to_ms(last) + 1,
        to_ms(RATES[PUBLISHED_AT][-1]) + 1,
    ]
    exchange.funding_requests.clear()
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(RATES)
    assert len(exchange.funding_requests) == 1


def test_a_real_history_is_kept_rate_by_rate(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    real = pl.read_parquet(real_file("binance_usdm_BTCUSDT_funding", "funding"))
    truth = real.select(pl.col("ts").alias(PUBLISHED_AT), pl.col("funding_rate").alias(VALUE)).cast(dict(RATE_SCHEMA))  # type: ignore[arg-type]  # names and types
    start({BTC: truth}, now=truth[PUBLISHED_AT][-1] + timedelta(minutes=1))
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(truth)


def test_an_interrupted_history_goes_on_where_it_stopped(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start()
    exchange.funding_faults = [OK, OK, *[503] * 9]
    with pytest.raises(NetworkFault, match=rf"funding rates of binanceusdm {BTC}: .*503"):
        fetched(ingest, tmp_path)
    assert read_rates(rates_file(tmp_path, "binanceusdm", BTC)).equals(RATES[:2000])
    exchange.funding_requests.clear()
    exchange.funding_faults.clear()
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(RATES)
    assert exchange.funding_requests[0]["startTime"] == to_ms(RATES[PUBLISHED_AT][1999]) + 1


@pytest.mark.parametrize("fault", [429, 500, 503, RESET, TRUNCATED, PAGE, GARBAGE, FUTURE])
def test_what_passes_by_itself_leaves_no_trace(
    start: Start, ingest: IngestConfig, tmp_path: Path, fault: int | str
) -> None:
    exchange = start()
    exchange.funding_faults = [fault, OK, fault]
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(RATES)


@pytest.mark.parametrize("fault", [GARBAGE, FUTURE, 502])
def test_what_does_not_pass_is_a_fault_and_nothing_of_it_is_kept(
    start: Start, ingest: IngestConfig, tmp_path: Path, fault: int | str
) -> None:
    exchange = start()
    exchange.funding_faults = [fault] * 9
    with pytest.raises(NetworkFault, match="asked 3 times") as error:
        fetched(ingest, tmp_path)
    assert "\n" not in str(error.value)
    kept = read_rates(rates_file(tmp_path, "binanceusdm", BTC))
    assert kept.equals(RATES[: len(kept)])


def test_a_region_that_is_blocked_is_not_asked_again(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start()
    exchange.funding_faults = [451] * 9
    with pytest.raises(DataError, match="refuses to serve this address"):
        fetched(ingest, tmp_path)
    assert len(exchange.funding_requests) == 1


def test_a_venue_that_answers_only_the_span_asked_for_is_fetched_whole(
    start: Start, ingest: IngestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatecast.market.publications.funding._FIRST", to_ms(BEGIN - timedelta(days=200)))
    rates = pl.concat([RATES[:100], RATES[400:700]])  # a hole of 100 days
    exchange = start({BTC: rates}, now=rates[PUBLISHED_AT][-1] + timedelta(days=1))
    exchange.habits = Habits(spans_only=True)
    assert fetched(ingest, tmp_path).select(PUBLISHED_AT, VALUE).equals(rates)


def test_each_symbol_has_its_contract(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    others = rates_of(30, scale=2e-4)
    start({BTC: RATES[:50], ETH: others}, now=RATES[PUBLISHED_AT][60])
    both = ingest.model_copy(update={"symbols": ("ETH/USDT", "BTC/USDT")})
    found = fetched(both, tmp_path)
    assert found.filter(pl.col(SYMBOL) == "ETH/USDT").select(PUBLISHED_AT, VALUE).equals(others)
    assert found.filter(pl.col(SYMBOL) == "BTC/USDT").select(PUBLISHED_AT, VALUE).equals(RATES[:50])
    named = both.model_copy(update={"symbols": ("BTC/USD",), "funding_symbols": (ETH,)})
    assert fetched(named, tmp_path)[SYMBOL].unique().to_list() == ["BTC/USD"]


def test_the_contract_of_a_pair_is_the_one_settled_in_its_quote(ingest: IngestConfig) -> None:
    symbols = ingest.model_copy(update={"symbols": ("BTC/USDT", "ETH/USDC", "SOL/USDT:USDT")})
    assert contracts_of(symbols) == {
        "BTC/USDT": "BTC/USDT:USDT",
        "ETH/USDC": "ETH/USDC:USDC",
        "SOL/USDT:USDT": "SOL/USDT:USDT",
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"funding_exchange": "binanceusd"}, r"ingest\.funding_exchange = 'binanceusd' is not a venue .* binanceusdm"),
        ({"funding_exchange": "coinbase"}, r"'coinbase' tells no history of funding rates"),
        (
            {"funding_symbols": ("BTC/USDC:USDC",)},
            r"funding_symbols: binanceusdm has no perpetual BTC/USDC:USDC; did you mean BTC/USDT:USDT\?",
        ),
        ({"funding_symbols": ("BTC/USDT",)}, r"binanceusdm has no perpetual BTC/USDT"),
        ({"symbols": ("IBM",)}, r"binanceusdm has no perpetual IBM:"),
    ],
)
def test_what_the_venue_does_not_have_is_one_line_and_nothing_is_asked(
    start: Start, ingest: IngestConfig, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    exchange = start()
    with pytest.raises(ConfigurationError, match=words) as error:
        fetched(ingest.model_copy(update=changed), tmp_path)
    assert "\n" not in str(error.value)
    assert exchange.funding_requests == []


def test_a_contract_without_rates_is_an_error(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    exchange = start(now=datetime(2017, 1, 1, tzinfo=UTC))
    exchange.funding_faults = [EMPTY] * 200
    with pytest.raises(DataError, match="the venue has none"):
        fetched(ingest, tmp_path)


def test_one_contract_that_fails_leaves_the_others_complete(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    path = rates_file(tmp_path, "binanceusdm", ETH)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 but not really")
    start({BTC: RATES, ETH: RATES})
    with pytest.raises(DataError, match=rf"{ETH}: .*symbol=ETH-USDT_USDT\.parquet cannot be read .*gatecast ingest"):
        fetched(ingest.model_copy(update={"symbols": ("BTC/USDT", "ETH/USDT")}), tmp_path)
    assert read_rates(rates_file(tmp_path, "binanceusdm", BTC)).equals(RATES)


def test_the_spot_venue_tells_them_too(start: Start, ingest: IngestConfig, tmp_path: Path) -> None:
    start()
    found = fetched(ingest.model_copy(update={"funding_exchange": "binance"}), tmp_path)
    assert found.select(PUBLISHED_AT, VALUE).equals(RATES)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_merging_is_idempotent_and_order_free(batches: list[set[int]], order: object) -> None:
    parts = [RATES[sorted(batch)] for batch in batches if batch] or [RATES[:1]]
    truth = pl.concat(parts).unique().sort(PUBLISHED_AT)
    again = [*parts, *parts]
    order.shuffle(again)  # type: ignore[attr-defined]  # of random.Random
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rates.parquet"
        for part in again:
            merge_rates(path, part)
        assert read_rates(path).equals(truth)


def test_a_rate_that_contradicts_the_one_that_is_kept_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "rates.parquet"
    merge_rates(path, RATES[:10])
    before = path.read_bytes()
    other = RATES[5:12].with_columns(pl.lit(0.5).alias(VALUE))
    with pytest.raises(GatecastError, match=r"rates\.parquet holds a funding rate of .* delete it and run"):
        merge_rates(path, other)
    assert path.read_bytes() == before
