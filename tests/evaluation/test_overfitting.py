from datetime import date, timedelta
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.overfitting import (
    deflated_sharpe,
    expected_maximum_sharpe,
    overfitting_figures,
    probabilistic_sharpe,
    probability_of_backtest_overfitting,
)

YEAR = 250  # days, of the published example


def test_the_published_example_is_met() -> None:
    # Bailey and López de Prado (2014), "A numerical example": 2.5 a year over five years, 100 trials with variance 1/2
    spread = np.sqrt(0.5 / YEAR)
    assert expected_maximum_sharpe(100, spread) == pytest.approx(0.1132, abs=5e-5)
    sharpe = 2.5 / np.sqrt(YEAR)
    assert deflated_sharpe(sharpe, 1250, -3, 10, 100, spread) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(sharpe, 1250, -3, 10, 46, spread) == pytest.approx(0.9505, abs=5e-5)


def test_the_expected_maximum_is_that_of_as_many_draws() -> None:
    draws = np.random.default_rng(0).standard_normal((20_000, 50)).max(axis=1)
    assert expected_maximum_sharpe(50, 2.0) == pytest.approx(2 * draws.mean(), rel=0.02)


def test_a_true_ratio_of_zero_is_called_positive_as_often_as_promised() -> None:
    draws = np.random.default_rng(1).standard_normal((2000, 300))
    ratios = draws.mean(axis=1) / draws.std(axis=1, ddof=1)
    found = np.array([probabilistic_sharpe(ratio, 0.0, 300, 0.0, 3.0) for ratio in ratios])
    assert (found > 0.95).mean() == pytest.approx(0.05, abs=0.015)


def slow_overfitting(returns: np.ndarray, n_blocks: int) -> float:
    """The definition, one combination after the other."""
    blocks = np.array_split(np.arange(len(returns)), n_blocks)
    votes = []
    for inside in combinations(range(n_blocks), n_blocks // 2):
        halves = [
            [block for number, block in enumerate(blocks) if (number in inside) is side] for side in (True, False)
        ]
        here, there = ([sharpe(returns[np.concatenate(half), n]) for n in range(returns.shape[1])] for half in halves)
        best = [n for n in range(len(here)) if here[n] == max(here)]
        vote = 0.0
        for n in best:
            worse, better = sum(r < there[n] for r in there), sum(r > there[n] for r in there)
            vote += (1.0 if worse < better else 0.5 if worse == better else 0.0) / len(best)
        votes.append(vote)
    return float(np.mean(votes))


def sharpe(returns: np.ndarray) -> float:
    return round(float(returns.mean() / returns.std(ddof=1)), 12) if np.ptp(returns) else 0.0


@pytest.mark.parametrize(("n_days", "n_trials"), [(64, 5), (71, 4), (40, 2)])
def test_overfitting_is_what_the_slow_loop_says(n_days: int, n_trials: int) -> None:
    returns = 0.01 * np.random.default_rng(n_days).standard_normal((n_days, n_trials))
    assert probability_of_backtest_overfitting(returns, 8) == pytest.approx(slow_overfitting(returns, 8), abs=1e-12)


def test_equal_trials_and_trials_that_do_not_trade_are_what_the_slow_loop_says() -> None:
    returns = 0.01 * np.random.default_rng(5).standard_normal((80, 6))
    returns[:, 1] = returns[:, 4]
    returns[:, 2] = 0
    returns[:50, 3] = 0  # trades in some halves alone
    for shape in (np.asfortranarray, np.ascontiguousarray):
        found = probability_of_backtest_overfitting(shape(returns), 8)
        assert found == pytest.approx(slow_overfitting(returns, 8), abs=1e-12)


@pytest.mark.parametrize("n_trials", [2, 3, 8])
def test_trials_without_merit_disappoint_every_other_time(n_trials: int) -> None:
    generator = np.random.default_rng(n_trials)
    found = [probability_of_backtest_overfitting(generator.standard_normal((96, n_trials)), 8) for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_a_trial_that_is_truly_better_hardly_ever_disappoints() -> None:
    returns = 0.01 * np.random.default_rng(7).standard_normal((500, 10))
    assert 0.1 < probability_of_backtest_overfitting(returns) < 0.9
    returns[:, 3] += 0.003
    assert probability_of_backtest_overfitting(returns) < 0.01


def test_a_trial_that_is_best_where_it_is_chosen_and_worst_elsewhere_always_disappoints() -> None:
    # every trial earns in one block what it loses in all others
    returns = 1e-4 * np.random.default_rng(8).standard_normal((160, 16)) - 0.001
    for block in range(16):
        returns[10 * block : 10 * block + 10, block] += 0.05
    assert probability_of_backtest_overfitting(returns) > 0.99


def daily(returns: np.ndarray) -> pl.DataFrame:
    days = [date(2022, 1, 1) + timedelta(days=day) for day in range(len(returns))]
    return pl.DataFrame({"date": days, "return": returns}, schema={"date": pl.Date, "return": pl.Float64})


N_TRIALS = 10  # of which some were pruned


def trials(returns: np.ndarray, horizon: int = 24) -> pl.DataFrame:
    """Returns of each trial, (T, N), as `tune` writes them: numbers with holes where trials were pruned."""
    return pl.concat(
        daily(column).select(pl.lit(2 * number).alias("number"), pl.lit(horizon).alias("horizon"), "date", "return")
        for number, column in enumerate(returns.T)
    )


def test_figures_are_a_years_and_hang_together() -> None:
    generator = np.random.default_rng(9)
    strategy, search = 0.001 + 0.01 * generator.standard_normal(400), 0.01 * generator.standard_normal((120, 7))
    both = pl.concat([trials(search), trials(np.abs(search), 6)])
    figures = overfitting_figures(daily(strategy), both, N_TRIALS, 24)
    year = np.sqrt(365)
    ratios = search.mean(axis=0) / search.std(axis=0, ddof=1)
    assert figures["sharpe"] == pytest.approx(strategy.mean() / strategy.std(ddof=1) * year)
    assert figures["trial_sharpe_spread"] == pytest.approx(ratios.std(ddof=1) * year)
    assert figures["expected_sharpe"] == pytest.approx(expected_maximum_sharpe(N_TRIALS, ratios.std(ddof=1)) * year)
    assert figures["pbo"] == probability_of_backtest_overfitting(search)
    assert (figures["n_trials"], figures["n_days"], figures["n_combinations"], figures["reason"]) == (
        N_TRIALS,
        400,
        12870,
        None,
    )
    centred = strategy - strategy.mean()
    skew, kurtosis = ((centred**power).mean() / (centred**2).mean() ** (power / 2) for power in (3, 4))
    assert figures["deflated_sharpe"] == pytest.approx(
        deflated_sharpe(figures["sharpe"] / year, 400, skew, kurtosis, N_TRIALS, ratios.std(ddof=1))
    )
    assert figures["deflated_sharpe"] < probabilistic_sharpe(figures["sharpe"] / year, 0, 400, skew, kurtosis)


def test_a_trial_that_never_traded_counts_as_a_trial_and_not_as_a_ratio() -> None:
    generator = np.random.default_rng(10)
    strategy, search = daily(0.01 * generator.standard_normal(400)), 0.01 * generator.standard_normal((120, 7))
    flat = np.hstack([search, np.zeros((120, 1))])
    without, with_it = (overfitting_figures(strategy, trials(e), e.shape[1], 24) for e in (search, flat))
    assert with_it["n_trials"] == 8
    assert with_it["trial_sharpe_spread"] == without["trial_sharpe_spread"]
    assert with_it["deflated_sharpe"] < without["deflated_sharpe"]
    assert with_it["pbo"] == probability_of_backtest_overfitting(flat)


NOISE = 0.01 * np.random.default_rng(11).standard_normal((40, 4))
ONE_TRADES = np.where(np.arange(4) == 2, NOISE, 0)


@pytest.mark.parametrize(
    ("strategy", "search", "absent", "reason"),
    [
        (NOISE[:, 0], NOISE[:, :1], {"deflated_sharpe", "pbo"}, "completed 1 trial, "),
        (NOISE[:, 0], NOISE[:, :0], {"deflated_sharpe", "pbo"}, "completed 0 trials"),
        (NOISE[:, 0], 0 * NOISE, {"deflated_sharpe", "pbo"}, "none of 4 trials traded"),
        (NOISE[:, 0], ONE_TRADES, {"deflated_sharpe", "pbo"}, "only 1 of 4 trials traded"),
        (0 * NOISE[:, 0], NOISE, {"deflated_sharpe"}, "never traded"),
        (NOISE[:15, 0], NOISE, {"deflated_sharpe"}, "15 days are too few: 16 are needed"),
        (NOISE[:, 0], NOISE[:15], {"pbo"}, "15 days are too few"),
        (NOISE[:0, 0], NOISE[:, :0], {"deflated_sharpe", "pbo"}, "completed 0 trials"),
    ],
)
def test_a_figure_that_cannot_be_computed_is_none_and_says_why(
    strategy: np.ndarray, search: np.ndarray, absent: set[str], reason: str
) -> None:
    table = trials(search) if search.shape[1] else trials(NOISE).clear()
    figures = overfitting_figures(daily(strategy), table, N_TRIALS, 24)
    assert {name for name in ("deflated_sharpe", "pbo") if figures[name] is None} == absent
    assert (figures["n_combinations"] is None) == ("pbo" in absent)
    assert reason in figures["reason"]
    assert all(np.isfinite(value) for value in figures.values() if isinstance(value, float))


def test_returns_of_different_days_are_refused() -> None:
    with pytest.raises(DataError, match="gatecast tune"):
        overfitting_figures(daily(NOISE[:, 0]), trials(NOISE).head(-1), N_TRIALS, 24)


def test_pruned_trials_raise_the_bar_as_well() -> None:
    generator = np.random.default_rng(12)
    strategy, search = daily(0.01 * generator.standard_normal(400)), 0.01 * generator.standard_normal((120, 7))
    few, many = (overfitting_figures(strategy, trials(search), n, 24) for n in (7, 40))
    assert many["deflated_sharpe"] < few["deflated_sharpe"]
    assert many["expected_sharpe"] > few["expected_sharpe"]
    assert many["pbo"] == few["pbo"]


def test_trials_that_all_earned_the_same_deflate_nothing_and_say_so() -> None:
    same = np.repeat(0.01 * np.random.default_rng(13).standard_normal((120, 1)), 3, axis=1)
    figures = overfitting_figures(daily(same[:, 0]), trials(same), 3, 24)
    assert (figures["deflated_sharpe"], figures["pbo"]) == (None, None)
    assert "all trials earned the same" in figures["reason"]
