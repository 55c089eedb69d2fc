"""What validation costs: both suites on large tables, each run in a process of its own.

Candles: from the clean Parquet file to the findings and the Data Docs, 10 markets of 500,000 bars, 1 % of them missing,
some of them bad. Features: from the Parquet file, a market at a time, to findings and Data Docs, 1,000,000 rows of all
features that ten markets have. What the libraries need to be imported is told by itself.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from gatecast.config import Config
from gatecast.config_parsing import parse_config
from gatecast.features.build import feature_rows
from gatecast.features.feature import Recipe
from gatecast.features.rules import feature_facts, feature_suites
from gatecast.features.table import feature_schema, write_rows
from gatecast.features.targets import build_targets
from gatecast.market.candles import MISSING, SYMBOL, TS, VALUES
from gatecast.market.publications.table import PUBLICATION_SCHEMA
from gatecast.market.quality import check, load
from gatecast.market.rules import candle_suites

REPOSITORY = Path(__file__).resolve().parents[2]
N_RUNS = 3
N_MARKETS, N_BARS = 10, 500_000
N_FEATURE_BARS = 100_000
FIRST_BAR = 420_000
BAD_ROWS = (1000, 100_000, 499_000)  # of each market: high below open, a slipped decimal point, a negative volume
REACH = {"candles": 8.0, "candles, peak memory": 2500.0}
COUNTS = {"quarantined": 40, "duplicates": 0, "filler": 100}


def market(number: int, n_bars: int) -> pl.DataFrame:
    """The clean grid of one market: a random walk of hours with holes."""
    generator = np.random.default_rng(number)
    close = 100 * np.exp(np.cumsum(0.004 * generator.standard_normal(n_bars)))
    opened = np.concatenate([[100.0], close[:-1]])
    wick = np.exp(np.abs(generator.standard_normal((2, n_bars))) * 0.002)
    bars = np.arange(FIRST_BAR, FIRST_BAR + n_bars)
    missing = pl.Series(generator.random(n_bars) < 0.01)
    frame = pl.DataFrame(
        {
            SYMBOL: [f"M{number}/USDT"] * n_bars,
            TS: pl.Series(bars * 3_600_000).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            "bar": bars,
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": generator.random(n_bars) * 10,
            MISSING: missing,
            "outlier": np.zeros(n_bars, dtype=bool),
        }
    )
    return frame.with_columns(pl.when(~pl.col(MISSING)).then(pl.col(name)).alias(name) for name in VALUES)


def spoiled(frame: pl.DataFrame) -> pl.DataFrame:
    """A few bad rows in every market."""
    row = pl.int_range(pl.len()).over(SYMBOL)
    order, slip, negative = (row == bad for bad in BAD_ROWS)
    return frame.with_columns(
        high=pl.when(order).then(pl.col("low") * 0.9).when(slip).then(pl.col("high") / 100).otherwise("high"),
        low=pl.when(slip).then(pl.col("low") / 100).otherwise("low"),
        open=pl.when(slip).then(pl.col("open") / 100).otherwise("open"),
        close=pl.when(slip).then(pl.col("close") / 100).otherwise("close"),
        volume=pl.when(negative).then(-pl.col("volume")).otherwise("volume"),
    )


def counts_of(frame: pl.DataFrame) -> dict[str, Any]:
    """What `clean` would have counted."""
    counts: dict[str, Any] = {}
    months = frame.group_by(SYMBOL, pl.col(TS).dt.strftime("%Y-%m").alias("month"), maintain_order=True).agg(
        bars=pl.len(), missing=pl.col(MISSING).sum()
    )
    for (symbol,), rows in months.partition_by(SYMBOL, as_dict=True).items():
        n_missing, n_bars = int(rows["missing"].sum()), int(rows["bars"].sum())
        n_clean = n_bars - n_missing
        by_month = {
            row["month"]: {**row, "quarantined": 0, "raw": row["bars"] - row["missing"]} for row in rows.to_dicts()
        }
        raw = n_clean + COUNTS["quarantined"]
        counts[str(symbol)] = {**COUNTS, "raw": raw, "clean": n_clean, "missing": n_missing, "by_month": by_month}
    return counts


def measured(folder: Path, area: str) -> dict[str, float]:
    """Seconds and peak megabytes of one suite, in this process."""
    config: Config = parse_config(YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml"), "conf/params.yaml")
    start = time.perf_counter()
    load()
    loaded = time.perf_counter()
    if area == "candles":
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        suites = candle_suites(pl.read_parquet(folder / "candles.parquet"), counts, config.validate_)
    else:
        recipe, horizons, table = recipe_of(config), config.model.horizons, pl.scan_parquet(folder / "features.parquet")
        markets = (table.filter(pl.col(SYMBOL) == symbol).collect() for symbol in recipe.symbols)
        facts = (feature_facts(rows, recipe, horizons) for rows in markets)
        suites = feature_suites(facts, recipe, horizons, config.validate_)
    findings = check(suites, folder / area, area)
    text = json.dumps([str(each) for each in findings if not each.success])
    (folder / f"{area}.json").write_text(text, encoding="utf-8")
    seconds = time.perf_counter() - loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "peak_mb": peak, "import_s": loaded - start, "n_broken": len(json.loads(text))}


def in_fresh_process(folder: Path, area: str) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, str(folder), area]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    result: dict[str, float] = json.loads(answer.stdout)
    return result


def recipe_of(config: Config) -> Recipe:
    """Every feature of candles, of all the markets."""
    spans = config.features.model_copy(update={"use": ("*",)})
    return Recipe(spans, tuple(f"M{number}/USDT" for number in range(N_MARKETS)), "1h")


def write_tables(folder: Path) -> None:
    """Candles, their counts and features, as Parquet files."""
    candles = spoiled(pl.concat(market(number, N_BARS) for number in range(N_MARKETS)))
    candles.write_parquet(folder / "candles.parquet")
    (folder / "counts.json").write_text(json.dumps(counts_of(candles)), encoding="utf-8")
    config = parse_config(YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml"), "conf/params.yaml")
    recipe, horizons = recipe_of(config), config.model.horizons
    small = {symbol: market(number, N_FEATURE_BARS) for number, symbol in enumerate(recipe.symbols)}
    none = pl.DataFrame(schema=PUBLICATION_SCHEMA)

    def markets() -> Iterator[pl.DataFrame]:
        for rows in feature_rows(small.__getitem__, recipe.symbols, none, recipe):
            yield rows.hstack(build_targets(rows, horizons))

    write_rows(folder / "features.parquet", markets, feature_schema(recipe, horizons))


def main() -> None:
    """Measure, print a table and write .gatecast/bench/validate.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder)
        runs = {area: [in_fresh_process(folder, area) for _ in range(N_RUNS)] for area in ("candles", "features")}
    rows: list[dict[str, Any]] = []
    for area, results in runs.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        rows += [
            {"name": area, "value": round(middle["seconds"], 2), "unit": "s"},
            {"name": f"{area}, peak memory", "value": round(middle["peak_mb"]), "unit": "MB"},
            {"name": f"{area}, rules broken", "value": int(middle["n_broken"]), "unit": ""},
        ]
    imports = statistics.median(result["import_s"] for result in runs["candles"])
    rows.append({"name": "import of the library", "value": round(imports, 2), "unit": "s"})
    for row in rows:
        reach = REACH.get(row["name"])
        row |= {"reach": reach, "ok": None if reach is None else row["value"] <= reach}
        sys.stdout.write(f"{row['name']:<32} {row['value']:>9} {row['unit']:<3} reach {row['reach']} ok {row['ok']}\n")
    target = REPOSITORY / ".gatecast" / "bench" / "validate.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measured(Path(sys.argv[1]), sys.argv[2])))
    else:
        main()
