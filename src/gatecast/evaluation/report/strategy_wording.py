"""In words: what trading on the forecasts would have earned, and how much of that the search explains."""

import math
from typing import Any

from gatecast.evaluation.notation import bars_ahead, count, finite, listed, model_name, number, percent, signed
from gatecast.evaluation.report.merit import at
from gatecast.evaluation.strategy import BUY_AND_HOLD
from gatecast.model.predictions import LSTM

Json = dict[str, Any]


def strategy_sentence(metrics: Json, horizon: int) -> str:
    """What the strategy on the LSTM's forecasts earned at one horizon."""
    figures = _of(metrics, LSTM, horizon)
    total, held = finite(figures.get("total_return")), finite(_of(metrics, BUY_AND_HOLD, horizon).get("total_return"))
    where = bars_ahead(horizon)
    if math.isnan(total):
        return f"{where}: what the strategy earned is not known."
    if not figures.get("n_trades"):
        return f"{where} the LSTM never trades, so it earns nothing: no median forecast exceeds the threshold."
    over = f" over {count(figures.get('n_days'))} days"
    beside = "" if math.isnan(held) else f"; to hold the market brought {signed(held, 1)}"
    if total <= 0:
        return f"{where}, after costs, it earns nothing: it loses {percent(-total)}{over}{beside}."
    gained = f"{where}, after costs, it earns {percent(total)}{over}"
    ratio = finite(figures.get("sharpe"))
    sharpe = "" if math.isnan(ratio) else f", a Sharpe ratio of {ratio:.2f}"
    return f"{gained}{sharpe}{beside}{_beside_others(metrics, horizon)}; what is past does not promise it again."


def overfitting_sentence(metrics: Json, horizon: int) -> str:
    """How far the search itself explains the Sharpe ratio."""
    figures = at(metrics, "overfitting", horizon)
    deflated, pbo, best = (finite(figures.get(key)) for key in ("deflated_sharpe", "pbo", "expected_sharpe"))
    found = []
    if not math.isnan(deflated):
        luck = f"{count(figures.get('n_trials'))} trials without merit show a best Sharpe ratio of {best:.2f}"
        ratio = number(figures.get("sharpe"), 2)
        found.append(f"By luck alone {luck} on average; {ratio} lies above that with probability {percent(deflated)}.")
    if not math.isnan(pbo):
        halves = f"In {percent(pbo)} of {count(figures.get('n_combinations'))} ways to halve the period"
        found.append(f"{halves} the trial that earned most in one half was below the median in the other.")
    if not found:
        return f"{bars_ahead(horizon)}: neither could be computed: {figures.get('reason') or 'it was not recorded'}."
    if figures.get("reason"):
        found.append(f"The rest could not be computed: {figures['reason']}.")
    return f"{bars_ahead(horizon)}: {' '.join(found)}"


def _beside_others(metrics: Json, horizon: int) -> str:
    """The baselines that earned the same, or the one that earned most: a market that rises pays whoever holds it."""
    own = _of(metrics, LSTM, horizon)
    totals = {
        name: total
        for name in metrics.get("strategy", {})
        if name not in (LSTM, BUY_AND_HOLD)
        and not math.isnan(total := finite(_of(metrics, name, horizon).get("total_return")))
    }
    same = [model_name(name) for name, total in totals.items() if math.isclose(total, finite(own.get("total_return")))]
    if same:
        return f"; {listed(same)} earned the very same, so that the forecasts have no merit in it"
    if not totals:
        return ""
    best = max(totals, key=lambda name: totals[name])
    return f"; of the baselines {model_name(best)} earned most, {signed(totals[best], 1)}"


def _of(metrics: Json, model: str, horizon: int) -> Json:
    found: Json = metrics.get("strategy", {}).get(model, {}).get(str(horizon)) or {}
    return found
