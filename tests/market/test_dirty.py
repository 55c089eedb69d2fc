"""Real dirty candles, and exactly what `clean` finds wrong with them."""

from datetime import datetime
from typing import Any

import polars as pl
import pytest

from gatecast.config import CleanConfig
from gatecast.market.candles import CANDLE_SCHEMA, TS, Market
from gatecast.market.cleaning import CleanMarket, clean_market
from tests.market.real_candles import real_candles

MARKET = Market("vendor", "BTC/USDT", "1h")
SETTINGS = CleanConfig(outlier_bars=168, outlier_deviations=12.0)
SUMS = ("raw", "clean", "quarantined", "duplicates", "missing", "longest_hole", "filler", "longest_filler")
TWICE, OFF = "duplicate with other values", "open time is off the grid"
FOUND: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "cdd_binance_BTCUSDT_1h": ((36_062, 33_413, 2_649, 0, 16, 4, 117, 33), {TWICE: 2_649}),
    "cdd_bitstamp_BTCUSD_1h": ((28_164, 28_164, 0, 0, 1_209, 1_209, 4, 4), {}),
    "binance_spot_BTCUSDT_1h_offgrid": ((55_765, 55_722, 43, 0, 170, 75, 4, 1), {OFF: 43}),
}


def cleaned(name: str, folder: str = "dirty") -> CleanMarket:
    raw = real_candles(name, folder)
    end: Any = raw[TS].max()
    assert isinstance(end, datetime)
    return clean_market(raw, MARKET, end.replace(year=end.year + 1), SETTINGS)


@pytest.mark.parametrize("name", FOUND)
def test_a_dirty_file_is_found_to_be_just_as_dirty_as_it_is(name: str) -> None:
    result = cleaned(name)
    sums, reasons = FOUND[name]
    assert tuple(result.counts[key] for key in SUMS) == sums
    assert result.counts["reasons"] == reasons
    months = pl.DataFrame(list(result.counts["by_month"].values())).sum().row(0, named=True)
    assert months == {kind: result.counts[kind] for kind in ("raw", "quarantined", "missing")} | {
        "bars": len(result.candles)
    }


def test_of_an_hour_that_is_there_twice_the_first_copy_counts_with_all_its_digits() -> None:
    name = "cdd_binance_BTCUSDT_1h"
    result, raw = cleaned(name), real_candles(name, "dirty")
    first = raw.unique(TS, keep="first", maintain_order=True).sort(TS)
    assert result.candles.filter(~pl.col("missing")).select(CANDLE_SCHEMA.names()).equals(first)
    both = result.quarantine.join(first, on=TS, suffix="_first")
    assert ((both["volume"] - both["volume_first"]).abs() < 0.0051).sum() == 2_644  # rounded, and five of other trades
    (still_open,) = both.filter(pl.col("close") != pl.col("close_first")).iter_rows(named=True)
    assert still_open[TS] == both[TS][-1]  # downloaded in the midst of its hour
    assert still_open["volume"] < still_open["volume_first"]


def test_stamps_off_the_grid_are_those_after_the_outage_of_2018() -> None:
    stamps = cleaned("binance_spot_BTCUSDT_1h_offgrid").quarantine[TS]
    assert set(stamps.dt.to_string("%Y-%m %M:%S")) == {"2018-02 28:14"}


def test_filler_bars_cannot_be_told_from_hours_without_a_trade() -> None:
    vendor, own = cleaned("cdd_binance_BTCUSDT_1h").candles, real_candles("binance-BTC-USDT-1h")
    idle = vendor.filter(pl.col("volume") == 0)
    at_venue = idle.select(TS).join(own, on=TS)
    assert (len(idle), len(at_venue), len(at_venue.filter(pl.col("volume") == 0))) == (117, 8, 3)
    other = cleaned("coinbase-BTC-USD-1h", "candles").counts
    assert (other["filler"], other["longest_filler"], other["missing"]) == (28, 15, 0)
