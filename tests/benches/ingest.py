"""What ingest costs: merging into a large store, the rate of a fetch, and what a resumed fetch asks for.

Merges run each in a fresh process on two cores, into a store of hard links to a prepared one (files are replaced, never
changed), in the page cache. The fetch runs against the stand-in exchange, whose stamps and weights tell the rate: ccxt
has a bucket of one token, and the request that empties it may overdraw it.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any

import ccxt
import numpy as np
import polars as pl
from ruamel.yaml import YAML

from gatecast.config_ingest import IngestConfig
from gatecast.config_parsing import parse_config
from gatecast.market.candles import TS, VOLUME, Market
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.fetch import fetch
from gatecast.market.store import Store, merge_candles, write_candles
from tests.venue import StandInExchange, peak_weight
from tests.venue.weights import BINANCE_LIMIT, WEIGHTS

REPOSITORY = Path(__file__).resolve().parents[2]
MINUTES = Market("binance", "BTC/USDT", "1m")
N_STORED, N_MERGED = 10_000_000, 1_000_000
START, HOUR = datetime(2005, 1, 1, tzinfo=UTC), timedelta(hours=1)
N_TIMES = 5
N_CORES = 2
MERGE_REACH_S, MEMORY_REACH_MB = 3.0, 2048.0
LATENCY_S = 0.05
PAGE_LIMIT = 200  # so that the rate limit binds for longer than ten seconds
SHARE_REACH = 0.9
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "LTC/USDT")
Row = dict[str, Any]


def walk(n_bars: int, every: timedelta, seed: int = 0) -> pl.DataFrame:
    """A random walk of candles in cents."""
    generator = np.random.default_rng(seed)
    close = np.round(30_000 * np.exp(np.cumsum(generator.normal(0, 3e-4, n_bars))), 2)
    opened = np.concatenate([close[:1], close[:-1]])
    wicks = np.round(np.abs(generator.normal(0, 5, (2, n_bars))), 2)
    stamps = pl.datetime_range(START, START + every * (n_bars - 1), every, time_unit="ms", eager=True)
    columns = {
        "open": opened,
        "high": np.round(np.maximum(opened, close) + wicks[0], 2),
        "low": np.round(np.minimum(opened, close) - wicks[1], 2),
        "close": close,
        VOLUME: np.round(generator.lognormal(2, 1, n_bars), 5),
    }
    return pl.DataFrame({TS: stamps, **columns})


def merge_cases() -> list[tuple[pl.DataFrame, dict[str, pl.DataFrame]]]:
    """What is stored, and by case what is merged into it."""
    candles = walk(N_STORED + N_MERGED, timedelta(minutes=1))
    stored = candles.head(N_STORED)
    revised = stored.gather_every(N_STORED // N_MERGED).with_columns(pl.col(VOLUME) + 1)
    scattered = np.arange(len(candles)) % (len(candles) // N_MERGED) == 1
    return [
        (stored, {"at the end": candles.tail(N_MERGED), "as revisions": revised}),
        (candles.filter(~scattered), {"scattered over all months": candles.filter(scattered)}),
    ]


def merged(batch: Path, store: Store) -> None:
    """Merge in this process, and print seconds, peak megabytes and counts."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])
    candles = pl.read_parquet(batch)
    start = time.perf_counter()
    counts = merge_candles(store, MINUTES, candles)
    seconds = time.perf_counter() - start
    # not ru_maxrss: that begins with the size of the process which started this one
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert peak is not None
    print(json.dumps([seconds, int(peak[1]) / 1024, counts.n_new, counts.n_revised]))  # noqa: T201 - read by the parent


def merge_rows(folder: Path) -> list[Row]:
    """Seconds and peak of each case."""
    rows: list[Row] = []
    for stored, batches in merge_cases():
        write_candles(folder / "prepared", MINUTES, stored)
        for case, candles in batches.items():
            rows += merge_case(folder, case, candles)
        shutil.rmtree(folder / "prepared")
    return rows


def merge_case(folder: Path, case: str, candles: pl.DataFrame) -> list[Row]:
    """Median seconds and largest peak of a few merges into the prepared store."""
    store, batch = Store(folder / "candles", folder / "ledger"), folder / "batch.parquet"
    candles.write_parquet(batch)
    command = [sys.executable, "-m", "tests.benches.ingest", *map(str, (batch, store.candles, store.ledger))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    seconds, peaks = [], []
    for _ in range(N_TIMES):
        shutil.copytree(folder / "prepared", store.candles, copy_function=os.link)
        answer = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        took, peak_mb, n_new, n_revised = json.loads(answer.stdout)
        if max(n_new, n_revised) != N_MERGED:
            raise SystemExit(f"a merge {case} counted {n_new} new and {n_revised} revised, where {N_MERGED} came in")
        seconds.append(took)
        peaks.append(peak_mb)
        for each in (store.candles, store.ledger):
            shutil.rmtree(each)
    name = f"merge 1 into 10 million {case}"
    return [
        at_most(name, round(statistics.median(seconds), 2), "s", MERGE_REACH_S),
        at_most(f"{name}, peak", round(max(peaks)), "MB", MEMORY_REACH_MB),
    ]


def ingest_config(**changed: Any) -> IngestConfig:
    """The shipped settings, for an exchange."""
    path = REPOSITORY / "conf" / "params.yaml"
    shipped = parse_config(YAML(typ="safe").load(path), str(path)).ingest
    return shipped.model_copy(update={"source": "exchange", **changed})


def serving(markets: list[Market], n_bars: int, **options: Any) -> StandInExchange:
    """The stand-in exchange with hourly candles up to now, the last one half built."""
    candles = {(each.symbol, each.timeframe): walk(n_bars, HOUR, seed) for seed, each in enumerate(markets)}
    return StandInExchange(candles, START + HOUR * (n_bars - 0.5), **options)


def fetched(config: IngestConfig, markets: list[Market], exchange: StandInExchange, store: Store) -> None:
    """Fetch, and see that the store is as the exchange."""
    os.environ[URL_VARIABLE] = exchange.url
    fetch(config, markets, store, lambda _: None)
    for market in markets:
        stored = pl.read_parquet(store.candles / market.folder / "*.parquet").sort(TS)
        if not stored.equals(exchange.truth(market.symbol, market.timeframe)):
            raise SystemExit(f"the store of {market} is not what the exchange has")


def rate_rows(name: str, symbols: tuple[str, ...], n_bars: int, folder: Path) -> list[Row]:
    """Share of the allowed rate that a whole fetch reaches, and its peak."""
    markets = [Market("binance", symbol, "1h") for symbol in symbols]
    per_s = WEIGHTS["klines"] / ccxt_seconds_a_request()
    with serving(markets, n_bars, latency_s=LATENCY_S, weight_limit=BINANCE_LIMIT) as exchange:
        start = time.monotonic()
        fetched(ingest_config(page_limit=PAGE_LIMIT), markets, exchange, Store(folder / "candles", folder / "ledger"))
        seconds = time.monotonic() - start
        weighed, n_refused = exchange.meter.weighed, exchange.meter.n_refused
    burst = WEIGHTS["klines"] / klines_cost() + WEIGHTS["klines"]
    total, lasted = sum(weight for _, weight in weighed), weighed[-1][0] - weighed[0][0]
    share = len(exchange.arrivals) * ccxt_seconds_a_request() / seconds
    return [
        at_least(
            f"{name}: {len(exchange.arrivals)} requests, share of the allowed rate", round(share, 3), "", SHARE_REACH
        ),
        at_most(f"{name}: peak weight in any second", peak_weight(weighed, 1.0), "", round(per_s + burst)),
        at_most(f"{name}: weight of the whole run", total, "", round(per_s * lasted + burst)),
        at_most(f"{name}: requests refused as too many", n_refused, "", 0),
    ]


def klines_cost() -> float:
    """Tokens that ccxt takes for a request for candles."""
    return float(ccxt.binance().api["public"]["get"]["klines"]["cost"])


def ccxt_seconds_a_request() -> float:
    """Seconds that ccxt's rate limit wants between two requests for candles, in the long run."""
    return float(ccxt.binance().rateLimit) / 1000 * klines_cost()


def resume_rows(folder: Path) -> list[Row]:
    """Requests of a fetch beyond those that what is missing needs, for each market."""
    markets = [Market("binance", symbol, "1h") for symbol in SYMBOLS[:2]]
    config, store = ingest_config(), Store(folder / "candles", folder / "ledger")
    rows: list[Row] = []
    with serving(markets, 20_000) as exchange:
        end, exchange.now = exchange.now, exchange.now - 2500 * HOUR
        fetched(config, markets, exchange, store)

        def lose_a_month() -> None:
            for market in markets:
                (store.candles / market.folder / "2006-05.parquet").unlink()

        cases: dict[str, tuple[int, Callable[[], None]]] = {
            "nothing is new": (0, lambda: None),
            "2500 candles are new": (2500, lambda: exchange.advance(end)),
            "a month is lost": (31 * 24, lose_a_month),
        }
        for case, (n_missing, change) in cases.items():
            change()
            exchange.requests.clear()
            fetched(config, markets, exchange, store)
            more = len(exchange.requests) / len(markets) - ceil(n_missing / config.page_limit)
            rows.append(at_most(f"resume, {case}: requests a market beyond the needed", more, "", 1))
    return rows


def at_most(name: str, value: float, unit: str, reach: float) -> Row:
    """A row whose value may not be greater than its reach."""
    return {"name": name, "value": value, "unit": unit, "reach": reach, "ok": value <= reach}


def at_least(name: str, value: float, unit: str, reach: float) -> Row:
    """A row whose value may not be less than its reach."""
    return {**at_most(name, value, unit, reach), "ok": value >= reach}


def main() -> None:
    """Measure, print a table and write .gatecast/bench/ingest.json."""
    rows: list[Row] = []
    measures: list[Callable[[Path], list[Row]]] = [
        merge_rows,
        lambda folder: rate_rows("four markets", SYMBOLS, 35_000, folder),
        lambda folder: rate_rows("one market", SYMBOLS[:1], 120_000, folder),
        resume_rows,
    ]
    for measure in measures:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder))
    for row in rows:
        sys.stdout.write(f"{row['name']:<62} {row['value']:>9} {row['unit']:<3} reach {row['reach']} ok {row['ok']}\n")
    target = REPOSITORY / ".gatecast" / "bench" / "ingest.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        merged(Path(sys.argv[1]), Store(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        main()
