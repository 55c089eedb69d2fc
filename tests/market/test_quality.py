"""The candle suite: every rule is broken once by a planted fault, and no fault breaks two."""

import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gatecast.config import CleanConfig, Config, ValidateConfig
from gatecast.config_types import Limits
from gatecast.errors import GateRefused
from gatecast.market.candles import MISSING, PRICES, SYMBOL, TS, VALUES
from gatecast.market.cleaning import clean_market
from gatecast.market.expectations import Finding, report
from gatecast.market.gate import require_believable, require_validated
from gatecast.market.quality import check
from gatecast.market.rules import candle_suites
from gatecast.steps import validate
from gatecast.workspace import Workspace, write_atomically, write_json
from tests.conftest import MARKET, random_candles
from tests.market.real_candles import real_candles

pytestmark = pytest.mark.slow

CLEAN = CleanConfig(outlier_bars=48, outlier_deviations=8.0)
N_BARS = 1500  # two months and a bit
SECOND = "ETH/USDT"
Counts = dict[str, dict[str, Any]]
Case = tuple[pl.DataFrame, Counts, pl.DataFrame]
REAL_PAIR = ("binance-BTC-USDT-1h", "coinbase-BTC-USD-1h")
REAL = (
    "binance-BNB-USDT-1h",
    "binance-BTC-USDT-1h",
    "binance-BTC-USDT-5m",
    "binance-ETH-USDT-1h",
    "binance-ETH-USDT-5m",
    "binance-SOL-USDT-5m",
    "coinbase-BTC-USD-1h",
)


def counts_of(raw: pl.DataFrame, candles: pl.DataFrame, symbol: str, quarantined: int = 0) -> Counts:
    """What `clean` writes about a market, without its code."""
    months = candles.group_by(pl.col(TS).dt.strftime("%Y-%m").alias("month"), maintain_order=True)
    by_month = {
        str(month): {
            "bars": len(rows),
            "missing": int(rows[MISSING].sum()),
            "quarantined": 0,
            "raw": int((~rows[MISSING]).sum()),
        }
        for (month,), rows in months
    }
    n_clean = int((~candles[MISSING]).sum())
    counts = {
        "raw": len(raw), "clean": n_clean, "quarantined": quarantined, "duplicates": 0, "filler": 0,
        "missing": len(candles) - n_clean, "by_month": by_month,
    }  # fmt: skip
    return {symbol: counts}


def cleaned(raw: pl.DataFrame) -> tuple[pl.DataFrame, Counts]:
    candles = clean_market(raw, MARKET, raw[TS].sort()[-1] + timedelta(days=1), CLEAN).candles
    return candles, counts_of(raw, candles, MARKET.symbol)


@pytest.fixture(scope="module")
def limits(config: Config) -> ValidateConfig:
    """The shipped limits, for small markets, and every level in use."""
    levels = {"hole_bars": Limits(warn=3, fail=6), "standstill_bars": Limits(warn=3, fail=8)}
    levels |= {"zero_volume_bars": Limits(warn=3, fail=8), "reference_alone_share": Limits(warn=0.05, fail=0.5)}
    return config.validate_.model_copy(update={"min_bars": 1000, **levels})


@pytest.fixture(scope="module")
def good() -> Case:
    """Two markets of random candles, one with a hole, and a second venue that follows them closely."""
    first, counts = cleaned(random_candles(N_BARS))
    raw = random_candles(N_BARS, seed=1)
    other, _ = cleaned(pl.concat([raw[:1100], raw[1101:]]))
    other = other.with_columns(pl.lit(SECOND).alias(SYMBOL))
    candles = pl.concat([first, other])
    reference = candles.filter(~pl.col(MISSING)).select(SYMBOL, TS, pl.col("close") * 1.001)
    return candles, {**counts, **counts_of(raw[1:], other, SECOND)}, reference


def fired(case: Case, limits: ValidateConfig, data_docs: Path | None = None) -> dict[str, Finding]:
    candles, counts, reference = case
    found = check(candle_suites(candles, counts, limits, reference), data_docs, "candles")
    return {each.rule: each for each in found if not each.success}


def at(bars: int | range, **values: pl.Expr) -> Callable[[Case], Case]:
    """Other values at some rows of the first market."""

    def plant(case: Case) -> Case:
        chosen = pl.int_range(pl.len()).is_in([bars] if isinstance(bars, int) else list(bars))
        rows = [pl.when(chosen).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()]
        return case[0].with_columns(rows), case[1], case[2]

    return plant


def times(factor: float, bars: int | range) -> Callable[[Case], Case]:
    return at(bars, **{name: pl.col(name) * factor for name in PRICES})


def still(n_bars: int) -> Callable[[Case], Case]:
    """So many bars that repeat the close before, as far as prices go."""

    def plant(case: Case) -> Case:
        close = case[0]["close"][699]
        # high and low stay around it, or the order of prices would break as well
        changed = {name: pl.lit(close) for name in ("open", "close")}
        wide = {"high": pl.lit(close * 1.001), "low": pl.lit(close * 0.999)}
        candles, counts, reference = at(range(700, 700 + n_bars), **changed, **wide)(case)
        hours = candles[TS][700 : 700 + n_bars].implode()
        kept = reference.with_columns(  # the second venue stands still as well
            close=pl.when(pl.col(TS).is_in(hours) & (pl.col(SYMBOL) == MARKET.symbol)).then(close).otherwise("close")
        )
        return candles, counts, kept

    return plant


def crash(size: float, *, within_the_bar: bool = False) -> Callable[[Case], Case]:
    """From bar 700 on the market, and the second venue with it, is worth so many times as much."""

    def plant(case: Case) -> Case:
        candles, counts, reference = times(size, range(700, N_BARS))(case)
        if within_the_bar:
            before = {name: pl.col(name) / size for name in ("open", "high")}
            candles = at(700, **before)((candles, counts, reference))[0]
        since, own = pl.col(TS) >= candles[TS][700], pl.col(SYMBOL) == MARKET.symbol
        scaled = pl.when(since & own).then(pl.col("close") * size).otherwise("close")
        return candles, counts, reference.with_columns(close=scaled)

    return plant


def hole(n_bars: int) -> Callable[[Case], Case]:
    empty = {name: pl.lit(None, pl.Float64) for name in VALUES}
    return at(range(700, 700 + n_bars), **empty, missing=pl.lit(value=True))


def holes(every: int) -> Callable[[Case], Case]:
    empty = {name: pl.lit(None, pl.Float64) for name in VALUES}
    return at(range(10, N_BARS, every), **empty, missing=pl.lit(value=True))


def counted(**values: int) -> Callable[[Case], Case]:
    def plant(case: Case) -> Case:
        return case[0], {**case[1], MARKET.symbol: {**case[1][MARKET.symbol], **values}}, case[2]

    return plant


def in_month(**values: int) -> Callable[[Case], Case]:
    def plant(case: Case) -> Case:
        months = case[1][MARKET.symbol]["by_month"]
        changed = {**months, "2024-02": {**months["2024-02"], **values}}
        return case[0], {**case[1], MARKET.symbol: {**case[1][MARKET.symbol], "by_month": changed}}, case[2]

    return plant


def recast(name: str, kind: Any) -> Callable[[Case], Case]:
    return lambda case: (case[0].with_columns(pl.col(name).cast(kind, strict=False)), case[1], case[2])


def rows(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Case], Case]:
    return lambda case: (change(case[0]), case[1], case[2])


def venue(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Case], Case]:
    return lambda case: (case[0], case[1], change(case[2]))


def apart(n_bars: int, factor: float) -> Callable[[Case], Case]:
    near = pl.int_range(pl.len()) < n_bars
    return venue(
        lambda frame: frame.with_columns(close=pl.when(near).then(pl.col("close") * factor).otherwise("close"))
    )


def unknown_symbol(case: Case) -> Case:
    return case[0], {MARKET.symbol: case[1][MARKET.symbol], "XRP/USDT": case[1][SECOND]}, case[2]


def empty(name: str, bar: int = 700) -> Callable[[Case], Case]:
    return at(bar, **{name: pl.lit(None)})


RISING = {"open": pl.col("close") * 0.99}
FALLING = {"open": pl.col("close") * 1.01}
MIDDLE_UP, MIDDLE_DOWN = pl.col("close") * 0.995, pl.col("close") * 1.005
WIDE_LOW, WIDE_HIGH = pl.col("close") * 0.97, pl.col("close") * 1.03

FAULTS: dict[str, Callable[[Case], Case]] = {
    "columns_of_candles": rows(lambda frame: frame.drop("outlier")),
    "symbol.type": recast(SYMBOL, pl.Categorical),
    "ts.type": rows(lambda frame: frame.with_columns(pl.col(TS).dt.replace_time_zone(None))),
    "bar.type": recast("bar", pl.Int32),
    **{f"{name}.type": recast(name, pl.Float32) for name in VALUES},
    "missing.type": recast(MISSING, pl.Int8),
    "outlier.type": recast("outlier", pl.Int8),
    "symbol.present": empty(SYMBOL, 2 * N_BARS - 1),  # the last row: inside a market its bar would be absent
    "ts.present": empty(TS),
    "bar.present": empty("bar"),
    "missing.present": empty(MISSING),
    "outlier.present": empty("outlier"),
    "keys_unique": rows(lambda frame: pl.concat([frame[:701], frame[700:]])),
    "stamps_increase": rows(lambda frame: pl.concat([frame[:700], frame[701:702], frame[700:701], frame[702:]])),
    "low.positive": at(700, low=pl.lit(-5.0)),
    "high_from_open": at(700, **FALLING, high=MIDDLE_DOWN, low=WIDE_LOW),
    "high_from_close": at(700, **RISING, high=MIDDLE_UP, low=WIDE_LOW),
    "open_from_low": at(700, **RISING, low=MIDDLE_UP, high=WIDE_HIGH),
    "close_from_low": at(700, **FALLING, low=MIDDLE_DOWN, high=WIDE_HIGH),
    "volume.not_negative": at(700, volume=pl.lit(-1.0)),
    "log_return.fail": crash(0.01),
    "log_return.warn": crash(0.65),
    "log_range.fail": at(700, high=pl.col("high") * 10),
    "log_range.warn": at(700, high=pl.col("high") * 2),
    "missing_marks": at(700, volume=pl.lit(None, pl.Float64)),
    "markets": unknown_symbol,
    "absent_bars": rows(lambda frame: pl.concat([frame[:700], frame[701:]])),
    "unaccounted_rows": counted(raw=N_BARS + 1),
    "min_bars": rows(lambda frame: frame[600:]),
    "missing_share.fail": holes(20),
    "missing_share.warn": holes(100),
    "quarantined_share.fail": counted(raw=N_BARS + 50, quarantined=50),
    "quarantined_share.warn": counted(raw=N_BARS + 5, quarantined=5),
    "filler_share.fail": counted(filler=30),
    "filler_share.warn": counted(filler=3),
    "hole_bars.fail": hole(7),
    "hole_bars.warn": hole(5),
    "standstill_bars.fail": still(9),
    "standstill_bars.warn": still(5),
    "zero_volume_bars.fail": at(range(700, 709), volume=pl.lit(0.0)),
    "zero_volume_bars.warn": at(range(700, 705), volume=pl.lit(0.0)),
    "month_missing_share.fail": in_month(missing=300),
    "month_missing_share.warn": in_month(missing=30),
    "month_quarantined_share.fail": in_month(quarantined=100),
    "month_quarantined_share.warn": in_month(quarantined=10),
    "reference_gap.fail": apart(1, 1.5),
    "reference_gap.warn": apart(1, 1.1),
    "reference_apart_share.fail": apart(160, 1.1),
    "reference_apart_share.warn": apart(20, 1.1),
    "reference_alone_share.fail": venue(lambda frame: frame[800:]),
    "reference_alone_share.warn": venue(lambda frame: frame[100:]),
}
# A share of bars far from the second venue cannot rise without one bar that is far: the largest distance warns as well.
# A column that is not there has no type.
TOGETHER = {
    "columns_of_candles": {"outlier.type"},
    "reference_apart_share.fail": {"reference_gap.warn"},
    "reference_apart_share.warn": {"reference_gap.warn"},
}


def test_good_candles_break_no_rule(good: Case, limits: ValidateConfig) -> None:
    assert fired(good, limits) == {}


def test_every_rule_has_a_planted_fault(good: Case, limits: ValidateConfig) -> None:
    candles, counts, reference = good
    rules = [rule.name for suite in candle_suites(candles, counts, limits, reference) for rule in suite.rules]
    assert len(rules) == len(set(rules))
    assert set(rules) == set(FAULTS)


@pytest.mark.parametrize("rule", list(FAULTS))
def test_a_planted_fault_breaks_exactly_its_rule(rule: str, good: Case, limits: ValidateConfig) -> None:
    found = fired(FAULTS[rule](good), limits)
    assert set(found) == {rule, *TOGETHER.get(rule, ())}
    finding = found[rule]
    assert finding.error == ""
    assert finding.severity == ("warn" if rule.endswith(".warn") else "fail")
    if rule not in ("columns_of_candles", "markets") and not rule.endswith(".type"):
        assert finding.n_unexpected > 0
        assert finding.rows, "a person has to see where"


def test_a_crash_of_44_percent_is_a_warning_and_a_slipped_decimal_point_a_failure(
    good: Case, limits: ValidateConfig
) -> None:
    real = fired(crash(0.56, within_the_bar=True)(good), limits)
    assert {each.severity for each in real.values()} == {"warn"}
    move = real["log_return.warn"]
    assert move.observed == pytest.approx(-math.log(0.56), abs=0.05)
    assert move.rows[0]["ts"] == "2024-01-30T04:00Z"
    for factor in (0.01, 0.1, 10.0, 100.0):
        found = fired(times(factor, 700)(good), limits)
        assert {row["ts"] for row in found["log_return.fail"].rows} == {"2024-01-30T04:00Z", "2024-01-30T05:00Z"}
        assert found["log_return.fail"].n_unexpected == 2, "there and back"


def test_a_warning_counts_every_row_that_breaks_it_and_shows_the_worst_first(
    good: Case, limits: ValidateConfig
) -> None:
    slipped = good
    for place, factor in ((300, 1.5), (500, 1.6), (700, 1.55)):
        slipped = times(factor, place)(slipped)
    found = fired(slipped, limits)["log_return.warn"]
    assert found.n_unexpected == 6, "there and back, three times"
    assert found.rows[0]["log_return"] == pytest.approx(found.observed)
    assert found.observed == pytest.approx(math.log(1.6), abs=0.05)


def test_a_slip_right_after_a_hole_is_seen(good: Case, limits: ValidateConfig) -> None:
    candles, counts, reference = times(10.0, 703)(hole(3)(good))
    found = fired((candles, counts, reference), limits)
    assert found["log_return.fail"].n_unexpected == 2


def test_a_month_that_is_cut_short_does_not_fail_for_one_bar(limits: ValidateConfig, good: Case) -> None:
    candles, counts, reference = good
    months = {**counts[MARKET.symbol]["by_month"], "2024-03": {"bars": 3, "missing": 1, "quarantined": 1, "raw": 3}}
    changed = {**counts, MARKET.symbol: {**counts[MARKET.symbol], "by_month": months}}
    assert fired((candles, changed, reference), limits) == {}


def test_without_a_second_venue_nothing_is_said_of_one(good: Case, limits: ValidateConfig) -> None:
    found = check(candle_suites(good[0], good[1], limits), None, "candles")
    assert not [each.rule for each in found if each.rule.startswith("reference")]


@pytest.mark.parametrize("name", REAL)
def test_real_candles_pass_the_shipped_limits(name: str, config: Config) -> None:
    candles, counts = real_case(name)
    found = check(candle_suites(candles, counts, config.validate_), None, "candles")
    assert [str(each) for each in found if not each.success and each.severity == "fail"] == []


def test_the_real_second_venue_passes_with_warnings(config: Config) -> None:
    theirs, _ = real_case(REAL_PAIR[1])
    ours, counts = real_case(REAL_PAIR[0], until=theirs[TS][-1])
    found = check(candle_suites(ours, counts, config.validate_, theirs), None, "candles")
    broken = {each.rule: each for each in found if not each.success}
    assert {each.severity for each in broken.values()} == {"warn"}
    gap = broken["reference_gap.warn"]
    worst = {"symbol": "BTC/USDT", "ts": "2017-09-05T01:00Z", "reference_gap": pytest.approx(0.1593, abs=1e-4)}
    assert gap.rows[0] == worst
    assert gap.n_unexpected == pytest.approx(0.0128 * len(ours), rel=0.05)
    assert broken["reference_apart_share.warn"].observed == pytest.approx(0.0128, abs=1e-4)


def real_case(name: str, until: Any = None) -> tuple[pl.DataFrame, Counts]:
    raw = real_candles(name)
    if until is not None:
        raw = raw.filter(pl.col(TS) <= until)
    market = MARKET if name.endswith("1h") else type(MARKET)("binance", "BTC/USDT", "5m")
    candles = clean_market(raw, market, raw[TS].sort()[-1] + timedelta(days=1), CLEAN).candles
    return candles, counts_of(raw, candles, market.symbol)


def test_data_docs_load_nothing_and_show_every_rule(good: Case, limits: ValidateConfig, tmp_path: Path) -> None:
    fired(times(10.0, 700)(good), limits, tmp_path / "docs")
    pages = sorted((tmp_path / "docs").iterdir())
    assert [page.suffix for page in pages] == [".html"] * len(pages)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert "http:" not in html
        assert "https:" not in html
        for mark in ("<script", "<link", "<img", "<iframe", "@import", "url("):
            assert mark not in html
        assert html.count("<style>") == 1
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    for rule in FAULTS:
        assert f"<code>{rule}</code>" in index
    for page in pages:
        assert page.name == "index.html" or f'href="{page.name}"' in index
    assert "the move of one bar, in log, is 2." in index
    keys = (tmp_path / "docs" / "keys.html").read_text(encoding="utf-8")
    assert 'href="index.html"' in keys
    assert "values must never be null" in keys


@pytest.fixture
def workspace(tmp_path: Path, good: Case) -> Workspace:
    workspace = Workspace(tmp_path)
    candles, counts, reference = good
    write_atomically(workspace.clean, candles.write_parquet)
    write_atomically(workspace.clean_reference, reference.write_parquet)
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
        validate.run(workspace, limits=limits.model_copy(update={"min_bars": 2000}))
    line = str(error.value)
    assert error.value.exit_status == 3
    assert "\n" not in line
    for words in (
        "the number of bars is 1500, below the limit 2000",
        "validate.min_bars",
        "BTC/USDT 1500",
        "[rule min",
    ):
        assert words in line
    assert "reports/data_docs/index.html" in line
    assert json.loads(path.read_text())["success"] is False
    with pytest.raises(GateRefused, match="failed validation"):
        require_validated(path, workspace.clean)


def test_a_warning_is_one_line_and_lets_the_candles_pass(
    workspace: Workspace, limits: ValidateConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = limits.model_copy(update={"log_return": Limits(warn=0.01, fail=0.7)})
    validate.run(workspace, limits=strict)
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning:" in line]
    (line,) = warned
    assert "validate.log_return.warn" in line
    written = json.loads((workspace.reports / "validation.json").read_text())
    assert written["success"] is True
    assert written["counts"]["warned"] == 1
    assert len(written["warnings"]) == 1
    require_validated(workspace.reports / "validation.json", workspace.clean)


def test_a_warning_above_its_failure_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="warn 2 is above fail 1"):
        Limits(warn=2, fail=1)


def test_candles_that_came_after_validation_are_held_against_its_limits(good: Case, limits: ValidateConfig) -> None:
    grid = good[0].filter(pl.col(SYMBOL) == MARKET.symbol)
    require_believable(grid, MARKET, limits)
    for fault, words in (
        (
            times(10.0, N_BARS - 1),
            r"the largest move .* is 2\.\d+ at 2024-03-03T11:00Z, limit 0.7 \(validate.log_return",
        ),
        (at(700, high=pl.col("high") * 10), r"the widest range .*validate\.log_range\.fail"),
        (holes(10), r"the missing share of its last 1500 bars is 0\.09.*validate\.missing_share\.fail"),
        (hole(7), r"the longest hole .*validate\.hole_bars\.fail"),
        (still(9), r"the longest run of one close .*validate\.standstill_bars\.fail"),
    ):
        with pytest.raises(GateRefused, match=words):
            require_believable(fault((grid, good[1], good[2]))[0], MARKET, limits)


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
