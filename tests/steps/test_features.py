"""The stage `features` writes nothing that a model could read unless proof and suite hold."""

import json
from pathlib import Path

import polars as pl
import pytest

from gatecast.errors import GateRefused
from gatecast.features.catalogue import build_features
from gatecast.params import configure, read_config
from gatecast.steps import clean, features, ingest, validate
from gatecast.steps.stage import section_arguments
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.conftest import random_candles


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A small market, ingested, cleaned and validated."""
    copy_workspace(tmp_path)
    found = Workspace(tmp_path.resolve())
    random_candles(1500).write_parquet(found.root / "candles.parquet")
    small = ("validate.min_bars=100", "features.n_leak_cuts=2")
    configure(found, None, ["ingest.source=files", "ingest.files=candles.parquet", *small])
    ingest.run(found, read_config(found), lambda _: None)
    for step in (clean.run, validate.run):
        step(found, **section_arguments(step, read_config(found)))
    return found


def run(workspace: Workspace) -> None:
    features.run(workspace, **section_arguments(features.run, read_config(workspace)))


def test_sound_features_are_written_with_their_proof_and_their_validation(workspace: Workspace) -> None:
    run(workspace)
    assert workspace.all_features.is_file()
    found = json.loads((workspace.reports / "feature_validation.json").read_text(encoding="utf-8"))
    assert found["success"]


def test_features_outside_their_range_stop_the_stage(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(candles: pl.DataFrame, *arguments: object) -> pl.DataFrame:
        return build_features(candles, *arguments).with_columns(pl.col("rsi") * 10)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "build_features", broken)
    with pytest.raises(GateRefused, match=r"features: .*rsi lies between"):
        run(workspace)
    assert not workspace.all_features.exists()
    assert not workspace.development_features.exists()


def test_a_leak_stops_the_stage(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(candles: pl.DataFrame, *arguments: object) -> pl.DataFrame:
        built = build_features(candles, *arguments)  # type: ignore[arg-type]
        return built.with_columns(pl.col("rsi").shift(-1))

    monkeypatch.setattr(features, "build_features", leaking)
    with pytest.raises(GateRefused, match="rsi"):
        run(workspace)
    assert json.loads((workspace.reports / "leakage.json").read_text(encoding="utf-8"))["breaches"]
    assert not workspace.all_features.exists()
