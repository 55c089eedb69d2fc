"""The report: one HTML page that opens anywhere, offline, and says first what the evaluation found."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

import polars as pl
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gatecast.errors import DataError
from gatecast.evaluation import figures
from gatecast.evaluation.figures import CHALLENGER, DASH, bars_ahead, finite, fold_skill, model_name, price_text
from gatecast.market.candles import CLOSE, TS, Market, timeframe_ms
from gatecast.market.store import read_candles
from gatecast.model.predictions import HORIZON, MODEL
from gatecast.workspace import Workspace, write_atomically

Json = dict[str, Any]

_RANGES: Final = (50, 80, 90)
_N_SIGNIFICANT: Final = 4
_SMALL_P: Final = 0.001
_MIN_HISTORY: Final = 48  # closes drawn before a forecast
_THEME: Final = {figures.INK: "ink", figures.MUTED: "muted", figures.RULE: "rule", figures.ACCENT: "accent"}


@dataclass(frozen=True)
class Forecast:
    """A forecast and what was known when it was issued.

    Attributes:
        content: market, issued_at, last_close, model_version and quantiles, rows of the forecast ledger.
        history: ts (open time, UTC) and close up to last_close, sorted.
    """

    content: Json
    history: pl.DataFrame


@dataclass(frozen=True)
class ReportContents:
    """What a report tells: the files of a workspace as they stand.

    Attributes:
        metrics: Figures of merit and the verdict.
        predictions: Quantiles and realised log returns of the evaluation period.
        trials: The search, a row a trial.
        best: Its best hyperparameters.
        validation: Outcome of the expectations on the clean candles.
        leakage: Outcome of the leak prover.
        counts: What `clean` counted, by market.
        promotion: Decision of the gate, or None before it.
        forecasts: The last forecast of each market, with what came before it; none while there is no champion.
        provenance: Commit, hashes and versions, or None if not recorded.
    """

    metrics: Json
    predictions: pl.DataFrame
    trials: pl.DataFrame
    best: Json
    validation: Json
    leakage: Json
    counts: Json
    promotion: Json | None = None
    forecasts: tuple[Forecast, ...] = ()
    provenance: Json | None = None


def read_contents(workspace: Workspace) -> ReportContents:
    """Everything that the report shows, from the files of a workspace.

    Raises:
        DataError: A file that `gatecast run` writes is absent or cannot be read.
    """
    reports = workspace.reports
    metrics = _read(workspace, reports / "metrics.json", _json)
    promotion = _read_optional(workspace, reports / "promotion.json")
    has_champion = promotion is not None and promotion["champion_version"] is not None
    return ReportContents(
        metrics=metrics,
        predictions=_read(workspace, reports / "predictions.parquet", pl.read_parquet),
        trials=_read(workspace, reports / "trials.csv", pl.read_csv),
        best=_read(workspace, reports / "best.yaml", YAML(typ="safe").load),
        validation=_read(workspace, reports / "validation.json", _json),
        leakage=_read(workspace, reports / "leakage.json", _json),
        counts=_read(workspace, workspace.clean_counts, _json),
        promotion=promotion,
        forecasts=_forecasts(workspace, metrics) if has_champion else (),
        provenance=_read_optional(workspace, reports / "provenance.json"),
    )


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
        number=_number, percent=_percent, signed=_signed, count=_count, p_value=_p_value, when=_when, day=_day,
        price=lambda value: price_text(finite(value)), model=model_name, ahead=bars_ahead, words=_words,
    )  # fmt: skip
    template = resources.files("gatecast.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    metrics = contents.metrics
    return environment.from_string(template).render(
        contents=contents,
        metrics=metrics,
        horizon=_headline(metrics),
        challenger=CHALLENGER,
        decision=_decision(contents.promotion),
        ours=_scores_of(metrics, _headline(metrics)),
        scores=[_scores(metrics, horizon) for horizon in metrics["horizons"]],
        folds=_folds(metrics),
        forecasts=[
            {**each.content, "rows": (rows := _forecast_rows(each.content)), "sentence": _forecast_sentence(rows)}
            for each in contents.forecasts
        ],
        pictures=_pictures(contents),
        sentences=_sentences(contents),
        reasons=sorted({reason for each in contents.counts["markets"].values() for reason in each["reasons"]}),
        ranges=_RANGES,
    )


# Reading


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(workspace: Workspace, path: Path, read: Callable[[Path], Any]) -> Any:
    name = workspace.relative(path)
    if not path.is_file():
        raise DataError(f"{name} is absent, so there is nothing to report: run `gatecast run` first")
    try:
        return read(path)
    except (ValueError, OSError, YAMLError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{name} cannot be read ({str(error).splitlines()[0]}): run `gatecast run` again") from None


def _read_optional(workspace: Workspace, path: Path) -> Json | None:
    return _read(workspace, path, _json) if path.exists() else None


def _forecasts(workspace: Workspace, metrics: Json) -> tuple[Forecast, ...]:
    """The newest forecast of each market that the metrics speak of."""
    newest: dict[str, Json] = {}
    for path in sorted(workspace.reports.glob("forecast*.json")):
        content = _read(workspace, path, _json)
        _, symbol, _ = content["market"].split(" ")
        if symbol in metrics["by_market"] and content["issued_at"] >= newest.get(symbol, content)["issued_at"]:
            newest[symbol] = content
    return tuple(
        Forecast(content, _history(workspace, content, max(metrics["horizons"]))) for content in newest.values()
    )


def _history(workspace: Workspace, forecast: Json, longest: int) -> pl.DataFrame:
    """Closes known when the forecast was issued; the last is the one that it starts from."""
    market = Market(*forecast["market"].split(" "))
    candle = timedelta(milliseconds=timeframe_ms(market.timeframe))
    last_ts = datetime.fromisoformat(forecast["issued_at"]).astimezone(UTC) - candle
    start = last_ts - candle * max(5 * longest, _MIN_HISTORY)
    stored = read_candles(workspace.candles, market, start, last_ts).select(TS, CLOSE)
    last = pl.DataFrame({TS: [last_ts], CLOSE: [forecast["last_close"]]}, schema=stored.schema)
    return pl.concat([stored.unique(TS, keep="last", maintain_order=True), last])


# Numbers as text; what is not known or not finite is an en dash


def _number(value: object, decimals: int = 5) -> str:
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.{decimals}f}"


def _percent(value: object, decimals: int = 1) -> str:
    number = finite(value)
    return DASH if math.isnan(number) else f"{100 * number:.{decimals}f}\N{NO-BREAK SPACE}%"


def _signed(value: object, decimals: int = 2) -> str:
    number = finite(value)
    sign = "" if round(100 * number, decimals) == 0 else "+" if number > 0 else "\N{MINUS SIGN}"
    return DASH if math.isnan(number) else sign + _percent(abs(number), decimals)


def _count(value: object) -> str:
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:,.0f}"


def _p_value(value: object) -> str:
    number = finite(value)
    return DASH if math.isnan(number) else "< 0.001" if number < _SMALL_P else f"{number:.3f}"


def _when(value: str | None) -> str:
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else DASH


def _day(value: str | None) -> str:
    return _when(value)[:10]


def _words(value: object) -> str:
    """Any observed value or breach on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or DASH
    if isinstance(value, bool | str):
        return str(value)
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.6g}" if isinstance(value, float) else f"{number:,.0f}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# Tables


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
            **{f"coverage_{nominal}": scores.get(f"coverage_{nominal}") for nominal in _RANGES},
            "width_90": scores.get("width_90"),
        }
        for model, scores in by_model.items()
    ]
    rows.sort(key=lambda row: (row["model"] != CHALLENGER, finite(row["pinball"])))
    return {"horizon": horizon, "decimals": decimals, "rows": rows}


def _headline(metrics: Json) -> int:
    """The longest horizon that was named beforehand: the one that the verdict is about."""
    return max(map(int, metrics.get("beats_baselines") or metrics["horizons"]))


def _skill_over(metrics: Json, rival: str, key: str) -> float | None:
    """1 less the ratio of the LSTM's pinball loss to a rival's, over several markets their geometric mean."""
    if rival == CHALLENGER:
        return None
    tables = list(metrics.get("by_market", {}).values()) or [metrics["models"]]
    pairs = [
        tuple(finite(table.get(model, {}).get(key, {}).get("pinball")) for model in (CHALLENGER, rival))
        for table in tables
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


# Pictures


def _pictures(contents: ReportContents) -> dict[str, str]:
    metrics, horizon = contents.metrics, _headline(contents.metrics)
    drawn = contents.predictions.filter((pl.col(MODEL) == CHALLENGER) & (pl.col(HORIZON) == horizon))
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


# Sentences


def _decision(promotion: Json | None) -> str:
    if promotion is None:
        return "Not decided yet: `gatecast promote` has not judged this model."
    name, version, champion = (promotion.get(key) for key in ("model_name", "version", "champion_version"))
    if promotion["decision"] == "promoted":
        instead = f", in place of version {champion}" if champion not in (None, version) else ""
        return f"Promoted: version {version} of {name} is now the champion{instead}."
    if promotion["decision"] == "already champion":
        return f"Already champion: version {version or champion} of {name} is this very model, and stays."
    stays = f"version {champion} stays champion." if champion is not None else "there is no champion, and no forecast."
    return f"Refused: this model does not go live; {stays}"


def _sentences(contents: ReportContents) -> dict[str, str]:
    """The plain sentence below each table."""
    return {
        "checks": _checks_sentence(contents.promotion),
        "scores": _scores_sentence(contents.metrics),
        "folds": _folds_sentence(contents.metrics),
        "coverage": _coverage_sentence(contents.metrics),
        "quality": _quality_sentence(contents.counts),
        "validation": _validation_sentence(contents.validation),
        "leakage": _leakage_sentence(contents.leakage),
        "search": _search_sentence(contents),
        "provenance": _provenance_sentence(contents.provenance),
    }


def _checks_sentence(promotion: Json | None) -> str:
    checks = promotion["checks"] if promotion else []
    failed = [check["check"] for check in checks if not check["passed"]]
    return f"Not passed: {_listed(failed)}." if failed else f"All {len(checks)} checks passed."


def _scores_sentence(metrics: Json) -> str:
    beaten = metrics.get("beats_baselines", {})
    ahead, behind = (
        [horizon for horizon, beats in beaten.items() if bool(beats) is wanted] for wanted in (True, False)
    )
    unnamed = "" if len(beaten) == len(metrics["horizons"]) else "; only horizons named beforehand are judged"
    if not ahead:
        return f"{_where(behind)} the LSTM does not beat every baseline by more than chance explains{unnamed}."
    rest = f"; {_where(behind)} it does not" if behind else ""
    return f"{_where(ahead)} the LSTM beats every baseline by more than chance explains{rest}{unnamed}."


def _where(horizons: list[str]) -> str:
    return f"{_listed(horizons)} bar{'' if horizons == ['1'] else 's'} ahead"


def _folds_sentence(metrics: Json) -> str:
    skill = [value for value in fold_skill(metrics, _headline(metrics)) if not math.isnan(value)]
    n_ahead = sum(value > 0 for value in skill)
    where = bars_ahead(_headline(metrics))
    return f"{where} the LSTM has a lower loss than the best baseline in {n_ahead} of {len(skill)} folds."


def _coverage_sentence(metrics: Json) -> str:
    gaps = [
        (abs(achieved - nominal / 100), nominal, horizon)
        for horizon in metrics["horizons"]
        for nominal in _RANGES
        if not math.isnan(achieved := finite(_scores_of(metrics, horizon).get(f"coverage_{nominal}")))
    ]
    if not gaps:
        return "The coverage of the LSTM is not known."
    gap, nominal, horizon = max(gaps)
    return (
        f"The LSTM is never more than {100 * gap:.1f} points off the nominal coverage; "
        f"the largest gap is that of the {nominal} % range {bars_ahead(horizon)}."
    )


def _scores_of(metrics: Json, horizon: int) -> Json:
    scores: Json = metrics["models"].get(CHALLENGER, {}).get(str(horizon), {})
    return scores


def _forecast_sentence(rows: list[Json]) -> str:
    low, high = (price_text(finite(rows[-1].get(level))) for level in ("q0.05", "q0.95"))
    due = _when(rows[-1]["target_at"])
    return f"By this forecast the close known at {due} lies between {low} and {high} with a probability of 90 %."


def _quality_sentence(counts: Json) -> str:
    markets = counts["markets"].values()
    present, missing, removed = (sum(each[key] for each in markets) for key in ("clean", "missing", "quarantined"))
    n_bars = present + missing
    share = _percent(missing / n_bars if n_bars else None, 2)
    return (
        f"Of {_count(n_bars)} bars {_count(missing)} are missing ({share}); {_count(removed)} rows are in quarantine."
    )


def _validation_sentence(validation: Json) -> str:
    expectations = validation["expectations"]
    failed = [each["name"] for each in expectations if not each["success"]]
    return f"Not met: {_listed(failed)}." if failed else f"All {len(expectations)} expectations are met."


def _leakage_sentence(leakage: Json) -> str:
    proof = f"The future was cut off and scrambled at {leakage['n_cuts']} instants; "
    if breaches := leakage["breaches"]:
        changed = f"{len(breaches)} of {leakage['n_columns']} columns changed what was known before"
        return f"{proof}{changed}, so the figures above cannot be trusted."
    return f"{proof}none of {leakage['n_columns']} columns changed what was known before: no feature sees the future."


def _search_sentence(contents: ReportContents) -> str:
    n_trials, n_pruned = len(contents.trials), contents.trials.filter(pl.col("state") == "PRUNED").height
    value = _number(contents.best.get("value"))
    return f"The best of {n_trials} trials reached a pinball loss of {value}; {n_pruned} were stopped early."


def _provenance_sentence(provenance: Json | None) -> str:
    if provenance is None:
        return "The provenance of this run was not recorded."
    if provenance.get("dirty"):
        return "The working tree held changes that were not committed: the commit alone does not rebuild this run."
    return "The working tree was clean: commit and hashes together name everything that this run was computed from."
