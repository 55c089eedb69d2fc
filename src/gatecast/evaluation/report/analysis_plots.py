"""Pictures of where the model errs, of what it leans on, and of what trading on it would have earned."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from gatecast.evaluation.notation import bars_ahead, finite, model_name
from gatecast.evaluation.report.merit import best_baseline, headline_first
from gatecast.evaluation.report.plots import (
    ACCENT,
    INK,
    MUTED,
    RIVAL,
    THIRD,
    Choice,
    Json,
    Plot,
    plain,
    rounded,
    thinned,
)
from gatecast.evaluation.strategy import BUY_AND_HOLD, DATE, EQUITY
from gatecast.model.predictions import HORIZON, LSTM, MODEL

_MOST_LABELS: Final = 6  # side by side below a picture of half the page's width
_MOST_POINTS: Final = 600  # a curve: more than a screen has columns for


def skill_by_bucket(table: Mapping[str, Any]) -> Plot:
    """Skill of the LSTM over the best baseline in each bucket of one table of error_analysis.json."""
    rows = [row for row in table["rows"] if row["n"]]
    skill = [finite(row.get("skill")) for row in rows]
    crowded = len(rows) > 2 * _MOST_LABELS
    trace = {
        "type": "bar", "x": [plain(str(row["bucket"])) for row in rows], "y": rounded(skill),
        "marker": {"color": [ACCENT if value > 0 else MUTED for value in skill]},
        "customdata": [row["n"] for row in rows],
        "hovertemplate": "%{x}: %{y:+.2%}, %{customdata:,} forecasts<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {"type": "category", "ticks": "", **({"nticks": _MOST_LABELS, "tickangle": 0} if crowded else {})},
        "yaxis": {"tickformat": ".2~%", "zeroline": True, "zerolinecolor": INK, "nticks": 5},
        "hovermode": "closest",
        "bargap": 0.2,
    }
    return Plot(f"{table['title']}: skill", [trace], layout, height=220)


def importance(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """How much the loss grows when a group of features no longer belongs to its bar, with its range over the folds.

    Args:
        rows: feature (name of the group), loss_increase, low and high as shares of the loss.
    """
    ordered = sorted(rows, key=lambda row: finite(row["loss_increase"]))
    values, low, high = ([finite(row[key]) for row in ordered] for key in ("loss_increase", "low", "high"))
    trace = {
        "type": "bar", "orientation": "h", "y": [plain(str(row["feature"])) for row in ordered], "x": rounded(values),
        "marker": {"color": ACCENT, "opacity": 0.8}, "hovertemplate": "%{y}: %{x:+.2%}<extra></extra>",
        "error_x": {
            "type": "data", "symmetric": False, "color": INK, "thickness": 1, "width": 3,
            "array": rounded(b - a for a, b in zip(values, high, strict=True)),
            "arrayminus": rounded(a - b for a, b in zip(values, low, strict=True)),
        },
    }  # fmt: skip
    layout = {
        "xaxis": {"tickformat": ".2~%", "showgrid": True, "zeroline": True, "zerolinecolor": INK,
                  "title": {"text": "increase of the loss"}},
        "yaxis": {"type": "category", "showgrid": False},
        "hovermode": "closest",
    }  # fmt: skip
    return Plot("Importance of the features", [trace], layout, height=90 + 24 * len(ordered))


def equity(curves: pl.DataFrame, metrics: Mapping[str, Any]) -> Plot:
    """What one unit of money becomes after costs: with the LSTM, with the best baseline, and by holding the market.

    Args:
        curves: date, horizon, model, return, equity (1 before the first day).
        metrics: The content of metrics.json.
    """
    traces: list[Json] = []
    choices = []
    for horizon in headline_first(metrics):
        first = len(traces)
        best = best_baseline(metrics, horizon)
        for model, colour, width in ((BUY_AND_HOLD, THIRD, 1.5), (best, RIVAL, 1.5), (LSTM, ACCENT, 2.5)):
            rows = curves.filter((pl.col(HORIZON) == horizon) & (pl.col(MODEL) == model)).sort(DATE)
            if not rows.is_empty():
                traces.append(_curve(rows[thinned(len(rows), _MOST_POINTS)], model, {"color": colour, "width": width}))
        choices.append(Choice(bars_ahead(horizon), tuple(range(first, len(traces)))))
    layout = {
        "xaxis": {"type": "date"},
        "yaxis": {"title": {"text": "one unit becomes"}, "tickformat": ".3~r"},
        "legend": {"traceorder": "reversed"},
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
             "line": {"color": INK, "width": 1, "dash": "dot"}}
        ],
    }  # fmt: skip
    return Plot("Equity after costs", traces, layout, height=390, zoom=True, choices=tuple(choices))


def _curve(rows: pl.DataFrame, model: str, line: Json) -> Json:
    return {
        "type": "scatter", "mode": "lines", "name": plain(model_name(model)),
        "x": [str(each)[:10] for each in rows[DATE]], "y": rounded(rows[EQUITY]), "line": line,
        "hovertemplate": "%{y:.3f}",
    }  # fmt: skip
