"""What `ingest` freezes and resolves."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from gatecast import pipeline
from gatecast.errors import GatecastError
from gatecast.market.candles import TS
from gatecast.params import configure, read_config
from gatecast.steps import ingest
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.conftest import random_candles


def ingested(root: Path, rows: pl.DataFrame) -> Workspace:
    copy_workspace(root)
    workspace = Workspace(root.resolve())
    rows.write_parquet(root / "candles.parquet")
    configure(workspace, None, ["ingest.source=files", "ingest.files=candles.parquet"])
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
