import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gatecast.config import CleanConfig, Config, ValidateConfig
from gatecast.errors import GateRefused
from gatecast.market.candles import TS
from gatecast.market.cleaning import clean_market
from gatecast.market.gate import require_believable, require_validated
from gatecast.market.quality import Finding, check_candles, report
from gatecast.market.sample import read_sample
from gatecast.steps import validate
from gatecast.workspace import Workspace, write_atomically, write_json
from tests.conftest import MARKET, random_candles

CLEAN = CleanConfig(outlier_bars=48, outlier_deviations=8.0)


@pytest.fixture
def limits(config: Config) -> ValidateConfig:
    return config.validate_.model_copy(update={"min_bars": 100, "max_hole_bars": 5})


def cleaned(raw: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    result = clean_market(raw, MARKET, raw[TS].sort()[-1] + timedelta(days=1), CLEAN)
    return result.candles, {MARKET.symbol: result.counts}


def broken(candles: pl.DataFrame, counts: dict[str, Any], limits: ValidateConfig, folder: Path) -> dict[str, Finding]:
    return {each.name: each for each in check_candles(candles, counts, limits, folder / "docs") if not each.success}


def test_the_sample_passes_and_a_real_crash_does_too(config: Config, tmp_path: Path) -> None:
    sample = read_sample(MARKET)
    crash = pl.when(pl.int_range(pl.len()) >= 20_000).then(0.56).otherwise(1.0)  # minus 44 % within one hour
    prices = ["open", "high", "low", "close"]
    crashed = sample.with_columns((pl.col(name) * crash).alias(name) for name in prices)
    candles, counts = cleaned(crashed)
    findings = check_candles(candles, counts, config.validate_, tmp_path / "docs")
    assert [each.name for each in findings if not each.success] == []
    assert len(findings) == 31
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) >= 5
    assert all(page.stat().st_size > 1000 for page in pages)


def test_planted_faults_are_each_found_and_nothing_else(limits: ValidateConfig, tmp_path: Path) -> None:
    good, counts = cleaned(random_candles(400))

    def at(bar: int, column: str, value: pl.Expr) -> pl.Expr:
        return pl.when(pl.int_range(pl.len()) == bar).then(value).otherwise(column).alias(column)

    slipped = good.with_columns(at(200, name, pl.col(name) / 100) for name in ("open", "high", "low", "close"))
    found = broken(slipped, counts, limits, tmp_path)
    assert list(found) == ["the move of one bar is believable"]
    move = found["the move of one bar is believable"]
    assert (move.n_unexpected, move.key, move.limit) == (2, "max_abs_log_return", limits.max_abs_log_return)
    assert move.rows[0]["ts"] == "2024-01-09T08:00Z"
    several = good.with_columns(
        at(50, "high", pl.col("close") * 0.9), at(60, "volume", pl.lit(-1.0)), at(70, "low", pl.lit(-5.0))
    )
    assert set(broken(several, counts, limits, tmp_path)) == {
        "high is not below close",
        "high is not below open",
        "volume is not negative",
        "low is positive",
    }
    twice = pl.concat([good[:100], good[50:51], good[100:]])
    assert set(broken(twice, counts, limits, tmp_path)) == {
        "a market has one row a bar",
        "open times of BTC/USDT increase",
    }
    wrong_type = good.with_columns(pl.col("volume").cast(pl.String))
    assert "volume is of type float64" in broken(wrong_type, counts, limits, tmp_path)


def test_limits_of_a_market_are_kept(limits: ValidateConfig, tmp_path: Path) -> None:
    raw = random_candles(400)
    candles, counts = cleaned(pl.concat([raw[:100], raw[110:]]))
    strict = limits.model_copy(update={"max_missing_share": 0.01, "min_bars": 500})
    found = broken(candles, counts, strict, tmp_path)
    assert set(found) == {"share of missing bars", "longest hole", "number of bars"}
    assert found["longest hole"].limit == 5
    bad = raw.with_columns(pl.when(pl.int_range(pl.len()) % 20 == 3).then(-1.0).otherwise("low").alias("low"))
    candles, counts = cleaned(bad)
    assert "share of quarantined rows" in broken(candles, counts, limits, tmp_path)
    filled = raw.with_columns(pl.when(~pl.int_range(pl.len()).is_between(100, 107)).then("close").forward_fill())
    filled = filled.with_columns(high=pl.max_horizontal("high", "close"), low=pl.min_horizontal("low", "close"))
    still = broken(*cleaned(filled), limits, tmp_path)["longest run of one and the same close"]
    assert still.rows[0]["longest_standstill"] == 8
    lost = {MARKET.symbol: {**counts[MARKET.symbol], "raw": 401}}
    assert "every raw row is accounted for" in broken(candles, lost, limits, tmp_path)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    candles, counts = cleaned(random_candles(400))
    write_atomically(workspace.clean, candles.write_parquet)
    write_json(workspace.clean_counts, {"timeframe": "1h", "end": "", "markets": counts})
    return workspace


def test_the_stage_writes_equal_bytes_and_refuses_with_status_3_and_the_reason(
    workspace: Workspace, limits: ValidateConfig
) -> None:
    path = workspace.reports / "validation.json"
    validate.run(workspace, limits=limits)
    first = path.read_bytes()
    validate.run(workspace, limits=limits)
    assert path.read_bytes() == first
    require_validated(path, workspace.clean)
    with pytest.raises(GateRefused) as error:
        validate.run(workspace, limits=limits.model_copy(update={"min_bars": 1000}))
    line = str(error.value)
    assert error.value.exit_status == 3
    assert "number of bars does not hold for 1 row(s): BTC/USDT 400, limit 1000 (validate.min_bars)" in line
    assert "reports/data_docs/index.html" in line
    assert json.loads(path.read_text())["success"] is False
    with pytest.raises(GateRefused, match="failed validation"):
        require_validated(path, workspace.clean)


def test_candles_that_came_after_validation_are_held_against_its_limits(limits: ValidateConfig) -> None:
    good, _ = cleaned(random_candles(400))
    require_believable(good, MARKET, limits)
    slipped = good.with_columns(
        close=pl.when(pl.int_range(pl.len()) == 399).then(pl.col("close") * 10).otherwise("close")
    )
    with pytest.raises(GateRefused, match=r"moves by \+2\.\d+ in log at 2024-01-17T15:00Z.*max_abs_log_return"):
        require_believable(slipped, MARKET, limits)
    holes, _ = cleaned(random_candles(400).filter(pl.int_range(pl.len()) % 10 != 5))
    with pytest.raises(GateRefused, match=r"10\.0% of its last 400 bars are missing.*max_missing_share"):
        require_believable(holes, MARKET, limits)


def test_other_candles_than_those_validated_are_refused(workspace: Workspace) -> None:
    path = workspace.reports / "validation.json"
    with pytest.raises(GateRefused, match="absent or damaged"):
        require_validated(path, workspace.clean)
    write_json(path, report([], "0" * 64))
    with pytest.raises(GateRefused, match="about other candles"):
        require_validated(path, workspace.clean)
    path.write_text("{")
    with pytest.raises(GateRefused, match="absent or damaged"):
        require_validated(path, workspace.clean)
