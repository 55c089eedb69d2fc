"""Pictures of the evaluation: skill by fold, calibration, the histogram of the levels, and the search."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import polars as pl

from gatecast.evaluation.notation import bars_ahead, model_name
from gatecast.evaluation.report.merit import best_baseline, fold_skill, headline_first, shares_among_levels
from gatecast.evaluation.report.plots import ACCENT, INK, MUTED, RIVAL, WIDE, Choice, Json, Plot, plain, rounded
from gatecast.model.predictions import LEVELS, LSTM

_TICKS: Final = (LEVELS[0], *LEVELS[2:-2], LEVELS[-1])  # all of them would lie on one another on a telephone
_EDGES: Final = (0.0, *LEVELS, 1.0)
_GOOD: Final = 0.02  # a gap of two points is seldom more than chance


def skill_by_fold(metrics: Mapping[str, Any]) -> Plot:
    """Skill of the LSTM in each fold, over the best baseline of each horizon or over one that the reader chooses."""
    horizons: Sequence[int] = metrics["horizons"]
    rivals = ["", *(model for model in metrics["models"] if model != LSTM)]
    traces: list[Json] = []
    choices = []
    for rival in rivals:
        choices.append(Choice(_over(rival), tuple(range(len(traces), len(traces) + len(horizons)))))
        for place, horizon in enumerate(horizons):
            skill = fold_skill(metrics, horizon, rival)
            traces.append(
                {"type": "bar", "name": bars_ahead(horizon), "x": [str(k + 1) for k in range(len(skill))],
                 "y": rounded(skill), "marker": {"color": ACCENT}, "opacity": (place + 1) / len(horizons),
                 "hovertemplate": "%{y:+.2%}"}
            )  # fmt: skip
    layout = {
        "xaxis": {"type": "category", "title": {"text": "fold"}},
        "yaxis": {"tickformat": ".2~%", "zeroline": True, "zerolinecolor": INK, "title": {"text": "skill"}},
    }
    return Plot("Skill by fold", traces, layout, height=300, choices=tuple(choices))


def _over(rival: str) -> str:
    return f"over {model_name(rival)}" if rival else "over the best baseline of each horizon"


def calibration(metrics: Mapping[str, Any]) -> Plot:
    """How much more often than it should an outcome fell below each level, by model; zero is perfect."""
    traces: list[Json] = []
    choices = []
    for horizon in headline_first(metrics):
        first = len(traces)
        best = best_baseline(metrics, horizon)
        others = [model for model in metrics["models"] if model not in (LSTM, best)]
        for model in (*others, best, LSTM):  # the last lies on top
            shares = shares_among_levels(metrics, model, horizon)
            gaps = [below - level for below, level in zip(accumulate(shares), LEVELS, strict=False)]
            if gaps:
                traces.append(_calibrated(model, best, gaps, named=model == others[0] if others else False))
        choices.append(Choice(bars_ahead(horizon), tuple(range(first, len(traces)))))
    layout = {
        "xaxis": {"tickvals": _TICKS, "tickangle": 0, "tickformat": ".0%", "title": {"text": "level"}},
        "yaxis": {"tickformat": "+.1~%", "title": {"text": "achieved less nominal"}, "showgrid": True},
        "shapes": [
            {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": -_GOOD, "y1": _GOOD, "line": {"width": 0},
             "fillcolor": WIDE, "layer": "below"},
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": INK, "width": 1}},
        ],
        "legend": {"traceorder": "reversed"},
        "hovermode": "closest",
    }  # fmt: skip
    return Plot("Calibration", traces, layout, height=380, choices=tuple(choices))


def _calibrated(model: str, best: str, gaps: Sequence[float], *, named: bool) -> Json:
    """A line of the calibration; those of the other baselines share one entry of the legend."""
    colour, width, size = (ACCENT, 3, 6) if model == LSTM else (RIVAL, 2, 5) if model == best else (MUTED, 1, 3)
    name = plain(model_name(model))
    line: Json = {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(LEVELS)[: len(gaps)], "y": rounded(gaps),
        "line": {"color": colour, "width": width}, "marker": {"size": size},
        "hovertemplate": f"{name}: %{{y:+.2%}}<extra></extra>",
    }  # fmt: skip
    if model in (LSTM, best):
        return line
    return {**line, "name": "other baselines", "legendgroup": "others", "showlegend": named, "opacity": 0.55}


def levels_histogram(metrics: Mapping[str, Any]) -> Plot:
    """Where outcomes fell among the levels of the LSTM and of the best baseline: share over nominal share."""
    traces: list[Json] = []
    choices = []
    for horizon in headline_first(metrics):
        best = best_baseline(metrics, horizon)
        first = len(traces)
        for model, look in ((LSTM, _filled), (best, _outlined)):
            if len(shares := shares_among_levels(metrics, model, horizon)) == len(_EDGES) - 1:
                heights = [share / (b - a) for share, (a, b) in zip(shares, pairwise(_EDGES), strict=True)]
                traces.append(look(model, heights))
        choices.append(Choice(bars_ahead(horizon), tuple(range(first, len(traces)))))
    layout = {
        "xaxis": {
            "range": [0, 1],
            "tickvals": _TICKS,
            "tickangle": 0,
            "tickformat": ".0%",
            "title": {"text": "forecast level"},
        },
        "yaxis": {"rangemode": "tozero", "title": {"text": "outcomes over nominal"}},
        "shapes": [
            {"type": "line", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"color": INK, "width": 1, "dash": "dot"}}
        ],
        "bargap": 0,
        "hovermode": "closest",
    }
    return Plot("Outcomes among the forecast levels", traces, layout, height=320, choices=tuple(choices))


def _filled(model: str, heights: Sequence[float]) -> Json:
    between = list(pairwise(_EDGES))
    return {
        "type": "bar", "name": plain(model_name(model)), "x": rounded((a + b) / 2 for a, b in between),
        "width": rounded(b - a for a, b in between), "y": rounded(heights),
        "marker": {"color": ACCENT, "line": {"color": "var(--paper)", "width": 1}}, "opacity": 0.6,
        "text": [f"{a:.0%} to {b:.0%}" for a, b in between],
        "textposition": "none", "hovertemplate": "%{text}: %{y:.2f}<extra></extra>",
    }  # fmt: skip


def _outlined(model: str, heights: Sequence[float]) -> Json:
    return {
        "type": "scatter", "mode": "lines", "name": plain(model_name(model)), "x": list(_EDGES),
        "y": rounded([*heights, heights[-1]]), "line": {"color": RIVAL, "width": 2, "shape": "hv"},
        "hovertemplate": "%{y:.2f}",
    }  # fmt: skip


def search_history(trials: pl.DataFrame) -> Plot:
    """Score of every trial in order, and the best completed one so far.

    Args:
        trials: number, state (COMPLETE, PRUNED), value (mean pinball loss of the inner folds).
    """
    trials = trials.sort("number")
    complete, pruned = (trials.filter(pl.col("state") == state) for state in ("COMPLETE", "PRUNED"))
    dots: Json = {"type": "scatter", "mode": "markers", "hovertemplate": "%{y:.6f}"}
    at: Json = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "x": (complete["number"] + 1).to_list()}
    traces = [
        {**at, "y": rounded(complete["value"].cum_min()), "name": "best so far",
         "line": {"color": INK, "width": 1, "shape": "hv"}},
        {**dots, "x": (complete["number"] + 1).to_list(), "y": rounded(complete["value"]), "name": "completed",
         "marker": {"color": ACCENT, "size": 8}},
        {**dots, "x": (pruned["number"] + 1).to_list(), "y": rounded(pruned["value"]), "name": "stopped early",
         "marker": {"color": MUTED, "size": 8, "symbol": "circle-open"}},
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "trial"}, "tickformat": "d", "tick0": 1, "dtick": max(1, round(len(trials) / 10))},
        "yaxis": {"title": {"text": "pinball loss"}},
        "hovermode": "closest",
    }
    return Plot("Search history", traces, layout, height=300)
