"""Two pipeline runs side by side, on the forecasts that both made."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl

from gatecast.errors import DataError
from gatecast.evaluation.loss_panel import LOSS
from gatecast.evaluation.notation import bars_ahead, listed, p_equals, percent
from gatecast.evaluation.verdict import compare, loss_difference, with_loss
from gatecast.market.candles import SYMBOL, TS, iso
from gatecast.model.predictions import HORIZON, LSTM, MODEL, TARGET

Json = dict[str, Any]

_SIZE: Final = 0.05  # of the two-sided test
_FEWEST: Final = 10  # shared bars a bar of the horizon, for a test
_RANGES: Final = {"coverage_50": ("q0.25", "q0.75"), "coverage_80": ("q0.1", "q0.9"), "coverage_90": ("q0.05", "q0.95")}
_KEYS: Final = [SYMBOL, TS, HORIZON, TARGET]


@dataclass(frozen=True)
class RunResults:
    """A pipeline run and what it forecast.

    Attributes:
        name: As it was asked for.
        run_id: Its id.
        started_at: UTC.
        params: Its configuration, as text, by `section.key`.
        decision: Of the gate; None if there was none.
        verdict: Of its evaluation; None if not recorded.
        predictions: The table of predictions, see `gatecast.model.predictions`.
    """

    name: str
    run_id: str
    started_at: datetime
    params: Mapping[str, str]
    decision: str | None
    verdict: str | None
    predictions: pl.DataFrame

    @property
    def market(self) -> str:
        """Exchange, symbols and timeframe, as far as they are known."""
        symbols = ", ".join(str(symbol) for symbol in self.predictions[SYMBOL].unique().sort())
        parts = (self.params.get("ingest.exchange"), symbols, self.params.get("ingest.timeframe"))
        return " ".join(part for part in parts if part)

    @property
    def span(self) -> str:
        """First and last bar that it forecast from."""
        if self.predictions.is_empty():
            return "nothing"
        first, last = self.predictions[TS].min(), self.predictions[TS].max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)
        return f"{iso(first)} to {iso(last)}"


def compare_runs(first: RunResults, second: RunResults) -> Json:
    """What two runs have and have not in common; a bar is shared where both were scored against the same target.

    Returns:
        runs (run_id, name, started_at, market, span, decision, verdict of each); same_run; horizons, for each that both
        forecast: n (shared forecasts), first and second (pinball in log return, and coverage), skill (1 less the loss
        of the second over that of the first, over several markets their geometric mean), p_value (two-sided
        Diebold-Mariano; None where too few are shared), better (first, second or None) and sentence; configuration:
        key, first and second of each parameter that differs.

    Raises:
        DataError: No shared horizon or bar.
    """
    pairs = _shared(first, second)
    ours, theirs = ([str(each) for each in sorted(run.predictions[HORIZON].unique())] for run in (first, second))
    if ours and theirs and not set(ours) & set(theirs):
        raise DataError(
            f"runs {first.run_id[:8]} and {second.run_id[:8]} share no horizon: one forecast {listed(ours)} bars ahead,"
            f" the other {listed(theirs)}; compare runs whose model.horizons have one in common"
        )
    if not pairs:
        raise DataError(
            f"runs {first.run_id[:8]} and {second.run_id[:8]} share no bar: one forecast {first.market}, {first.span},"
            f" the other {second.market}, {second.span}; compare runs of one market and timeframe whose evaluations"
            " overlap"
        )
    return {
        "runs": [_described(run) for run in (first, second)],
        "same_run": first.run_id == second.run_id,
        "horizons": {str(horizon): _compared(ours, theirs, horizon) for horizon, (ours, theirs) in pairs.items()},
        "configuration": [
            {"key": key, "first": first.params.get(key), "second": second.params.get(key)}
            for key in sorted({*first.params, *second.params})
            if first.params.get(key) != second.params.get(key)
        ],
    }


def cumulative_differences(first: RunResults, second: RunResults) -> dict[int, pl.DataFrame]:
    """By horizon, what the first run lost more than the second up to each shared bar: ts and total, in log return."""
    return {
        horizon: loss_difference(theirs, ours).select(TS, pl.col("difference").cum_sum().alias("total"))
        for horizon, (ours, theirs) in _shared(first, second).items()
    }


def _shared(first: RunResults, second: RunResults) -> dict[int, tuple[pl.DataFrame, pl.DataFrame]]:
    """The losses of both at the forecasts that both made, by horizon."""
    ours, theirs = (
        run.predictions.filter(pl.col(MODEL) == LSTM).drop_nulls(TARGET).unique(_KEYS, keep="last", maintain_order=True)
        for run in (first, second)
    )
    parts = [with_loss(a.join(b, on=_KEYS, how="semi").sort(_KEYS)) for a, b in ((ours, theirs), (theirs, ours))]
    horizons = sorted(parts[0][HORIZON].unique())
    return {
        horizon: (parts[0].filter(pl.col(HORIZON) == horizon), parts[1].filter(pl.col(HORIZON) == horizon))
        for horizon in horizons
    }


def _described(run: RunResults) -> Json:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "started_at": iso(run.started_at),
        "market": run.market,
        "span": run.span,
        "decision": run.decision,
        "verdict": run.verdict,
    }


def _compared(ours: pl.DataFrame, theirs: pl.DataFrame, horizon: int) -> Json:
    skill = _skill(ours, theirs)
    p_value = _two_sided(ours, theirs, horizon)
    equal = bool((ours[LOSS] == theirs[LOSS]).all())
    # over several markets the test speaks of mean losses and the skill of mean ratios: both have to say the same
    ahead = loss_difference(theirs, ours)["difference"].to_numpy().mean()
    proven = not equal and p_value is not None and p_value <= _SIZE and ahead * skill > 0
    better = None if not proven else "second" if skill > 0 else "first"
    return {
        "n": len(ours),
        "first": _figures(ours),
        "second": _figures(theirs),
        "skill": skill,
        "p_value": p_value,
        "better": better,
        "sentence": _sentence(horizon, skill, p_value, better, equal=equal),
    }


def _figures(scored: pl.DataFrame) -> Json:
    covered = {
        name: float(scored[TARGET].is_between(scored[low], scored[high]).to_numpy().mean())
        for name, (low, high) in _RANGES.items()
    }
    return {"pinball": float(scored[LOSS].to_numpy().mean()), **covered}


def _skill(ours: pl.DataFrame, theirs: pl.DataFrame) -> float:
    means = [
        part.group_by(SYMBOL, maintain_order=True).agg(pl.col(LOSS).mean()).sort(SYMBOL) for part in (ours, theirs)
    ]
    ratios = np.log(means[1][LOSS].to_numpy() / means[0][LOSS].to_numpy())
    return float(1 - np.exp(ratios.mean()))


def _two_sided(ours: pl.DataFrame, theirs: pl.DataFrame, horizon: int) -> float | None:
    """Of the test that neither loses less; None where it could not be sized."""
    if ours[TS].n_unique() < _FEWEST * horizon:
        return None
    return min(1.0, 2 * min(compare(a, b, horizon).p_value for a, b in ((ours, theirs), (theirs, ours))))


def _sentence(horizon: int, skill: float, p_value: float | None, better: str | None, *, equal: bool) -> str:
    where = f"At {bars_ahead(horizon)}"
    if equal:
        return f"{where} both lose the same at every shared bar: they are equal."
    loss = f"the second has a {percent(abs(skill), 2)} {'lower' if skill > 0 else 'higher'} pinball loss"
    if p_value is None:
        return f"{where} {loss}; the runs share too few bars to tell whether that is chance."
    if better is None:
        return f"{where} no difference is proven: {loss}, {p_equals(p_value)}."
    return f"{where} the {better} run is better: {loss}, {p_equals(p_value)}."
