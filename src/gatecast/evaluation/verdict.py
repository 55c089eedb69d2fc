"""From the table of predictions to figures and a verdict."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.metrics import pinball, scores
from gatecast.evaluation.statistics import TestResult, diebold_mariano, p_words
from gatecast.evaluation.walk_forward import shared_forecasts
from gatecast.market.candles import SYMBOL, TS
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, QUANTILES, TARGET

_LOSS = "loss"


def with_loss(predictions: pl.DataFrame) -> pl.DataFrame:
    """The predictions with their pinball loss, in log return; the target has to be known."""
    loss = pinball(predictions[TARGET].to_numpy(), predictions.select(QUANTILES).to_numpy())
    return predictions.with_columns(pl.Series(_LOSS, loss))


def loss_difference(scored: pl.DataFrame, rival: pl.DataFrame) -> pl.DataFrame:
    """Loss of the rival less loss of the model, averaged over markets at each bar that both forecast, in time order.

    A bar is shared only where both were scored against the same target, to the last bit.

    Args:
        scored: Losses of the model at one horizon.
        rival: Losses of the rival at the same horizon.

    Returns:
        ts, difference.
    """
    pairs = scored.join(rival.select(SYMBOL, TS, TARGET, pl.col(_LOSS).alias("rival")), on=[SYMBOL, TS, TARGET])
    difference = (pl.col("rival") - pl.col(_LOSS)).alias("difference")
    return pairs.sort(TS, SYMBOL).group_by(TS, maintain_order=True).agg(difference.mean())


def compare(scored: pl.DataFrame, rival: pl.DataFrame, horizon: int) -> TestResult:
    """Diebold-Mariano test that the model loses less than its rival at one horizon."""
    return diebold_mariano(loss_difference(scored, rival)["difference"].to_numpy(), horizon)


def evaluate_predictions(
    predictions: pl.DataFrame, baselines: Sequence[str], horizons: Sequence[int], promoted: Sequence[int], alpha: float
) -> dict[str, Any]:
    """All figures, as they stand in metrics.json.

    Args:
        predictions: Every out-of-sample forecast.
        baselines: Names of the baselines among the models.
        horizons: Bars ahead.
        promoted: The horizons named beforehand, to which the verdict refers.
        alpha: Level of the tests; Holm's correction over the named horizons.

    Returns:
        models, by_market, by_fold, best_baseline, skill, diebold_mariano, p_value, beats_baselines and verdict. The
        p-value of a horizon is the largest over the baselines: every one has to be beaten.

    Raises:
        DataError: No forecast can be scored, or too few for a test.
    """
    scored = with_loss(shared_forecasts(predictions))
    if scored.is_empty():
        raise DataError("no forecast of the evaluation period has a known target: fetch a longer history")
    figures: dict[str, Any] = {
        "models": _figures(scored),
        "by_market": {symbol: _figures(scored.filter(pl.col(SYMBOL) == symbol)) for symbol in _ordered(scored, SYMBOL)},
        "by_fold": {name: _by_fold(scored.filter(pl.col(MODEL) == name)) for name in _ordered(scored, MODEL)},
        "best_baseline": {},
        "skill": {},
        "diebold_mariano": {},
        "p_value": {},
    }
    for horizon in horizons:
        key, here = str(horizon), scored.filter(pl.col(HORIZON) == horizon)
        losses = {name: here.filter(pl.col(MODEL) == name) for name in (LSTM, *baselines)}
        best = min(baselines, key=lambda name: _mean_ratio(losses[name], losses[LSTM]))
        tests = {name: compare(losses[LSTM], losses[name], horizon) for name in baselines}
        figures["best_baseline"][key] = best
        figures["skill"][key] = 1 - 1 / _mean_ratio(losses[best], losses[LSTM])
        figures["diebold_mariano"][key] = {
            name: {"statistic": test.statistic, "p_value": test.p_value} for name, test in tests.items()
        }
        figures["p_value"][key] = max(test.p_value for test in tests.values())
    beats = _holm({horizon: figures["p_value"][str(horizon)] for horizon in promoted}, alpha)
    figures["beats_baselines"] = {str(horizon): beaten for horizon, beaten in beats.items()}
    figures["verdict"] = " ".join(_sentence(figures, horizon, beats[horizon]) for horizon in promoted)
    return figures


def _figures(scored: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            str(horizon): scores(part[TARGET].to_numpy(), part.select(QUANTILES).to_numpy())
            for horizon in _ordered(scored, HORIZON)
            if len(part := scored.filter((pl.col(MODEL) == name) & (pl.col(HORIZON) == horizon)))
        }
        for name in _ordered(scored, MODEL)
    }


def _by_fold(scored: pl.DataFrame) -> dict[str, list[float]]:
    means = scored.group_by(HORIZON, FOLD, maintain_order=True).agg(pl.col(_LOSS).mean()).sort(HORIZON, FOLD)
    return {
        str(horizon): means.filter(pl.col(HORIZON) == horizon)[_LOSS].to_list() for horizon in _ordered(means, HORIZON)
    }


def _mean_ratio(rival: pl.DataFrame, model: pl.DataFrame) -> float:
    """Geometric mean over the markets of the rival's loss over the model's."""
    ratios = [
        rival.filter(pl.col(SYMBOL) == symbol)[_LOSS].to_numpy().mean()
        / model.filter(pl.col(SYMBOL) == symbol)[_LOSS].to_numpy().mean()
        for symbol in _ordered(model, SYMBOL)
    ]
    return float(np.exp(np.log(ratios).mean()))


def _holm(p_values: dict[int, float], alpha: float) -> dict[int, bool]:
    """Which horizons pass at a family-wise level (Holm 1979, Scandinavian J. Statistics 6(2))."""
    passed = dict.fromkeys(p_values, False)
    for rank, (horizon, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p_value > alpha / (len(p_values) - rank):
            break
        passed[horizon] = True
    return passed


def _sentence(figures: dict[str, Any], horizon: int, beats: bool) -> str:
    key = str(horizon)
    best, skill, p_value = figures["best_baseline"][key], figures["skill"][key], figures["p_value"][key]
    loss = f"{abs(skill):.1%} {'lower' if skill > 0 else 'higher'} pinball loss than {best}, p {p_words(p_value)}"
    if beats:
        return f"At {horizon} bars the LSTM beats every baseline: {loss}."
    return f"At {horizon} bars the LSTM is not proven better than {best}: {loss}."


def _ordered(frame: pl.DataFrame, column: str) -> list[Any]:
    return frame[column].unique().sort().to_list()
