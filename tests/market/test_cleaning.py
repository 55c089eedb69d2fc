from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import CleanConfig
from gatecast.errors import DataError
from gatecast.market.candles import CANDLE_SCHEMA, TS
from gatecast.market.cleaning import CleanMarket, clean_market
from tests.conftest import MARKET, random_candles

SETTINGS = CleanConfig(outlier_bars=48, outlier_deviations=8.0)
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


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_raw_row_ends_in_exactly_one_place(data: st.DataObject) -> None:
    raw = random_candles(80)
    picks = data.draw(st.lists(st.integers(0, 79), max_size=20))
    repeated = pl.concat([raw, *(raw[i] for i in picks)])
    changed = data.draw(st.lists(st.integers(0, len(repeated) - 1), max_size=20, unique=True))
    volume = pl.when(pl.int_range(pl.len()).is_in(changed)).then(pl.col("volume") - 20).otherwise(pl.col("volume"))
    dropped = repeated.with_columns(volume).filter(
        ~pl.int_range(pl.len()).is_in(data.draw(st.sets(st.integers(0, 60))))
    )
    result = clean(dropped.sample(fraction=1.0, shuffle=True, seed=data.draw(st.integers(0, 9))))
    counts = result.counts
    assert counts["raw"] == len(dropped) == counts["clean"] + counts["quarantined"] + counts["duplicates"]
    bars = result.candles["bar"]
    assert bars.to_list() == list(range(bars[0], bars[-1] + 1))
    assert result.candles.filter(~pl.col("missing"))["close"].null_count() == 0


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


def test_a_bad_tick_is_marked_by_what_came_before_it_alone() -> None:
    raw = random_candles(200)
    spiked = raw.with_columns(
        pl.when(pl.int_range(pl.len()) == 150).then(pl.col("close") * 3).otherwise("close").alias("close")
    )
    spiked = spiked.with_columns(high=pl.max_horizontal("high", "close"))
    marks = clean(spiked).candles["outlier"]
    assert marks[150]
    assert marks[:150].to_list() == clean(raw).candles["outlier"][:150].to_list()


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
