"""The stage `features` writes nothing that a model could read unless proof and suite hold."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.errors import GateRefused
from gatecast.features import catalogue
from gatecast.features.feature import Feature, Recipe
from gatecast.features.targets import known_before
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.market.snapshot import read_snapshot
from gatecast.params import configure, read_config
from gatecast.steps import clean, features, ingest, validate
from gatecast.steps.stage import section_arguments
from gatecast.workspace import Workspace
from tests.benches.run import copy_workspace
from tests.command_line import environment
from tests.conftest import SMALL_SPANS, random_candles

N_BARS = 1500
SMALL = (
    "ingest.source=files",
    "ingest.files=in/{symbol}.parquet",
    "validate.min_bars=100",
    "features.n_leak_cuts=2",
    *(f"features.{key}={json.dumps(value)}" for key, value in SMALL_SPANS.items()),
)
TWO = ("ingest.symbols=[BTC/USDT, ETH/USDT]", "ingest.fear_greed=in/index.csv")
DAYS = [date(2023, 12, 20) + timedelta(days=n) for n in range(76)]
INDEX = [float(n * 37 % 101) for n in range(len(DAYS))]


def write_inputs(root: Path) -> None:
    """Two markets, the second younger, and a daily index: a row a day, about that day."""
    (root / "in").mkdir()
    start = datetime(2024, 1, 1, tzinfo=UTC)
    random_candles(N_BARS).filter(~pl.int_range(pl.len()).is_in([700, 701])).write_parquet(root / "in/BTC-USDT.parquet")
    other = random_candles(N_BARS - 300, seed=1, start=start + timedelta(hours=300))
    other.write_parquet(root / "in/ETH-USDT.parquet")
    pl.DataFrame({"date": DAYS, "fear_greed": INDEX}).write_csv(root / "in/index.csv")


def validated(root: Path, *settings: str) -> Workspace:
    """A small market, ingested, cleaned and validated."""
    copy_workspace(root)
    found = Workspace(root.resolve())
    write_inputs(found.root)
    configure(found, None, [*SMALL, *settings])
    ingest.run(found, read_config(found), lambda _: None)
    for step in (clean.run, validate.run):
        step(found, **section_arguments(step, read_config(found)))
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return validated(tmp_path)


def run(workspace: Workspace) -> None:
    features.run(workspace, **section_arguments(features.run, read_config(workspace)))


def report(workspace: Workspace, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((workspace.reports / name).read_text(encoding="utf-8"))
    return found


def test_sound_features_are_written_with_their_proof_and_their_validation(workspace: Workspace) -> None:
    run(workspace)
    config = read_config(workspace)
    recipe = Recipe(config.features, ("BTC/USDT",), "1h")
    rows = pl.read_parquet(workspace.all_features)
    assert rows[BAR].to_list() == pl.read_parquet(workspace.clean)[BAR].to_list()
    boundary, _ = config.split.resolved
    first_open = read_snapshot(workspace.raw).grid.first_open(boundary)
    development = pl.read_parquet(workspace.development_features)
    assert development.equals(known_before(rows, config.model.horizons, first_open))
    assert 0 < len(development) < len(rows)
    assert report(workspace, "feature_validation.json")["success"] is True
    proof = report(workspace, "leakage.json")
    names = [*catalogue.feature_names(recipe), *(f"target_{h}" for h in config.model.horizons), CLOSE, "volatility"]
    assert set(proof["columns"]) == set(names)  # type: ignore[call-overload]  # a list
    assert (proof["n_columns"], proof["n_cuts"], proof["breaches"]) == (len(names), 3, [])  # two, and after the hole
    assert proof["n_values"]
    parity = proof["parity"]
    assert isinstance(parity, dict)
    assert (parity["n_bars"], parity["breaches"]) == (3, [])
    assert (workspace.feature_docs / "index.html").is_file()


def test_a_second_run_writes_the_same_bytes(workspace: Workspace) -> None:
    outputs = [
        workspace.all_features,
        workspace.development_features,
        *(workspace.reports / name for name in ("leakage.json", "feature_validation.json")),
    ]
    run(workspace)
    before = [path.read_bytes() for path in outputs]
    run(workspace)
    assert [path.read_bytes() for path in outputs] == before


def test_two_markets_and_a_source_go_from_their_files_to_features(tmp_path: Path) -> None:
    workspace = validated(tmp_path, *TWO)
    assert read_snapshot(workspace.raw).sources == ("fear_greed",)
    run(workspace)
    rows = pl.read_parquet(workspace.all_features)
    assert rows.select(SYMBOL).unique(maintain_order=True)[SYMBOL].to_list() == ["BTC/USDT", "ETH/USDT"]
    assert {"lead_return_1", "breadth", "relative_strength", "fear_greed"} <= set(rows.columns)
    index = dict(zip(DAYS, INDEX, strict=True))
    for row in rows.filter(~pl.col("missing")).iter_rows(named=True):
        # what is said of a day is known when it is over, to the bars that close after that
        known = index[(row[TS] + timedelta(hours=1) - timedelta(milliseconds=1)).date() - timedelta(days=1)]
        assert row["fear_greed"] == pytest.approx(known / 100 - 0.5, abs=1e-12)
    columns = report(workspace, "leakage.json")["columns"]
    assert isinstance(columns, list)
    assert {"lead_return_1", "breadth", "fear_greed", "fear_greed_change"} <= set(columns)


def entry(expression: pl.Expr, look_back: int, bounds: tuple[float, float]) -> Callable[[Recipe], Iterator[Feature]]:
    def kind(_: Recipe) -> Iterator[Feature]:
        yield Feature(
            "planted", expression, unit="", formula="", source="", look_back=look_back, warm_up=1, bounds=bounds
        )

    return kind


WIDE = (-1e9, 1e9)
ROLLING = pl.col(CLOSE).rolling_mean(50, min_samples=1)
REFUSED = {
    "out of range": (
        entry(pl.col("volume"), 1, (0.0, 1.0)),
        r"features: .*range of its definition: .*BTC/USDT .*planted",
    ),
    "a leak": (entry(pl.col(CLOSE).shift(-1), 1, WIDE), r"planted of BTC/USDT at .* sees the future; 1 column\(s\)"),
    # which only NaN shows
    "a leak that has no value": (
        entry(pl.when(pl.col(CLOSE).shift(-1).is_nan()).then(math.nan).otherwise(1.0), 1, WIDE),
        "planted of BTC/USDT at .* is 1.0, and becomes nan",
    ),
    "a look-back that is too short": (entry(ROLLING, 5, WIDE), r"planted .* from its look-back alone"),
    "infinite": (
        entry(pl.when(pl.col(CLOSE) > 0).then(math.inf), 1, (-math.inf, math.inf)),
        r"every value is finite .* planted inf -inf inf",
    ),
    "not a number": (entry(0.0 * pl.col(CLOSE) * math.inf, 1, WIDE), r"every value is finite .* planted nan"),
    "of another type": (entry(pl.col(CLOSE).cast(pl.Float32), 1, WIDE), "planted is of type float64"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_feature_stops_the_stage_and_leaves_no_row_not_even_of_an_earlier_run(
    fault: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, words = REFUSED[fault]
    for path in (workspace.all_features, workspace.development_features):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of an earlier run")
    monkeypatch.setattr(catalogue, "_KINDS", (*catalogue._KINDS, kind))
    with pytest.raises(GateRefused, match=words) as error:
        run(workspace)
    assert error.value.exit_status == 3
    assert "\n" not in str(error.value)
    assert not workspace.all_features.exists()
    assert not workspace.development_features.exists()
    if not str(error.value).startswith("features: "):
        content = report(workspace, "leakage.json")
        assert content["breaches"] or content["parity"]["breaches"]  # type: ignore[index]  # an object


def test_candles_that_are_not_validated_stop_the_stage_and_leave_no_row(workspace: Workspace) -> None:
    run(workspace)
    (workspace.reports / "validation.json").unlink()
    with pytest.raises(GateRefused, match="not validated"):
        run(workspace)
    assert not workspace.all_features.exists()
    assert not workspace.development_features.exists()


def test_a_stage_that_is_killed_leaves_no_features_and_the_next_one_completes(tmp_path: Path) -> None:
    workspace = validated(tmp_path, *TWO)
    command = [sys.executable, "-m", "gatecast.steps.features"]
    process_environment = environment(workspace.root)
    with subprocess.Popen(
        command, cwd=workspace.root, env=process_environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("features: BTC/USDT built")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not workspace.all_features.exists()
    assert not workspace.development_features.exists()
    again = subprocess.run(
        command, cwd=workspace.root, env=process_environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in workspace.all_features.parent.iterdir()) == [
        "all.parquet",
        "development.parquet",
    ]
    assert pl.read_parquet(workspace.all_features)[SYMBOL].n_unique() == 2
