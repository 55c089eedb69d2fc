"""Every shipped profile is run: the real configuration and steps, with a smaller search and less history."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.market.candles import TS, Market
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.grid import Grid
from gatecast.market.sample import read_sample
from gatecast.params import configure, read_config
from gatecast.pipeline import stages
from gatecast.steps import clean, evaluate, features, fit, ingest, tune, validate
from gatecast.steps.stage import section_arguments
from gatecast.workspace import Workspace
from tests.benches.run import REPOSITORY, copy_workspace
from tests.conftest import random_candles
from tests.venue import StandInExchange

PROFILES = sorted(path.stem for path in (REPOSITORY / "conf" / "profiles").glob("*.yaml"))
STEPS = (clean, validate, features, tune, evaluate, fit)
SMALLER = (
    "ingest.start=2023-01-01T00:00Z",
    "features.n_leak_cuts=2",
    "model.n_seeds=1",
    "tune.n_trials=2",
    "tune.n_startup_trials=1",
    "tune.max_epochs=2",
    "tune.hidden_size=[8]",
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    copy_workspace(tmp_path)
    return Workspace(tmp_path.resolve())


def write_files(workspace: Workspace, wanted: IngestConfig) -> None:
    """A random walk in each file that a profile asks for, a row a bar of its calendar."""
    grid = Grid(wanted.timeframe, wanted.calendar)
    first = grid.first_from(datetime(2018, 1, 1, tzinfo=UTC))
    stamps = grid.stamps(pl.int_range(first, first + 1200, eager=True))
    for symbol in wanted.symbols:
        path = workspace.root / (wanted.files or "").format(symbol=symbol)
        path.parent.mkdir(parents=True, exist_ok=True)
        random_candles(len(stamps)).with_columns(stamps.dt.date().alias("date")).drop(TS).write_csv(path)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_runs_from_its_source_to_a_model(
    profile: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = read_sample(Market("binance", "BTC/USDT", "1h")).filter(pl.col(TS) >= datetime(2023, 1, 1, tzinfo=UTC))
    configure(workspace, profile, SMALLER)
    if read_config(workspace).ingest.source == "files":
        configure(workspace, None, ["ingest.start=null"])
        write_files(workspace, read_config(workspace).ingest)
    with StandInExchange(truth, now=datetime(2024, 1, 1, tzinfo=UTC)) as exchange:
        monkeypatch.setenv(URL_VARIABLE, exchange.url)
        ingest.run(workspace, read_config(workspace), lambda _: None)
        assert bool(exchange.requests) == (read_config(workspace).ingest.source == "exchange")
    config: Config = read_config(workspace)
    for step in STEPS:
        step.run(workspace, **section_arguments(step.run, config))
    assert tuple(step.__name__.rpartition(".")[2] for step in STEPS) == stages(workspace)
    predictions = pl.read_parquet(workspace.reports / "predictions.parquet")
    assert predictions["fold"].n_unique() == config.evaluate.n_folds
    assert set(predictions["model"]) == {"lstm", *config.evaluate.baselines}
    assert list((workspace.root / "model").glob("*.safetensors"))
