"""From files through `ingest` and `clean`: no row is lost on the way; a second venue is cleaned beside the first."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.market.candles import SYMBOL, TS, Market
from gatecast.market.snapshot import read_snapshot
from gatecast.market.store import read_candles
from gatecast.params import configure, read_config
from gatecast.steps import clean, ingest
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.conftest import random_candles

OWN, REFERENCE = Market("binance", "BTC/USDT", "1h"), Market("coinbase", "BTC/USD", "1h")
FILES = ("ingest.source=files", "ingest.files=in/{exchange}-{symbol}-*.csv")
SECOND = ("ingest.reference_exchange=coinbase", "ingest.reference_symbols=[BTC/USD]")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    copy_workspace(tmp_path)
    (tmp_path / "in").mkdir()
    return Workspace(tmp_path.resolve())


def write(workspace: Workspace, market: Market, part: int, rows: pl.DataFrame) -> None:
    stamps = pl.col(TS).dt.epoch("ms")
    rows.with_columns(stamps).write_csv(workspace.root / "in" / f"{market.exchange}-{market.slug}-{part}.csv")


def run(workspace: Workspace, *settings: str) -> None:
    configure(workspace, None, [*FILES, *settings])
    ingest.run(workspace, read_config(workspace), lambda _: None)
    clean.run(workspace, settings=read_config(workspace).clean)


def dirty(rows: pl.DataFrame) -> pl.DataFrame:
    """Out of order, with a hole, copies, other values, impossible rows and stamps off the grid."""
    off = rows[7].with_columns(pl.col(TS) + timedelta(minutes=28))
    other, negative = rows[20].with_columns(volume=pl.lit(0.5)), rows[30].with_columns(low=pl.lit(-1.0))
    return pl.concat([rows[200:], rows[:100], rows[110:200], rows[50:60], off, other, negative])


def test_every_row_of_the_files_is_accounted_for(workspace: Workspace) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = random_candles(2500, start=now - timedelta(hours=2495))
    files = [dirty(rows[:1500]), rows[1490:]]  # they overlap, and the last five bars are still to come
    for part, each in enumerate(files):
        write(workspace, OWN, part, each)
    run(workspace)
    frozen = read_candles(workspace.raw, OWN)
    assert frozen.sort(pl.all()).equals(pl.concat(files).sort(pl.all()))
    counts = json.loads(workspace.clean_counts.read_text())["markets"]["BTC/USDT"]
    assert counts["raw"] == len(frozen) == counts["clean"] + counts["quarantined"] + counts["duplicates"]
    assert counts["reasons"] == {
        "candle is in the future": 5,
        "duplicate with other values": 1,
        "open time is off the grid": 1,
        "price is not positive": 1,
    }
    assert (counts["duplicates"], counts["missing"]) == (20, 10)
    assert read_snapshot(workspace.raw).end_at == now
    assert sum(month["raw"] for month in counts["by_month"].values()) == len(frozen)
    assert not workspace.clean_reference.exists()


def test_a_second_venue_is_cleaned_under_the_symbol_it_is_held_against_and_counts_for_nothing(
    workspace: Workspace,
) -> None:
    own, other = random_candles(2500), random_candles(2400, seed=1)
    write(workspace, OWN, 0, own)
    write(workspace, REFERENCE, 0, dirty(other))
    run(workspace, *SECOND)
    candles, reference = pl.read_parquet(workspace.clean), pl.read_parquet(workspace.clean_reference)
    assert reference.schema == candles.schema
    assert set(reference[SYMBOL]) == {"BTC/USDT"}
    assert reference["close"].null_count() == reference["missing"].sum() == 10
    pairs = candles.join(reference, on=[SYMBOL, TS])
    assert len(pairs) == 2400
    counts = json.loads(workspace.clean_counts.read_text())["markets"]
    assert (list(counts), counts["BTC/USDT"]["quarantined"]) == (["BTC/USDT"], 0)
    assert pl.read_parquet(workspace.quarantine).is_empty()
    run(workspace, "ingest.reference_exchange=null", "ingest.reference_symbols=[]")
    assert not workspace.clean_reference.exists()


def test_a_second_venue_moves_neither_the_split_nor_the_end(workspace: Workspace) -> None:
    write(workspace, OWN, 0, random_candles(2500))
    run(workspace)
    alone = read_config(workspace).split, read_snapshot(workspace.raw).end
    longer = random_candles(4000, seed=1, start=datetime(2023, 11, 1, tzinfo=UTC))
    write(workspace, REFERENCE, 0, longer)
    configure(workspace, None, ["split.development_end=null", "split.fold_bars=null"])
    run(workspace, *SECOND)
    assert (read_config(workspace).split, read_snapshot(workspace.raw).end) == alone
