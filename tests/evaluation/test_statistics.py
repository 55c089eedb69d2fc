import numpy as np
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.statistics import diebold_mariano


def overlapping(generator: np.random.Generator, n: int, horizon: int) -> np.ndarray:
    noise = generator.standard_normal(n + horizon - 1)
    return np.convolve(noise, np.ones(horizon) / horizon, "valid")


def test_the_statistic_is_its_definition() -> None:
    difference = overlapping(np.random.default_rng(3), 600, 6) + 0.1
    centred, bandwidth = difference - difference.mean(), 60
    variance = centred @ centred / 600
    for lag in range(1, bandwidth):
        variance += 2 * (1 - lag / bandwidth) * (centred[lag:] @ centred[:-lag]) / 600
    assert np.isclose(diebold_mariano(difference, 6).statistic, difference.mean() / np.sqrt(variance / 600))


def test_a_true_null_of_overlapping_labels_is_rejected_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    rejections = sum(diebold_mariano(overlapping(generator, 3000, 24), 24).p_value <= 0.05 for _ in range(300))
    assert 4 <= rejections <= 27  # 5 % of 300, and what three binomial deviations and the known excess allow


def test_a_planted_advantage_is_found_and_its_opposite_is_not() -> None:
    difference = overlapping(np.random.default_rng(2), 3000, 24) + 0.3
    assert diebold_mariano(difference, 24).p_value < 0.001
    assert diebold_mariano(-difference, 24).p_value > 0.99


def test_equal_forecasts_are_not_better_than_each_other() -> None:
    assert diebold_mariano(np.zeros(500), 24).p_value == 1.0


def test_the_critical_value_of_a_tenth_of_the_sample_is_that_of_the_fixed_b_distribution() -> None:
    # at b = 0.1 one-sided 5 % lies at 1.80 where the normal distribution has 1.645
    generator = np.random.default_rng(0)
    white = generator.standard_normal(2000)
    for shift, low, high in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.001)):
        assert low <= diebold_mariano(white + shift, 1).p_value <= high
    result = [diebold_mariano(generator.standard_normal(400) + 0.05, 1) for _ in range(60)]
    near = [test.p_value for test in result if abs(test.statistic - 1.80) < 0.05]
    assert all(abs(p_value - 0.05) < 0.006 for p_value in near)
    assert near


def test_too_few_forecasts_are_refused() -> None:
    with pytest.raises(DataError, match="at least 240"):
        diebold_mariano(np.zeros(100), 24)
