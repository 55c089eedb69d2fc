"""The pictures: frames and figures of merit in, matplotlib figures out; no global state, nothing read, no clock."""

import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gatecast.market.candles import CLOSE, SYMBOL, TS
from gatecast.model.predictions import FOLD, HORIZON, LEVELS, LSTM, MODEL, TARGET
from gatecast.workspace import write_atomically

DASH: Final = "\N{EN DASH}"  # stands for what is not known
MODEL_NAMES: Final = {LSTM: "LSTM", "ewma": "EWMA volatility", "naive": "Random walk"}
INK: Final = "#1b1f24"
MUTED: Final = "#69717d"
RULE: Final = "#d5d9e0"
ACCENT: Final = "#2457a6"

_BANDS: Final = ((0.05, 0.95, "90 %", 0.16), (0.1, 0.9, "80 %", 0.2), (0.25, 0.75, "50 %", 0.3))
_NOMINAL: Final = (50, 80, 90)
_HISTORY_BARS: Final = 504  # three weeks of hours
_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.size": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a symbol may hold a dollar sign
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": "none",
    "ytick.labelcolor": MUTED,
}


def finite(value: object) -> float:
    """A number as it is; NaN for None, for text and for what is not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def model_name(model: str) -> str:
    """A model as readers know it."""
    return MODEL_NAMES.get(model, model)


def fold_skill(metrics: Mapping[str, Any], horizon: int) -> list[float]:
    """Skill of the LSTM over the best baseline in each fold, 1 less the ratio of the pinball losses; NaN if unknown."""
    baseline = metrics.get("best_baseline", {}).get(str(horizon), "")
    by_fold = metrics.get("by_fold", {})
    ours, theirs = (by_fold.get(model, {}).get(str(horizon), []) for model in (LSTM, baseline))
    pairs = [(finite(a), finite(b)) for a, b in zip(ours, theirs, strict=False)]
    return [1 - a / b if b > 0 else math.nan for a, b in pairs]


def fan_chart(history: pl.DataFrame, forecast: pl.DataFrame, *, title: str, narrow: bool = False) -> Figure:
    """Past closes and the forecast as bands of 50, 80 and 90 % around the median.

    Args:
        history: ts (open time, UTC) and close, sorted, one row or more; each close is drawn at the end of its candle.
        forecast: Rows of the forecast ledger for one market and one issue: issued_at and target_at (UTC), horizon,
            level, price.
        title: Plain text.
        narrow: For a telephone's width.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(narrow, 3.2)
        candle = ((forecast["target_at"] - forecast["issued_at"]) / forecast[HORIZON])[0]
        closed_at = (history[TS] + candle).to_list()
        axes.plot(closed_at, history[CLOSE].to_list(), color=INK, linewidth=1.1)
        last_at, last_close = closed_at[-1], float(history[CLOSE][-1])
        paths = {
            round(level, 4): [last_close, *rows.sort("target_at")["price"].to_list()]
            for (level,), rows in forecast.partition_by("level", as_dict=True).items()
        }
        targets = [last_at, *forecast["target_at"].unique().sort().to_list()]
        for low, high, _, alpha in _BANDS:
            axes.fill_between(targets, paths[low], paths[high], color=ACCENT, alpha=alpha, linewidth=0)
        median = axes.plot(targets, paths[0.5], color=ACCENT, linewidth=1.4, marker="o", markersize=2.6, label="median")
        axes.axvline(last_at, color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: price_text(value))
        _utc(axes, narrow)
        axes.set_title(title)
        figure.legend(handles=[*median, *_band_keys()], loc="outside lower left", ncols=4, handlelength=1.2)
        return figure


def skill_by_fold(metrics: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Skill of the LSTM over the best baseline in each fold, a panel a horizon.

    Args:
        metrics: The content of metrics.json.
        narrow: For a telephone's width.
    """
    with mpl.rc_context(_STYLE):
        horizons: Sequence[int] = metrics["horizons"]
        figure = _figure(narrow, 2.4)
        panels = figure.subplots(1, len(horizons), sharey=True, squeeze=False)[0]
        for axes, horizon in zip(panels, horizons, strict=True):
            skill = fold_skill(metrics, horizon)
            colours = [ACCENT if value > 0 else MUTED for value in skill]
            axes.bar(range(1, len(skill) + 1), skill, color=colours, width=0.62)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_formatter(_percent_tick)
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="x", length=0)
            axes.set_title(f"{horizon} bar{'s' * (horizon > 1)}" if narrow else bars_ahead(horizon))
            axes.set_xlabel("fold")
        return figure


def coverage(metrics: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Achieved coverage of the central ranges against the nominal 50, 80 and 90 %, a panel a range, a row a model.

    Args:
        metrics: The content of metrics.json.
        narrow: For a telephone's width.
    """
    with mpl.rc_context(_STYLE):
        rows = [(model, horizon) for horizon in metrics["horizons"] for model in metrics["models"]]
        places = [place + 0.6 * (place // len(metrics["models"])) for place in range(len(rows))]
        achieved = np.array([[_coverage(metrics, model, horizon, n) for n in _NOMINAL] for model, horizon in rows])
        gaps = np.abs(achieved - np.array(_NOMINAL) / 100)
        reach = 1.2 * max(0.02, float(np.nanmax(gaps, initial=0, where=np.isfinite(gaps))))
        figure = _figure(narrow, 0.9 + 0.21 * len(rows))
        panels = figure.subplots(1, len(_NOMINAL), sharey=True)
        for axes, nominal, values in zip(panels, _NOMINAL, achieved.T, strict=True):
            axes.axvline(nominal / 100, color=INK, linewidth=0.8, zorder=0)
            for (model, _), place, value in zip(rows, places, values, strict=True):
                ours = model == LSTM
                colour = ACCENT if ours else MUTED
                axes.plot(value, place, "o", color=colour, markerfacecolor=colour if ours else "none", markersize=4.6)
            axes.set_xlim(nominal / 100 - reach, nominal / 100 + reach)
            axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 5, min_n_ticks=2))
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g}")
            axes.spines["bottom"].set_visible(False)
            axes.set_title(f"{nominal} %" if narrow else f"{nominal} % range")
            axes.set_xlabel("achieved, %")
        unit = {horizon: "bar" if horizon == 1 else "bars" for _, horizon in rows}
        panels[0].set_yticks(places, [f"{model_name(model)}, {horizon} {unit[horizon]}" for model, horizon in rows])
        panels[0].invert_yaxis()
        return figure


def interval_history(predictions: pl.DataFrame, *, symbol: str, horizon: int, narrow: bool = False) -> Figure:
    """The last weeks of realised returns against the LSTM's 90 and 50 % ranges; dots mark what fell outside 90 %.

    Args:
        predictions: The table of predictions, see `gatecast.model.predictions`; targets in log return, null if unknown.
        symbol: Market to draw.
        horizon: Bars ahead.
        narrow: For a telephone's width.
    """
    of_series = (pl.col(MODEL) == LSTM) & (pl.col(SYMBOL) == symbol) & (pl.col(HORIZON) == horizon)
    rows = predictions.filter(of_series).unique(TS, keep="last").sort(TS, FOLD).tail(_HISTORY_BARS)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(narrow, 2.9)
        known_from = rows[TS].to_list()
        low, high = (rows[f"q{LEVELS[i]:g}"].to_numpy() for i in (0, -1))
        target = rows[TARGET].cast(pl.Float64).fill_null(math.nan).to_numpy()
        axes.fill_between(known_from, low, high, color=ACCENT, alpha=0.2, linewidth=0, label="90 % range")
        axes.fill_between(
            known_from, rows["q0.25"], rows["q0.75"], color=ACCENT, alpha=0.36, linewidth=0, label="50 % range"
        )
        axes.plot(known_from, target, color=INK, linewidth=0.9, label="realised")
        outside = np.where((target < low) | (target > high), target, math.nan)
        axes.plot(known_from, outside, ".", color=INK, markersize=4.5, label="outside 90 %")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(_percent_tick)
        axes.set_title(f"{symbol}, log return {bars_ahead(horizon)}")
        _utc(axes, narrow)
        figure.legend(loc="outside lower left", ncols=2 if narrow else 4, handlelength=1.2)
        return figure


def search_history(trials: pl.DataFrame, *, narrow: bool = False) -> Figure:
    """Score of every trial in order, and the best completed one so far.

    Args:
        trials: number, state (COMPLETE, PRUNED), value (mean pinball loss of the inner folds).
        narrow: For a telephone's width.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(narrow, 2.4)
        trials = trials.sort("number")
        complete = trials.filter(pl.col("state") == "COMPLETE")
        pruned = trials.filter(pl.col("state") == "PRUNED")
        axes.plot(complete["number"] + 1, complete["value"], "o", color=ACCENT, markersize=4.4, label="completed")
        axes.plot(
            pruned["number"] + 1, pruned["value"], "o", color=MUTED, markerfacecolor="none", markersize=4.4,
            label="stopped early",
        )  # fmt: skip
        axes.step(
            complete["number"] + 1, complete["value"].cum_min(), where="post", color=INK, linewidth=0.9,
            label="best so far",
        )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("trial")
        axes.set_title("Pinball loss on the development period")
        figure.legend(loc="outside lower left", ncols=3, handlelength=1.2)
        return figure


def as_svg(figure: Figure) -> str:
    """A figure as SVG text: equal figures give equal bytes; text stays text, in the reader's own fonts."""
    buffer = io.StringIO()
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "gatecast"}):
        figure.savefig(buffer, format="svg", metadata=bare)  # None leaves an entry out
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white, atomically.

    Raises:
        GatecastError: The disk is full or not writable.
    """

    def write(temporary: Path) -> None:
        with mpl.rc_context(_STYLE):
            figure.savefig(temporary, format="png", dpi=160, facecolor="white", metadata={"Software": None})

    write_atomically(path, write)


def bars_ahead(horizon: int) -> str:
    """A horizon in words."""
    return f"{horizon} bar{'' if horizon == 1 else 's'} ahead"


def price_text(price: float) -> str:
    """A price to five significant digits, whole above ten thousand; an en dash if it is not finite."""
    if not math.isfinite(price):
        return DASH
    magnitude = math.floor(math.log10(abs(price))) if price else 0
    return f"{price:,.{max(0, 4 - magnitude)}f}"


def _coverage(metrics: Mapping[str, Any], model: str, horizon: int, nominal: int) -> float:
    return finite(metrics["models"][model].get(str(horizon), {}).get(f"coverage_{nominal}"))


def _percent_tick(value: float, _: float | None = None) -> str:
    return f"{100 * value:.6g} %".replace("-", "\N{MINUS SIGN}")


def _figure(narrow: bool, height: float) -> Figure:
    return Figure(figsize=(3.75 if narrow else 7.6, height), layout="constrained")


def _canvas(narrow: bool, height: float) -> tuple[Figure, Axes]:
    figure = _figure(narrow, height)
    return figure, figure.subplots()


def _band_keys() -> list[Patch]:
    """Keys as dark as the bands look where they lie on one another."""
    keys, clear = [], 1.0
    for _, _, label, alpha in _BANDS:
        clear *= 1 - alpha
        keys.append(Patch(facecolor=ACCENT, alpha=1 - clear, linewidth=0, label=label))
    return keys[::-1]


def _utc(axes: Axes, narrow: bool) -> None:
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=5 if narrow else 9)  # type: ignore[no-untyped-call]  # matplotlib
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]  # matplotlib
    axes.set_xlabel("UTC")
    axes.margins(x=0.01)
