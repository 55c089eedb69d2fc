from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import StrategyConfig
from gatecast.errors import DataError
from gatecast.evaluation.strategy import (
    BUY_AND_HOLD,
    days_a_year,
    equity_table,
    strategy_figures,
    strategy_returns,
)
from gatecast.market.candles import TS_TYPE
from gatecast.model.predictions import QUANTILES

START = datetime(2024, 1, 1, 5, tzinfo=UTC)
FREE = StrategyConfig(fee_bps=0, slippage_bps=0, threshold_bps=24)
SHIPPED = StrategyConfig(fee_bps=10, slippage_bps=2, threshold_bps=24)
COST = 12e-4


def forecasts(n_bars: int = 200, symbols: tuple[str, ...] = ("BTC/USDT",), seed: int = 0) -> pl.DataFrame:
    """Hourly closes with holes, and medians that lie beyond the threshold at two bars of three."""
    generator = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(0.01 * generator.standard_normal(n_bars)))
        gone = generator.random(n_bars) < 0.1
        parts.append(
            pl.DataFrame(
                {
                    "symbol": symbol,
                    "ts": pl.Series([START + timedelta(hours=bar) for bar in range(n_bars)], dtype=TS_TYPE),
                    "close": [None if hole else value for hole, value in zip(gone, close, strict=True)],
                    "q0.5": np.where(gone, np.nan, 0.005 * generator.standard_normal(n_bars)),
                }
            )
        )
    return pl.concat(parts).with_columns(pl.col("q0.5").fill_nan(None))


def table(rows: pl.DataFrame, model: str, horizon: int) -> pl.DataFrame:
    """The rows as a part of the table of predictions, which has none where there is no forecast."""
    named = rows.drop_nulls("q0.5").with_columns(
        pl.lit(model).alias("model"), pl.lit(horizon, dtype=pl.Int64).alias("horizon"), pl.lit(0).alias("fold")
    )
    return named.with_columns(pl.col("q0.5").alias(name) for name in QUANTILES)


def account(rows: pl.DataFrame, horizon: int, terms: StrategyConfig) -> dict[str, float]:
    """Daily returns by bookkeeping: bar after bar, tranche after tranche."""
    cost = (terms.fee_bps + terms.slippage_bps) / 1e4
    markets = {str(symbol): part.sort("ts") for (symbol,), part in rows.group_by("symbol")}
    instants = rows["ts"].unique().sort().to_list()
    position, price = dict.fromkeys(markets, 0.0), dict.fromkeys(markets, np.nan)
    daily: dict[str, float] = {}
    for number, instant in enumerate(instants):
        earned = traded = 0.0
        for symbol, part in markets.items():
            close = part["close"][number]
            wanted = position[symbol]
            if close is not None:
                if position[symbol]:
                    earned += position[symbol] * (close / price[symbol] - 1) / len(markets)
                price[symbol] = close
                tranches = [part["q0.5"][past] or 0.0 for past in range(max(number - horizon + 1, 0), number + 1)]
                limit = terms.threshold_bps / 1e4
                wanted = sum((median > limit) - (median < -limit) for median in tranches) / horizon
            if number == len(instants) - 1:
                wanted = 0.0
            traded += abs(wanted - position[symbol]) / len(markets)
            position[symbol] = wanted
        day = instant.date().isoformat()
        daily[day] = daily.get(day, 1.0) * (1 + earned) * (1 - cost * traded)
    return {day: value - 1 for day, value in daily.items()}


@pytest.mark.parametrize("horizon", [1, 6, 24, 500])
@pytest.mark.parametrize("symbols", [("BTC/USDT",), ("BTC/USDT", "ETH/USDT", "SOL/USDT")])
def test_daily_returns_are_those_of_an_account_that_is_kept_by_hand(horizon: int, symbols: tuple[str, ...]) -> None:
    rows = forecasts(symbols=symbols, seed=horizon)
    daily = strategy_returns(rows, horizon, SHIPPED)
    expected = account(rows, horizon, SHIPPED)
    assert [day.isoformat() for day in daily["date"]] == list(expected)
    assert np.allclose(daily["return"].to_numpy(), list(expected.values()), atol=1e-13)
    assert daily["return"].abs().max() > 1e-4  # type: ignore[operator]  # of floats, so it is one


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 199), horizon=st.sampled_from([1, 6, 24]), seed=st.integers(0, 50))
def test_nothing_of_a_day_changes_when_what_comes_after_it_does(cut: int, horizon: int, seed: int) -> None:
    rows = forecasts(symbols=("BTC/USDT", "ETH/USDT"), seed=seed)
    first_changed = START + timedelta(hours=cut)
    later = pl.col("ts") >= first_changed
    changed = rows.with_columns(
        pl.when(later).then(pl.col("close") * 7).otherwise("close").alias("close"),
        pl.when(later).then(-3 * pl.col("q0.5") - 0.01).otherwise("q0.5").alias("q0.5"),
    )
    before = pl.col("date") < first_changed.date()
    for other in (changed, rows.filter(~later | (pl.col("ts") == rows["ts"].max()))):
        here, there = (strategy_returns(each, horizon, SHIPPED).filter(before) for each in (rows, other))
        assert here.equals(there)


def test_the_move_of_the_bar_that_is_forecast_from_is_never_earned() -> None:
    # one jump, and a forecast that knows of it at its close: too late
    close = [100.0] * 10 + [150.0] * 10
    at_jump, before_jump = (
        forecasts(20).with_columns(
            pl.Series("close", close),
            pl.when(pl.col("ts") == START + timedelta(hours=bar)).then(0.4).otherwise(0.0).alias("q0.5"),
        )
        for bar in (10, 9)
    )
    assert strategy_returns(at_jump, 1, FREE)["return"].to_list() == [0.0, 0.0]
    assert strategy_returns(before_jump, 1, FREE)["return"][0] == pytest.approx(0.5)
    # a tenth of the capital, in a signal of ten bars
    assert strategy_returns(before_jump, 10, FREE)["return"][0] == pytest.approx(0.05)


def test_costs_are_those_of_a_round_trip() -> None:
    rows = forecasts(20).with_columns(pl.lit(100.0).alias("close"), pl.lit(0.0).alias("q0.5"))
    at = pl.col("ts") == START + timedelta(hours=7)
    once = rows.with_columns(pl.when(at).then(0.01).otherwise("q0.5").alias("q0.5"))
    daily = strategy_returns(once, 4, SHIPPED)
    assert daily["return"][0] == pytest.approx((1 - COST / 4) ** 2 - 1)
    assert (daily["turnover"].sum(), daily["n_trades"].sum()) == (0.5, 2)
    assert daily["exposure"][0] == pytest.approx(4 * 0.25 / 19)  # of the first day's bars, from 5 o'clock on


def test_a_median_within_the_threshold_is_never_traded_on() -> None:
    rows = forecasts().with_columns(pl.lit(24e-4).alias("q0.5"))
    assert strategy_returns(rows, 1, SHIPPED)["n_trades"].sum() == 0
    assert strategy_returns(rows.with_columns(pl.lit(24.1e-4).alias("q0.5")), 1, SHIPPED)["n_trades"].sum() == 2


def test_a_hole_ages_a_signal_whether_the_table_has_its_rows_or_not() -> None:
    rows = forecasts(24 * 10, symbols=("BTC/USDT",), seed=3)
    assert strategy_returns(rows, 6, SHIPPED).equals(strategy_returns(rows.drop_nulls("close"), 6, SHIPPED))


def test_bars_of_a_market_with_sessions_are_those_of_the_table() -> None:
    days = [START + timedelta(days=day) for day in range(40)]
    sessions = [day for day in days if day.weekday() < 5]
    rows = forecasts(len(sessions)).with_columns(pl.Series("ts", sessions, dtype=TS_TYPE))
    daily = strategy_returns(rows, 3, SHIPPED)
    assert daily["date"].to_list() == [day.date() for day in sessions]
    assert np.allclose(daily["return"].to_numpy(), list(account(rows, 3, SHIPPED).values()), atol=1e-13)


def test_a_year_has_the_days_that_the_data_have() -> None:
    def year(weekdays: int) -> pl.Series:
        days = [datetime(2022, 1, 1, tzinfo=UTC).date() + timedelta(days=day) for day in range(365)]
        return pl.Series([day for day in days if day.weekday() < weekdays])

    assert days_a_year(year(7)) == 365
    assert days_a_year(year(5)) == pytest.approx(261, abs=2)


def test_buying_and_holding_earns_the_move_less_entry_and_exit() -> None:
    rows = forecasts(seed=1).filter(pl.col("ts") > START)
    known = rows["close"].drop_nulls()
    figures = strategy_figures(table(rows, "lstm", 6), [6], SHIPPED)[BUY_AND_HOLD]["6"]
    assert figures["total_return"] == pytest.approx((1 - COST) ** 2 * known[-1] / known[0] - 1)
    assert (figures["n_trades"], figures["turnover"]) == (2, pytest.approx(2 * 365 / figures["n_days"]))


def test_figures_are_those_of_the_equity_curve() -> None:
    rows = forecasts(24 * 60, seed=5)
    predictions = pl.concat(
        [table(rows, "lstm", 1), table(rows, "lstm", 6), table(rows.with_columns(pl.lit(0.0).alias("q0.5")), "flat", 1)]
    )
    figures, equity = strategy_figures(predictions, [1, 6], SHIPPED), equity_table(predictions, [1, 6], SHIPPED)
    assert equity.columns == ["date", "horizon", "model", "return", "equity"]
    assert list(figures) == ["flat", "lstm", BUY_AND_HOLD]
    for (model, horizon), curve in equity.group_by("model", "horizon", maintain_order=True):
        found, returns = figures[str(model)][str(horizon)], curve["return"].to_numpy()
        height, lost = 1.0, 0.0
        for value in curve["equity"]:
            height = max(height, value)
            lost = max(lost, 1 - value / height)
        assert found["max_drawdown"] == pytest.approx(lost)
        assert found["total_return"] == pytest.approx(curve["equity"][-1] - 1)
        assert found["annual_return"] == pytest.approx(curve["equity"][-1] ** (365 / len(curve)) - 1)
        assert found["n_days"] == len(curve) == 61
        if model == "flat":
            assert found["sharpe"] is None
            assert found["n_trades"] == found["exposure"] == found["turnover"] == found["total_return"] == 0
        else:
            assert found["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(365))


def test_models_are_traded_on_the_same_bars_and_missing_forecasts_are_no_signal() -> None:
    rows = forecasts(24 * 20, seed=2).drop_nulls("close")
    late = rows.filter(pl.col("ts") >= START + timedelta(days=4))
    equity = equity_table(pl.concat([table(rows, "lstm", 6), table(late, "garch", 6)]), [6], SHIPPED)
    alone = strategy_returns(rows, 6, SHIPPED)
    assert equity.filter(pl.col("model") == "lstm").select("date", "return").equals(alone.select("date", "return"))
    assert equity.filter(pl.col("model") == "garch")["date"].equals(alone["date"])
    assert equity.filter(pl.col("model") == "garch")["return"].head(4).to_list() == [0.0] * 4


def test_who_has_lost_everything_owes_nothing() -> None:
    close = [100.0] * 10 + [350.0] * 10 + [100.0] * 30
    rows = forecasts(50).with_columns(pl.Series("close", close), pl.lit(-0.1).alias("q0.5"))
    figures = strategy_figures(table(rows, "lstm", 1), [1], SHIPPED)["lstm"]["1"]
    assert (figures["total_return"], figures["annual_return"], figures["max_drawdown"]) == (-1, -1, 1)


def test_a_year_beyond_all_numbers_has_no_return() -> None:
    rows = forecasts(10).with_columns(pl.Series("close", [10.0**bar for bar in range(10)]), pl.lit(0.1).alias("q0.5"))
    figures = strategy_figures(table(rows, "lstm", 1), [1], SHIPPED)["lstm"]["1"]
    assert (figures["annual_return"], figures["sharpe"], figures["n_days"]) == (None, None, 1)


def test_no_forecast_at_all_is_named() -> None:
    with pytest.raises(DataError, match="gatecast evaluate"):
        strategy_returns(forecasts().clear(), 1, SHIPPED)
