"""The picture of a live forecast as a file, for those who get a picture and no page."""

from datetime import UTC
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import polars as pl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gatecast.evaluation.notation import price_text
from gatecast.market.candles import CLOSE, TS
from gatecast.model.predictions import HORIZON
from gatecast.workspace import write_atomically

_INK: Final = "#1b1f24"
_MUTED: Final = "#69717d"
_RULE: Final = "#d5d9e0"
_ACCENT: Final = "#2457a6"
_SIZE: Final = (7.6, 3.2)  # inches

_BANDS: Final = ((0.05, 0.95, "90 %", 0.16), (0.1, 0.9, "80 %", 0.2), (0.25, 0.75, "50 %", 0.3))
_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": _MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.size": 8.5,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": _MUTED,
    "text.color": _INK,
    "text.parse_math": False,  # a symbol may hold a dollar sign
    "xtick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": "none",
    "ytick.labelcolor": _MUTED,
}


def fan_chart(history: pl.DataFrame, forecast: pl.DataFrame, *, title: str) -> Figure:
    """Past closes and the forecast as bands of 50, 80 and 90 % around the median.

    Args:
        history: ts (open time, UTC) and close, sorted, one row or more; each close is drawn at the end of its candle.
        forecast: Rows of the forecast ledger for one market and one issue: issued_at and target_at (UTC), horizon,
            level, price.
        title: Plain text.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        candle = ((forecast["target_at"] - forecast["issued_at"]) / forecast[HORIZON])[0]
        closed_at = (history[TS] + candle).to_list()
        axes.plot(closed_at, history[CLOSE].to_list(), color=_INK, linewidth=1.1)
        last_at, last_close = closed_at[-1], float(history[CLOSE][-1])
        paths = {
            round(level, 4): [last_close, *rows.sort("target_at")["price"].to_list()]
            for (level,), rows in forecast.partition_by("level", as_dict=True).items()
        }
        targets = [last_at, *forecast["target_at"].unique().sort().to_list()]
        for low, high, _, alpha in _BANDS:
            axes.fill_between(targets, paths[low], paths[high], color=_ACCENT, alpha=alpha, linewidth=0)
        median = axes.plot(
            targets, paths[0.5], color=_ACCENT, linewidth=1.4, marker="o", markersize=2.6, label="median"
        )
        axes.axvline(last_at, color=_MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: price_text(value))
        _utc(axes)
        axes.set_title(title)
        figure.legend(handles=[*median, *_band_keys()], loc="outside lower left", ncols=4, handlelength=1.2)
        return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white, atomically.

    Raises:
        GatecastError: The disk is full or not writable.
    """

    def write(temporary: Path) -> None:
        with mpl.rc_context(_STYLE):
            figure.savefig(temporary, format="png", dpi=160, facecolor="white", metadata={"Software": None})

    write_atomically(path, write)


def _band_keys() -> list[Patch]:
    """Keys as dark as the bands look where they lie on one another."""
    keys, clear = [], 1.0
    for _, _, label, alpha in _BANDS:
        clear *= 1 - alpha
        keys.append(Patch(facecolor=_ACCENT, alpha=1 - clear, linewidth=0, label=label))
    return keys[::-1]


def _utc(axes: Axes) -> None:
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=9)  # type: ignore[no-untyped-call]  # matplotlib
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]  # matplotlib
    axes.set_xlabel("UTC")
    axes.margins(x=0.01)
