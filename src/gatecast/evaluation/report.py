"""The report: one HTML page that opens anywhere, offline, and says first what the evaluation found."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import polars as pl
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from gatecast.evaluation import figures, wording
from gatecast.evaluation.contents import Forecast, Json, ReportContents, read_contents
from gatecast.evaluation.figures import bars_ahead, finite, fold_skill, model_name, price_text
from gatecast.model.predictions import HORIZON, LSTM, MODEL
from gatecast.workspace import Workspace, write_atomically

_THEME: Final = {figures.INK: "ink", figures.MUTED: "muted", figures.RULE: "rule", figures.ACCENT: "accent"}

_N_SIGNIFICANT: Final = 4


def write_report(workspace: Workspace) -> Path:
    """Write reports/report.html from what the workspace holds, atomically, and say where it is.

    Raises:
        DataError: A file that `gatecast run` writes is absent or cannot be read.
    """
    path = workspace.reports / "report.html"
    html = render_report(read_contents(workspace))
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path


def render_report(contents: ReportContents) -> str:
    """The report as a self-contained HTML page: no script, nothing loaded, every text escaped.

    Equal contents give equal bytes.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=wording.number, percent=wording.percent, signed=wording.signed, count=wording.count,
        p_value=wording.p_value, when=wording.when, day=wording.day,
        price=lambda value: price_text(finite(value)), model=model_name, ahead=bars_ahead, words=wording.words,
    )  # fmt: skip
    template = resources.files("gatecast.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    metrics = contents.metrics
    return environment.from_string(template).render(
        contents=contents,
        metrics=metrics,
        horizon=wording.headline(metrics),
        challenger=LSTM,
        decision=wording.decision_line(contents.promotion),
        ours=wording.scores_of(metrics, wording.headline(metrics)),
        scores=[_scores(metrics, horizon) for horizon in metrics["horizons"]],
        folds=_folds(metrics),
        forecasts=[
            {
                **each.content,
                "rows": (rows := _forecast_rows(each.content)),
                "sentence": wording.forecast_sentence(rows),
            }
            for each in contents.forecasts
        ],
        pictures=_pictures(contents),
        sentences=wording.sentences(contents),
        leaks=wording.leaks(contents),
        reasons=sorted({reason for each in contents.counts["markets"].values() for reason in each["reasons"]}),
        ranges=wording.RANGES,
    )


def _scores(metrics: Json, horizon: int) -> Json:
    """The rows of one horizon, the LSTM first and then the baselines from the best, with decimals that suit them."""
    key = str(horizon)
    by_model = {model: scores.get(key, {}) for model, scores in metrics["models"].items()}
    losses = [loss for scores in by_model.values() if (loss := finite(scores.get("pinball"))) > 0]
    decimals = max(5, _N_SIGNIFICANT - 1 - math.floor(math.log10(min(losses)))) if losses else 5
    rows = [
        {
            "model": model,
            "best": metrics.get("best_baseline", {}).get(key) == model,
            "skill": _skill_over(metrics, model, key),
            "p": metrics.get("diebold_mariano", {}).get(key, {}).get(model, {}).get("p_value"),
            **{name: scores.get(name) for name in ("pinball", "crps", "mae", "rmse", "direction_accuracy", "n")},
            **{f"coverage_{nominal}": scores.get(f"coverage_{nominal}") for nominal in wording.RANGES},
            "width_90": scores.get("width_90"),
        }
        for model, scores in by_model.items()
    ]
    rows.sort(key=lambda row: (row["model"] != LSTM, finite(row["pinball"])))
    return {"horizon": horizon, "decimals": decimals, "rows": rows}


def _skill_over(metrics: Json, rival: str, key: str) -> float | None:
    """1 less the ratio of the LSTM's pinball loss to a rival's, over several markets their geometric mean."""
    if rival == LSTM:
        return None
    tables = list(metrics.get("by_market", {}).values()) or [metrics["models"]]
    pairs = [
        tuple(finite(table.get(model, {}).get(key, {}).get("pinball")) for model in (LSTM, rival)) for table in tables
    ]
    if not all(ours > 0 and theirs > 0 for ours, theirs in pairs):
        return None
    return 1 - math.exp(sum(math.log(ours / theirs) for ours, theirs in pairs) / len(pairs))


def _folds(metrics: Json) -> list[Json]:
    by_horizon = [fold_skill(metrics, horizon) for horizon in metrics["horizons"]]
    return [
        {**fold, "number": place + 1, "skill": [skill[place] if place < len(skill) else None for skill in by_horizon]}
        for place, fold in enumerate(metrics.get("folds", []))
    ]


def _forecast_rows(forecast: Json) -> list[Json]:
    """A row a horizon: when it comes due and the price at each level."""
    rows: dict[int, Json] = {}
    for quantile in forecast["quantiles"]:
        row = rows.setdefault(quantile["horizon"], {"target_at": quantile["target_at"]})
        row[f"q{quantile['level']:g}"] = quantile["price"]
    return [{"horizon": horizon, **rows[horizon]} for horizon in sorted(rows)]


def _pictures(contents: ReportContents) -> dict[str, str]:
    metrics, horizon = contents.metrics, wording.headline(contents.metrics)
    drawn = contents.predictions.filter((pl.col(MODEL) == LSTM) & (pl.col(HORIZON) == horizon))
    drawings: dict[str, tuple[str, Callable[[bool], Figure]]] = {
        "folds": ("Skill by fold", lambda narrow: figures.skill_by_fold(metrics, narrow=narrow)),
        "coverage": ("Achieved coverage", lambda narrow: figures.coverage(metrics, narrow=narrow)),
        "search": ("Search history", lambda narrow: figures.search_history(contents.trials, narrow=narrow)),
    }
    if not drawn.is_empty():
        symbol = drawn["symbol"][0]
        drawings["intervals"] = (
            "Realised returns against forecast ranges",
            lambda narrow: figures.interval_history(drawn, symbol=symbol, horizon=horizon, narrow=narrow),
        )
    for place, forecast in enumerate(contents.forecasts):
        drawings[f"forecast_{place}"] = ("Last forecast", partial(_fan, forecast))
    return {name: _both_widths(name, label, draw) for name, (label, draw) in drawings.items()}


def _fan(forecast: Forecast, narrow: bool) -> Figure:
    instants = ("issued_at", "target_at")
    rows = [
        {**row, **{at: datetime.fromisoformat(row[at]) for at in instants}} for row in forecast.content["quantiles"]
    ]
    return figures.fan_chart(forecast.history, pl.DataFrame(rows), title="", narrow=narrow)


def _both_widths(name: str, label: str, draw: Callable[[bool], Figure]) -> str:
    """A picture drawn for a desk and for a telephone; the page shows one. Matplotlib escapes the text in it."""
    parts = [
        f'<div class="{width}">{_inline(figures.as_svg(draw(width == "narrow")), f"{name}-{width}", label)}</div>'
        for width in ("wide", "narrow")
    ]
    return "".join(parts)


def _inline(svg: str, prefix: str, label: str) -> str:
    """SVG for the body of a page: ids of its own, colours of the page's theme, sized by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{label}">', svg, count=1)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\1{prefix}-", svg)
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
