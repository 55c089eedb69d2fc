"""The mean of what overlaps: its long-run standard error, and the Diebold-Mariano test made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gatecast.errors import DataError
from gatecast.model.predictions import Array

MIN_HORIZONS = 10  # a series of fewer says nothing about how its own mean varies
_SHARE = 10  # the bandwidth is a tenth of the sample or more
_N_PATHS = 20_000
_N_STEPS = 500
_SEED = 20050
_LEAST_P = 0.0001  # people need no smaller ones told apart


@dataclass(frozen=True)
class TestResult:
    """A statistic with its one-sided p-value."""

    statistic: float
    p_value: float


def diebold_mariano(difference: Array, horizon: int) -> TestResult:
    """Whether a loss difference is larger than zero on average, one-sided.

    The statistic is the mean over its long-run standard error and is held against its fixed-b distribution: with
    Newey-West(h - 1) and normal critical values the test rejects a true null of overlapping 24-bar labels two to three
    times too often.

    Args:
        difference: Loss of the rival less loss of the model, in time order, (T,).
        horizon: Bars ahead, by which neighbouring labels overlap.

    Raises:
        DataError: Fewer differences than ten horizons.

    Source:
        Diebold and Mariano (1995), JBES 13(3); Kiefer and Vogelsang (2005), Econometric Theory 21(6).
    """
    from scipy.special import ndtr  # half a second that whoever only writes a p-value has no use for

    if len(difference) < MIN_HORIZONS * horizon:
        raise DataError(
            f"{len(difference)} forecasts are too few for a test at horizon {horizon}: at least"
            f" {MIN_HORIZONS * horizon} are needed; fetch a longer history, or take the horizon out of model.horizons"
        )
    if is_constant(difference):  # equal forecasts, or one better by the same amount at every bar
        return TestResult(0.0, 1 / (_N_PATHS + 1) if difference.mean() > 0 else 1.0)
    statistic = mean_t(difference, horizon)
    variances = _fixed_b_variances(round(_bandwidth(len(difference), horizon) / len(difference), 3))
    return TestResult(statistic, float(ndtr(-statistic * np.sqrt(variances)).mean()))


def fixed_b_critical(b: float, size: float) -> float:
    """What a mean over its long-run standard error exceeds either way with a probability of `size`, the true one zero.

    Args:
        b: Bandwidth of Bartlett weights, as a share of the sample, at most 1.
        size: The probability, both tails together.

    Source:
        Kiefer and Vogelsang (2005), Econometric Theory 21(6).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    roots = np.sqrt(_fixed_b_variances(round(b, 3)))
    return float(brentq(lambda x: ndtr(-x * roots).mean() - size / 2, 0.0, 100.0))


def mean_t(series: Array, horizon: int) -> float:
    """The mean over its standard error, for what overlaps.

    Args:
        series: In time order, not constant, (T,).
        horizon: Bars by which neighbours overlap.
    """
    variance = long_run_variance(series, _bandwidth(len(series), horizon))
    return float(series.mean() / np.sqrt(variance / len(series)))


def long_run_variance(series: Array, bandwidth: int) -> float:
    """Of the mean, times the number of values: autocovariances under Bartlett weights, so that it is never negative.

    Args:
        series: In time order, (T,).
        bandwidth: The lag from which on the weight is zero.

    Source:
        Newey and West (1987), Econometrica 55(3).
    """
    from scipy.signal import correlate

    n, centred = len(series), series - series.mean()
    covariance = correlate(centred, centred, method="fft")[n - 1 :][:bandwidth] / n  # lags 0 .. bandwidth - 1
    weights = 1 - np.arange(bandwidth) / bandwidth
    return float(covariance[0] + 2 * (weights[1:] @ covariance[1:]))


def is_constant(series: Array) -> bool:
    """Whether a series moves by no more than the rounding of its own arithmetic."""
    return bool(np.ptp(series) <= 1e-13 * np.abs(series).max())


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several (Holm 1979, Scandinavian J. Statistics 6(2))."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min((len(p_values) - rank) * p_values[place], 1.0))
        corrected[place] = largest
    return corrected


def p_words(p_value: float) -> str:
    """A p-value as people write it."""
    return "< 0.0001" if p_value < _LEAST_P else f"= {p_value:.4f}"


def _bandwidth(n: int, horizon: int) -> int:
    """Lags, a tenth of the sample or two horizons: losses stay high or low for longer than labels overlap."""
    return max(2 * horizon, n // _SHARE)


@cache
def _fixed_b_variances(b: float) -> Array:
    """Draws of the limit of the estimated long-run variance over the true one, the bandwidth a share b of the sample.

    The limit of the mean is independent of them, so that the distribution of the statistic at x is the mean over the
    draws of the normal one at x times their root: as exact as a hundred times as many draws of the statistic itself.
    """
    generator = np.random.default_rng(_SEED)
    lag = max(round(b * _N_STEPS), 1)
    draws = np.empty(_N_PATHS)
    for start in range(0, _N_PATHS, 2000):  # in parts, so that memory stays small
        steps = generator.standard_normal((2000, _N_STEPS)) / np.sqrt(_N_STEPS)
        paths = steps.cumsum(axis=1)
        bridge = paths - np.arange(1, _N_STEPS + 1) / _N_STEPS * paths[:, -1:]
        overlap = (bridge[:, lag:] * bridge[:, :-lag]).sum(axis=1)
        draws[start : start + 2000] = 2 / lag * ((bridge**2).sum(axis=1) - overlap)
    return draws
