"""Simulated markets and forecasters whose truth is known: nulls that no model can beat, and planted signals.

A series is as long as the evaluation period of the sample, after a development period of the same length. All series of
a kind are simulated side by side.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import norm

from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.loss_panel import LossPanel
from gatecast.evaluation.metrics import mean_pinball, pinball
from gatecast.evaluation.splits import Fold, Span, walk_forward
from gatecast.features.targets import build_targets, target_name
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS, TS_TYPE
from gatecast.model.predictions import HORIZON, LEVELS, LSTM, QUANTILES, Array

HORIZONS: Final = (1, 24)
N_BARS: Final = 14_600
N_FOLDS: Final = 2
RIVALS: Final = ("naive", "ewma")
_TRUE_HALF_LIFE, _OTHER_HALF_LIFE = 168, 120  # bars; the first is one that the baseline tries
_YEAR: Final = 8760
_VOLATILITY: Final = 0.006  # of a bar, log return
_SPELL, _ERROR_SPELL = 720, 168  # half-lives of the volatility and of an error about it, bars
_SPREAD: Final = 0.4  # standard deviation of the log volatility
_ERROR: Final = 0.2  # standard deviation of a forecaster's error about it
_NORMAL: Final = norm.ppf(LEVELS)


def random_walks(seed: int, n_series: int) -> Array:
    """Log prices whose returns are independent, Student-t with five degrees of freedom, (N, series)."""
    shocks = np.random.default_rng(seed).standard_t(5, (2 * N_BARS, n_series)) * np.sqrt(3 / 5)
    log_prices: Array = (_VOLATILITY * shocks).cumsum(axis=0)
    return log_prices


def ewma_walks(seed: int, n_series: int) -> Array:
    """Log prices whose variance is the exponentially weighted average of the squared returns so far, (N, series).

    The process has no scale of its own, so that the return over any horizon is that volatility times one fixed law.
    """
    shocks = np.random.default_rng(seed).standard_normal((2 * N_BARS, n_series))
    memory = 0.5 ** (1 / _TRUE_HALF_LIFE)
    returns, variance = np.empty_like(shocks), np.full(n_series, _VOLATILITY**2)
    for bar, shock in enumerate(shocks):
        returns[bar] = np.sqrt(variance) * shock
        variance = memory * variance + (1 - memory) * returns[bar] ** 2
    return returns.cumsum(axis=0)


def null_panels(log_prices: Array, model: str) -> Iterator[dict[int, LossPanel]]:
    """Losses of a candidate and of the baselines on each series, walk-forward, by horizon.

    Args:
        log_prices: Of each bar and series, (N, series).
        model: `last_year` (the random walk, from the last year instead of all there is) or `other_half_life` (the
            volatility of the baseline, with a half-life that is not among those that it tries).
    """
    for prices in log_prices.T:
        rows = _rows(prices)
        folds = walk_forward(Span(0, len(rows)), N_BARS, N_BARS // N_FOLDS, max(HORIZONS))
        parts = [_fold_losses(rows, fold, model) for fold in folds]
        yield {horizon: _panel(horizon, np.concatenate([part[horizon] for part in parts])) for horizon in HORIZONS}


def exchangeable_panels(seed: int, n_series: int, error: float = _ERROR) -> Iterator[dict[int, LossPanel]]:
    """Losses of two forecasters who know the volatility up to errors of their own that last, by horizon.

    Args:
        seed: Of the series.
        n_series: How many.
        error: Standard deviation of the baseline's error in log volatility; at its default the two are exchangeable.
    """
    generator = np.random.default_rng(seed)
    for _ in range(n_series):
        log_volatility = _SPREAD * _persistent(generator, _SPELL) + np.log(_VOLATILITY)
        errors = (_ERROR * _persistent(generator, _ERROR_SPELL), error * _persistent(generator, _ERROR_SPELL))
        moves = np.exp(log_volatility) * generator.standard_normal(N_BARS)
        prices = np.concatenate([[0.0], moves.cumsum()])  # the move of a bar comes after it is forecast
        panels = {}
        for horizon in HORIZONS:
            target = prices[horizon:] - prices[:-horizon]
            scale = np.sqrt(horizon) * np.exp(log_volatility[: len(target)])
            losses = [pinball(target, np.outer(_NORMAL, scale * np.exp(off[: len(target)])).T) for off in errors]
            panels[horizon] = _panel(horizon, np.column_stack(losses), ("rival",))
        yield panels


def error_of_skill(skill: float) -> float:
    """The baseline's error over which the forecaster of `exchangeable_panels` has a skill, at one bar."""
    return float(brentq(lambda error: 1 - _loss(_ERROR) / _loss(error) - skill, _ERROR, 1.0))


def _loss(error: float) -> float:
    """Mean pinball loss of a standard normal outcome whose scale is forecast with a lognormal error."""
    points = norm.ppf((np.arange(400) + 0.5) / 400)
    return float(np.mean([mean_pinball(points, np.tile(_NORMAL * np.exp(error * off), (400, 1))) for off in points]))


def _persistent(generator: np.random.Generator, half_life: int) -> Array:
    """An autoregression with variance one, (N,)."""
    memory = 0.5 ** (1 / half_life)
    start = generator.standard_normal()
    shocks = np.sqrt(1 - memory**2) * generator.standard_normal(N_BARS)
    series: Array = lfilter([1.0], [1.0, -memory], shocks, zi=[memory * start])[0]
    return series


def _rows(log_prices: Array) -> pl.DataFrame:
    n_bars = len(log_prices)
    rows = pl.DataFrame(
        {
            SYMBOL: pl.repeat("A/B", n_bars, eager=True),
            TS: (pl.int_range(n_bars, eager=True) * 3_600_000).cast(TS_TYPE),
            BAR: pl.int_range(n_bars, eager=True),
            CLOSE: 100 * np.exp(log_prices),
        }
    )
    return rows.hstack(build_targets(rows, HORIZONS))


def _fold_losses(rows: pl.DataFrame, fold: Fold, model: str) -> dict[int, Array]:
    """Losses of the candidate and of the baselines in one fold, by horizon, (bars, 1 + baselines)."""
    history, train = Span(fold.train.start, fold.test.end).rows(rows), fold.train.rows(rows)
    tables = [BASELINES[name](train, HORIZONS)(history, fold.test) for name in RIVALS]
    losses = {}
    for horizon in HORIZONS:
        target = fold.test.rows(rows)[target_name(horizon)].drop_nulls().to_numpy()
        rivals = [table.filter(pl.col(HORIZON) == horizon).select(QUANTILES).to_numpy() for table in tables]
        own = _candidate(history, train, horizon, model)[fold.test.start - fold.train.start :]
        every = [quantiles[: len(target)] for quantiles in (own, *rivals)]
        losses[horizon] = np.column_stack([pinball(target, quantiles) for quantiles in every])
    return losses


def _candidate(history: pl.DataFrame, train: pl.DataFrame, horizon: int, model: str) -> Array:
    """Quantiles of every bar of the history, (N, Q)."""
    target = train[target_name(horizon)].to_numpy()
    if model == "last_year":
        return np.tile(np.quantile(target[-_YEAR:], LEVELS), (len(history), 1))
    squared = pl.col(CLOSE).log().diff() ** 2
    volatility = history.select(squared.ewm_mean(half_life=_OTHER_HALF_LIFE).sqrt())[CLOSE].to_numpy()
    known = volatility[: len(train)] > 0
    levels = np.quantile(target[known] / volatility[: len(train)][known], LEVELS)
    return np.outer(levels, volatility).T


def _panel(horizon: int, losses: Array, rivals: Sequence[str] = RIVALS) -> LossPanel:
    n_bars = len(losses)
    return LossPanel(horizon, (LSTM, *rivals), losses, np.arange(n_bars), np.zeros(n_bars, dtype=np.int64))
