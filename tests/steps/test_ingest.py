"""What `ingest` freezes and resolves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast import pipeline
from gatecast.errors import GatecastError
from gatecast.market.candles import TS
from gatecast.market.publications.table import FEAR_GREED, FUNDING, HEADLINES, PUBLISHED_AT, SOURCE, read_publications
from gatecast.market.snapshot import read_snapshot
from gatecast.params import configure, read_config
from gatecast.steps import ingest
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.conftest import random_candles


def ingested(root: Path, rows: pl.DataFrame, *more: str) -> Workspace:
    copy_workspace(root)
    workspace = Workspace(root.resolve())
    rows.write_parquet(root / "candles.parquet")
    configure(workspace, None, ["ingest.source=files", "ingest.files=candles.parquet", *more])
    ingest.run(workspace, read_config(workspace), lambda _: None)
    return workspace


def test_frozen_candles_that_were_changed_are_refused(tmp_path: Path) -> None:
    workspace = ingested(tmp_path, random_candles(1500))
    pipeline.require_frozen(workspace, workspace.raw)
    month = next(workspace.raw.rglob("2024-01.parquet"))
    pl.read_parquet(month).with_columns(pl.col("close") * 1.05).write_parquet(month)
    with pytest.raises(GatecastError, match=r"data/raw is not what was frozen there .*`dvc checkout data/raw\.dvc`"):
        pipeline.require_frozen(workspace, workspace.raw)


def test_a_stray_row_that_cannot_be_does_not_move_the_split(tmp_path: Path) -> None:
    rows = random_candles(1500)
    stray = rows[:1].with_columns(pl.lit(datetime(2001, 1, 1, tzinfo=UTC)).cast(rows.schema[TS]).alias(TS), low=-1.0)
    (tmp_path / "plain").mkdir()
    (tmp_path / "stray").mkdir()
    plain = ingested(tmp_path / "plain", rows)
    spoilt = ingested(tmp_path / "stray", pl.concat([stray.select(rows.columns), rows]))
    assert read_config(spoilt).split == read_config(plain).split


def test_what_was_published_before_the_candles_end_is_frozen_beside_them(tmp_path: Path) -> None:
    rows = random_candles(1500)
    end = rows[TS][-1] + timedelta(hours=1)  # 2024-03-03T12:00Z
    (tmp_path / "index.csv").write_text("date,value\n2024-03-01,40\n2024-03-02,50\n2024-03-03,60\n")
    stamps = [end - timedelta(hours=1), end - timedelta(milliseconds=1), end, end + timedelta(days=1)]
    rates = pl.DataFrame({TS: stamps, "funding_rate": [0.0001] * 4})
    rates.write_parquet(tmp_path / "BTC-USDT.parquet")
    titles = pl.DataFrame({TS: stamps, "title": ["a", "b", "c", "d"]})
    titles.write_parquet(tmp_path / "news-1.parquet")
    sources = ("ingest.fear_greed=index.csv", "ingest.headlines=news-*.parquet", "ingest.funding='{symbol}.parquet'")
    workspace = ingested(tmp_path, rows, *sources)
    frozen = read_publications(workspace.raw)
    assert dict(frozen.group_by(SOURCE).len().iter_rows()) == {FEAR_GREED: 2, HEADLINES: 2, FUNDING: 2}
    latest = frozen[PUBLISHED_AT].max()
    assert isinstance(latest, datetime)
    assert latest < end == read_snapshot(workspace.raw).end_at
    assert read_snapshot(workspace.raw).sources == (FEAR_GREED, HEADLINES, FUNDING)
    first = (workspace.raw / "publications.parquet").read_bytes()
    ingest.run(workspace, read_config(workspace), lambda _: None)
    assert (workspace.raw / "publications.parquet").read_bytes() == first


def test_a_source_that_cannot_be_used_leaves_what_is_frozen(tmp_path: Path) -> None:
    workspace = ingested(tmp_path, random_candles(1500))
    before = {path: path.read_bytes() for path in workspace.raw.rglob("*") if path.is_file()}
    configure(workspace, None, ["ingest.fear_greed=index.csv"])
    (tmp_path / "index.csv").write_text("date,value\n2024-03-01,140\n")
    with pytest.raises(GatecastError, match=r"index\.csv line 2: value '140' is no index from 0 to 100"):
        ingest.run(workspace, read_config(workspace), lambda _: None)
    assert {path: path.read_bytes() for path in workspace.raw.rglob("*") if path.is_file()} == before


def test_a_source_that_is_about_another_time_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("date,value\n2025-01-01,40\n2025-01-02,50\n")
    workspace = ingested(tmp_path, random_candles(1500), "ingest.fear_greed=index.csv")
    lines: list[str] = []
    ingest.run(workspace, read_config(workspace), lines.append)
    (line,) = [line for line in lines if "fall into the span" in line]
    assert "fear_greed: 0 of 2 publications" in line
    assert "null throughout" in line
