import math
from datetime import timedelta

import polars as pl

from gatecast.features.targets import build_targets, known_before
from gatecast.market.grid import Grid
from tests.conftest import clean_candles, random_candles


def test_a_target_is_the_log_return_to_the_bar_so_far_ahead_and_null_across_a_missing_close() -> None:
    candles = clean_candles(random_candles(60).filter(pl.int_range(pl.len()) != 30))
    target = build_targets(candles, (1, 6))["target_6"].to_list()
    close = candles["close"].to_list()
    for bar in range(60):
        ends = close[bar], close[bar + 6] if bar + 6 < 60 else None
        if None in ends:
            assert target[bar] is None
        else:
            assert math.isclose(target[bar], math.log(ends[1] / ends[0]), rel_tol=1e-9, abs_tol=1e-13)
    assert target[24] is None
    assert target[30] is None


def test_what_is_known_before_a_boundary_does_not_change_with_what_comes_after() -> None:
    candles = clean_candles(random_candles(100))
    boundary = candles["ts"][0] + timedelta(hours=60)

    def development(some: pl.DataFrame) -> pl.DataFrame:
        rows = some.select("symbol", "ts", "bar", "close").hstack(build_targets(some, (1, 24)))
        return known_before(rows, (1, 24), Grid("1h").first_open(boundary))

    changed = candles.with_columns(
        pl.when(pl.col("ts") >= boundary).then(pl.col("close") * 9).otherwise("close").alias("close")
    )
    rows = candles.select("symbol", "ts", "bar", "close").hstack(build_targets(candles, (1, 24)))
    lazily = known_before(rows.lazy(), (1, 24), Grid("1h").first_open(boundary))
    assert lazily.collect().equals(development(candles))
    assert development(candles).equals(development(changed))
    assert development(candles).equals(development(candles[:60]))
    assert len(development(candles)) == 60
    assert development(candles)["target_24"].drop_nulls().len() == 60 - 24
