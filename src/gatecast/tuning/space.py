"""The search space and what one trial is worth."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from gatecast.config import ModelConfig, StrategyConfig, TuneConfig
from gatecast.errors import DataError
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import InnerFold, Span, bars_of, inner_folds
from gatecast.evaluation.strategy import DATE, RETURN, strategy_returns
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.model.predictions import HORIZON, PREDICTION_KEYS, QUANTILES, TARGET, realised
from gatecast.model.procedure import search_model, stopping_steps
from gatecast.model.training import Hyperparameters


@dataclass(frozen=True)
class InnerScore:
    """What one inner fold said of a set of hyperparameters."""

    pinball: float  # mean over the horizons of the loss relative to the fold's typical move
    returns: pl.DataFrame  # horizon, date, return: daily net returns of the strategy on the scoring slice


@dataclass(frozen=True)
class InnerSearch:
    """One inner fold, as it can be sent to another process to train on.

    Optimiser steps are counted as those of the first fold of `evaluate`: an inner fold, which trains on less, makes as
    many passes over its rows and so fewer steps.

    Attributes:
        rows: Feature rows with targets of the fold.
        fold: Its slices.
        n_bars: Bars that the networks of the first fold of `evaluate` are trained on.
        model: Network and training.
        tune: Epochs, patience, step factor and seed.
        strategy: Costs and threshold of the strategy that trades on the forecasts.
    """

    rows: pl.DataFrame
    fold: InnerFold
    n_bars: float
    model: ModelConfig
    tune: TuneConfig
    strategy: StrategyConfig

    def n_steps(self, hyperparameters: Hyperparameters) -> float:
        """Steps to train with, as the stopping slice has it.

        Raises:
            GatecastError: The loss is no longer a number.
        """
        n_steps = stopping_steps(
            self.fold.train.rows(self.rows),
            _labelled(self.rows, self.fold.stopping, self._context, self.model.horizons),
            hyperparameters,
            self._seeded,
            self.tune.max_epochs,
            self.tune.patience,
        )
        # a rate that falls to nothing covers less ground than the constant one that the stopping slice saw
        factor = 1.0 if self.model.schedule == "constant" else self.tune.step_factor
        return n_steps * factor * self.n_bars / self.fold.train.n_bars

    def score(self, hyperparameters: Hyperparameters, n_steps: int) -> InnerScore:
        """What a network of so many steps is worth on the scoring slice.

        Raises:
            DataError: The closes of the slice do not move.
            GatecastError: The loss is no longer a number.
        """
        n_here = max(round(n_steps * self.fold.train.n_bars / self.n_bars), 1)
        fitted = search_model(self.fold.train.rows(self.rows), hyperparameters, self._seeded, n_here)
        forecasts = fitted.predict(self.fold.scoring.preceded_by(self._context).rows(self.rows))
        scoring = self.fold.scoring.rows(self.rows)
        return InnerScore(
            pinball=_relative_pinball(forecasts, scoring, self.model.horizons),
            returns=_strategy_returns(forecasts, scoring, self.model.horizons, self.strategy),
        )

    @property
    def _context(self) -> int:
        return self.model.stride + self.model.burn_in

    @property
    def _seeded(self) -> ModelConfig:
        return self.model.model_copy(update={"seed": self.tune.seed})


def inner_searches(
    development: pl.DataFrame, model: ModelConfig, tune: TuneConfig, strategy: StrategyConfig
) -> list[InnerSearch]:
    """The inner folds of a development period.

    Args:
        development: Feature rows with targets.
        model: Network and training.
        tune: Number of folds, and the settings of the search.
        strategy: Costs and threshold.

    Raises:
        DataError: Too few rows.
    """
    bars = bars_of(development)
    n_bars = bars.newest(model.train_bars).n_bars * (1 - model.calibration_share)
    folds = inner_folds(bars, tune.n_inner_folds, max(model.horizons), model.train_bars)
    return [InnerSearch(_known(development, fold), fold, n_bars, model, tune, strategy) for fold in folds]


def _known(development: pl.DataFrame, fold: InnerFold) -> pl.DataFrame:
    """The rows of a fold, of the markets that its networks are trained on: of another they know nothing."""
    symbols = fold.train.rows(development)[SYMBOL].unique()
    span = Span(fold.train.start, fold.scoring.end)
    return span.rows(development).filter(pl.col(SYMBOL).is_in(symbols.implode()))


def _labelled(rows: pl.DataFrame, span: Span, context: int, horizons: tuple[int, ...]) -> pl.DataFrame:
    """The rows of a span with the history that its states need, labels inside the span only."""
    return (
        span.preceded_by(context)
        .rows(rows)
        .with_columns(pl.when(pl.col(BAR) >= span.start).then(pl.col(target_name(horizon))) for horizon in horizons)
    )


def _relative_pinball(forecasts: pl.DataFrame, rows: pl.DataFrame, horizons: tuple[int, ...]) -> float:
    """Pinball loss over the mean absolute return of each horizon, so that a long horizon does not drown a short one."""
    scored = forecasts.join(realised(rows, horizons), on=PREDICTION_KEYS, maintain_order="left").drop_nulls(TARGET)
    values = []
    for horizon in horizons:
        table = scored.filter(pl.col(HORIZON) == horizon)
        target = table[TARGET].to_numpy()
        if not target.any():
            raise DataError(
                f"no close moves within {horizon} bars where the search is scored: there is nothing to forecast"
            )
        values.append(mean_pinball(target, table.select(QUANTILES).to_numpy()) / float(np.abs(target).mean()))
    return float(np.mean(values))


def _strategy_returns(
    forecasts: pl.DataFrame, rows: pl.DataFrame, horizons: tuple[int, ...], strategy: StrategyConfig
) -> pl.DataFrame:
    """Daily net returns on the rows alone: nothing is held before them or after them."""
    bars = rows.select(SYMBOL, TS, CLOSE)
    daily = []
    for horizon in horizons:
        here = forecasts.filter(pl.col(HORIZON) == horizon)
        traded = bars.join(here, on=[SYMBOL, TS], how="left", maintain_order="left")
        daily.append(
            strategy_returns(traded, horizon, strategy).select(
                pl.lit(horizon, dtype=pl.Int64).alias(HORIZON), DATE, RETURN
            )
        )
    return pl.concat(daily)
