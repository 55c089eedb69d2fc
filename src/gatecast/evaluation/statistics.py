"""The Diebold-Mariano test, sized for overlapping labels."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.signal import correlate

from gatecast.errors import DataError
from gatecast.model.predictions import Array

_N_PATHS = 20_000  # the smallest p-value is 1 / (paths + 1)
_N_STEPS = 500
_SEED = 20050
_LEAST_P = 0.0001  # the simulated distribution tells no smaller ones apart


@dataclass(frozen=True)
class TestResult:
    """A statistic with its one-sided p-value."""

    statistic: float
    p_value: float


def diebold_mariano(difference: Array, horizon: int) -> TestResult:
    """Whether a loss difference is larger than zero on average, one-sided.

    The long-run variance takes Bartlett weights over max(2h, T/10) lags, and the statistic is held against its fixed-b
    distribution: with Newey-West(h - 1) and normal critical values the test rejects a true null of overlapping 24-bar
    labels two to three times too often.

    Args:
        difference: Loss of the rival less loss of the model, in time order, (T,).
        horizon: Bars ahead, by which neighbouring labels overlap.

    Raises:
        DataError: Fewer differences than ten horizons.

    Source:
        Diebold and Mariano (1995), JBES 13(3); Kiefer and Vogelsang (2005), Econometric Theory 21(6).
    """
    n = len(difference)
    if n < 10 * horizon:
        raise DataError(
            f"{n} forecasts are too few for a test at horizon {horizon}: at least {10 * horizon} are needed"
        )
    bandwidth = max(2 * horizon, n // 10)
    centred = difference - difference.mean()
    covariance = correlate(centred, centred, method="fft")[n - 1 :][:bandwidth] / n  # lags 0 .. bandwidth - 1
    weights = 1 - np.arange(bandwidth) / bandwidth
    variance = covariance[0] + 2 * float(weights[1:] @ covariance[1:])
    if np.ptp(difference) == 0:  # equal forecasts, or one better by the same amount at every bar
        ahead = difference.mean() > 0
        return TestResult(0.0, 1 / (_N_PATHS + 1) if ahead else 1.0)
    statistic = float(difference.mean() / np.sqrt(variance / n))
    null = _fixed_b_null(round(bandwidth / n, 3))
    return TestResult(statistic, float((1 + (null >= statistic).sum()) / (1 + _N_PATHS)))


def p_words(p_value: float) -> str:
    """A p-value as people write it."""
    return "< 0.0001" if p_value < _LEAST_P else f"= {p_value:.4f}"


@cache
def _fixed_b_null(b: float) -> Array:
    """Draws from the limit of the statistic when the bandwidth is the share b of the sample, by simulation."""
    generator = np.random.default_rng(_SEED)
    lag = max(round(b * _N_STEPS), 1)
    draws = np.empty(_N_PATHS)
    for start in range(0, _N_PATHS, 2000):  # in parts, so that memory stays small
        steps = generator.standard_normal((2000, _N_STEPS)) / np.sqrt(_N_STEPS)
        paths = steps.cumsum(axis=1)
        end = paths[:, -1]
        bridge = paths - np.arange(1, _N_STEPS + 1) / _N_STEPS * end[:, None]
        overlap = (bridge[:, lag:] * bridge[:, :-lag]).sum(axis=1)
        variance = 2 / lag * ((bridge**2).sum(axis=1) - overlap)
        draws[start : start + 2000] = end / np.sqrt(variance)
    return draws
