"""What a Sharpe ratio is worth after a search: deflated by the trials, and how often the best of them disappoints.

Both treat the trials of the search as candidates that the ratio was picked from. They were picked by their loss, not by
their returns, so the truth is no worse than what stands here.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb, e, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import kurtosis as sample_kurtosis
from scipy.stats import norm, rankdata
from scipy.stats import skew as sample_skew

from gatecast.errors import DataError
from gatecast.evaluation.strategy import DATE, RETURN, daily_sharpe, days_a_year
from gatecast.model.predictions import HORIZON, Array

TRIAL: Final = "number"
N_BLOCKS: Final = 16
_LEAST_TRIALS: Final = 2
_ALL_THE_SAME: Final = "all trials earned the same, so that nothing tells how far they spread"
_CELLS: Final = 2_000_000  # combinations times trials that are computed at once, so that memory stays small


def probabilistic_sharpe(sharpe: float, benchmark: float, n_days: int, skew: float, kurtosis: float) -> float:
    """Probability that the true Sharpe ratio lies above a benchmark.

    Args:
        sharpe: Observed ratio, daily, as all ratios here.
        benchmark: The other ratio.
        n_days: Returns behind the observed one.
        skew: Of the returns.
        kurtosis: Of the returns, 3 for normal ones.

    Source:
        Bailey and López de Prado (2012), The Sharpe Ratio Efficient Frontier, Journal of Risk 15(2).
    """
    # never negative, since kurtosis is at least 1 + skew², and zero for returns of two values alone
    variance = max(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2, np.finfo(float).tiny)
    return float(norm.cdf((sharpe - benchmark) * sqrt(n_days - 1) / sqrt(variance)))


def expected_maximum_sharpe(n_trials: int, spread: float) -> float:
    """The largest Sharpe ratio that so many trials without any merit show on average.

    Args:
        n_trials: At least 2.
        spread: Standard deviation of the ratios of the trials.

    Source:
        Bailey and López de Prado (2014), The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5).
    """
    gamma = float(np.euler_gamma)
    return spread * float((1 - gamma) * norm.ppf(1 - 1 / n_trials) + gamma * norm.ppf(1 - 1 / (n_trials * e)))


def deflated_sharpe(sharpe: float, n_days: int, skew: float, kurtosis: float, n_trials: int, spread: float) -> float:
    """Probability that the true Sharpe ratio lies above what the best of so many trials shows by luck.

    Args:
        sharpe: Observed ratio, daily.
        n_days: Returns behind it.
        skew: Of the returns.
        kurtosis: Of the returns, 3 for normal ones.
        n_trials: Trials that it was picked from, at least 2.
        spread: Standard deviation of the daily ratios of the trials.

    Source:
        Bailey and López de Prado (2014), The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5).
    """
    return probabilistic_sharpe(sharpe, expected_maximum_sharpe(n_trials, spread), n_days, skew, kurtosis)


def probability_of_backtest_overfitting(returns: Array, n_blocks: int = N_BLOCKS) -> float:
    """How often the trial that did best on one half of the days does worse than the median of all on the other half.

    The days are cut into blocks, and every choice of half of the blocks is held against the rest. A trial that did not
    trade in a half has the Sharpe ratio 0 there: it is better than one that lost. Of several that were best together
    each counts its share, and one that is the median itself counts half, so that trials without merit give 1/2 for any
    number of them.

    Args:
        returns: Daily returns of each trial, (T, N): at least as many days as blocks, and two trials.
        n_blocks: Blocks, even.

    Source:
        Bailey, Borwein, López de Prado and Zhu (2017), The Probability of Backtest Overfitting, Journal of
        Computational Finance 20(4).
    """
    median = (returns.shape[1] + 1) / 2
    disappointed = 0.0
    for best_of, held_against in _halves(returns, n_blocks):
        chosen = best_of == best_of.max(axis=1, keepdims=True)  # (C, N)
        rank = rankdata(held_against, axis=1)  # 1 for the worst; equal ones share the mean of their ranks
        below = (rank < median) + (rank == median) / 2
        disappointed += float(((below * chosen).sum(axis=1) / chosen.sum(axis=1)).sum())
    return disappointed / comb(n_blocks, n_blocks // 2)


def overfitting_figures(
    strategy: pl.DataFrame, trial_returns: pl.DataFrame, n_trials: int, horizon: int
) -> dict[str, Any]:
    """How far the strategy's Sharpe ratio at one horizon is owed to the search.

    Every trial counts for the deflated ratio, pruned ones as well, since each could have been chosen. The spread is
    that of the completed trials that traded: a ratio of those that did not is undefined, and a zero in its place would
    lower the bar.

    Args:
        strategy: date, return (simple, net): daily returns of the LSTM in the evaluation.
        trial_returns: number, horizon, date, return: those of each completed trial in the search.
        n_trials: Trials of the search, completed or pruned.
        horizon: Bars ahead.

    Returns:
        deflated_sharpe (probability); sharpe, expected_sharpe (of the best of trials without merit) and
        trial_sharpe_spread, all a year's; n_trials; n_days (of the strategy); pbo; n_combinations; reason, in words,
        where a figure is None, else None.
    """
    returns, trials = strategy[RETURN].to_numpy(), _matrix(trial_returns, horizon)
    n_days, (n_trial_days, n_completed) = len(returns), trials.shape
    sharpe = daily_sharpe(returns) if n_days else None
    ratios = [ratio for column in trials.T if (ratio := daily_sharpe(column)) is not None] if n_trial_days else []
    spread = float(np.std(ratios, ddof=1)) if len(ratios) >= _LEAST_TRIALS else None
    deflated, pbo, reasons = None, None, []
    if reason := _too_little(n_days, n_completed, len(ratios)):
        reasons.append(reason)
    elif sharpe is None or spread is None:
        reasons.append("the strategy never traded in the evaluation")
    elif spread == 0:
        reasons.append(_ALL_THE_SAME)
    else:
        skew, kurtosis = float(sample_skew(returns)), float(sample_kurtosis(returns, fisher=False))
        deflated = deflated_sharpe(sharpe, n_days, skew, kurtosis, n_trials, spread)
    if reason := _too_little(n_trial_days, n_completed, len(ratios)):
        reasons.append(reason)
    elif spread == 0:  # all ties, which the count shares out
        reasons.append(_ALL_THE_SAME)
    else:
        pbo = probability_of_backtest_overfitting(trials)
    to_a_year = sqrt(days_a_year(strategy[DATE])) if n_days else 1.0
    return {
        "deflated_sharpe": deflated,
        "sharpe": None if sharpe is None else sharpe * to_a_year,
        "expected_sharpe": None if spread is None else expected_maximum_sharpe(n_trials, spread) * to_a_year,
        "n_trials": n_trials,
        "trial_sharpe_spread": None if spread is None else spread * to_a_year,
        "n_days": n_days,
        "pbo": pbo,
        "n_combinations": None if pbo is None else comb(N_BLOCKS, N_BLOCKS // 2),
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
    }


def _too_little(n_days: int, n_trials: int, n_traded: int) -> str | None:
    """Why a figure cannot be computed, in words."""
    if n_trials < _LEAST_TRIALS:
        return f"the search completed {n_trials} trial{'s' * (n_trials != 1)}, and there is no luck in fewer than 2"
    if n_traded < _LEAST_TRIALS:
        return f"only {n_traded} of {n_trials} trials traded" if n_traded else f"none of {n_trials} trials traded"
    if n_days < N_BLOCKS:
        return f"{n_days} days are too few: {N_BLOCKS} are needed"
    return None


def _matrix(trial_returns: pl.DataFrame, horizon: int) -> Array:
    """Daily returns of each trial, (T, N)."""
    here = trial_returns.filter(pl.col(HORIZON) == horizon).sort(DATE, TRIAL)
    table = here.pivot(TRIAL, index=DATE, values=RETURN).drop(DATE)
    if sum(table.null_count().row(0)):
        raise DataError(
            f"the daily returns of the trials at horizon {horizon} differ in their days: run `gatecast tune`"
        )
    return table.cast(pl.Float64).to_numpy()


def _halves(returns: Array, n_blocks: int) -> Iterator[tuple[Array, Array]]:
    """Sharpe ratios of the trials in each choice of half of the blocks, and in the rest, (C, N) at a time."""
    blocks = np.array_split(returns, n_blocks)
    chosen = list(combinations(range(n_blocks), n_blocks // 2))
    inside = np.zeros((len(chosen), n_blocks), dtype=bool)
    inside[np.arange(len(chosen))[:, None], chosen] = True
    for part in np.array_split(inside, max(inside.shape[0] * returns.shape[1] // _CELLS, 1)):
        yield _sharpe_of(part, blocks), _sharpe_of(~part, blocks)


def _sharpe_of(chosen: npt.NDArray[np.bool_], blocks: list[Array]) -> Array:
    """Sharpe ratio of each trial over the chosen blocks, 0 where it did not trade, (C, N)."""
    # block after block, since a matrix product may round two equal trials otherwise
    total, square, n_days = (np.zeros((len(chosen), n)) for n in (blocks[0].shape[1], blocks[0].shape[1], 1))
    for block, taken in zip(blocks, chosen.T[:, :, None], strict=True):  # taken: (C, 1)
        total += taken * block.sum(axis=0)
        square += taken * (block**2).sum(axis=0)
        n_days += taken * len(block)
    mean = total / n_days
    deviation = np.sqrt(np.maximum(square - n_days * mean**2, 0) / np.maximum(n_days - 1, 1))
    return np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
