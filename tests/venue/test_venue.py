"""What the stand-in exchange does, seen by the real ccxt clients and over bare HTTP."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import IncompleteRead
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import ccxt
import ccxt.async_support
import ccxt.pro
import polars as pl
import pytest
from aiohttp import ClientSession

from gatecast.market.candles import CANDLE_SCHEMA, TS, from_ms, to_ms
from tests.conftest import REPOSITORY, random_candles
from tests.venue import (
    BREAK,
    DELISTED,
    DUPLICATES,
    EMPTY,
    FUTURE,
    GARBAGE,
    OK,
    OVERLAP,
    PAGE,
    RESET,
    SHUFFLED,
    STALE,
    TIMEOUT,
    TRANSIENT,
    TRUNCATED,
    Fault,
    StandInExchange,
    aggregated,
    chaos,
    derived_markets,
    peak_weight,
)
from tests.venue.__main__ import main
from tests.venue.funding import derived_rates

CANDLES = random_candles(1500)
START = to_ms(CANDLES[TS][0])
HOUR = 3_600_000
NOW = CANDLES[TS][1200] + timedelta(minutes=15)  # a quarter of the way through a candle that the frame holds
OPTIONS = {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}


@pytest.fixture
def exchange() -> Iterator[StandInExchange]:
    with StandInExchange(derived_markets(CANDLES, "BTC/USDT", "1h"), NOW) as exchange:
        yield exchange


def client_of(kind: Any, exchange: StandInExchange, **settings: Any) -> Any:
    client = kind({"enableRateLimit": False, "options": OPTIONS, **settings})
    client.urls["api"] = dict.fromkeys(("public", "private", "fapiPublic", "dapiPublic"), f"{exchange.url}/api/v3")
    client.urls["api"]["ws"] = {"spot": f"{exchange.ws_url}/ws"}
    return client


def ask(exchange: StandInExchange, path: str = "klines", timeout_s: float = 5.0, **query: Any) -> tuple[Any, ...]:
    """Status, headers and body of a plain request, for candles of BTCUSDT 1h if nothing else is said."""
    query = {"symbol": "BTCUSDT", "interval": "1h", **query} if path == "klines" else query
    try:
        with urlopen(f"{exchange.url}/api/v3/{path}?{urlencode(query)}", timeout=timeout_s) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except HTTPError as error:
        return error.code, error.headers, error.read().decode()


def rows_of(exchange: StandInExchange, **query: Any) -> list[list[Any]]:
    status, _, body = ask(exchange, **query)
    assert status == 200
    rows: list[list[Any]] = json.loads(body)
    return rows


def stamps_of(exchange: StandInExchange, **query: Any) -> list[int]:
    return [row[0] for row in rows_of(exchange, **query)]


def as_frame(rows: list[list[Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        [[from_ms(int(row[0])), *map(float, row[1:6])] for row in rows], schema=CANDLE_SCHEMA, orient="row"
    )


def test_pages_follow_the_rules_of_binance(exchange: StandInExchange) -> None:
    first, last = CANDLES[TS][0], START + 1200 * HOUR
    assert len(stamps_of(exchange, startTime=START)) == 500
    assert len(stamps_of(exchange, startTime=START, limit=5000)) == 1000
    assert stamps_of(exchange, startTime=START + 1, limit=2) == [START + HOUR, START + 2 * HOUR]
    assert stamps_of(exchange, startTime=START, endTime=START + HOUR) == [START, START + HOUR]
    assert stamps_of(exchange, limit=2) == [last - HOUR, last]
    assert stamps_of(exchange, limit=2, endTime=START + 9 * HOUR) == [START + 8 * HOUR, START + 9 * HOUR]
    assert stamps_of(exchange, startTime=last + HOUR) == stamps_of(exchange, startTime=9, endTime=8) == []
    assert exchange.requests[0] == {"startTime": to_ms(first)}
    assert exchange.asked[0] == ("BTCUSDT", "1h")
    assert exchange.arrivals == sorted(exchange.arrivals)


def test_a_page_skips_holes() -> None:
    with StandInExchange(pl.concat([CANDLES[:3], CANDLES[700:]]), NOW) as exchange:
        assert stamps_of(exchange, startTime=START, limit=4)[2:] == [START + 2 * HOUR, START + 700 * HOUR]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOUSDT"}, -1121),
        ({"interval": "7m"}, -1120),
        ({"startTime": "yesterday"}, -1100),
        ({"limit": 0}, -1130),
        ({"symbol": ""}, -1102),
    ],
)
def test_what_does_not_exist_is_refused_with_binances_code(
    exchange: StandInExchange, query: dict[str, Any], code: int
) -> None:
    status, _, body = ask(exchange, **query)
    assert (status, json.loads(body)["code"]) == (400, code)


def test_all_markets_and_timeframes_are_served_and_add_up(exchange: StandInExchange) -> None:
    client = client_of(ccxt.binance, exchange)
    assert set(client.load_markets()) == {"BTC/USDT", "ETH/USDT"}
    for symbol in client.markets:
        hourly = as_frame(client.fetch_ohlcv(symbol, "1h", since=START, limit=1000))
        for timeframe, n_bars in (("4h", 4), ("1d", 24)):
            longer = as_frame(client.fetch_ohlcv(symbol, timeframe, since=START, limit=20))
            for i, bar in enumerate(longer.iter_rows(named=True)):
                part = hourly[i * n_bars : (i + 1) * n_bars]
                assert (bar["ts"], bar["open"], bar["close"]) == (part[TS][0], part["open"][0], part["close"][-1])
                assert (bar["high"], bar["low"]) == (part["high"].max(), part["low"].min())
                assert bar["volume"] == pytest.approx(sum(part["volume"]), abs=1e-7)


def test_a_longer_bar_that_is_not_filled_to_its_end_is_left_out() -> None:
    assert aggregated(CANDLES[:47], "1h", "1d").height == 1
    assert aggregated(CANDLES[:48], "1h", "1d").height == 2


def test_the_open_bar_is_half_built_until_it_closes(exchange: StandInExchange) -> None:
    final = CANDLES[1200]
    (half,) = as_frame(rows_of(exchange, limit=1)).iter_slices()
    assert half[TS].equals(final[TS])
    assert half["open"].equals(final["open"])
    for name in ("high", "low", "close", "volume"):
        assert half[name][0] != final[name][0]
    assert half["low"][0] <= half["close"][0] <= half["high"][0]
    assert half.equals(as_frame(rows_of(exchange, limit=1)))
    assert exchange.truth().equals(CANDLES[:1200])
    exchange.now += timedelta(minutes=45)  # the end of it: closed now, and the next does not exist yet
    assert as_frame(rows_of(exchange, limit=1)).equals(final)
    assert exchange.truth().equals(CANDLES[:1201])


def test_the_clock_can_be_off_without_moving_the_candles(exchange: StandInExchange) -> None:
    exchange.clock_off = timedelta(seconds=-90)
    assert client_of(ccxt.binance, exchange).fetch_time() == to_ms(NOW) - 90_000
    assert stamps_of(exchange, limit=1) == [START + 1200 * HOUR]


def test_a_delisted_market_is_gone_and_a_halted_one_has_history(exchange: StandInExchange) -> None:
    exchange.delisted.add("BTC/USDT")
    exchange.halted.add("ETH/USDT")
    client = client_of(ccxt.binance, exchange)
    assert {symbol: market["active"] for symbol, market in client.load_markets().items()} == {"ETH/USDT": False}
    assert len(client.fetch_ohlcv("ETH/USDT", "1h", since=START, limit=7)) == 7
    status, _, body = ask(exchange)
    assert (status, json.loads(body)) == (400, {"code": -1121, "msg": "Invalid symbol."})


def test_a_market_that_ends_half_way_keeps_its_candles_and_one_that_is_delisted_has_none(
    exchange: StandInExchange,
) -> None:
    exchange.faults = [OK, BREAK, OK, OK, DELISTED]
    last = START + 1200 * HOUR
    assert stamps_of(exchange, limit=1) == stamps_of(exchange, limit=1) == [last]
    exchange.now += timedelta(days=9)
    assert stamps_of(exchange, limit=1) == [last]
    assert exchange.truth().equals(CANDLES[:1201])
    assert len(stamps_of(exchange, interval="4h", startTime=last)) == 1
    assert [symbol["status"] for symbol in json.loads(ask(exchange, "exchangeInfo")[2])["symbols"]] == [
        "BREAK",
        "TRADING",
    ]
    assert ask(exchange)[0] == 400
    assert ask(exchange)[0] == 400
    assert exchange.faults == []


def test_a_market_delisted_under_way_is_a_bad_symbol_to_ccxt(exchange: StandInExchange) -> None:
    client = client_of(ccxt.binance, exchange)
    client.load_markets()
    exchange.delisted.add("BTC/USDT")
    with pytest.raises(ccxt.BadSymbol):
        client.fetch_ohlcv("BTC/USDT", "1h")


# by the fault: the error of ccxt
ERRORS: dict[int | str, type[Exception]] = {
    429: ccxt.DDoSProtection,
    418: ccxt.DDoSProtection,
    500: ccxt.OperationFailed,
    502: ccxt.ExchangeNotAvailable,
    503: ccxt.ExchangeError,  # the code of an overload is one that ccxt knows for futures only
    451: ccxt.ExchangeNotAvailable,
    403: ccxt.ExchangeNotAvailable,
    401: ccxt.AuthenticationError,
    TIMEOUT: ccxt.RequestTimeout,
    RESET: ccxt.ExchangeError,  # an answer that breaks off
}


@pytest.mark.parametrize("fault", ERRORS)
def test_a_fault_is_the_error_that_ccxt_has_for_it_and_is_over_with_its_request(
    exchange: StandInExchange, fault: int | str
) -> None:
    async def fetch() -> int:
        async with client_of(ccxt.async_support.binance, exchange, timeout=300) as client:
            await client.load_markets()
            exchange.faults += [fault]
            with pytest.raises(ERRORS[fault]):
                await client.fetch_ohlcv("BTC/USDT", "1h")
            return len(await client.fetch_ohlcv("BTC/USDT", "1h"))

    assert asyncio.run(fetch()) == 500
    assert len(exchange.requests) == 2
    assert exchange.faults == []


@pytest.mark.parametrize("status", [429, 418])
def test_who_asks_too_often_is_told_how_long_to_wait(exchange: StandInExchange, status: int) -> None:
    exchange.faults += [status, Fault(status, retry_after=7)]
    assert [ask(exchange)[1]["Retry-After"] for _ in range(2)] == ["1", "7"]


def test_what_stands_before_the_exchange_answers_in_html(exchange: StandInExchange) -> None:
    exchange.faults += [502, PAGE]
    for expected in (502, 200):
        status, headers, body = ask(exchange)
        assert (status, headers.get_content_type()) == (expected, "text/html")
        assert body.startswith("<html>")


def test_an_answer_can_break_off(exchange: StandInExchange) -> None:
    exchange.faults += [TRUNCATED, RESET]
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(ask(exchange)[2])
    with pytest.raises(IncompleteRead):
        ask(exchange)


def test_rows_can_be_missing_repeated_shuffled_early_or_late(exchange: StandInExchange) -> None:
    start, limit = START + 100 * HOUR, 50
    wanted = [start + i * HOUR for i in range(limit)]

    def faulty(fault: Fault | str) -> list[int]:
        exchange.faults = [fault]
        return stamps_of(exchange, startTime=start, limit=limit)

    assert faulty(EMPTY) == []
    repeated = faulty(DUPLICATES)
    assert sorted(set(repeated)) == wanted
    assert len(repeated) > limit
    shuffled = faulty(SHUFFLED)
    assert sorted(shuffled) == wanted != shuffled
    assert shuffled == faulty(SHUFFLED)
    assert faulty(OVERLAP) == [start - 3 * HOUR, start - 2 * HOUR, start - HOUR, *wanted]
    assert faulty(Fault(OVERLAP, n_bars=1)) == [start - HOUR, *wanted]
    late = faulty(FUTURE)
    assert late[:-1] == wanted
    assert late[-1] > to_ms(NOW + timedelta(days=365))
    assert late[-1] % HOUR == 0


def test_a_stale_answer_is_the_one_of_some_bars_ago(exchange: StandInExchange) -> None:
    exchange.faults = [Fault(STALE, n_bars=5)]
    stale = rows_of(exchange, limit=10)
    exchange.now -= timedelta(hours=5)
    assert stale == rows_of(exchange, limit=10)
    exchange.now = CANDLES[TS][1200]  # where no bar is open
    exchange.faults = [STALE]
    stale = rows_of(exchange, limit=1)
    assert stale[0][0] == START + 1196 * HOUR
    assert as_frame(stale)["volume"][0] == pytest.approx(CANDLES["volume"][1196] / 2)


def test_garbage_is_a_null_and_a_word_where_numbers_belong(exchange: StandInExchange) -> None:
    exchange.faults = [GARBAGE]
    values = [value for row in rows_of(exchange, limit=9) for value in row[1:6]]
    assert [value for value in values if value is None or not value[0].isdigit()] == [None, "n/a"]


def test_every_fault_but_a_refusal_is_drawn_by_chaos_and_the_same_each_time() -> None:
    schedule = chaos(seed=3)
    assert {fault.kind for fault in schedule} == {OK, *TRANSIENT}
    assert schedule == chaos(seed=3) != chaos(seed=4)
    assert all(OK in (one.kind, next_one.kind) for one, next_one in pairwise(schedule))


def test_a_fault_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="'flood' is neither an HTTP status nor one of ok, reset"):
        Fault("flood")


def test_the_weight_limit_refuses_what_goes_beyond_until_the_window_has_passed(exchange: StandInExchange) -> None:
    exchange.meter.limit, exchange.meter.window_s = 5, 0.5
    exchange.faults = [500]
    answers = [ask(exchange), ask(exchange), ask(exchange, "ping"), ask(exchange), ask(exchange, "time")]
    assert [status for status, _, _ in answers] == [500, 200, 200, 429, 429]
    assert [answer[1]["X-MBX-USED-WEIGHT-1M"] for answer in answers] == ["2", "4", "5", "5", "5"]
    assert answers[3][1]["Retry-After"] == "1"
    assert exchange.meter.n_refused == 2
    time.sleep(0.6)
    assert ask(exchange)[0] == 200


def test_who_does_not_heed_the_weight_limit_is_banned(exchange: StandInExchange) -> None:
    exchange.meter.limit = 20
    assert ask(exchange, "exchangeInfo")[0] == 200
    answers = [ask(exchange) for _ in range(11)]
    assert [status for status, _, _ in answers] == [429] * 10 + [418]
    assert answers[-1][1]["Retry-After"] == "120"


def test_the_peak_of_a_client_is_the_most_weight_of_any_window() -> None:
    weighed = [(0.0, 20), (0.9, 2), (1.0, 2), (1.8, 2), (1.9, 2), (2.1, 2), (9.0, 1)]
    assert peak_weight(weighed, 1.0) == 24
    assert peak_weight(weighed[1:], 1.0) == 8
    assert peak_weight([], 1.0) == 0
    steps = [0.1 * i for i in range(100)]
    slow = max(sum(w for at, w in weighed if begin <= at <= begin + 1.0) for begin in steps)
    assert peak_weight(weighed, 1.0) == slow


def test_requests_that_wait_together_are_counted(exchange: StandInExchange) -> None:
    exchange.latency_s = 0.2

    async def fetch() -> None:
        async with client_of(ccxt.async_support.binance, exchange) as client:
            await client.load_markets()
            await asyncio.gather(*(client.fetch_ohlcv("BTC/USDT", "1h", since=START + i) for i in range(5)))

    asyncio.run(fetch())
    assert exchange.n_in_flight_max == 5


def test_a_request_that_is_never_answered_does_not_keep_the_server_from_stopping() -> None:
    with ThreadPoolExecutor() as pool:
        with StandInExchange(CANDLES, NOW, [TIMEOUT]) as exchange:
            waiting = pool.submit(ask, exchange)
            while not exchange.requests:
                time.sleep(0.01)
        with pytest.raises(OSError, match=r"closed connection|reset"):
            waiting.result()


def test_an_exchange_that_went_away_comes_back_at_its_address() -> None:
    with StandInExchange(CANDLES, NOW) as exchange:
        url = exchange.url
    with pytest.raises(URLError, match="refused"):
        ask(exchange)
    with exchange:
        assert exchange.url == url
        assert len(stamps_of(exchange)) == 500
        with pytest.raises(OSError, match="in use"), StandInExchange(CANDLES, NOW, port=exchange.port):
            pass


def test_funding_rates_come_in_pages_as_binance_tells_them() -> None:
    rates = derived_rates(CANDLES)
    with StandInExchange(CANDLES, NOW, funding={"BTC/USDT:USDT": rates}) as exchange:

        def told(**query: int) -> list[tuple[int, float]]:
            asked = {"symbol": "BTCUSDT", **query}
            with urlopen(f"{exchange.url}/fapi/v1/fundingRate?{urlencode(asked)}", timeout=5) as answer:
                return [(row["fundingTime"], float(row["fundingRate"])) for row in json.loads(answer.read())]

        settled = [(to_ms(at), rate) for at, rate in rates.rows() if at <= NOW]
        assert told(startTime=0, limit=1000) == settled
        assert told(startTime=settled[3][0], limit=5) == settled[3:8]
        assert told(startTime=settled[3][0] + 1, endTime=settled[9][0]) == settled[4:10]
        assert told(limit=5) == settled[-5:]
        assert told(startTime=settled[-1][0] + 1) == []
        with pytest.raises(HTTPError, match="400"):
            told(symbol="NOUSDT")  # type: ignore[arg-type]  # what a query may hold

        async def fetch() -> list[tuple[int, float]]:
            async with client_of(ccxt.async_support.binanceusdm, exchange) as client:
                client.options["fetchMarkets"] = {"types": ["linear"]}
                client.urls["api"]["fapiPublic"] = f"{exchange.url}/fapi/v1"
                rows = await client.fetch_funding_rate_history("BTC/USDT:USDT", since=settled[3][0], limit=5)
                return [(row["timestamp"], row["fundingRate"]) for row in rows]

        assert asyncio.run(fetch()) == settled[3:8]


def watched(exchange: StandInExchange, watch: Callable[[Any], Awaitable[None]], path: str = "/ws") -> None:
    async def connect() -> None:
        async with client_of(ccxt.pro.binance, exchange) as client:
            client.urls["api"]["ws"]["spot"] = exchange.ws_url + path
            await asyncio.wait_for(watch(client), timeout=10)

    asyncio.run(connect())


@pytest.mark.parametrize("path", ["/ws", "/stream/ws"])
def test_the_websocket_of_ccxt_sees_the_candle_close_as_it_is_fetched(exchange: StandInExchange, path: str) -> None:
    async def watch(client: Any) -> None:
        (half,) = await client.watch_ohlcv("BTC/USDT", "1h")
        assert [half] == await client.fetch_ohlcv("BTC/USDT", "1h", limit=1)
        exchange.advance(NOW + timedelta(hours=2))
        seen: dict[int, list[Any]] = {}
        while len(seen) < 3:
            seen |= {candle[0]: candle for candle in await client.watch_ohlcv("BTC/USDT", "1h")}
        candles = list(seen.values())
        assert candles == await client.fetch_ohlcv("BTC/USDT", "1h", since=half[0])
        assert as_frame(candles[:2]).equals(CANDLES[1200:1202])

    watched(exchange, watch, path)


def test_a_connection_that_is_cut_is_a_network_error_and_the_next_watch_is_a_new_one(exchange: StandInExchange) -> None:
    async def watch(client: Any) -> None:
        await client.watch_ohlcv("ETH/USDT", "4h")
        assert exchange.n_connections == 1
        exchange.drop_connections()
        with pytest.raises(ccxt.NetworkError):
            await client.watch_ohlcv("ETH/USDT", "4h")
        exchange.advance(NOW + timedelta(hours=4))
        (*_, last) = await client.watch_ohlcv("ETH/USDT", "4h")
        assert [last] == await client.fetch_ohlcv("ETH/USDT", "4h", limit=1)

    watched(exchange, watch)


def test_streams_speak_binances_dialect(exchange: StandInExchange) -> None:
    async def listen() -> None:
        async with ClientSession() as session, session.ws_connect(f"{exchange.ws_url}/ws") as socket:
            await socket.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1h", "no@kline_1h"], "id": 1})
            assert await socket.receive_json(timeout=5) == {"result": None, "id": 1}
            still_open = await socket.receive_json(timeout=5)
            exchange.advance(NOW + timedelta(hours=2))
            events = [still_open, *[await socket.receive_json(timeout=5) for _ in range(3)]]
            assert [event["k"]["x"] for event in events] == [False, True, True, False]
            assert [event["k"]["t"] // HOUR - START // HOUR for event in events] == [1200, 1200, 1201, 1202]
            kline = events[1]["k"]
            (row,) = rows_of(exchange, startTime=kline["t"], limit=1)
            assert [kline[key] for key in ("t", "o", "h", "l", "c", "v", "T")] == row[:7]
            await socket.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1h"], "id": 2})
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 3})
            await socket.send_str("what?")
            answers = [await socket.receive_json(timeout=5) for _ in range(3)]
            assert answers[:2] == [{"result": None, "id": 2}, {"result": ["no@kline_1h"], "id": 3}]
            assert answers[2]["error"]["code"] == 2
        address = f"{exchange.ws_url}/stream?streams=btcusdt@kline_1h/ethusdt@kline_1d"
        async with ClientSession() as session, session.ws_connect(address) as socket:
            events = [await socket.receive_json(timeout=5) for _ in range(2)]
            assert [event["stream"] for event in events] == ["btcusdt@kline_1h", "ethusdt@kline_1d"]
            assert [event["data"]["k"]["i"] for event in events] == ["1h", "1d"]

    asyncio.run(listen())


def program(*arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    command = [sys.executable, "-u", "-m", "tests.venue", "--port", "0", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, stdout=pipe, stderr=pipe)


def test_the_program_serves_the_sample_until_it_is_interrupted() -> None:
    process = program("--fault", "429", "--fault", "ok", "--fault", "empty", "--verbose")
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("export GATECAST_EXCHANGE_URL=").strip()
    statuses = []
    for _ in range(2):
        try:
            with urlopen(f"{url}/api/v3/klines?symbol=ETHUSDT&interval=1d&limit=3", timeout=5) as answer:
                statuses.append((answer.status, len(json.loads(answer.read()))))
        except HTTPError as error:
            statuses.append((error.code, 0))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert statuses == [(429, 0), (200, 3)]
    assert process.returncode == 0
    assert "BTC/USDT 1d, BTC/USDT 1h, BTC/USDT 4h, ETH/USDT 1d" in said
    assert "2023-12-31T23:30Z" in said
    assert "429 klines ETHUSDT 1d" in said
    assert "200 klines ETHUSDT 1d: ok, 3 rows" in said


def test_the_program_serves_files_and_lets_time_pass(tmp_path: Path) -> None:
    CANDLES.write_csv(tmp_path / "binance-SOL-USDT-1h.csv")
    CANDLES.write_parquet(tmp_path / "eth-usdt-1h.parquet")
    now = CANDLES[TS][5].isoformat()
    process = program(*map(str, sorted(tmp_path.iterdir())), "--now", now, "--speed", "7200")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("export GATECAST_EXCHANGE_URL=").strip()
        heights = {5}
        while len(heights) < 3:
            for symbol in ("SOLUSDT", "ETHUSDT"):
                with urlopen(f"{url}/api/v3/klines?symbol={symbol}&interval=1h", timeout=5) as answer:
                    heights.add(len(json.loads(answer.read())))
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()


def test_what_the_program_cannot_do_is_one_line_and_status_2(
    tmp_path: Path, exchange: StandInExchange, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("candles.csv", "BTC-USDT-1h.parquet"):
        (tmp_path / name).touch()
    for arguments, words in [
        (("--fault", "flood"), "neither an HTTP status nor one of"),
        (("--now", "noon"), "noon is not an ISO instant"),
        ((str(tmp_path / "candles.csv"),), "is not named after its market, such as BTC-USDT-1h.csv"),
        ((str(tmp_path / "BTC-USDT-1h.parquet"),), "cannot be read"),
        (("nowhere.csv",), "does not exist"),
        (("--port", str(exchange.port)), "name another with --port"),
    ]:
        monkeypatch.setattr(sys, "argv", ["venue", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert words in said
        assert said.count("\n") == 1
