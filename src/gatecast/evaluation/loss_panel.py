"""The losses of every model side by side on the forecasts that all of them share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.metrics import pinball
from gatecast.market.candles import SYMBOL, TS, iso
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, PREDICTION_KEYS, QUANTILES, TARGET, Array

LOSS: Final = "loss"
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LossPanel:
    """Pinball losses at one horizon, a row a market and bar, in time order.

    Attributes:
        horizon: Bars ahead.
        models: The LSTM and then the baselines, (K,).
        losses: In log return, (N, K).
        bars: The bar of each row, counted from 0 without gaps, (N,).
        markets: The market of each row, counted from 0, (N,).
    """

    horizon: int
    models: tuple[str, ...]
    losses: Array
    bars: Places
    markets: Places

    @property
    def n_bars(self) -> int:
        """Bars with a forecast of any market, T."""
        return int(self.bars[-1]) + 1

    def by_bar(self) -> Array:
        """Losses averaged over the markets of each bar, (T, K)."""
        starts = np.flatnonzero(np.diff(self.bars, prepend=-1))
        lengths = np.diff(np.append(starts, len(self.bars)))
        means: Array = np.add.reduceat(self.losses, starts, axis=0) / lengths[:, None]
        return means

    def totals(self, starts: Places) -> Array:
        """Losses summed over runs of bars, by market, (C, S, K).

        Args:
            starts: First bar of each run, (C,).
        """
        n_markets = int(self.markets.max()) + 1
        cells = (np.searchsorted(starts, self.bars, side="right") - 1) * n_markets + self.markets
        size = len(starts) * n_markets
        columns = [np.bincount(cells, weights=losses, minlength=size) for losses in self.losses.T]
        totals: Array = np.stack(columns, axis=1).astype(np.float64).reshape(len(starts), n_markets, -1)
        return totals


def with_loss(predictions: pl.DataFrame) -> pl.DataFrame:
    """The predictions with their pinball loss, in log return; the target has to be known."""
    loss = pinball(predictions[TARGET].to_numpy(), predictions.select(QUANTILES).to_numpy())
    return predictions.with_columns(pl.Series(LOSS, loss))


def loss_panel(scored: pl.DataFrame, baselines: Sequence[str], horizon: int) -> LossPanel:
    """The losses at one horizon side by side.

    Args:
        scored: Forecasts that all models share, with their loss.
        baselines: Names of the baselines among the models.
        horizon: Bars ahead.

    Raises:
        DataError: A model loses nothing in a market, so that no other can be held against it.
    """
    models = (LSTM, *baselines)
    here = scored.filter(pl.col(HORIZON) == horizon).sort(TS, SYMBOL)
    parts = here.partition_by(MODEL, as_dict=True, maintain_order=True)
    keys = parts[(LSTM,)].select(SYMBOL, TS)
    symbols = keys[SYMBOL].unique().sort()
    markets = keys[SYMBOL].replace_strict(symbols, pl.Series(range(len(symbols)))).cast(pl.Int64).to_numpy()
    bars = (keys[TS].rle_id()).cast(pl.Int64).to_numpy()
    losses = np.column_stack([parts[(model,)][LOSS].to_numpy() for model in models])
    for place, symbol in enumerate(symbols):
        for model, total in zip(models, losses[markets == place].sum(axis=0), strict=True):
            if total == 0:
                raise DataError(
                    f"{model} loses nothing in {symbol} at {bars_words(horizon)}: its close does not move, and"
                    " nothing can be learnt from it; take the market out of ingest.symbols"
                )
    return LossPanel(horizon, models, losses, bars, markets)


def shared_forecasts(predictions: pl.DataFrame) -> pl.DataFrame:
    """The forecasts that can be scored: target known, and made by every model at that bar.

    Models are compared on equal terms only: a bar that one of them could not forecast counts for none.
    """
    n_models = predictions[MODEL].n_unique()
    known = predictions.drop_nulls(TARGET)
    return known.filter(pl.len().over(PREDICTION_KEYS) == n_models)


def left_out(predictions: pl.DataFrame, models: Sequence[str], horizons: Sequence[int]) -> dict[str, dict[str, Any]]:
    """How many forecasts that any model made, of a known outcome, each model did not make.

    Those count for none, so that a model could choose where it is scored by keeping silent: it has to be seen.

    Args:
        predictions: Every out-of-sample forecast.
        models: Their names.
        horizons: Bars ahead.

    Returns:
        By horizon, as a string: n, outcomes that some model forecast; and models, how many of them each left out.
    """
    known = predictions.filter(pl.col(MODEL).is_in(models)).drop_nulls(TARGET)
    counts: dict[str, dict[str, Any]] = {}
    for horizon in horizons:
        here = known.filter(pl.col(HORIZON) == horizon)
        n_any = here.select(SYMBOL, TS).n_unique()
        made = dict(here.group_by(MODEL).len().iter_rows())
        counts[str(horizon)] = {"n": n_any, "models": {model: n_any - made.get(model, 0) for model in models}}
    return counts


def scorable(
    predictions: pl.DataFrame, models: Sequence[str], horizons: Sequence[int], folds: Sequence[int]
) -> pl.DataFrame:
    """The forecasts that all models share and whose outcome is known, some in every fold at every horizon.

    Args:
        predictions: Every out-of-sample forecast.
        models: All that have to have made some.
        horizons: Bars ahead.
        folds: Numbers of the folds.

    Raises:
        DataError: There is a fold and a horizon without one; the line says who made none and where.
    """
    if absent := [model for model in models if model not in set(predictions[MODEL].unique())]:
        raise DataError(f"{', '.join(absent)} made no forecast in any fold: {_remedy(absent)}")
    known = predictions.filter(pl.col(MODEL).is_in(models)).drop_nulls(TARGET)
    if known.is_empty():
        raise DataError("no forecast of the evaluation period has a known target: fetch a longer history")
    shared = shared_forecasts(known)
    counts = {(fold, horizon): n for fold, horizon, n in shared.group_by(FOLD, HORIZON).len().iter_rows()}
    for fold in folds:
        for horizon in horizons:
            if (fold, horizon) not in counts:
                raise DataError(_nothing_shared(predictions, models, horizon, fold))
    return shared


def _nothing_shared(predictions: pl.DataFrame, models: Sequence[str], horizon: int, fold: int) -> str:
    """Why a fold cannot be scored at a horizon, in one line."""
    here = predictions.filter((pl.col(FOLD) == fold) & (pl.col(HORIZON) == horizon))
    own = {model: here.filter(pl.col(MODEL) == model) for model in models}
    stamps = here[TS].sort()
    span = f" ({iso(stamps[0])} to {iso(stamps[-1])})" if len(stamps) else ""
    place = f"fold {fold + 1}{span} cannot be scored at {bars_words(horizon)}"
    if silent := [model for model in models if own[model].is_empty()]:
        return f"{place}: {', '.join(silent)} made no forecast there, and a bar that all models forecast is needed;" + (
            f" {_remedy(silent)}"
        )
    n_known = {model: int(forecasts[TARGET].count()) for model, forecasts in own.items()}
    fewest = min(models, key=lambda model: n_known[model])
    if n_known[fewest] == 0:
        return (
            f"{place}: the outcome of none of the {len(own[fewest])} forecasts of {fewest} is known, as the"
            f" close {bars_words(horizon)} later is missing; fetch a longer history, or mend the candles of the fold"
        )
    return f"{place}: no bar was forecast by all models, the fewest ({n_known[fewest]}) by {fewest};" + (
        f" {_remedy([fewest])}"
    )


def bars_words(horizon: int) -> str:
    """A horizon in words."""
    return "1 bar" if horizon == 1 else f"{horizon} bars"


def _remedy(models: Sequence[str]) -> str:
    rivals = [model for model in models if model != LSTM]
    return "fetch a longer history" + (f", or take {', '.join(rivals)} out of evaluate.baselines" if rivals else "")
