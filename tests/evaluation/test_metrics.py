import numpy as np
from scipy import stats

from gatecast.evaluation.metrics import mean_pinball, scores
from gatecast.model.predictions import LEVELS


def normal_quantiles(n: int, scale: float = 1.0) -> np.ndarray:
    return np.tile(stats.norm.ppf(LEVELS) * scale, (n, 1))


def test_scores_are_their_definitions_on_a_few_forecasts() -> None:
    target = np.array([0.5, -1.0, 2.0, 0.0])
    quantiles = np.tile(np.array([-2.0, -1.5, -0.5, 0.1, 0.6, 1.4, 1.9]), (4, 1))
    losses = [
        np.mean([max(level * (y - q), (level - 1) * (y - q)) for level, q in zip(LEVELS, row, strict=True)])
        for y, row in zip(target, quantiles, strict=True)
    ]
    found = scores(target, quantiles)
    assert np.isclose(found["pinball"], np.mean(losses))
    assert np.isclose(found["crps"], 2 * np.mean(losses))
    assert np.isclose(found["mae"], (0.4 + 1.1 + 1.9 + 0.1) / 4)
    assert np.isclose(found["rmse"], np.sqrt((0.4**2 + 1.1**2 + 1.9**2 + 0.1**2) / 4))
    assert np.isclose(found["direction_accuracy"], 2 / 3)  # a bar that did not move counts for neither side
    assert (found["coverage_50"], found["coverage_80"], found["coverage_90"]) == (0.5, 0.75, 0.75)
    assert np.isclose(found["width_90"], 3.9)
    assert found["n"] == 4


def test_the_true_distribution_scores_best_and_covers_what_it_says() -> None:
    target = np.random.default_rng(0).standard_normal(40_000)
    true = mean_pinball(target, normal_quantiles(40_000))
    for wrong in (normal_quantiles(40_000, 0.8), normal_quantiles(40_000, 1.25), normal_quantiles(40_000) + 0.2):
        assert mean_pinball(target, wrong) > true
    found = scores(target, normal_quantiles(40_000))
    assert abs(found["coverage_50"] - 0.5) < 0.01
    assert abs(found["coverage_90"] - 0.9) < 0.01
