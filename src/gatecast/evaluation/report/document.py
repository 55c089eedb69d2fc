"""The report: one HTML page that opens anywhere, offline, and says first what the evaluation found."""

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl

from gatecast.evaluation.notation import finite
from gatecast.evaluation.report import analysis_plots, forecast_plots, merit, score_plots, wording
from gatecast.evaluation.report.contents import Forecast, Json, ReportContents, read_contents
from gatecast.evaluation.report.page import render_page
from gatecast.evaluation.report.plots import Plot
from gatecast.evaluation.report.strategy_wording import overfitting_sentence, strategy_sentence
from gatecast.evaluation.report.verdict_wording import scores_sentence, verdicts
from gatecast.evaluation.strategy import BUY_AND_HOLD
from gatecast.market.candles import SYMBOL
from gatecast.model.predictions import HORIZON, LSTM, MODEL
from gatecast.workspace import Workspace, write_atomically

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
    """The report as a self-contained HTML page: nothing loaded, every text escaped.

    Equal contents give equal bytes.
    """
    metrics = contents.metrics
    horizons = merit.headline_first(metrics)
    return render_page(
        "report.html.jinja",
        _pictures(contents),
        contents=contents,
        metrics=metrics,
        horizon=merit.headline(metrics),
        challenger=LSTM,
        verdicts=verdicts(metrics),
        decision=wording.decision_line(contents.promotion),
        ours=merit.scores_of(metrics, merit.headline(metrics)),
        scores=[_scores(metrics, horizon) for horizon in horizons],
        by_market=[_by_market(metrics, horizon) for horizon in horizons] if len(metrics["by_market"]) > 1 else [],
        folds=_folds(metrics),
        forecasts=[_forecast(each.content) for each in contents.forecasts],
        markets=_forecast_markets(contents),
        errors=_errors(contents.errors, horizons),
        money=[_money(metrics, horizon) for horizon in horizons],
        sentences=wording.sentences(contents),
        leaks=wording.leaks(contents),
        reasons=sorted({reason for each in contents.counts["markets"].values() for reason in each["reasons"]}),
        ranges=wording.RANGES,
    )


def _scores(metrics: Json, horizon: int) -> Json:
    """The rows of one horizon, the LSTM first and then the baselines from the best, with decimals that suit them."""
    by_model = {model: merit.scores_of(metrics, horizon, model) for model in metrics["models"]}
    losses = [loss for scores in by_model.values() if (loss := finite(scores.get("pinball"))) > 0]
    decimals = max(5, _N_SIGNIFICANT - 1 - math.floor(math.log10(min(losses)))) if losses else 5
    set_of_best = merit.at(metrics, "confidence_set", horizon)
    rows = [
        {
            "model": model,
            "best": merit.best_baseline(metrics, horizon) == model,
            "over": merit.at(metrics, "skill_over", horizon).get(model),
            "p": merit.at(metrics, "diebold_mariano", horizon).get(model, {}).get("p_value"),
            "member": model in set_of_best.get("members", ()),
            "member_p": set_of_best.get("p_values", {}).get(model),
            "scores": scores,
        }
        for model, scores in by_model.items()
    ]
    rows.sort(key=lambda row: (row["model"] != LSTM, finite(row["scores"].get("pinball"))))
    sentence = scores_sentence(metrics, horizon)
    return {"horizon": horizon, "decimals": decimals, "rows": rows, "sentence": sentence, "set": set_of_best}


def _by_market(metrics: Json, horizon: int) -> Json:
    """The LSTM and the best baseline in each market at one horizon, from the market with the highest skill."""
    best = merit.best_baseline(metrics, horizon)
    rows = []
    for symbol, models in metrics["by_market"].items():
        scores = {model: by_horizon.get(str(horizon), {}) for model, by_horizon in models.items()}
        losses = {model: loss for model, each in scores.items() if (loss := finite(each.get("pinball"))) > 0}
        ours, theirs = losses.get(LSTM, math.nan), losses.get(best, math.nan)
        least = min(losses, key=lambda model: losses[model]) if losses else ""
        rows.append({"symbol": symbol, "scores": scores.get(LSTM, {}), "skill": 1 - ours / theirs, "least": least})
    rows.sort(key=lambda row: (math.isnan(row["skill"]), -row["skill"]))
    return {"horizon": horizon, "best": best, "rows": rows, "sentence": wording.markets_sentence(rows, horizon, best)}


def _folds(metrics: Json) -> list[Json]:
    by_horizon = [merit.fold_skill(metrics, horizon) for horizon in metrics["horizons"]]
    return [
        {**fold, "number": place + 1, "skill": [skill[place] if place < len(skill) else None for skill in by_horizon]}
        for place, fold in enumerate(metrics.get("folds", []))
    ]


def _forecast(content: Json) -> Json:
    rows = _forecast_rows(content)
    sentence = " ".join([wording.forecast_sentence(rows), *wording.forecast_caveats(content)])
    return {**content, "rows": rows, "sentence": sentence}


def _forecast_rows(forecast: Json) -> list[Json]:
    """A row a horizon: when it comes due and the price at each level."""
    rows: dict[int, Json] = {}
    for quantile in forecast["quantiles"]:
        row = rows.setdefault(quantile["horizon"], {"target_at": quantile["target_at"]})
        row[f"q{quantile['level']:g}"] = quantile["price"]
    return [{"horizon": horizon, **rows[horizon]} for horizon in sorted(rows)]


def _errors(errors: Json | None, horizons: list[int]) -> list[Json]:
    return [{**errors[str(horizon)], "horizon": horizon} for horizon in horizons if errors and str(horizon) in errors]


def _money(metrics: Json, horizon: int) -> Json:
    """What each strategy earned at one horizon: the LSTM, holding the market, the best baseline, then the others."""
    strategies = metrics.get("strategy", {})
    best = merit.best_baseline(metrics, horizon)
    order = [LSTM, BUY_AND_HOLD, best]
    models = sorted(strategies, key=lambda model: order.index(model) if model in order else len(order))
    return {
        "horizon": horizon,
        "rows": [
            {"model": model, "best": model == best, **strategies[model][str(horizon)]}
            for model in models
            if strategies[model].get(str(horizon))
        ],
        "overfitting": merit.at(metrics, "overfitting", horizon),
        "sentence": strategy_sentence(metrics, horizon),
        "overfitting_sentence": overfitting_sentence(metrics, horizon),
    }


def _forecast_markets(contents: ReportContents) -> list[str]:
    """The markets that the LSTM forecast at the headline horizon."""
    headline = merit.headline(contents.metrics)
    of_headline = contents.predictions.filter((pl.col(MODEL) == LSTM) & (pl.col(HORIZON) == headline))
    return [str(symbol) for symbol in of_headline[SYMBOL].unique().sort()]


def _pictures(contents: ReportContents) -> Mapping[str, Plot]:
    metrics, headline = contents.metrics, merit.headline(contents.metrics)
    plots: dict[str, Plot | None] = {
        "folds": score_plots.skill_by_fold(metrics),
        "calibration": score_plots.calibration(metrics),
        "levels": score_plots.levels_histogram(metrics),
        "search": score_plots.search_history(contents.trials),
        "equity": analysis_plots.equity(contents.equity, metrics) if contents.equity is not None else None,
    }
    for place, symbol in enumerate(_forecast_markets(contents)):
        plots[f"ranges-{place}"] = forecast_plots.ranges(contents.predictions, symbol=symbol, horizon=headline)
    for place, forecast in enumerate(contents.forecasts):
        plots[f"forecast-{place}"] = _fan(forecast)
    for found in _errors(contents.errors, [headline]):
        plots |= {f"errors-{table['name']}": analysis_plots.skill_by_bucket(table) for table in found["tables"]}
        plots["importance"] = analysis_plots.importance(found["importance"]["rows"])
    return {name: plot for name, plot in plots.items() if plot is not None and plot.traces}


def _fan(forecast: Forecast) -> Plot:
    instants = ("issued_at", "target_at")
    rows = [
        {**row, **{at: datetime.fromisoformat(row[at]) for at in instants}} for row in forecast.content["quantiles"]
    ]
    return forecast_plots.fan(forecast.history, pl.DataFrame(rows))
