"""From the table of predictions to figures and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.loss_panel import LOSS, LossPanel, bars_words, left_out, loss_panel, scorable, with_loss
from gatecast.evaluation.metrics import RANGES, Scores
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
from gatecast.evaluation.score_table import grouped, market_scores, pit, with_scales
from gatecast.evaluation.statistics import TestResult, diebold_mariano, holm, p_words
from gatecast.market.candles import SYMBOL, TS
from gatecast.model.predictions import FOLD, HORIZON, LSTM, MODEL, TARGET

__all__ = ["compare", "evaluate_predictions", "loss_difference", "with_loss"]

Figures = dict[str, Any]


def loss_difference(scored: pl.DataFrame, rival: pl.DataFrame) -> pl.DataFrame:
    """Loss of the rival less loss of the model, averaged over markets at each bar that both forecast, in time order.

    A bar is shared only where both were scored against the same target, to the last bit.

    Args:
        scored: Losses of the model at one horizon.
        rival: Losses of the rival at the same horizon.

    Returns:
        ts, difference.
    """
    pairs = scored.join(rival.select(SYMBOL, TS, TARGET, pl.col(LOSS).alias("rival")), on=[SYMBOL, TS, TARGET])
    difference = (pl.col("rival") - pl.col(LOSS)).alias("difference")
    return pairs.sort(TS, SYMBOL).group_by(TS, maintain_order=True).agg(difference.mean())


def compare(scored: pl.DataFrame, rival: pl.DataFrame, horizon: int) -> TestResult:
    """Diebold-Mariano test that the model loses less than its rival at one horizon."""
    return diebold_mariano(loss_difference(scored, rival)["difference"].to_numpy(), horizon)


def evaluate_predictions(
    predictions: pl.DataFrame,
    scales: pl.DataFrame,
    baselines: Sequence[str],
    horizons: Sequence[int],
    promoted: Sequence[int],
    alpha: float,
) -> Figures:
    """All figures, as they stand in metrics.json.

    Args:
        predictions: Every out-of-sample forecast, with the close of its bar.
        scales: `score_table.naive_scales` of the folds.
        baselines: Names of the baselines among the models.
        horizons: Bars ahead.
        promoted: The horizons named beforehand, to which the verdict refers.
        alpha: Level of the tests; Holm's correction over the named horizons.

    Returns:
        models, by_market, by_fold, fold_skill (over each baseline), coverage_by_fold (of the LSTM), pit; alpha;
        not_asked (baselines that are none of these); by horizon left_out (of n outcomes that some model forecast, how
        many each of the models did not), best_baseline, skill, diebold_mariano, p_value, skill_over, confidence_set and
        spa; beats_baselines and verdict.
        The p-value of a horizon is the largest over the baselines: every one has to be beaten. Over several markets the
        test speaks of mean losses and the skill of mean ratios, and a market that moves ten times as much could carry
        the first alone: both have to say so.

    Raises:
        DataError: A fold in which nothing can be scored at a horizon, or too few forecasts for a test.
    """
    folds = sorted({*predictions[FOLD].unique(), *scales[FOLD].unique()})
    scored = with_scales(with_loss(scorable(predictions, (LSTM, *baselines), horizons, folds)), scales)
    judged = {str(horizon): _judge(loss_panel(scored, baselines, horizon)) for horizon in horizons}
    names = next(iter(judged.values()))
    figures: Figures = {
        **_scores(scored),
        "by_fold": _by_fold(scored),
        "fold_skill": _fold_skill(scored, baselines),
        "coverage_by_fold": _coverage_by_fold(scored),
        "pit": _nested({key: shares.tolist() for key, shares in pit(scored).items()}),
        "alpha": alpha,
        "not_asked": [name for name in BASELINES if name not in baselines],
        "left_out": left_out(predictions, (LSTM, *baselines), horizons),
        **{name: {key: found[name] for key, found in judged.items()} for name in names},
    }
    p_values = holm([figures["p_value"][str(horizon)] for horizon in promoted])
    beats = {
        horizon: p_value <= alpha and figures["skill"][str(horizon)] > 0
        for horizon, p_value in zip(promoted, p_values, strict=True)
    }
    figures["beats_baselines"] = {str(horizon): beaten for horizon, beaten in beats.items()}
    figures["verdict"] = _verdict(figures, horizons, beats)
    return figures


def against_baselines(panel: LossPanel) -> dict[str, TestResult]:
    """Diebold-Mariano tests that the LSTM loses less than each baseline.

    Raises:
        DataError: Too few forecasts.
    """
    ahead = panel.by_bar()
    return {
        name: diebold_mariano(ahead[:, place] - ahead[:, 0], panel.horizon)
        for place, name in enumerate(panel.models)
        if name != LSTM
    }


def _judge(panel: LossPanel) -> Figures:
    """What the losses at one horizon say of the LSTM against its baselines, and of all of them together."""
    baselines, tests = panel.models[1:], against_baselines(panel)
    starts, chunks = chunk_starts(panel.n_bars, panel.horizon), chunk_means(panel.by_bar(), panel.horizon)
    block = block_length(chunks[:, 1:] - chunks[:, :1])
    totals = panel.totals(starts)
    skill = skills(totals.sum(axis=0))
    low, high = skill_intervals(totals, interval_block(block, len(chunks)))
    best = int(np.argmin(skill))
    return {
        "best_baseline": baselines[best],
        "skill": float(skill[best]),
        "diebold_mariano": {
            name: {"statistic": test.statistic, "p_value": test.p_value} for name, test in tests.items()
        },
        "p_value": max(test.p_value for test in tests.values()),
        "skill_over": {
            name: {"skill": float(skill[place]), "low": _known(low[place]), "high": _known(high[place])}
            for place, name in enumerate(baselines)
        },
        "confidence_set": confidence_set(chunks, panel.models, block),
        "spa": superior_ability(chunks, block),
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _scores(scored: pl.DataFrame) -> Figures:
    """Figures of merit by model and horizon: of all markets, and of each."""
    found = {key: market_scores(part, key[1]) for key, part in grouped(scored)}
    of_market: dict[str | None, dict[tuple[str, int], Scores]] = {}
    for key, by_market in found.items():
        for symbol, figures in by_market.items():
            of_market.setdefault(symbol, {})[key] = figures
    together = _nested(of_market.pop(None))
    return {"models": together, "by_market": {symbol: _nested(of_market[symbol]) for symbol in of_market}}


def _by_fold(scored: pl.DataFrame) -> Figures:
    """Pinball loss of each fold, by model and horizon."""
    losses: dict[tuple[str, int], list[float]] = {}
    parts = scored.select(MODEL, HORIZON, FOLD, LOSS).partition_by(MODEL, HORIZON, FOLD, as_dict=True)
    for model, horizon, fold in sorted(parts):
        losses.setdefault((model, horizon), []).append(float(parts[model, horizon, fold][LOSS].to_numpy().mean()))
    return _nested(losses)


def _fold_skill(scored: pl.DataFrame, baselines: Sequence[str]) -> Figures:
    """Skill of the LSTM in each fold, by baseline and horizon; as that of all folds, it takes the markets alike."""
    parts = scored.partition_by(HORIZON, FOLD, SYMBOL, MODEL, as_dict=True)
    means = {key: part[LOSS].to_numpy().mean() for key, part in parts.items()}
    markets: dict[tuple[int, int], set[str]] = {}
    for horizon, fold, symbol, _ in means:
        markets.setdefault((horizon, fold), set()).add(symbol)
    found: dict[tuple[str, int], list[float | None]] = {}
    for horizon, fold in sorted(markets):
        models, own = (LSTM, *baselines), sorted(markets[horizon, fold])
        losses = np.array([[means[horizon, fold, symbol, model] for model in models] for symbol in own])  # (S, K)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a market that stood still
            for name, skill in zip(baselines, skills(losses), strict=True):
                found.setdefault((name, horizon), []).append(_known(skill))
    return _nested(found)


def _coverage_by_fold(scored: pl.DataFrame) -> Figures:
    """Coverage of the LSTM's ranges in each fold, by horizon and nominal percent."""
    ours = scored.filter(pl.col(MODEL) == LSTM)
    parts = ours.partition_by(HORIZON, FOLD, as_dict=True)
    found: Figures = {}
    for horizon, fold in sorted(parts):
        here = parts[horizon, fold]
        for name, (low, high) in RANGES.items():
            inside = here[TARGET].is_between(here[f"q{low:g}"], here[f"q{high:g}"])
            found.setdefault(str(horizon), {}).setdefault(name, []).append(float(inside.to_numpy().mean()))
    return found


def _nested(found: Mapping[Any, Any]) -> Figures:
    """By model and then by horizon, as a string."""
    nested: Figures = {}
    for (model, horizon), value in found.items():
        nested.setdefault(model, {})[str(horizon)] = value
    return nested


def _verdict(figures: Figures, horizons: Sequence[int], beats: Mapping[int, bool]) -> str:
    """A sentence for each horizon named beforehand, and a clause for baselines and horizons that were not."""
    sentences = [_sentence(figures, horizon, beaten) for horizon, beaten in beats.items()]
    if len(beats) > 1:
        sentences.append(f"Each p is that of its horizon alone; the verdict corrects for all {len(beats)} (Holm).")
    if figures["not_asked"]:
        sentences.append(f"Not asked: {', '.join(figures['not_asked'])}.")
    unnamed = [f"at {bars_words(horizon)} {_loss(figures, horizon)}" for horizon in horizons if horizon not in beats]
    return " ".join(sentences) + (f" Not judged: {', '.join(unnamed)}." if unnamed else "")


def _sentence(figures: Figures, horizon: int, beats: bool) -> str:
    best, p_value = figures["best_baseline"][str(horizon)], figures["p_value"][str(horizon)]
    tests = {name: test["p_value"] for name, test in figures["diebold_mariano"][str(horizon)].items()}
    of = "" if tests[best] == p_value else f" against {max(tests, key=lambda name: tests[name])}, the largest"
    loss = f"{_loss(figures, horizon, 'pinball loss ')}, p {p_words(p_value)}{of}"
    if beats:
        return f"At {bars_words(horizon)} the LSTM beats every baseline: {loss}.{_hurt(figures, horizon)}"
    return f"At {bars_words(horizon)} the LSTM is not proven better than {best}: {loss}."


def _hurt(figures: Figures, horizon: int) -> str:
    """The markets that a mean over several hides."""
    best, key = figures["best_baseline"][str(horizon)], str(horizon)
    losses = {
        symbol: (models[LSTM][key]["pinball"], models[best][key]["pinball"])
        for symbol, models in figures["by_market"].items()
    }
    hurt = [symbol for symbol, (ours, theirs) in losses.items() if ours > theirs]
    return f" Not in {', '.join(hurt)}, where it loses more than {best}." if hurt else ""


def _loss(figures: Figures, horizon: int, of: str = "") -> str:
    best, skill = figures["best_baseline"][str(horizon)], figures["skill"][str(horizon)]
    return f"{abs(skill):.1%} {'lower' if skill > 0 else 'higher'} {of}than {best}"
