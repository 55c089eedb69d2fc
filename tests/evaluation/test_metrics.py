from datetime import datetime

import numpy as np
import polars as pl
import pytest
import scoringrules  # type: ignore[import-untyped] # ships no types
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, root_mean_squared_error

from gatecast.evaluation.metrics import (
    METRICS,
    crps,
    direction_accuracy,
    information_coefficient,
    mean_pinball,
    nominal_shares,
    pinball,
    pit_shares,
    scores,
)
from gatecast.evaluation.statistics import diebold_mariano
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.evaluation.forecast_tables import NORMAL, forecasts, overlapping, stamps


def scaled(table: pl.DataFrame, returns: float | None = 0.5, prices: float | None = 2.0) -> pl.DataFrame:
    scales = {"return_scale": pl.lit(returns, pl.Float64), "price_scale": pl.lit(prices, pl.Float64)}
    return table.with_columns(**scales)


def random_forecasts(n_bars: int = 300, symbol: str = "BTC/USDT", seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    target = generator.standard_normal(n_bars) * 0.02
    scale = 0.02 * np.exp(0.3 * generator.standard_normal(n_bars))
    centre = 0.3 * target + 0.01 * generator.standard_normal(n_bars)
    return scaled(forecasts("lstm", target, scale, centre=centre, symbol=symbol))


def test_scores_are_their_definitions_on_a_few_forecasts() -> None:
    target = np.array([0.5, -1.0, 2.0, 0.0])
    quantiles = np.tile(np.array([-2.0, -1.5, -0.5, 0.1, 0.6, 1.4, 1.9]), (4, 1))
    table = scaled(forecasts("lstm", target, np.ones(4)).with_columns(
        **{name: quantiles[:, place] for place, name in enumerate(QUANTILES)}
    ))  # fmt: skip
    losses = [
        np.mean([max(level * (y - q), (level - 1) * (y - q)) for level, q in zip(LEVELS, row, strict=True)])
        for y, row in zip(target, quantiles, strict=True)
    ]
    found = scores(table, 1)
    assert tuple(found) == METRICS
    expected = {
        "pinball": np.mean(losses),
        "crps": slow_crps(target, quantiles),
        "mae": (0.4 + 1.1 + 1.9 + 0.1) / 4,
        "rmse": np.sqrt((0.4**2 + 1.1**2 + 1.9**2 + 0.1**2) / 4),
        "mase": (0.4 + 1.1 + 1.9 + 0.1) / 4 / 0.5,
        "direction_accuracy": 2 / 3,  # a bar that did not move counts for neither side
        "coverage_50": 0.5,
        "coverage_80": 0.75,
        "coverage_90": 0.75,
        "width_50": 1.1,
        "width_80": 2.9,
        "width_90": 3.9,
        "n": 4,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    gaps = [abs(100 * np.exp(y) - 100 * np.exp(0.1)) for y in target]
    assert found["price_mae"] == pytest.approx(np.mean(gaps))
    assert found["price_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(gaps))))
    assert found["price_mase"] == pytest.approx(np.mean(gaps) / 2.0)
    assert (found["ic"], found["ic_t"]) == (None, None)  # the median never changes


def slow_crps(target: np.ndarray, quantiles: np.ndarray) -> float:
    """Twice the quantile loss at ten thousand levels, drawn straight from level to level, from nothing to nothing."""
    fine = (np.arange(10_000) + 0.5) / 10_000
    total = 0.0
    for y, row in zip(target, quantiles, strict=True):
        losses = [max(level * (y - q), (level - 1) * (y - q)) for level, q in zip(LEVELS, row, strict=True)]
        total += 2 * np.interp(fine, [0.0, *LEVELS, 1.0], [0.0, *losses, 0.0]).mean()
    return total / len(target)


def test_the_crps_of_a_normal_forecast_is_near_its_closed_form() -> None:
    target = np.random.default_rng(0).standard_normal(40_000)
    for scale in (0.5, 1.0, 2.0):
        ours = crps(target, np.tile(scale * NORMAL, (len(target), 1))).mean()
        closed = scoringrules.crps_normal(target, 0.0, scale).mean()
        assert 0.94 * closed < ours < closed


def test_losses_are_those_of_scoringrules_and_scikit_learn() -> None:
    table = random_forecasts()
    target, quantiles = table["target"].to_numpy(), table.select(QUANTILES).to_numpy()
    found = scores(table, 1)
    # theirs is twice the plain mean over the levels
    theirs = scoringrules.crps_quantile(target, quantiles, np.array(LEVELS))
    np.testing.assert_allclose(2 * pinball(target, quantiles), theirs, rtol=1e-12)
    theirs = [mean_pinball_loss(target, quantiles[:, place], alpha=level) for place, level in enumerate(LEVELS)]
    assert found["pinball"] == pytest.approx(np.mean(theirs), rel=1e-12)
    assert found["mae"] == pytest.approx(mean_absolute_error(target, quantiles[:, 3]), rel=1e-12)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(target, quantiles[:, 3]), rel=1e-12)


def test_the_true_distribution_scores_best_and_covers_what_it_says() -> None:
    target = np.random.default_rng(0).standard_normal(40_000)
    quantiles = np.tile(NORMAL, (40_000, 1))
    true = mean_pinball(target, quantiles)
    for wrong in (quantiles * 0.8, quantiles * 1.25, quantiles + 0.2):
        assert mean_pinball(target, wrong) > true
    found = scores(scaled(forecasts("lstm", target, np.ones(40_000))), 1)
    assert [found[f"coverage_{name}"] for name in (50, 80, 90)] == pytest.approx([0.5, 0.8, 0.9], abs=0.01)
    np.testing.assert_allclose(pit_shares(target, quantiles), nominal_shares(), atol=0.01)
    np.testing.assert_allclose(nominal_shares(), [0.05, 0.05, 0.15, 0.25, 0.25, 0.15, 0.05, 0.05])


def test_doubling_every_price_doubles_errors_in_price_and_leaves_those_in_return() -> None:
    table = random_forecasts()
    once, twice = scores(table, 1), scores(table.with_columns(pl.col("close") * 2), 1)
    for name in METRICS:
        factor = 2 if name.startswith("price_") else 1
        assert twice[name] == pytest.approx(factor * (once[name] or 0.0)), name


def test_what_has_no_value_is_none_and_never_a_number_that_is_not_one() -> None:
    found = scores(scaled(random_forecasts(), None, None), 1)
    assert (found["mase"], found["price_mase"]) == (None, None)
    assert found["price_mae"] is not None
    unpriced = scores(random_forecasts().with_columns(close=pl.lit(None, pl.Float64)), 1)
    assert (unpriced["price_mae"], unpriced["price_rmse"], unpriced["price_mase"]) == (None, None, None)
    still = scores(scaled(forecasts("lstm", np.zeros(50), np.ones(50))), 1)
    assert (still["direction_accuracy"], still["ic"], still["ic_t"]) == (None, None, None)
    assert all(value is None or np.isfinite(value) for value in still.values())


def test_direction_is_none_where_every_median_is_zero_and_not_a_half() -> None:
    moved = np.array([0.1, -0.2, 0.3])
    assert direction_accuracy(moved, np.zeros(3)) is None
    assert direction_accuracy(np.zeros(3), moved) is None
    assert direction_accuracy(moved, np.array([1.0, 1.0, 0.0])) == 0.5


def test_the_information_coefficient_of_one_market_is_spearmans_correlation() -> None:
    table = random_forecasts()
    theirs = stats.spearmanr(table["q0.5"].to_numpy(), table["target"].to_numpy())
    found = scores(table, 1)
    assert found["ic"] == pytest.approx(theirs.statistic, rel=1e-12)
    tied = table.with_columns(pl.col("q0.5").round(2), pl.col("target").round(2))
    theirs = stats.spearmanr(tied["q0.5"].to_numpy(), tied["target"].to_numpy())
    assert scores(tied, 1)["ic"] == pytest.approx(theirs.statistic, rel=1e-12)


def test_the_information_coefficient_of_several_markets_is_averaged_bar_by_bar() -> None:
    btc, eth = random_forecasts(symbol="BTC/USDT"), random_forecasts(symbol="ETH/USDT", seed=1)[50:]
    products: dict[datetime, list[float]] = {}
    for table in (btc, eth):
        median, target = (stats.zscore(stats.rankdata(table[name].to_numpy())) for name in ("q0.5", "target"))
        for ts, product in zip(table["ts"], median * target, strict=True):
            products.setdefault(ts, []).append(product)
    by_bar = np.array([np.mean(products[ts]) for ts in sorted(products)])
    found = scores(pl.concat([btc, eth]), 1)
    assert found["ic"] == pytest.approx(by_bar.mean(), rel=1e-12)
    assert found["ic_t"] == pytest.approx(diebold_mariano(by_bar, 1).statistic, rel=1e-12)


def test_overlapping_outcomes_do_not_make_a_chance_correlation_significant() -> None:
    generator, own, naive = np.random.default_rng(5), [], []
    for _ in range(200):
        median, target = overlapping(generator, 1200, 24), overlapping(generator, 1200, 24)
        symbols = pl.Series(["BTC/USDT"] * 1200)
        ic, ic_t = information_coefficient(symbols, stamps(1200), median, target, 24)
        assert ic is not None
        assert ic_t is not None
        own.append(abs(ic_t))
        naive.append(abs(ic) * np.sqrt(1200))
    assert np.mean(np.array(naive) > 1.96) > 0.4  # the fault: as if the outcomes were independent
    assert np.mean(np.array(own) > 2.24) < 0.1  # the two-sided 5 % of the fixed-b distribution


def test_too_few_bars_for_the_error_of_a_correlation_give_none() -> None:
    table = random_forecasts(239)
    assert scores(table, 23)["ic"] is not None
    assert (scores(table, 24)["ic"], scores(table, 24)["ic_t"]) == (None, None)


def test_an_outcome_on_a_level_counts_as_at_or_below_it() -> None:
    quantiles = np.tile(np.arange(7.0), (8, 1))
    outcomes = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5])
    assert pit_shares(outcomes, quantiles).tolist() == [1 / 8] * 8
