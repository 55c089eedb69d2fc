from collections.abc import Callable
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from gatecast.evaluation.metrics import METRICS
from gatecast.evaluation.score_table import calibration_table, naive_scales, pit_table, score_table
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.evaluation.forecast_tables import forecasts, stamps, unit_scales, volatile_market

N_BARS, HORIZONS = 400, (1, 6)
FOLDS = (Fold(0, Span(0, 194), Span(200, 300)), Fold(1, Span(0, 294), Span(300, 400)))


def market(seed: int, symbol: str, first: float, hole: bool = False) -> pl.DataFrame:
    close = first * np.exp(0.01 * np.random.default_rng(seed).standard_normal(N_BARS).cumsum())
    rows = pl.DataFrame({"symbol": symbol, "ts": stamps(N_BARS), "bar": np.arange(N_BARS), "close": close})
    if hole:
        rows = rows.with_columns(pl.when(~pl.col("bar").is_between(50, 60)).then(pl.col("close")).alias("close"))
    return rows.hstack(build_targets(rows, HORIZONS))


def two_markets() -> pl.DataFrame:
    return pl.concat([market(0, "BTC/USDT", 40_000.0, hole=True), market(1, "ETH/USDT", 2000.0)])


def out_of_sample(rows: pl.DataFrame, folds: tuple[Fold, ...] = FOLDS) -> pl.DataFrame:
    """Forecasts of the test bars by two models."""
    tables = []
    for seed, model in enumerate(("lstm", "naive")):
        generator = np.random.default_rng(10 + seed)
        for fold in folds:
            for horizon in HORIZONS:
                for part in fold.test.rows(rows).partition_by("symbol", maintain_order=True):
                    target = part[f"target_{horizon}"].fill_null(np.nan).to_numpy()
                    centre = 0.01 * generator.standard_normal(len(part))
                    table = forecasts(model, target, np.full(len(part), 0.02), centre=centre, symbol=part["symbol"][0],
                                      horizon=horizon)  # fmt: skip
                    tables.append(table.with_columns(part["ts"], part["close"], fold=pl.lit(fold.number)))
    return pl.concat(tables)


def test_scales_are_the_mean_absolute_moves_of_the_train_part() -> None:
    rows = two_markets()
    scales = naive_scales(rows, FOLDS, HORIZONS)
    assert len(scales) == 2 * len(FOLDS) * len(HORIZONS)
    for symbol, horizon, number, return_scale, price_scale in scales.iter_rows():
        close = rows.filter(pl.col("symbol") == symbol)["close"].to_list()
        pairs = [(close[bar], close[bar + horizon]) for bar in range(FOLDS[number].train.end)]
        moves = [(now, then) for now, then in pairs if now is not None and then is not None]
        assert return_scale == pytest.approx(np.mean([abs(np.log(then / now)) for now, then in moves]))
        assert price_scale == pytest.approx(np.mean([abs(then - now) for now, then in moves]))


def test_changing_what_comes_after_the_train_part_never_changes_a_scale() -> None:
    rows = two_markets()
    changed = rows.with_columns(pl.when(pl.col("bar") < 200).then(pl.col("close")).otherwise(7.0).alias("close"))
    changed = changed.select("symbol", "ts", "bar", "close")
    changed = changed.hstack(build_targets(changed, HORIZONS))
    first = [naive_scales(table, FOLDS[:1], HORIZONS) for table in (rows, changed)]
    assert first[0].equals(first[1])


def test_a_market_that_did_not_move_has_no_scale_and_so_no_scaled_error() -> None:
    rows = market(0, "BTC/USDT", 100.0)
    still = rows.with_columns(pl.when(pl.col("bar") < 200).then(100.0).otherwise(pl.col("close")).alias("close"))
    still = still.select("symbol", "ts", "bar", "close")
    still = still.hstack(build_targets(still, HORIZONS))
    scales = naive_scales(still, FOLDS[:1], HORIZONS)
    assert scales["return_scale"].to_list() == [None, None]
    table = score_table(out_of_sample(still).filter(pl.col("fold") == 0), scales)
    assert table["mase"].null_count() == table["price_mase"].null_count() == len(table)
    assert table["mae"].null_count() == 0


def test_scaled_errors_are_divided_by_the_scale_of_their_own_market_and_fold() -> None:
    rows = two_markets()
    scales = naive_scales(rows, FOLDS, HORIZONS)
    predictions = out_of_sample(rows)
    table = score_table(predictions, scales)
    by_key = {key[:3]: key[3:] for key in scales.iter_rows()}

    def by_hand(model: str, horizon: int, chosen: Callable[[str, int], bool]) -> tuple[float, float]:
        returns, prices = [], []
        for row in predictions.iter_rows(named=True):
            own = row["model"] == model and row["horizon"] == horizon and row["target"] is not None
            if own and chosen(row["symbol"], row["fold"]):
                return_scale, price_scale = by_key[row["symbol"], horizon, row["fold"]]
                returns.append(abs(row["target"] - row["q0.5"]) / return_scale)
                price, expected = (row["close"] * np.exp(row[name]) for name in ("target", "q0.5"))
                prices.append(abs(price - expected) / price_scale)
        return float(np.mean(returns)), float(np.mean(prices))

    for symbol, model, horizon, fold, mase, price_mase in table.select(
        "symbol", "model", "horizon", "fold", "mase", "price_mase"
    ).iter_rows():
        expected = by_hand(
            model,
            horizon,
            lambda market, number, s=symbol, f=fold: s in (None, market) and f in (None, number),  # type: ignore[misc] # bound at once
        )
        assert (mase, price_mase) == pytest.approx(expected)


def test_the_zero_return_forecast_scores_one_on_the_train_part_itself() -> None:
    rows = two_markets()
    train = (Fold(0, FOLDS[0].train, FOLDS[0].train),)
    predictions = out_of_sample(rows, train).with_columns(pl.lit(0.0).alias("q0.5"))
    table = score_table(predictions, naive_scales(rows, FOLDS, HORIZONS))
    assert table["mase"].to_list() == pytest.approx([1.0] * len(table))
    assert table["price_mase"].to_list() == pytest.approx([1.0] * len(table))


def test_the_table_has_a_row_for_every_market_fold_and_their_totals() -> None:
    rows = two_markets()
    table = score_table(out_of_sample(rows), naive_scales(rows, FOLDS, HORIZONS))
    assert table.columns == ["symbol", "model", "horizon", "fold", *METRICS]
    assert len(table) == 2 * len(HORIZONS) * (1 + 2) * (1 + len(FOLDS))
    assert table.select("symbol", "model", "horizon", "fold").n_unique() == len(table)
    assert table[0].select("symbol", "fold").row(0) == (None, None)
    for key in ("symbol", "fold"):
        parts = table.filter(pl.col(key).is_not_null()).group_by("model", "horizon", *({"symbol", "fold"} - {key}))
        whole = table.filter(pl.col(key).is_null())
        joined = parts.agg(pl.col("n").sum().alias("parts")).join(
            whole, on=["model", "horizon", *({"symbol", "fold"} - {key})], nulls_equal=True
        )
        assert joined["parts"].equals(joined["n"])
    assert not any(table[name].is_nan().any() for name in METRICS if name != "n")


def test_a_bar_that_one_model_did_not_forecast_counts_for_none() -> None:
    rows = two_markets()
    predictions = out_of_sample(rows)
    gone = (pl.col("model") == "naive") & (pl.col("ts") < pl.col("ts").min() + pl.duration(hours=10))
    table = score_table(predictions.filter(~gone), naive_scales(rows, FOLDS, HORIZONS))
    whole = table.filter(pl.col("symbol").is_null() & pl.col("fold").is_null() & (pl.col("horizon") == 1))
    assert whole["n"].n_unique() == 1
    assert whole["n"][0] == 2 * (200 - 10) - 2  # the last bar of each market has no outcome


def test_calibration_and_shares_between_levels_are_counts() -> None:
    target, scale = volatile_market(0, 1000)
    predictions = forecasts("lstm", target, scale)
    calibration, shares = calibration_table(predictions), pit_table(predictions)
    quantiles = predictions.select(QUANTILES).to_numpy()
    assert calibration["level"].to_list() == list(QUANTILES)
    assert calibration["nominal"].to_list() == list(LEVELS)
    expected = [(target <= column).mean() for column in quantiles.T]
    assert calibration["achieved"].to_list() == pytest.approx(expected)
    edges = [np.full(1000, -np.inf), *quantiles.T, np.full(1000, np.inf)]
    counts = [((low < target) & (target <= high)).mean() for low, high in pairwise(edges)]
    assert shares["share"].to_list() == pytest.approx(counts)
    assert shares["share"].sum() == pytest.approx(1.0)
    assert (shares["high"] - shares["low"]).to_list() == pytest.approx(shares["nominal"].to_list())
    assert unit_scales(predictions).columns == ["symbol", "horizon", "fold", "return_scale", "price_scale"]
