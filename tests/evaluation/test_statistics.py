import numpy as np
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.statistics import (
    diebold_mariano,
    fixed_b_critical,
    is_constant,
    long_run_variance,
    mean_t,
    p_words,
)
from tests.evaluation.forecast_tables import overlapping, persistent


def slow_variance(series: np.ndarray, bandwidth: int) -> float:
    centred, n = series - series.mean(), len(series)
    variance = float(centred @ centred) / n
    for lag in range(1, bandwidth):
        variance += 2 * (1 - lag / bandwidth) * float(centred[lag:] @ centred[:-lag]) / n
    return variance


def critical_value(b: float, size: float) -> float:
    """Of the fixed-b distribution, one-sided."""
    return fixed_b_critical(b, 2 * size)


@pytest.mark.parametrize(("n", "horizon", "bandwidth"), [(600, 6, 60), (600, 1, 60), (260, 24, 48)])
def test_the_statistic_is_its_definition(n: int, horizon: int, bandwidth: int) -> None:
    difference = overlapping(np.random.default_rng(3), n, horizon) + 0.1
    variance = slow_variance(difference, bandwidth)
    assert long_run_variance(difference, bandwidth) == pytest.approx(variance, rel=1e-10)
    expected = pytest.approx(difference.mean() / np.sqrt(variance / n), rel=1e-10)
    assert mean_t(difference, horizon) == expected
    assert diebold_mariano(difference, horizon).statistic == expected


@pytest.mark.parametrize(("size", "published"), [(0.1, 2.740), (0.05, 3.764), (0.025, 4.771), (0.01, 6.090)])
def test_the_null_distribution_at_full_bandwidth_is_the_published_one(size: float, published: float) -> None:
    # Abadir and Paruolo (1997), Econometrica 65(3), table I: 3.875, 5.323, 6.747 and 8.613; over the root of two, since
    # the Bartlett estimate at full bandwidth is twice theirs (Kiefer and Vogelsang 2002, Econometrica 70(5))
    assert critical_value(1.0, size) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("b", [0.1, 0.2])
@pytest.mark.parametrize(
    ("size", "polynomial"),
    [
        (0.1, (1.2816, 1.3040, 0.5135, -0.3386)),
        (0.05, (1.6449, 2.1859, 0.3142, -0.3427)),
        (0.025, (1.9600, 2.9694, 0.4160, -0.5324)),
        (0.01, (2.3263, 4.1618, 0.5368, -0.9060)),
    ],
)
def test_the_null_distribution_is_near_the_published_fit(b: float, size: float, polynomial: tuple[float, ...]) -> None:
    # Kiefer and Vogelsang (2005), table I: critical values as a cubic in b, itself a fit to a simulation
    published = sum(factor * b**power for power, factor in enumerate(polynomial))
    assert critical_value(b, size) == pytest.approx(published, rel=0.03)


def test_a_p_value_is_the_size_at_its_critical_value() -> None:
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(1000)
    noise -= noise.mean()
    for size in (0.05, 0.01):
        shift = critical_value(0.1, size) * np.sqrt(slow_variance(noise, 100) / 1000)
        assert diebold_mariano(noise + shift, 1).p_value == pytest.approx(size, rel=1e-6)


def test_a_true_null_of_overlapping_labels_is_rejected_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    rejections = sum(diebold_mariano(overlapping(generator, 3000, 24), 24).p_value <= 0.05 for _ in range(300))
    assert 4 <= rejections <= 26  # 5 % of 300, and three binomial deviations


def test_a_true_null_of_losses_that_stay_high_for_long_is_rejected_hardly_more_often() -> None:
    generator = np.random.default_rng(2)
    spells = persistent(generator, 14_600, 0.5 ** (1 / 168), 100)
    labels = np.stack([overlapping(generator, 14_600, 24) for _ in range(100)], axis=1)
    rejections = sum(diebold_mariano(series, 24).p_value <= 0.05 for series in (np.exp(spells / 2) * labels).T)
    assert rejections <= 12


def test_a_planted_advantage_is_found_and_its_opposite_is_not() -> None:
    difference = overlapping(np.random.default_rng(2), 3000, 24) + 0.3
    assert diebold_mariano(difference, 24).p_value < 0.001
    assert diebold_mariano(-difference, 24).p_value > 0.99


def test_equal_forecasts_are_not_better_than_each_other() -> None:
    assert diebold_mariano(np.zeros(500), 24).p_value == 1.0


def test_what_is_better_by_the_same_amount_everywhere_is_better() -> None:
    losses = np.random.default_rng(0).standard_normal(500) ** 2
    ahead = (losses + 0.1) - losses  # equal but for rounding
    assert np.ptp(ahead) > 0
    assert is_constant(ahead)
    assert diebold_mariano(ahead, 24).p_value < 0.0001
    assert diebold_mariano(-ahead, 24).p_value == 1.0


def test_too_few_forecasts_are_refused() -> None:
    with pytest.raises(DataError, match="100 forecasts are too few for a test at horizon 24: at least 240"):
        diebold_mariano(np.zeros(100), 24)


def test_small_p_values_are_written_as_a_bound() -> None:
    assert (p_words(0.00001), p_words(0.0125)) == ("< 0.0001", "= 0.0125")
