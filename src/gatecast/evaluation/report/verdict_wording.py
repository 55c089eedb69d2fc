"""The verdict in words, for every horizon, and what the comparison of all models says."""

import math
from typing import Any, Final

from gatecast.evaluation.notation import (
    DASH,
    bars_ahead,
    count,
    finite,
    interval,
    listed,
    model_name,
    p_equals,
    p_value,
    percent,
)
from gatecast.evaluation.report.merit import at, best_baseline, n_beaten, scores_of
from gatecast.model.predictions import LSTM

Json = dict[str, Any]

_SIZE: Final = 0.05  # of a test whose level the metrics do not name


def verdicts(metrics: Json) -> list[Json]:
    """What the evaluation found at each horizon, the ones named beforehand first, from the longest.

    Returns:
        horizon, named (beforehand, so that the gate judges it), beats (every baseline) and text.
    """
    named = {int(horizon): bool(beats) for horizon, beats in metrics.get("beats_baselines", {}).items()}
    horizons = sorted(metrics["horizons"], key=lambda horizon: (horizon not in named, -horizon))
    found = []
    for horizon in horizons:
        worst = finite(metrics.get("p_value", {}).get(str(horizon)))
        ahead = worst <= metrics.get("alpha", _SIZE) and finite(metrics.get("skill", {}).get(str(horizon))) > 0
        beats = named.get(horizon, ahead)
        text = _verdict(metrics, horizon, "beats" if horizon in named else "loses less than", beats=beats)
        found.append({"horizon": horizon, "named": horizon in named, "beats": beats, "text": text})
    return found


def _verdict(metrics: Json, horizon: int, verb: str, *, beats: bool) -> str:
    """In one sentence; the verb is weaker where the horizon was not named beforehand, and nothing is corrected for."""
    best, skill = best_baseline(metrics, horizon), finite(metrics.get("skill", {}).get(str(horizon)))
    rival = model_name(best) or "the baselines"
    if math.isnan(skill):
        return f"At {bars_ahead(horizon)} the LSTM could not be compared with {rival}."
    hardest, sure = _least_sure(metrics, horizon)
    span = interval(at(metrics, "skill_over", horizon).get(best))
    within = f" (95 % interval {span})" if span != DASH else ""
    loss = f"{percent(abs(skill))} {'lower' if skill > 0 else 'higher'} pinball loss"
    figures = f"{within}{sure}."
    where = f"At {bars_ahead(horizon)} the LSTM"
    if beats:
        return f"{where} {verb} every baseline: {loss} than {rival}{figures}"
    if skill <= 0:
        return f"{where} is no better than {rival}: {loss}{figures}"
    if hardest:
        return f"{where} is not proven better than {hardest}: {loss} than {rival}{figures}"
    return f"{where} is not proven better than {rival}: {loss}{figures}"


def _least_sure(metrics: Json, horizon: int) -> tuple[str, str]:
    """The baseline that the LSTM is least surely better than, and its p-value in words; no name if it is the best."""
    best = best_baseline(metrics, horizon)
    p_values = {name: finite(test["p_value"]) for name, test in at(metrics, "diebold_mariano", horizon).items()}
    if not p_values:
        return "", ""
    worst = max(p_values.values())
    if p_value(worst) == p_value(p_values.get(best)):
        return "", f", {p_equals(worst)}"
    hardest = model_name(max(p_values, key=lambda name: p_values[name]))
    return hardest, f"; p is largest against {hardest}, {p_value(worst)}"


def scores_sentence(metrics: Json, horizon: int) -> str:
    """What the table of the models says at one horizon."""
    beaten, n_baselines = n_beaten(metrics, horizon)
    ahead = f"{bars_ahead(horizon)} the LSTM loses less than {beaten} of {n_baselines} baselines"
    found = [f"{ahead} by more than chance explains, each judged alone."]
    members = at(metrics, "confidence_set", horizon).get("members", ())
    if members:
        sure = percent(1 - at(metrics, "confidence_set", horizon)["size"], 0)
        names = [model_name(name) for name in members]
        found.append(
            f"With {sure} confidence the best model is {names[0] if len(names) == 1 else f'one of {listed(names)}'}."
        )
    superior = finite(at(metrics, "spa", horizon).get("p_value"))
    if superior <= _SIZE and LSTM in members:
        found.append(
            f"Asked of the LSTM alone, at least one baseline loses less (Hansen's test, {p_equals(superior)}): the set,"
            " which compares all with all, is the weaker test."
        )
    elif superior <= _SIZE:
        found.append(f"At least one baseline loses less than the LSTM (Hansen's test, {p_equals(superior)}).")
    elif not math.isnan(superior):
        found.append(f"No baseline is shown to lose less than the LSTM (Hansen's test, {p_equals(superior)}).")
    if silent := _silent(metrics, horizon):
        found.append(silent)
    return " ".join(found)


def _silent(metrics: Json, horizon: int) -> str:
    """Who did not forecast every outcome: those that one model left out count for none."""
    left_out = at(metrics, "left_out", horizon)
    models = {model: n for model, n in left_out.get("models", {}).items() if n}
    if not models:
        return ""
    named = listed([f"{count(n)} by {model_name(model)}" for model, n in models.items()])
    scored = count(scores_of(metrics, horizon).get("n"))
    return f"Of {count(left_out['n'])} outcomes {scored} are scored, which every model forecast; left out were {named}."
