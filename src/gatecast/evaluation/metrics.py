"""Figures of merit of quantile forecasts, each a plain function of arrays."""

import numpy as np

from gatecast.model.predictions import LEVELS, Array

_MEDIAN = LEVELS.index(0.5)
RANGES = {
    "50": (0.25, 0.75),
    "80": (0.1, 0.9),
    "90": (0.05, 0.95),
}  # central ranges, by their nominal coverage in percent


def pinball(target: Array, quantiles: Array) -> Array:
    """Quantile loss of each forecast, averaged over the levels.

    Args:
        target: Realised log returns, (N,).
        quantiles: Forecast log returns a level, (N, Q).

    Returns:
        (N,), in log return.

    Source:
        Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1).
    """
    loss = np.zeros(len(target))
    for level, quantile in zip(LEVELS, quantiles.T, strict=True):  # level by level: eight times as fast as a matrix
        error = target - quantile  # (N,)
        loss += np.maximum(level * error, (level - 1) * error)
    return loss / len(LEVELS)


def mean_pinball(target: Array, quantiles: Array) -> float:
    """Quantile loss averaged over forecasts and levels, in log return."""
    return float(pinball(target, quantiles).mean())


def scores(target: Array, quantiles: Array) -> dict[str, float]:
    """All figures of one model at one horizon.

    Args:
        target: Realised log returns, (N,), N at least 1.
        quantiles: Forecast log returns a level, (N, Q).

    Returns:
        pinball, crps (twice the pinball loss, its discrete form), mae and rmse of the median and the width of the 90 %
        range, in log return; direction_accuracy of the median among bars that moved and coverage of the central ranges,
        as shares; n, forecasts scored.
    """
    median = quantiles[:, _MEDIAN]
    moved = (target != 0) & (median != 0)
    result = {
        "pinball": mean_pinball(target, quantiles),
        "crps": 2 * mean_pinball(target, quantiles),
        "mae": float(np.abs(target - median).mean()),
        "rmse": float(np.sqrt(((target - median) ** 2).mean())),
        "direction_accuracy": float((np.sign(target) == np.sign(median))[moved].mean()) if moved.any() else 0.5,
    }
    for name, (low, high) in RANGES.items():
        lower, upper = quantiles[:, LEVELS.index(low)], quantiles[:, LEVELS.index(high)]
        result[f"coverage_{name}"] = float(((target >= lower) & (target <= upper)).mean())
    result["width_90"] = float((quantiles[:, -1] - quantiles[:, 0]).mean())
    result["n"] = len(target)
    return result
