"""The figures of merit as tables: by model, horizon, market and fold, with the scales that errors are held against."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from gatecast.evaluation.loss_panel import shared_forecasts
from gatecast.evaluation.metrics import METRICS, PRICE_SCALE, RETURN_SCALE, Scores, nominal_shares, pit_shares, scores
from gatecast.evaluation.splits import Fold
from gatecast.features.targets import target_name
from gatecast.market.candles import CLOSE, SYMBOL
from gatecast.model.predictions import FOLD, HORIZON, LEVELS, MODEL, QUANTILES, TARGET, Array

SCALE_KEYS = (SYMBOL, HORIZON, FOLD)
_EDGES = (0.0, *LEVELS, 1.0)


def naive_scales(rows: pl.DataFrame, folds: Sequence[Fold], horizons: Sequence[int]) -> pl.DataFrame:
    """What the random walk without drift errs by in the train part of each fold, market by market.

    Args:
        rows: All feature rows: symbol, bar, close and the targets.
        folds: Purged folds, so that the targets of their train parts are known where the test begins.
        horizons: Bars ahead.

    Returns:
        symbol, horizon, fold, return_scale (mean absolute log return over the horizon) and price_scale (mean absolute
        change of the price over it); null where the market did not move, no row where it was not there yet.

    Source:
        Hyndman and Koehler (2006), Another Look at Measures of Forecast Accuracy, International Journal of Forecasting
        22(4); at the horizon of the forecast where theirs is one step.
    """
    scales = [
        {SYMBOL: symbol, HORIZON: horizon, FOLD: fold.number, **_mean_moves(market, horizon)}
        for fold in folds
        for symbol, market in _parts(fold.train.rows(rows), SYMBOL)
        for horizon in horizons
    ]
    types = {SYMBOL: pl.String, HORIZON: pl.Int64, FOLD: pl.Int64, RETURN_SCALE: pl.Float64, PRICE_SCALE: pl.Float64}
    return pl.DataFrame(scales, schema=types).sort(SCALE_KEYS)


def _mean_moves(market: pl.DataFrame, horizon: int) -> dict[str, float | None]:
    """The scales of one market, None where it did not move.

    By NumPy: the last bits of a grouped mean of polars follow from how the rows lie in memory.
    """
    columns = market.select(pl.col(target_name(horizon), CLOSE).cast(pl.Float64)).to_numpy()
    move, close = columns[np.isfinite(columns).all(axis=1)].T
    moves = {RETURN_SCALE: np.abs(move), PRICE_SCALE: close * np.abs(np.expm1(move))}
    return {name: float(sizes.mean()) if sizes.any() else None for name, sizes in moves.items()}


def with_scales(forecasts: pl.DataFrame, scales: pl.DataFrame) -> pl.DataFrame:
    """The forecasts with the scales of their market, horizon and fold; null where there are none."""
    return forecasts.join(scales, on=SCALE_KEYS, how="left", maintain_order="left")


def score_table(predictions: pl.DataFrame, scales: pl.DataFrame) -> pl.DataFrame:
    """Every figure of merit, of the forecasts that all models share.

    Args:
        predictions: Every out-of-sample forecast.
        scales: `naive_scales` of the same folds.

    Returns:
        symbol (null: all markets together), model, horizon, fold (null: all folds together) and `METRICS`.
    """
    scored = with_scales(shared_forecasts(predictions), scales)
    rows = [
        {SYMBOL: symbol, MODEL: model, HORIZON: horizon, FOLD: fold, **figures}
        for (model, horizon), part in grouped(scored)
        for fold, of_fold in [(None, part), *_parts(part, FOLD)]
        for symbol, figures in market_scores(of_fold, horizon).items()
    ]
    types = {SYMBOL: pl.String, MODEL: pl.String, HORIZON: pl.Int64, FOLD: pl.Int64}
    schema = {**types, **dict.fromkeys(METRICS, pl.Float64), "n": pl.Int64}
    return pl.DataFrame(rows, schema=schema).sort(SYMBOL, MODEL, HORIZON, FOLD)  # nulls first


def market_scores(forecasts: pl.DataFrame, horizon: int) -> dict[str | None, Scores]:
    """Figures of one model at one horizon: of all markets together, under None, and of each.

    Args:
        forecasts: As `metrics.scores` takes them.
        horizon: Bars ahead.
    """
    together, markets = scores(forecasts, horizon), list(_parts(forecasts, SYMBOL))
    if len(markets) == 1:
        return {None: together, markets[0][0]: together}
    return {None: together, **{symbol: scores(market, horizon) for symbol, market in markets}}


def calibration_table(predictions: pl.DataFrame) -> pl.DataFrame:
    """How often outcomes fell to a level or below: model, horizon, level (its column), nominal and achieved share."""
    rows = [
        {MODEL: model, HORIZON: horizon, "level": name, "nominal": nominal, "achieved": float(achieved)}
        for (model, horizon), shares in pit(shared_forecasts(predictions)).items()
        for name, nominal, achieved in zip(QUANTILES, LEVELS, shares.cumsum(), strict=False)
    ]
    return pl.DataFrame(rows)


def pit_table(predictions: pl.DataFrame) -> pl.DataFrame:
    """How often outcomes fell between neighbouring levels: model, horizon, low, high, share and nominal share."""
    rows = [
        {MODEL: model, HORIZON: horizon, "low": low, "high": high, "share": float(share), "nominal": float(nominal)}
        for (model, horizon), shares in pit(shared_forecasts(predictions)).items()
        for low, high, share, nominal in zip(_EDGES[:-1], _EDGES[1:], shares, nominal_shares(), strict=True)
    ]
    return pl.DataFrame(rows)


def pit(scored: pl.DataFrame) -> dict[tuple[str, int], Array]:
    """`metrics.pit_shares` by model and horizon, of forecasts whose target is known."""
    return {
        key: pit_shares(part[TARGET].to_numpy(), part.select(QUANTILES).to_numpy()) for key, part in grouped(scored)
    }


def grouped(scored: pl.DataFrame) -> Iterator[tuple[tuple[str, int], pl.DataFrame]]:
    """The forecasts of each model at each horizon, in order."""
    parts = scored.partition_by(MODEL, HORIZON, as_dict=True, maintain_order=True)
    for model, horizon in sorted(parts):
        yield (model, horizon), parts[model, horizon]


def _parts(frame: pl.DataFrame, column: str) -> Iterator[tuple[Any, pl.DataFrame]]:
    parts = frame.partition_by(column, as_dict=True, maintain_order=True)
    for (value,) in sorted(parts):
        yield value, parts[(value,)]
