"""Comparisons of many models at once, by the stationary block bootstrap of arch."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatecast.evaluation.statistics import fixed_b_critical
from gatecast.model.predictions import Array

SIZE: Final = 0.05  # of the confidence set, and what the intervals leave out
_N_REPLICATIONS: Final = 1000
_N_CHUNKS: Final = 1000  # about as many for long series, so that the cost no longer grows with them
_LEAST_BLOCK: Final = 2  # chunks, and so two horizons or more
_BLOCKS: Final = 20  # of an interval, at most: as the bandwidth of the test, a tenth of the sample, forgets
_SEED: Final = 20_030
_ROUNDING: Final = 1e-12  # of a loss: what differs by no more is equal
Indices = npt.NDArray[np.int64]


def chunk_starts(n_bars: int, horizon: int) -> Indices:
    """Where consecutive runs of bars begin that are resampled as one, all of a horizon or longer and about as long.

    Labels overlap by a horizon: most of that lies inside a chunk, the rest inside the blocks of chunks.

    Args:
        n_bars: Bars that all models share, at least one horizon.
        horizon: Bars ahead.

    Returns:
        Place of the first bar of each chunk, (C,).
    """
    n_chunks = n_bars // max(horizon, n_bars // _N_CHUNKS)
    return np.arange(n_chunks) * n_bars // n_chunks


def chunk_means(losses: Array, horizon: int) -> Array:
    """Losses averaged over each chunk, (C, K).

    Args:
        losses: Of each bar and model, in time order, (T, K).
        horizon: Bars ahead.
    """
    starts = chunk_starts(len(losses), horizon)
    lengths = np.diff(np.append(starts, len(losses)))
    means: Array = np.add.reduceat(losses, starts, axis=0) / lengths[:, None]
    return means


def block_length(series: Array) -> int:
    """Mean length of the blocks that a bootstrap of these series needs, the longest of theirs, in rows.

    Args:
        series: In time order, (C, M); what is constant needs none.

    Source:
        Politis and White (2004), Econometric Reviews 23(1), with the correction of Patton, Politis and White (2009).
    """
    from arch.bootstrap import optimal_block_length

    with np.errstate(invalid="ignore", divide="ignore"):  # constant series, and lags as long as a short one
        lengths = optimal_block_length(series)["stationary"].to_numpy()
    known = lengths[np.isfinite(lengths)]
    return max(_LEAST_BLOCK, int(np.ceil(known.max())) if known.size else 0)


def interval_block(block: int, n_chunks: int) -> int:
    """Mean length of the blocks of an interval, in chunks: a twentieth of the sample or longer.

    As long a memory as the bandwidth of the test leaves room for. The blocks that tell a variance best, from
    `block_length`, are too short for an interval: losses stay high for weeks, and of a hundred intervals of 95 %
    ninety held the true skill.

    Args:
        block: From `block_length`.
        n_chunks: Chunks of the sample.
    """
    return max(block, n_chunks // _BLOCKS)


def skill_intervals(totals: Array, block: int) -> tuple[Array, Array]:
    """95 % interval of the skill of the first model over each other one.

    The standard error of the log loss ratio is that of its bootstrap samples, and since few long blocks leave it
    uncertain the critical value is that of fixed-b, not 1.96. Blocks of a mean length L forget as a Bartlett bandwidth
    of 2 L does: both miss the same share of the variance.

    Args:
        totals: Losses summed over each chunk, by market and model, (C, S, K).
        block: Mean length of a block, in chunks, from `interval_block`.

    Returns:
        Low and high, (K - 1,) each: of 1 less the geometric mean over the markets of the first model's loss over the
        other's; NaN where a market is in so few chunks that some samples hold none of it.

    Source:
        Politis and Romano (1994), The Stationary Bootstrap, JASA 89(428); Kiefer and Vogelsang (2005), Econometric
        Theory 21(6).
    """
    from arch.bootstrap import StationaryBootstrap

    def log_ratio(sample: Array) -> Array:
        return np.log1p(-skills(sample.sum(axis=0)))

    bootstrap = StationaryBootstrap(block, totals, seed=_SEED)
    with np.errstate(invalid="ignore"):  # of samples without a market
        deviation = bootstrap.apply(log_ratio, _N_REPLICATIONS).std(axis=0)
    reach = fixed_b_critical(min(2 * block / len(totals), 1.0), SIZE) * deviation
    centre = log_ratio(totals)
    return -np.expm1(centre + reach), -np.expm1(centre - reach)


def skills(losses: Array) -> Array:
    """1 less the geometric mean over markets of the first model's loss over each other one's, (K - 1,).

    Args:
        losses: Mean or total loss by market and model, over the same bars, (S, K).
    """
    result: Array = 1 - np.exp(np.log(losses[:, :1] / losses[:, 1:]).mean(axis=0))
    return result


def confidence_set(losses: Array, models: Sequence[str], block: int) -> dict[str, Any]:
    """The models that the best one is among, with a confidence of 95 %.

    Models with equal losses stand or fall together, and one that is worse than another by the same amount in every
    chunk is out: neither leaves a variance to test with.

    Args:
        losses: Of each chunk and model, in time order, (C, K).
        models: Their names, (K,).
        block: Mean length of a block, in chunks.

    Returns:
        size; members, from the least loss; and p_values, of each model being among the best.

    Source:
        Hansen, Lunde and Nason (2011), The Model Confidence Set, Econometrica 79(2); range statistic.
    """
    from arch.bootstrap import MCS

    same, outdone = _tied(losses)
    tested = [place for place in range(len(models)) if same[place] == place and not outdone[place]]
    p_values = np.zeros(len(models))
    p_values[tested] = 1.0
    if len(tested) > 1:
        test = MCS(losses[:, tested], size=SIZE, reps=_N_REPLICATIONS, block_size=block, seed=_SEED)
        test.compute()
        found = test.pvalues["Pvalue"]
        p_values[[tested[place] for place in found.index]] = found.to_numpy()
    p_values = _with_sample(p_values[same])
    by_loss = np.argsort(losses.mean(axis=0), kind="stable")
    return {
        "size": SIZE,
        "members": [models[place] for place in by_loss if p_values[place] > SIZE],
        "p_values": dict(zip(models, p_values.tolist(), strict=True)),
    }


def superior_ability(losses: Array, block: int) -> dict[str, float]:
    """Whether any other model loses less than the first, all of them searched for the best.

    Args:
        losses: Of each chunk and model, in time order, (C, K).
        block: Mean length of a block, in chunks.

    Returns:
        p_value (the consistent one), lower and upper, its bounds; 1 where no other model is ahead.

    Source:
        Hansen (2005), A Test for Superior Predictive Ability, JBES 23(4).
    """
    from arch.bootstrap import SPA, StationaryBootstrap

    ahead = losses[:, :1] - losses[:, 1:]  # (C, K - 1)
    least = _ROUNDING * losses[:, 0].mean()
    ahead = ahead[:, np.abs(ahead).max(axis=0) > least]  # who forecasts the same cannot be better
    if ahead.shape[1] == 0 or ahead.mean(axis=0).max() <= 0:
        return {"p_value": 1.0, "lower": 1.0, "upper": 1.0}
    means = StationaryBootstrap(block, ahead, seed=_SEED).apply(lambda sample: sample.mean(axis=0), _N_REPLICATIONS)
    # arch compares means as they stand; over their errors no model hides the others by being noisy
    scaled = ahead / np.maximum(means.std(axis=0), least)
    test = SPA(np.zeros(len(scaled)), -scaled, block_size=block, reps=_N_REPLICATIONS, seed=_SEED)
    test.compute()
    lower, consistent, upper = (float(_with_sample(test.pvalues[name])) for name in ("lower", "consistent", "upper"))
    return {"p_value": consistent, "lower": lower, "upper": upper}


def _tied(losses: Array) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """For each model the first one with equal losses, itself or another; and whether one is always as far ahead."""
    n_models = losses.shape[1]
    same, outdone = np.arange(n_models), np.zeros(n_models, dtype=np.bool_)
    for place in range(n_models):
        apart = losses[:, place, None] - losses  # (C, K)
        level = np.ptp(apart, axis=0) <= _ROUNDING * losses[:, place].mean()
        equal = level & (np.abs(apart).max(axis=0) <= _ROUNDING * losses[:, place].mean())
        same[place] = same[np.flatnonzero(equal)[0]]
        outdone[place] = bool((level & ~equal & (apart.mean(axis=0) > 0)).any())
    return same, outdone


def _with_sample(p_value: Any) -> Any:
    """The sample itself counts as one of the replications, so that no p-value is zero."""
    return (1 + _N_REPLICATIONS * p_value) / (1 + _N_REPLICATIONS)
