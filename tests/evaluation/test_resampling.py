from itertools import pairwise

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length

from gatecast.evaluation.resampling import (
    block_length,
    chunk_means,
    chunk_starts,
    confidence_set,
    interval_block,
    skill_intervals,
    skills,
    superior_ability,
)
from tests.evaluation.forecast_tables import persistent


def losses(seed: int, means: list[float], n_chunks: int = 400, memory: float = 0.3) -> np.ndarray:
    """Of models that share most of their noise, as they do on one market."""
    generator = np.random.default_rng(seed)
    common = persistent(generator, n_chunks, memory)
    own = persistent(generator, n_chunks, memory, len(means))
    result: np.ndarray = 2.0 + 0.5 * common + 0.1 * own + np.array(means)
    return result


@pytest.mark.parametrize(("n_bars", "horizon"), [(10, 1), (257, 24), (17_506, 24), (17_529, 1), (50_000, 24)])
def test_chunks_hold_a_horizon_or_more_and_about_the_same_number_of_bars(n_bars: int, horizon: int) -> None:
    starts = chunk_starts(n_bars, horizon)
    lengths = np.diff(np.append(starts, n_bars))
    assert starts[0] == 0
    assert lengths.min() >= horizon
    assert lengths.max() - lengths.min() <= 1
    assert len(starts) <= 1100
    assert len(starts) >= min(n_bars // horizon, 900)


def test_chunk_means_are_means_over_chunks() -> None:
    table = np.random.default_rng(0).standard_normal((257, 3))
    starts = [*chunk_starts(257, 24).tolist(), 257]
    expected = [table[a:b].mean(axis=0) for a, b in pairwise(starts)]
    np.testing.assert_allclose(chunk_means(table, 24), expected, rtol=1e-12)


def test_blocks_grow_with_the_memory_of_the_losses_and_are_never_shorter_than_two_chunks() -> None:
    generator = np.random.default_rng(0)
    white, slow = generator.standard_normal((1000, 1)), persistent(generator, 1000, 0.9)
    assert block_length(slow) == int(np.ceil(optimal_block_length(slow)["stationary"].iloc[0]))
    assert block_length(slow) > 2 * block_length(white)
    assert block_length(np.hstack([white, slow])) == block_length(slow)
    assert block_length(np.zeros((100, 2))) == 2
    assert 2 <= block_length(generator.standard_normal((10, 1))) <= 5


def test_a_planted_inferior_model_leaves_the_set_and_equal_ones_stay() -> None:
    found = confidence_set(losses(0, [0.0, 0.0, 0.1]), ("lstm", "naive", "ewma"), 3)
    assert set(found["members"]) == {"lstm", "naive"}
    assert found["p_values"]["ewma"] <= found["size"] < min(found["p_values"]["lstm"], found["p_values"]["naive"])


def test_the_best_model_is_in_the_set_as_often_as_promised() -> None:
    kept = [confidence_set(losses(seed, [0.0, 0.0, 0.0], 200), ("a", "b", "c"), 4)["members"] for seed in range(60)]
    together = np.mean([len(members) == 3 for members in kept])
    assert together >= 0.85  # all are the best here, so that 95 % of the sets should hold all
    assert all(kept)


def test_models_with_the_same_losses_stand_or_fall_together() -> None:
    own = losses(1, [0.0, 0.2])
    doubled = np.column_stack([own[:, 0], own[:, 0], own[:, 1], own[:, 1]])
    found = confidence_set(doubled, ("lstm", "twin", "ewma", "copy"), 3)
    assert found["members"] == ["lstm", "twin"]
    assert found["p_values"]["ewma"] == found["p_values"]["copy"] <= 0.05
    every = confidence_set(np.repeat(own[:, :1], 3, axis=1), ("a", "b", "c"), 3)
    assert every["members"] == ["a", "b", "c"]
    assert set(every["p_values"].values()) == {1.0}


def test_who_is_behind_by_the_same_amount_in_every_chunk_is_out() -> None:
    own = losses(2, [0.0])
    found = confidence_set(np.column_stack([own[:, 0], own[:, 0] + 0.25, own[:, 0] + 0.25]), ("lstm", "naive", "b"), 3)
    assert found["members"] == ["lstm"]
    assert max(found["p_values"]["naive"], found["p_values"]["b"]) < 0.01
    assert superior_ability(np.column_stack([own[:, 0] + 0.25, own[:, 0]]), 3)["p_value"] < 0.01


def test_a_baseline_that_is_truly_better_shows_and_one_that_is_not_does_not() -> None:
    assert superior_ability(losses(3, [0.1, 0.0, 0.1]), 3)["p_value"] < 0.01
    behind = superior_ability(losses(3, [0.0, 0.1, 0.2]), 3)
    assert behind == {"p_value": 1.0, "lower": 1.0, "upper": 1.0}


def test_a_better_baseline_is_found_beside_a_noisy_one() -> None:
    # over means as they stand the noise of the second baseline would hide the first
    own = losses(5, [0.05, 0.0])
    noisy = own[:, 0] + 1.5 * persistent(np.random.default_rng(0), 400, 0.3)[:, 0] + 0.3
    found = superior_ability(np.column_stack([own, noisy]), 3)
    assert found["p_value"] < 0.01
    assert found["lower"] <= found["p_value"] <= found["upper"]


def test_searching_many_equal_baselines_finds_a_better_one_about_as_rarely_as_promised() -> None:
    samples = [losses(seed, [0.0] * 6, 200) for seed in range(60)]
    found = [superior_ability(each, block_length(each[:, 1:] - each[:, :1]))["p_value"] <= 0.05 for each in samples]
    assert np.mean(found) <= 0.13  # 5 %, and three binomial deviations


def test_baselines_with_the_forecasts_of_the_model_are_no_better_than_it() -> None:
    own = losses(6, [0.0])
    same = {"p_value": 1.0, "lower": 1.0, "upper": 1.0}
    assert superior_ability(np.repeat(own, 3, axis=1), 3) == same
    assert superior_ability(np.column_stack([own, own, own + 0.1]), 3) == same


def test_skill_is_one_less_the_geometric_mean_of_the_ratios() -> None:
    means = np.array([[1.0, 2.0, 1.0], [8.0, 4.0, 10.0]])
    np.testing.assert_allclose(skills(means), [1 - np.sqrt(0.5 * 2.0), 1 - np.sqrt(1.0 * 0.8)])


def slow_deviation(sample: np.ndarray, block: int) -> float:
    """Standard deviation of the log loss ratio over samples of blocks of geometric length that wrap around."""
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(2000):
        places: list[int] = []
        while len(places) < len(sample):
            start, length = generator.integers(len(sample)), generator.geometric(1 / block)
            places += [(int(start) + step) % len(sample) for step in range(length)]
        ours, theirs = sample[places[: len(sample)]].mean(axis=0)
        ratios.append(np.log(ours / theirs))
    return float(np.std(ratios))


def test_an_interval_is_the_deviation_of_its_samples_times_the_fixed_b_critical_value() -> None:
    sample = losses(3, [0.0, 0.1], 300, memory=0.6)
    low, high = skill_intervals(sample[:, None, :], 15)
    published = 1.96 + 2.9694 * 0.1 + 0.4160 * 0.1**2  # Kiefer and Vogelsang (2005), table I, at a bandwidth of a tenth
    reach = published * slow_deviation(sample, 15)
    assert (np.log1p(-low[0]) - np.log1p(-high[0])) / 2 == pytest.approx(reach, rel=0.07)
    assert np.sqrt((1 - low[0]) * (1 - high[0])) == pytest.approx(1 - skills(sample.sum(axis=0)[None, :])[0], rel=1e-12)


def test_intervals_of_skill_cover_it_about_as_often_as_promised() -> None:
    hits = []
    for seed in range(80):
        sample = losses(seed, [0.0, 0.1], 300, memory=0.6)
        block = interval_block(block_length(sample[:, 1:] - sample[:, :1]), len(sample))
        low, high = skill_intervals(sample[:, None, :], block)
        hits.append(low[0] <= 1 - 2.0 / 2.1 <= high[0])
    assert np.mean(hits) >= 0.877  # 95 %, less three binomial deviations


def test_blocks_of_an_interval_are_a_twentieth_of_the_sample_or_longer() -> None:
    assert [interval_block(3, 1000), interval_block(80, 1000), interval_block(2, 30)] == [50, 80, 2]


def test_forgetting_the_memory_of_the_losses_makes_intervals_too_short() -> None:
    sample = losses(0, [0.0, 0.1], 1000, memory=0.9)
    block = block_length(sample[:, 1:] - sample[:, :1])
    (low, high), (short_low, short_high) = (skill_intervals(sample[:, None, :], length) for length in (block, 1))
    assert high[0] - low[0] > 1.5 * (short_high[0] - short_low[0])


def test_the_interval_of_several_markets_is_narrower_than_that_of_one() -> None:
    markets = np.stack([losses(seed, [0.0, 0.1], 500) for seed in range(6)], axis=1)  # (C, S, K)
    low, high = skill_intervals(markets, 3)
    alone_low, alone_high = skill_intervals(markets[:, :1], 3)
    assert high[0] - low[0] < 0.7 * (alone_high[0] - alone_low[0])


def test_the_same_losses_give_the_same_numbers_to_the_last_bit() -> None:
    sample = losses(7, [0.02, 0.0, 0.05])
    once, again = (
        (confidence_set(sample, ("a", "b", "c"), 3), superior_ability(sample, 3), *skill_intervals(sample[:, None], 3))
        for _ in range(2)
    )
    assert repr(once) == repr(again)
