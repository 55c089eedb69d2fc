"""The comparison of two runs for people: a page, and a table for the terminal."""

from pathlib import Path
from typing import Final

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gatecast.evaluation.notation import DASH, bars_ahead, count, number, p_value, percent, signed
from gatecast.evaluation.report.comparison import Json, RunResults, compare_runs, cumulative_differences
from gatecast.evaluation.report.page import render_page
from gatecast.evaluation.report.plots import ACCENT, INK, Choice, Plot, rounded, stamps, thinned
from gatecast.market.candles import TS
from gatecast.workspace import Workspace, write_atomically

_MOST_POINTS: Final = 800
_MOST_DIFFERENCES: Final = 12  # lines in a terminal; the page has all


def write_comparison(workspace: Workspace, first: RunResults, second: RunResults) -> tuple[Path, Json]:
    """Write reports/comparison.html, atomically; where it is, and what `compare_runs` found.

    Raises:
        DataError: No shared bar.
    """
    found = compare_runs(first, second)
    path = workspace.reports / "comparison.html"
    html = render_comparison(found, cumulative_differences(first, second))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path, found


def render_comparison(found: Json, differences: dict[int, pl.DataFrame]) -> str:
    """The comparison as a self-contained page; equal content gives equal bytes."""
    plots = {"differences": difference_plot(differences)}
    return render_page("comparison.html.jinja", plots, found=found, longest_first=longest_first(found))


def longest_first(found: Json) -> list[tuple[int, Json]]:
    """The horizons with what was found at each, the longest first, as the verdict has them."""
    return sorted(
        ((int(key), value) for key, value in found["horizons"].items()), reverse=True, key=lambda item: item[0]
    )


def difference_plot(differences: dict[int, pl.DataFrame]) -> Plot:
    """What the first run lost more than the second, added up over time; it rises while the second is better."""
    traces, choices = [], []
    for place, (horizon, rows) in enumerate(sorted(differences.items(), reverse=True)):
        shown = rows[thinned(len(rows), _MOST_POINTS)]
        traces.append(
            {"type": "scatter", "mode": "lines", "name": bars_ahead(horizon), "x": stamps(shown[TS]),
             "y": rounded(shown["total"]), "line": {"color": ACCENT, "width": 2}, "hovertemplate": "%{y:.4f}"}
        )  # fmt: skip
        choices.append(Choice(bars_ahead(horizon), (place,)))
    layout = {
        "xaxis": {"type": "date", "title": {"text": "UTC"}},
        "yaxis": {"title": {"text": "loss of first less second, in all"}},
        "showlegend": False,
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": INK, "width": 1}}
        ],
    }
    return Plot("Cumulative difference of the losses", traces, layout, height=380, zoom=True, choices=tuple(choices))


def comparison_table(found: Json) -> Group:
    """The comparison as terminal tables."""
    table = Table(title="Two runs on the forecasts that both made", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("bars", "shared", "first loses", "second loses", "skill of second", "p", "90 % range covers"):
        table.add_column(heading, justify="right")
    for horizon, each in longest_first(found):
        first, second = each["first"], each["second"]
        covers = f"{percent(first['coverage_90'])}, {percent(second['coverage_90'])}"
        losses = (number(first["pinball"], 6), number(second["pinball"], 6))
        table.add_row(str(horizon), count(each["n"]), *losses, signed(each["skill"]), p_value(each["p_value"]), covers)
    runs = "\n".join(
        f"{place}  {run['run_id'][:8]}  {run['started_at']}  {run['market']}"
        for place, run in zip(("First ", "Second"), found["runs"], strict=True)
    )
    sentences = "\n".join(each["sentence"] for _, each in longest_first(found))
    changed = found["configuration"]
    lines = [
        f"{each['key']}: {each['first'] or DASH} -> {each['second'] or DASH}" for each in changed[:_MOST_DIFFERENCES]
    ]
    if len(changed) > _MOST_DIFFERENCES:
        lines.append(f"and {len(changed) - _MOST_DIFFERENCES} more")
    configuration = "\n".join(["Configuration", *(f"  {line}" for line in lines)]) if lines else "Same configuration"
    parts = (Text(runs), table, Text(sentences, style="bold"), Text(configuration))
    return Group(*(part for each in parts for part in (each, Text(""))))
