"""What features cost: against polars' own reading and writing, against pandas libraries, in memory, and for a new bar.

Each measured process is fresh and has two cores; files are in the page cache as far as it holds them. The jobs are in
`feature_jobs`, the indicators of pandas in `feature_peers`. `--small` shrinks everything, to see that the bench works.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from gatecast.market.candles import MISSING, VALUES
from tests.benches.feature_jobs import REPOSITORY, random_walk

SMALL: Final = "--small" in sys.argv
N_TIMES = 1 if SMALL else 5
N_CORES = 2
N_MARKETS, N_BARS = (3, 20_000) if SMALL else (10, 500_000)
N_MANY, N_YEAR = (5, 20_000) if SMALL else (50, 525_600)
N_ALONE = 20_000 if SMALL else 1_000_000
N_NEWEST = 10 if SMALL else 100
PEERS = REPOSITORY / ".gatecast" / "bench" / "peers" / "bin" / "python"
SLOW_PEERS = ("atr_ratio", "skew")  # theirs loop over rows in Python, or over windows in NumPy
COPY_REACH, PEERS_REACH, MEMORY_REACH_MB, ROW_REACH, NEWEST_REACH_MS = 2.5, 20.0, 3000.0, 1.2, 50.0
Row = dict[str, Any]


def fresh(*command: str) -> dict[str, Any]:
    """What a process of its own prints."""
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    answer = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise SystemExit(answer.stderr)
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def job(name: str, *arguments: object) -> dict[str, Any]:
    """A job of `feature_jobs` in a process of its own."""
    return fresh(sys.executable, "-m", "tests.benches.feature_jobs", name, *map(str, arguments))


def copy_rows(folder: Path) -> list[Row]:
    """Features of some markets against reading and writing alone, in turn, and whether two outputs are the same."""
    source, built, copied = folder / "candles.parquet", folder / "features.parquet", folder / "copy.parquet"
    job("write_input", source, N_MARKETS, N_BARS)
    ours, polars, sums = [], [], set()
    for _ in range(N_TIMES):
        ours.append(job("build", source, built, N_MARKETS))
        polars.append(job("copy", source, built, copied)["seconds"])
        sums.add(sha256(built))
        built.unlink()  # or the next run would first have to give its pages back
        copied.unlink()
    seconds, theirs = statistics.median(each["seconds"] for each in ours), statistics.median(polars)
    n_rows = N_MARKETS * N_BARS
    name = f"{n_rows / 1e6:g} million rows, {ours[0]['n_features']} features"
    return [
        row(name, round(seconds, 2), "s"),
        row("reading and writing the same by polars alone", round(theirs, 2), "s"),
        at_most("features over polars alone", round(seconds / theirs, 2), "", COPY_REACH),
        row(f"{name}, peak", round(max(each["peak_mb"] for each in ours)), "MB"),
        at_most(f"different outputs of {N_TIMES} runs", len(sums), "", 1),
    ]


def peer_rows(folder: Path) -> list[Row]:
    """The indicators that pandas libraries have as well, for one market in memory."""
    if not PEERS.exists():
        raise SystemExit("the libraries to compare with are not there: run `make bench-peers`")
    archive = folder / "market.npz"
    market = random_walk(0, N_ALONE).filter(~pl.col(MISSING))
    np.savez(archive, **{name: market[name].to_numpy() for name in VALUES})  # type: ignore[arg-type] # arrays by name
    theirs = fresh(str(PEERS), str(Path(__file__).with_name("feature_peers.py")), str(archive))
    ours = job("alone", archive, *theirs)
    quick = [name for name in theirs if name not in SLOW_PEERS]
    ours_quick = job("alone", archive, *quick)
    n_features = len(", ".join(theirs).split(", "))
    all_of_them, name = sum(theirs.values()), f"{n_features} features of {N_ALONE / 1e6:g} million rows"
    return [
        row(f"{name}, in memory", round(ours["together"], 3), "s"),
        row(f"{name}, by pandas libraries", round(all_of_them, 2), "s"),
        at_least("times faster than pandas libraries", round(all_of_them / ours["together"], 1), "", PEERS_REACH),
        row(
            f"the same without {' and '.join(SLOW_PEERS)}",
            round(sum(theirs[name] for name in quick) / ours_quick["together"], 1),
            "",
        ),
        *(row(f"{each}: ours, with what all need", round(1000 * ours[each], 1), "ms") for each in theirs),
        *(row(f"{each}: theirs", round(1000 * theirs[each], 1), "ms") for each in theirs),
    ]


def memory_rows(folder: Path) -> list[Row]:
    """Memory and time a row of many markets, right after a run of the fewer ones."""
    few, many, built = folder / "candles.parquet", folder / "many.parquet", folder / "features.parquet"
    job("write_input", few, N_MARKETS, N_BARS)
    job("write_input", many, N_MANY, N_YEAR)
    before = job("build", few, built, N_MARKETS)
    built.unlink()
    after = job("build", many, built, N_MANY)
    proof = job("prove_rows", many, built, N_MANY)
    n_rows = N_MANY * N_YEAR
    longer = (after["seconds"] / n_rows) / (before["seconds"] / (N_MARKETS * N_BARS))
    name = f"{N_MANY} markets, {n_rows / 1e6:.2f} million rows"
    return [
        row(name, round(after["seconds"], 1), "s"),
        at_most(f"{name}, peak", round(after["peak_mb"]), "MB", MEMORY_REACH_MB),
        row(f"{name}, leak proof and parity", round(proof["seconds"], 1), "s"),
        at_most(f"{name}, leak proof and parity, peak", round(proof["peak_mb"]), "MB", MEMORY_REACH_MB),
        at_most(f"{name}, time a row over that of {N_MARKETS} markets", round(longer, 2), "", ROW_REACH),
    ]


def newest_rows(_: Path) -> list[Row]:
    """One new bar of many markets."""
    milliseconds = 1000 * job("newest", N_NEWEST)["seconds"]
    return [at_most(f"one new bar of {N_NEWEST} markets", round(milliseconds, 1), "ms", NEWEST_REACH_MS)]


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def row(name: str, value: float, unit: str) -> Row:
    """A row that has nothing to reach."""
    return {"name": name, "value": value, "unit": unit, "reach": None, "ok": None}


def at_most(name: str, value: float, unit: str, reach: float) -> Row:
    """A row whose value may not be greater than its reach."""
    return {**row(name, value, unit), "reach": reach, "ok": value <= reach}


def at_least(name: str, value: float, unit: str, reach: float) -> Row:
    """A row whose value may not be less than its reach."""
    return {**row(name, value, unit), "reach": reach, "ok": value >= reach}


def publish(bench: str, rows: Iterable[Row]) -> None:
    """Print each row, its value with four digits, as soon as it is there, and write .gatecast/bench/<bench>.json."""
    found: list[Row] = []
    for each in rows:
        each["value"] = float(f"{each['value']:.4g}")
        sys.stdout.write(
            f"{each['name']:<62} {each['value']:>9} {each['unit']:<3} reach {each['reach']} ok {each['ok']}\n"
        )
        sys.stdout.flush()
        found.append(each)
    target = REPOSITORY / ".gatecast" / "bench" / f"{bench}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print a table and write .gatecast/bench/features.json."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])  # what is started from here has them, too
    publish("features", _measured())


def _measured() -> Iterator[Row]:
    for measure in (newest_rows, peer_rows, copy_rows, memory_rows):
        with tempfile.TemporaryDirectory() as folder:
            yield from measure(Path(folder))


if __name__ == "__main__":
    main()
