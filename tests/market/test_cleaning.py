import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import CleanConfig
from gatecast.errors import DataError
from gatecast.market import cleaning, outliers
from gatecast.market.candles import CANDLE_SCHEMA, TS, VALUES
from gatecast.market.cleaning import CleanMarket, account_for, clean_market
from gatecast.market.outliers import mark_outliers
from tests.conftest import MARKET, random_candles

SETTINGS = CleanConfig(outlier_bars=48, outlier_deviations=8.0)
DAILY = replace(MARKET, timeframe="1d")
END = datetime(2025, 1, 1, tzinfo=UTC)


def clean(raw: pl.DataFrame) -> CleanMarket:
    return clean_market(raw, MARKET, END, SETTINGS)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"close": float("nan")}, "price or volume is not a number"),
        ({"volume": float("inf")}, "price or volume is not a number"),
        ({"open": None}, "price or volume is not a number"),
        ({"low": -1.0}, "price is not positive"),
        ({"low": 0.0}, "price is not positive"),
        ({"volume": -0.5}, "volume is negative"),
        ({"high": 1.0}, "high is below open or close"),
        ({"low": 1e9, "high": 2e9}, "low is above open or close"),
        ({TS: datetime(2024, 1, 3, 7, 30, tzinfo=UTC)}, "open time is off the grid"),
        ({TS: datetime(2025, 1, 1, tzinfo=UTC)}, "candle is in the future"),
    ],
)
def test_a_row_that_cannot_be_goes_to_quarantine_with_its_reason(fault: dict[str, object], reason: str) -> None:
    raw = random_candles(100)
    broken = raw[50].with_columns(pl.lit(v, dtype=CANDLE_SCHEMA[k]).alias(k) for k, v in fault.items())
    result = clean(pl.concat([raw[:50], broken, raw[51:]]))
    assert result.counts["reasons"] == {reason: 1}
    assert result.candles["missing"].sum() == 1
    assert result.candles.filter(pl.col("missing"))["close"].null_count() == 1


Row = dict[str, object]
START = datetime(2024, 1, 30, 12, tzinfo=UTC)
GOOD: dict[str, Row] = {"none": {}, "another volume": {"volume": 2.0}}
BAD: dict[str, Row] = {
    "no number": {"close": float("nan")},
    "nothing": {"open": None},
    "negative": {"low": -1.0},
    "upside down": {"high": 1.0},
    "no time for it": {TS: END},
}


def _raw_row(hour: int, minute: int, fault: str) -> tuple[Row, str]:
    price = 100.0 + hour % 7
    row: Row = {TS: START + timedelta(hours=hour, minutes=minute), "volume": 1.0}
    row |= {"open": price, "high": price + 1, "low": price - 1, "close": price + 0.5}
    return row | (GOOD | BAD)[fault], fault


RAW_ROWS = st.lists(
    st.builds(
        _raw_row, st.integers(0, 60), st.sampled_from([0, 0, 0, 0, 28]), st.sampled_from([*["none"] * 6, *GOOD, *BAD])
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(rows=RAW_ROWS, calendar=st.sampled_from([None, "24/7"]))
def test_whatever_comes_in_each_row_ends_in_one_place_and_no_value_is_invented(
    rows: list[tuple[Row, str]], calendar: str | None
) -> None:
    raw = pl.DataFrame([row for row, _ in rows], schema=CANDLE_SCHEMA)
    market, step = (MARKET, timedelta(hours=1)) if calendar is None else (DAILY, timedelta(days=1))
    good = [row for row, fault in rows if fault in GOOD and _on_grid(row, step)]
    if not good:
        with pytest.raises(DataError, match="none of the"):
            clean_market(raw, market, END, SETTINGS, calendar)
        return
    result = clean_market(raw, market, END, SETTINGS, calendar)
    counts, candles = result.counts, result.candles
    assert counts["raw"] == len(rows) == counts["clean"] + counts["quarantined"] + counts["duplicates"]
    assert counts["quarantined"] == len(result.quarantine) >= len(rows) - len(good)
    assert candles[TS].to_list() == [candles[TS][0] + n * step for n in range(len(candles))]
    assert candles["bar"].to_list() == list(range(candles["bar"][0], candles["bar"][0] + len(candles)))
    first_good = {row[TS]: row for row in reversed(good)}
    assert {candles[TS][0], candles[TS][-1]} <= set(first_good)
    for bar in candles.iter_rows(named=True):
        kept = first_good.pop(bar[TS], None)
        assert bar["missing"] == (kept is None)
        assert all(bar[name] == (kept[name] if kept else None) for name in VALUES)
    assert first_good == {}
    months = counts["by_month"].values()
    total = {kind: sum(month[kind] for month in months) for kind in ("bars", "missing", "quarantined", "raw")}
    assert total == {kind: counts[kind] for kind in ("missing", "quarantined", "raw")} | {"bars": len(candles)}


def _on_grid(row: Row, step: timedelta) -> bool:
    ts = row[TS]
    assert isinstance(ts, datetime)
    return ts.minute == 0 and (step < timedelta(days=1) or ts.hour == 0)


@pytest.mark.parametrize("n_lost", [1, -2])
def test_a_row_that_is_lost_or_counted_twice_stops_the_run(n_lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_candles(60)
    whole = cleaning.clean_grid(raw, MARKET, END)
    account_for(MARKET, len(raw), *whole)
    monkeypatch.setattr(cleaning, "clean_grid", lambda *_: (*whole[:2], whole[2] - n_lost))  # the planted fault
    with pytest.raises(DataError, match=f"60 raw rows became 60 clean, 0 quarantined and {-n_lost} duplicate ones"):
        clean(raw)


def test_rows_are_counted_by_the_month_of_their_open_time() -> None:
    raw = random_candles(72, start=datetime(2024, 1, 31, tzinfo=UTC))
    broken = raw[30].with_columns(close=pl.lit(-1.0))
    result = clean(pl.concat([raw[:20], raw[24:30], broken, raw[31:], raw[40]]))
    assert result.counts["by_month"] == {
        "2024-01": {"bars": 24, "missing": 4, "quarantined": 0, "raw": 20},
        "2024-02": {"bars": 48, "missing": 1, "quarantined": 1, "raw": 49},
    }


def test_bars_that_look_like_a_vendor_s_filling_are_counted_and_left_as_they_are() -> None:
    raw = random_candles(60)
    close = raw["close"][19]
    flat = {"open": close, "high": close, "low": close, "close": close, "volume": 0.0}
    filled = raw.with_columns(
        pl.when(pl.int_range(pl.len()).is_between(20, 24)).then(value).otherwise(name).alias(name)
        for name, value in flat.items()
    )
    traded = filled.with_columns(pl.when(pl.int_range(pl.len()) == 22).then(0.1).otherwise("volume").alias("volume"))
    moved = filled.with_columns(pl.when(pl.int_range(pl.len()) == 22).then(0.9).otherwise("low").alias("low"))
    assert clean(raw).counts["filler"] == 0
    for candles, n_filler, longest in ((filled, 5, 5), (traded, 4, 2), (moved, 4, 2)):
        result = clean(candles)
        assert (result.counts["filler"], result.counts["longest_filler"]) == (n_filler, longest)
        assert result.candles.select(CANDLE_SCHEMA.names()).equals(candles)
    assert clean(pl.concat([filled[:20], filled[22:]])).counts["filler"] == 3  # the last close, across a hole


def test_of_rows_that_share_a_stamp_the_first_counts_and_another_value_is_quarantined() -> None:
    raw = random_candles(60)
    other = raw[20].with_columns(volume=pl.col("volume") + 1)
    result = clean(pl.concat([raw, raw[30], other]))
    assert (result.counts["duplicates"], result.counts["quarantined"]) == (1, 1)
    assert result.quarantine["reason"].to_list() == ["duplicate with other values"]
    assert result.candles["volume"][20] == raw["volume"][20]


def test_a_hole_is_marked_and_never_filled() -> None:
    raw = random_candles(60)
    result = clean(pl.concat([raw[:20], raw[25:]]))
    assert result.candles["missing"].to_list() == [False] * 20 + [True] * 5 + [False] * 35
    assert (result.counts["missing"], result.counts["longest_hole"]) == (5, 5)


def oracle(closes: Sequence[float | None], window: int, limit: float) -> list[bool]:
    """Hampel's identifier by its definition, one bar after the other."""
    marks: list[bool] = []
    known: list[float] = []
    for before, now in zip([None, *closes], closes, strict=False):
        log_return = math.log(now / before) if now is not None and before is not None else None
        past = known[-window:]
        middle = median(past) if len(past) >= window // 2 else math.nan
        deviation = 1.4826 * median(abs(each - middle) for each in past) if past else math.nan
        far = log_return is not None and deviation > 0 and abs(log_return - middle) > limit * deviation
        marks.append(far)
        known += [] if log_return is None else [log_return]
    return marks


PRICE = st.one_of(st.none(), st.sampled_from([50.0, 100.0, 100.0, 101.0]), st.floats(90.0, 110.0))


@settings(deadline=None)
@given(
    closes=st.one_of(st.lists(PRICE, min_size=60, max_size=90), st.lists(PRICE, min_size=1, max_size=20)),
    window=st.sampled_from([10, 11, 30]),
    chunk=st.integers(1, 50),
)
def test_outliers_are_those_of_the_definition_holes_and_flat_stretches_included(
    closes: list[float | None], window: int, chunk: int
) -> None:
    config = CleanConfig(outlier_bars=window, outlier_deviations=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outliers, "_CHUNK", chunk)
        marks = mark_outliers(pl.DataFrame({"close": closes}, schema={"close": pl.Float64}), config)["outlier"]
    assert marks.to_list() == oracle(closes, window, 3.0)


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(1, 299), factor=st.floats(0.01, 100.0))
def test_the_future_never_moves_a_mark(cut: int, factor: float) -> None:
    close = random_candles(300)["close"]
    changed = close.scatter(pl.int_range(cut, 300, eager=True), close[cut:] * factor)
    marks, after = (mark_outliers(pl.DataFrame({"close": each}), SETTINGS)["outlier"] for each in (close, changed))
    assert after[:cut].to_list() == marks[:cut].to_list()


def test_a_bad_tick_is_marked_and_its_price_is_left_as_it_is() -> None:
    raw = random_candles(200)
    spiked = raw.with_columns(
        pl.when(pl.int_range(pl.len()) == 150).then(pl.col("close") * 3).otherwise("close").alias("close")
    )
    spiked = spiked.with_columns(high=pl.max_horizontal("high", "close"))
    candles = clean(spiked).candles
    assert candles["outlier"].arg_true().to_list() == [150, 151]
    assert candles.select(CANDLE_SCHEMA.names()).equals(spiked)


def test_after_a_flat_stretch_no_move_is_called_far() -> None:
    close = [100.0] * 200 + [300.0]
    assert not mark_outliers(pl.DataFrame({"close": close}), SETTINGS)["outlier"].any()
    moving = [100.0 + n % 2 for n in range(200)] + [300.0]
    assert mark_outliers(pl.DataFrame({"close": moving}), SETTINGS)["outlier"].arg_true().to_list() == [200]


def test_nothing_left_is_one_line_with_the_reason() -> None:
    raw = random_candles(20).with_columns(close=pl.lit(-1.0))
    with pytest.raises(
        DataError, match="none of the 20 rows of binance BTC/USDT 1h is a candle of it: 20 times price is not positive"
    ):
        clean(raw)


def test_the_last_closed_candle_is_not_in_the_future() -> None:
    raw = random_candles(50)
    end = raw[TS][-1] + timedelta(hours=1)
    assert clean_market(raw, MARKET, end, SETTINGS).counts["quarantined"] == 0
    assert clean_market(raw, MARKET, end - timedelta(seconds=1), SETTINGS).counts["quarantined"] == 1
