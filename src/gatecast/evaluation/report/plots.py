"""The only place that talks to plotly: figures of plain data in, parts of a page that draws them offline out.

Colours are the variables of the page's style sheet (`var(--ink)`): its script puts in what they stand for, so that a
picture follows the reader's light or dark theme.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from plotly import graph_objects
from plotly.offline import get_plotlyjs

Json = dict[str, Any]

INK: Final = "var(--ink)"
MUTED: Final = "var(--muted)"
RULE: Final = "var(--rule)"
ACCENT: Final = "var(--accent)"
RIVAL: Final = "var(--rival)"
THIRD: Final = "var(--third)"
WIDE: Final = "var(--wide)"  # fillings of nested ranges, each lying on the wider ones
MIDDLE: Final = "var(--middle)"
NARROW: Final = "var(--narrow)"

_N_DIGITS: Final = 6
_CLEAR: Final = "rgba(0,0,0,0)"
_AXIS: Final = {
    "automargin": True,
    "gridcolor": RULE,
    "linecolor": RULE,
    "tickcolor": RULE,
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 12}},
}
_LAYOUT: Final = {
    "template": "none",
    "autosize": True,
    "paper_bgcolor": _CLEAR,
    "plot_bgcolor": _CLEAR,
    "font": {"size": 12, "color": MUTED, "family": '-apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'},
    "margin": {"l": 4, "r": 12, "t": 8, "b": 4},
    "xaxis": {**_AXIS, "showgrid": False, "fixedrange": True},
    "yaxis": {**_AXIS, "showline": False, "fixedrange": True, "ticks": ""},
    "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    "hoverlabel": {"bgcolor": "var(--paper)", "bordercolor": RULE, "font": {"color": INK}},
    "hovermode": "x unified",
    "bargap": 0.25,
}

_ZOOM: Final = {  # the strip is for fingers, which cannot drag a frame
    "xaxis": {
        "fixedrange": False,
        "rangeslider": {
            "visible": True,
            "thickness": 0.1,
            "bgcolor": "var(--wash)",
            "bordercolor": RULE,
            "borderwidth": 1,
        },
    },
    "yaxis": {"fixedrange": False},
}


@dataclass(frozen=True)
class Choice:
    """One of the views of a plot that a reader can choose.

    Attributes:
        label: Plain text.
        traces: Places of the traces that it shows.
        layout: What it changes in the layout, by plotly's paths such as `yaxis.title.text`.
    """

    label: str
    traces: tuple[int, ...]
    layout: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure as plain data.

    Attributes:
        label: What it shows, in words, for those who cannot see it.
        traces: Traces as plotly has them.
        layout: What differs from the layout that all share.
        height: Pixels.
        zoom: Whether a reader can zoom in along time, by a strip below the picture.
        choices: Views; the first is shown first. None: all traces are shown.
    """

    label: str
    traces: Sequence[Json]
    layout: Mapping[str, Any]
    height: int = 300
    zoom: bool = False
    choices: tuple[Choice, ...] = ()


def library() -> str:
    """The script that draws the figures, whole."""
    source: str = get_plotlyjs()
    return source


def markup(name: str, plot: Plot) -> str:
    """A plot as HTML, an element with its data behind it, every text escaped; equal plots give equal text.

    Args:
        name: Distinguishes it on its page: letters, digits and hyphens.
        plot: The figure.
    """
    data = {**figure(plot), "choices": [_choice(plot, each) for each in plot.choices]}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=True)
    for character in "<>&":  # no text of a user ends the element
        text = text.replace(character, f"\\u{ord(character):04x}")
    name, label = html.escape(name), html.escape(plot.label)
    return (
        f'<div class="plot" id="plot-{name}" role="group" aria-label="{label}" style="height:{plot.height}px"></div>'
        f'<script type="application/json" id="plot-{name}-data">{text}</script>'
    )


def figure(plot: Plot) -> Json:
    """Data and layout as plotly draws them, checked by it: an unknown property raises ValueError."""
    layout = _merged(_LAYOUT, {"height": plot.height, **plot.layout})
    if plot.zoom:
        layout = _merged(layout, _ZOOM)
    content: Json = json.loads(graph_objects.Figure(data=list(plot.traces), layout=layout).to_json())
    return content


def plain(text: str) -> str:
    """Text of a user for a label: plotly takes tags in labels for markup."""
    return html.escape(text, quote=False)


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Numbers to six digits, more than a picture shows; None for what is not finite."""
    return [None if each is None or not math.isfinite(each) else float(f"{each:.{_N_DIGITS}g}") for each in values]


def stamps(instants: Iterable[datetime]) -> list[str]:
    """Instants as a date axis takes them, UTC, to the minute."""
    return [each.astimezone(UTC).strftime("%Y-%m-%d %H:%M") for each in instants]


def thinned(n: int, most: int) -> list[int]:
    """Evenly spaced places in a series of n, no more than so many, the first and the last among them."""
    if n <= most:
        return list(range(n))
    return sorted({round(k * (n - 1) / (most - 1)) for k in range(most)})


def band(x: Sequence[str], low: Sequence[float | None], high: Sequence[float | None], name: str, fill: str) -> Json:
    """A range over time as one trace: a closed shape for each stretch on which both ends are known."""
    xs: list[str | None] = []
    ys: list[float | None] = []
    for stretch in _stretches(low, high):
        xs += [*(x[k] for k in stretch), *(x[k] for k in reversed(stretch)), None]
        ys += [*(high[k] for k in stretch), *(low[k] for k in reversed(stretch)), None]
    shape = {"type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": fill, "line": {"width": 0}}
    return {**shape, "x": xs[:-1], "y": ys[:-1], "name": name, "hoverinfo": "skip"}


def _stretches(low: Sequence[float | None], high: Sequence[float | None]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for place, ends in enumerate(zip(low, high, strict=True)):
        if None not in ends:
            found[-1].append(place)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _choice(plot: Plot, choice: Choice) -> Json:
    visible = [place in choice.traces for place in range(len(plot.traces))]
    return {"label": choice.label, "visible": visible, "layout": dict(choice.layout)}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Json:
    """A nested mapping with changes put into it."""
    return {
        **base,
        **{
            key: _merged(base[key], value)
            if isinstance(base.get(key), Mapping) and isinstance(value, Mapping)
            else value
            for key, value in changes.items()
        },
    }
