"""What `tests.benches.features` measures, a job a process: each prints its figures as JSON."""

import gc
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from gatecast.config_parsing import parse_config
from gatecast.features.build import build_features, feature_rows, newest_features
from gatecast.features.catalogue import catalogue, look_back, warm_up
from gatecast.features.feature import Recipe
from gatecast.features.parity import check_parity
from gatecast.features.prover import STRETCH_WARM_UPS, prove
from gatecast.features.table import feature_schema, market_reader, write_rows
from gatecast.market.candles import BAR, MISSING, OUTLIER, SYMBOL, TS_TYPE, VALUES
from gatecast.market.publications.table import PUBLICATION_SCHEMA

REPOSITORY = Path(__file__).resolve().parents[2]
N_TIMES, N_CALLS, N_WARM_CALLS = 5, 25, 5
MINUTE_MS = 60_000
FIRST_BAR = 25_000_000  # in 2017
NOTHING_PUBLISHED = pl.DataFrame(schema=PUBLICATION_SCHEMA)
Figures = dict[str, Any]


def symbols(n_markets: int) -> tuple[str, ...]:
    """Names of so many markets, sorted."""
    return tuple(f"M{number:03}/USDT" for number in range(n_markets))


def shipped_recipe(n_markets: int, *use: str) -> Recipe:
    """The shipped spans, with all features or those named."""
    path = REPOSITORY / "conf" / "params.yaml"
    spans = parse_config(YAML(typ="safe").load(path), str(path)).features
    return Recipe(spans.model_copy(update={"use": use or ("*",)}), symbols(n_markets), "1m")


def random_walk(number: int, n_bars: int) -> pl.DataFrame:
    """The clean grid of one market: minutes of a random walk, one in a thousand missing."""
    generator = np.random.default_rng(number)
    close = 100 * np.exp(np.cumsum(0.001 * generator.standard_normal(n_bars)))
    opened = np.concatenate([[100.0], close[:-1]])
    wick = np.exp(np.abs(generator.standard_normal((2, n_bars))) * 0.0005)
    bars = np.arange(FIRST_BAR, FIRST_BAR + n_bars)
    frame = pl.DataFrame(
        {
            SYMBOL: pl.repeat(symbols(number + 1)[number], n_bars, eager=True),
            "ts": pl.Series(bars * MINUTE_MS).cast(TS_TYPE),
            BAR: bars,
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": generator.lognormal(2, 1, n_bars),
            MISSING: generator.random(n_bars) < 0.001,
            OUTLIER: np.zeros(n_bars, dtype=bool),
        }
    )
    return frame.with_columns(pl.when(~pl.col(MISSING)).then(pl.col(name)).alias(name) for name in VALUES)


def write_input(path: str, n_markets: str, n_bars: str) -> Figures:
    """Candles of so many markets, a market at a time."""

    def markets() -> Iterator[pl.DataFrame]:
        return (random_walk(number, int(n_bars)) for number in range(int(n_markets)))

    write_rows(Path(path), markets, random_walk(0, 1).schema)
    return {}


def build(source: str, target: str, n_markets: str) -> Figures:
    """Candles to features, from Parquet to Parquet, as the stage does; targets, proofs and suites are left out."""
    recipe, path = shipped_recipe(int(n_markets)), Path(target)
    read = market_reader(Path(source))
    seconds = timed(
        lambda: write_rows(
            path, lambda: feature_rows(read, recipe.symbols, NOTHING_PUBLISHED, recipe), feature_schema(recipe, ())
        )
    )
    return {"seconds": seconds, "peak_mb": peak_mb(), "n_features": len(catalogue(recipe))}


def prove_rows(source: str, built: str, n_markets: str) -> Figures:
    """The leak proof and the parity of what `build` has written."""
    recipe = shipped_recipe(int(n_markets))
    n_cuts, candles, rows = recipe.spans.n_leak_cuts, pl.scan_parquet(source), pl.scan_parquet(built)

    def build_again(some: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        return build_features(some, publications, recipe)

    def prove_all() -> None:
        minute, reach = timedelta(milliseconds=MINUTE_MS), STRETCH_WARM_UPS * warm_up(recipe)
        proof = prove(candles, NOTHING_PUBLISHED, build_again, (), minute, n_cuts, reach)
        parity = check_parity(candles, rows, NOTHING_PUBLISHED, recipe, n_cuts)
        assert not proof.breaches, proof.breaches[0]
        assert not parity.breaches, parity.breaches[0]

    return {"seconds": timed(prove_all), "peak_mb": peak_mb()}


def copy(source: str, built: str, target: str) -> Figures:
    """What polars alone needs to read that input and to write that output."""
    reading = timed(lambda: pl.read_parquet(source))
    rows = pl.read_parquet(built)
    return {"seconds": reading + timed(lambda: rows.write_parquet(target))}


def alone(archive: str, *names: str) -> Figures:
    """Features of one market in memory: median seconds of all together, and of each by itself with what all need."""
    with np.load(archive) as columns:
        values = {name: columns[name] for name in VALUES}
    n_bars = len(values["close"])
    grid = random_walk(0, n_bars).with_columns(pl.Series(name, column) for name, column in values.items())
    candles = grid.with_columns(pl.lit(value=False).alias(MISSING))

    def seconds(*use: str) -> float:
        recipe = shipped_recipe(1, *use)
        build_features(candles, NOTHING_PUBLISHED, recipe)
        gc.collect()
        return statistics.median(
            timed(lambda: build_features(candles, NOTHING_PUBLISHED, recipe)) for _ in range(N_TIMES)
        )

    return {"together": seconds(*(part for name in names for part in name.split(", ")))} | {
        name: seconds(*name.split(", ")) for name in names
    }


def newest(n_markets: str) -> Figures:
    """Median seconds until the features of one new bar of every market are there, from candles in memory."""
    recipe = shipped_recipe(int(n_markets))
    n_bars = look_back(recipe) + 50  # a few are missing
    candles = pl.concat([random_walk(number, n_bars) for number in range(int(n_markets))], rechunk=True)

    def call() -> pl.DataFrame:
        return newest_features(candles, NOTHING_PUBLISHED, recipe, 1)

    for _ in range(N_WARM_CALLS):
        rows = call()
    times = [timed(call) for _ in range(N_CALLS)]
    return {"seconds": statistics.median(times), "n_rows": len(rows), "n_candles": len(candles)}


def timed(compute: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    # not ru_maxrss: that begins with the size of the process which started this one
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert peak is not None
    return int(peak[1]) / 1024


JOBS: dict[str, Callable[..., Figures]] = {
    job.__name__: job for job in (write_input, build, prove_rows, copy, alone, newest)
}


if __name__ == "__main__":
    assert pl.thread_pool_size() == len(os.sched_getaffinity(0))
    sys.stdout.write(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
