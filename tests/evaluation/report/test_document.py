"""The report: whole in one file, honest in both directions, and deaf to hostile text."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.report.contents import Forecast, ReportContents, read_contents
from gatecast.evaluation.report.document import render_report, write_report
from gatecast.evaluation.report.plots import library
from gatecast.evaluation.report.strategy_wording import strategy_sentence
from gatecast.evaluation.report.verdict_wording import scores_sentence
from gatecast.evaluation.report.wording import forecast_caveats
from gatecast.market.candles import Market
from gatecast.market.store import Store, merge_candles
from gatecast.workspace import Workspace, file_sha256
from tests.evaluation.report.evaluated import (
    HOSTILE,
    START,
    make_equity,
    make_errors,
    make_history,
    make_ledger,
    make_metrics,
    make_predictions,
    make_trials,
)

MARKET = Market("binance", "BTC/USDT", "1h")
BEST = {
    "hidden_size": 32,
    "learning_rate": 0.003,
    "dropout": 0.1,
    "weight_decay": 0.01,
    "n_steps": 640,
    "value": 0.0125,
}
CHANGES = ["cut off", "scrambled"]
PARITY: dict[str, Any] = {"n_bars": 48, "tolerance": 1e-6, "worst": None, "breaches": []}
LEAKAGE = {"n_cuts": 12, "changes": CHANGES, "n_columns": 18, "n_values": 4000, "columns": [], "breaches": [],
           "parity": PARITY}  # fmt: skip
FOLD_LEAKAGE = {"n_folds": 5, "n_cuts": 15, "changes": CHANGES, "compared": ["scaler"], "n_values": 15_528,
                "breaches": []}  # fmt: skip
FOLD_BREACH = {"fold": 2, "what": "scaler", "column": "mean", "feature": "rsi", "known": 0.125, "after": 0.25}
REQUIRED = (
    "metrics.json",
    "predictions.parquet",
    "trials.csv",
    "best.yaml",
    "validation.json",
    "feature_validation.json",
    "leakage.json",
    "fold_leakage.json",
)


def _counts(symbol: str = "BTC/USDT") -> dict[str, Any]:
    market = {
        "raw": 57_412, "clean": 57_421, "quarantined": 3, "duplicates": 2, "missing": 14, "outliers": 9,
        "longest_hole": 12, "first": "2017-08-17T04:00Z", "last": "2024-03-05T23:00Z",
        "reasons": {"high below close": 2, "volume below zero": 1},
    }  # fmt: skip
    return {"timeframe": "1h", "end": "2024-03-06T00:00Z", "markets": {symbol: market}}


def _promotion(decision: str) -> dict[str, Any]:
    passed = decision != "refused"
    checks = [
        {"check": "beats every baseline", "passed": passed, "detail": "24 bars ahead: p = 0.021 over EWMA volatility"},
        {"check": "coverage", "passed": True, "detail": "89.7 % for the 90 % range"},
    ]
    version = 3 if passed else None
    return {"decision": decision, "model_name": "gatecast", "version": version, "champion_version": 2,
            "checks": checks, "run_id": "r"}  # fmt: skip


def _forecast() -> dict[str, Any]:
    issued_at = (START + timedelta(hours=120)).isoformat()
    return {"market": str(MARKET), "issued_at": issued_at, "last_close": 63_240.0, "model_version": "3",
            "quantiles": make_ledger()}  # fmt: skip


def _validation(name: str = "prices are above zero", severity: str = "fail", **changes: Any) -> dict[str, Any]:
    expectation = {"name": name, "severity": severity, "success": True, "observed": 0.0, "limit": None, **changes}
    warned = severity == "warn" and not expectation["success"]
    return {
        "success": expectation["success"] or warned,
        "warnings": [f"{name} is {expectation['observed']}, above the limit"] if warned else [],
        "expectations": [expectation],
    }


def _contents(**changes: Any) -> ReportContents:
    contents = ReportContents(
        metrics=make_metrics(),
        predictions=make_predictions(),
        trials=make_trials(),
        best=BEST,
        validation=_validation(),
        feature_validation=_validation("rsi lies between -0.5 and 0.5"),
        leakage=LEAKAGE,
        fold_leakage=FOLD_LEAKAGE,
        counts=_counts(),
        promotion=_promotion("promoted"),
        forecasts=(Forecast(_forecast(), make_history()),),
        provenance={"commit": "9f3c1e7a", "dirty": False, "dvc_lock": "5e88", "data": "2c26",
                    "versions": {"torch": "2.13.0"}, "platform": "Linux x86_64"},
        errors=make_errors(),
        equity=make_equity(),
    )  # fmt: skip
    return replace(contents, **changes)


def _own(html: str) -> str:
    """The page without plotly's own script, which holds addresses and markup as text."""
    assert html.count(library()) == 1
    return html.replace(library(), "")


def _words(html: str) -> str:
    """What a reader without scripts reads."""
    bare = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", _own(html), flags=re.DOTALL)
    return re.sub(r"[\s\u00a0]+", " ", unescape(bare))


def _data(html: str) -> dict[str, Any]:
    """The pictures' data by name."""
    found = re.findall(r'<script type="application/json" id="plot-([\w-]+)-data">(.*?)</script>', html)
    return {name: json.loads(text) for name, text in found}


def _statements(html: str) -> list[str]:
    return re.findall(r'<p class="statement">(.*?)</p>', html)


@pytest.fixture(scope="module")
def html() -> str:
    """A report with everything in it."""
    return render_report(_contents())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with what `gatecast run` leaves, but neither promotion nor forecast."""
    workspace = Workspace(tmp_path)
    contents = _contents()
    workspace.reports.mkdir()
    workspace.clean_counts.parent.mkdir(parents=True)
    for name in ("metrics", "validation", "feature_validation", "leakage", "fold_leakage"):
        (workspace.reports / f"{name}.json").write_text(json.dumps(getattr(contents, name)))
    workspace.clean_counts.write_text(json.dumps(contents.counts))
    (workspace.reports / "best.yaml").write_text("".join(f"{key}: {value}\n" for key, value in BEST.items()))
    (workspace.reports / "error_analysis.json").write_text(json.dumps(contents.errors))
    make_equity().write_csv(workspace.reports / "equity.csv")
    contents.predictions.write_parquet(workspace.reports / "predictions.parquet")
    contents.trials.write_csv(workspace.reports / "trials.csv")
    return workspace


def test_report_opens_offline_and_loads_nothing(html: str) -> None:
    own = _own(html)
    assert own.startswith("<!doctype html>")
    assert "http:" not in own and "https:" not in own
    assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", own)
    assert not re.search(r"@import|\bsrc\s*=|\sdata\s*=", own)
    beside = {"data_docs/index.html", "feature_docs/index.html"}  # links that a reader may follow; nothing is loaded
    assert set(re.findall(r'href="([^"]*)"', own)) == beside
    assert "default-src 'none'" in own, "the browser itself refuses to load anything"


def test_no_script_runs_but_the_two_whose_hashes_the_page_names(html: str) -> None:
    (policy,) = re.findall(r"script-src([^\"]*)\"", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.split() == [f"'sha256-{each}'" for each in hashes]
    assert scripts[0] == library()


def test_every_picture_has_an_element_and_its_data_under_a_name_of_its_own(html: str) -> None:
    ids = re.findall(r'\sid="([^"]*)"', _own(html))
    assert len(ids) == len(set(ids))
    names = {"folds", "calibration", "levels", "search", "equity", "ranges-0", "forecast-0", "errors-hour",
             "errors-weekday", "importance"}  # fmt: skip
    assert set(_data(html)) == names
    assert {f"plot-{name}" for name in names} < set(ids)


def test_all_of_it_is_little_more_than_the_library(html: str) -> None:
    assert len(html) - len(library()) < 500_000


def test_without_scripts_the_page_says_so_and_its_words_are_all_there(html: str) -> None:
    assert re.search(r"<noscript><p[^>]*>[^<]*need JavaScript", html)
    words = _words(html)
    for each in (
        "Skill by fold",
        "By hour of the day, UTC",
        "Shifted in time, log_volatility raises the loss.",
        "408",
        "12,870",
    ):
        assert each in words


def test_equal_contents_give_equal_bytes(html: str) -> None:
    assert render_report(_contents()) == html


def test_every_pinball_loss_appears_to_four_significant_digits(html: str) -> None:
    for scores in make_metrics()["models"].values():
        for each in scores.values():
            assert f"{each['pinball']:#.4g}" in html


def test_verdict_comes_first_and_then_the_decision(html: str) -> None:
    verdict, decision = _statements(html)
    assert verdict.replace("\u00a0", " ") == (
        "At 24 bars ahead the LSTM beats every baseline: 1.3 % lower pinball loss than EWMA volatility (95 % interval"
        " 0.4 to 2.2 %), p = 0.0214."
    )
    assert decision == "Promoted: version 3 of gatecast is now the champion, in place of version 2."
    assert html.index(verdict) < html.index(decision) < html.index("<table")


def test_refusal_is_shown_as_prominently_as_success(html: str) -> None:
    refused = render_report(_contents(metrics=make_metrics(skill=-0.004), promotion=_promotion("refused")))
    assert [each.replace("\u00a0", " ") for each in _statements(refused)] == [
        "At 24 bars ahead the LSTM is no better than EWMA volatility: 0.4 % higher pinball loss (95 % interval"
        " 0.4 to 2.2 %), p = 0.6100.",
        "Refused: this model does not go live; version 2 stays champion.",
    ]
    top, top_refused = (page[page.index("<body>") : page.index("<dl")] for page in (html, refused))
    tags = re.compile(r"<[^>]+>")
    assert tags.findall(top) == tags.findall(top_refused), "both outcomes wear the same markup"
    assert "Not passed: beats every baseline." in refused
    assert "24 bars ahead the LSTM loses less than 1 of 2 baselines by more than chance explains" in refused


def test_refusal_without_a_champion_says_that_nothing_is_forecast() -> None:
    promotion = {**_promotion("refused"), "champion_version": None}
    page = render_report(_contents(promotion=promotion, forecasts=()))
    assert _statements(page)[1] == "Refused: this model does not go live; there is no champion, and no forecast."
    assert "Last forecast" not in page


def test_report_before_promotion_says_so() -> None:
    page = render_report(_contents(promotion=None, forecasts=(), provenance=None))
    assert _statements(page)[1].startswith("Not decided yet")
    assert "The provenance of this run was not recorded." in page


def test_each_table_ends_with_a_plain_sentence(html: str) -> None:
    after = re.findall(r"</table></div>\s*(<p class=\"reading\">[^<]+\.</p>)?", html)
    assert len(after) > 8
    assert all(after)


def test_several_markets_stand_by_themselves_and_their_prices_are_not_added_up(html: str) -> None:
    assert "By market" not in _words(html)
    assert "Price RMSE" in _words(html)
    metrics = make_metrics()
    hurt = deepcopy(metrics["models"])
    hurt["lstm"]["24"]["pinball"] = 1.05 * hurt["ewma"]["24"]["pinball"]
    metrics["by_market"] = {"BTC/USDT": metrics["models"], "ETH/USDT": hurt}
    words = _words(render_report(_contents(metrics=metrics)))
    assert "a lower loss than EWMA volatility in 1 of 2 markets" in words
    assert "to \N{MINUS SIGN}5.00 % in ETH/USDT" in words
    assert "Price RMSE" not in words
    assert "Price MASE" in words


def test_a_set_that_holds_the_lstm_and_a_test_that_does_not_are_reconciled() -> None:
    metrics = make_metrics()
    metrics["confidence_set"] = {"24": {"size": 0.05, "members": ["ewma", "lstm"], "p_values": {}}}
    metrics["spa"] = {"24": {"p_value": 0.016, "lower": 0.01, "upper": 0.02}}
    assert "Asked of the LSTM alone, at least one baseline loses less" in scores_sentence(metrics, 24)
    metrics["confidence_set"]["24"]["members"] = ["ewma"]
    assert "At least one baseline loses less than the LSTM" in scores_sentence(metrics, 24)


def test_outcomes_that_a_model_left_out_are_told() -> None:
    metrics = make_metrics()
    assert "left out" not in scores_sentence(metrics, 24)
    metrics["left_out"] = {"24": {"n": 14_436, "models": {"lstm": 0, "ewma": 0, "naive": 24}}}
    told = "Of 14,436 outcomes 14,412 are scored, which every model forecast; left out were 24 by Random walk."
    assert told in scores_sentence(metrics, 24)


def test_a_strategy_that_earns_what_a_baseline_earns_has_no_merit() -> None:
    metrics = make_metrics()
    metrics["strategy"]["lstm"]["24"] = {**metrics["strategy"]["lstm"]["24"], "total_return": 0.2}
    assert "of the baselines" in strategy_sentence(metrics, 24)
    metrics["strategy"]["naive"]["24"] = metrics["strategy"]["lstm"]["24"]
    assert "Random walk earned the very same, so that the forecasts have no merit" in strategy_sentence(metrics, 24)


def test_a_forecast_says_what_it_is_not() -> None:
    forecast = {**_forecast(), "age_bars": 1, "proven_horizons": [1, 6, 24]}
    assert forecast_caveats(forecast) == []
    replay, unproven = forecast_caveats({**forecast, "age_bars": 31_317, "proven_horizons": [1]})
    assert replay == "A replay of the past, not a live forecast: it begins 31,317 bars before it was made."
    assert unproven == "Proven 1 bar ahead alone; not judged: 6 and 24."
    page = render_report(_contents(forecasts=(Forecast({**forecast, "age_bars": 31_317}, make_history()),)))
    assert replay in _words(page)


def test_hostile_names_are_escaped_everywhere() -> None:
    metrics = make_metrics()
    metrics["by_market"] = {HOSTILE: metrics["models"]}
    for table in ("models", "by_fold", "fold_skill", "pit", "strategy"):
        metrics[table][HOSTILE] = metrics[table].pop("ewma")
    metrics["best_baseline"] = dict.fromkeys(metrics["best_baseline"], HOSTILE)
    promotion = {**_promotion("refused"), "model_name": HOSTILE}
    promotion["checks"][0] |= {"check": HOSTILE, "detail": HOSTILE}
    errors = make_errors()
    for found in errors.values():
        found["worst"]["rows"][0]["symbol"] = found["importance"]["rows"][0]["feature"] = HOSTILE
        found["tables"][0]["rows"][0]["bucket"] = found["tables"][0]["title"] = HOSTILE
        found["tables"][0]["sentence"] = found["worst"]["sentence"] = found["importance"]["sentence"] = HOSTILE
    page = render_report(
        _contents(
            metrics=metrics, promotion=promotion, counts=_counts(HOSTILE), predictions=make_predictions(HOSTILE),
            forecasts=(Forecast({**_forecast(), "market": HOSTILE}, make_history()),), errors=errors,
            equity=make_equity().with_columns(pl.col("model").replace("ewma", HOSTILE)),
            validation=_validation(HOSTILE, success=False, observed=HOSTILE, limit=[HOSTILE]),
            feature_validation=_validation(HOSTILE, "warn", success=False),
            leakage={"n_cuts": 1, "n_columns": 1, "breaches": [{"column": HOSTILE}], "columns": []},
            fold_leakage={**FOLD_LEAKAGE, "breaches": [{**FOLD_BREACH, "what": HOSTILE, "column": HOSTILE}]},
        )
    )  # fmt: skip
    own = _own(page)
    assert "<script>alert" not in own and "<b>" not in own
    assert own.count("&lt;script&gt;") > 20
    own_scripts = 2 + len(_data(page))
    assert page.count("<script") - library().count("<script") == own_scripts == page.count("</script>")


def test_a_symbol_that_closes_a_script_stays_text_in_the_data_of_a_picture() -> None:
    symbol = "</script><script>alert(1)</script>"
    page = render_report(_contents(predictions=make_predictions(symbol)))
    assert symbol not in page
    (price,) = _data(page)["ranges-0"]["choices"]
    assert dict(price["layout"])["yaxis.title.text"].startswith("&lt;/script&gt;"), "a label that plotly shows as it is"


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_unknown_and_non_finite_numbers_are_an_en_dash(unknown: float | None) -> None:
    metrics = make_metrics()
    metrics["models"]["lstm"]["24"] = dict.fromkeys(metrics["models"]["lstm"]["24"], unknown)
    metrics["skill"]["24"] = metrics["p_value"]["24"] = unknown
    metrics["diebold_mariano"]["24"]["ewma"]["p_value"] = unknown
    metrics["fold_skill"]["ewma"]["24"][0] = unknown
    page = render_report(_contents(metrics=metrics))
    assert not re.search(r"\b(NaN|nan|inf|Infinity|None)\b", _words(page))
    assert _words(page).count("\N{EN DASH}") > 10
    assert not re.search(r"\b(NaN|Infinity)\b", json.dumps(_data(page)))


def test_the_numbers_shown_are_those_of_the_metrics(html: str) -> None:
    words = _words(html)
    metrics = make_metrics()
    assert "0.41 to 2.18 %" in words  # skill_over.24.ewma
    assert "no (p 0.0310)" in words and "yes (p 1.0000)" in words  # confidence_set
    assert "No baseline is shown to lose less than the LSTM (Hansen's test, p = 0.7310)." in words
    for strategy in metrics["strategy"].values():
        total = strategy["24"]["total_return"]
        assert f"{100 * abs(total):.1f} %" in words
    assert "41.4 %" in words and "55.7 %" in words  # deflated Sharpe, PBO


def test_every_horizon_has_its_verdict_and_only_the_named_one_is_a_statement(html: str) -> None:
    beside = [each.replace("\u00a0", " ") for each in re.findall(r'<p class="beside">(.*?)</p>', html)]
    assert [each.split(" ahead")[0] for each in beside] == ["At 6 bars", "At 1 bar"]
    assert "is not proven better than EWMA volatility: 1.1 % lower" in beside[0]
    assert "is no better than EWMA volatility: 0.7 % higher" in beside[1]
    assert "The gate judges the horizon named beforehand" in html


def test_the_verdict_names_the_baseline_with_the_largest_p() -> None:
    metrics = make_metrics()
    metrics["diebold_mariano"]["24"]["naive"]["p_value"] = metrics["p_value"]["24"] = 0.0444
    statement = _statements(render_report(_contents(metrics=metrics)))[0]
    assert statement.endswith("; p is largest against Random walk, 0.0444.")


def test_a_loss_after_costs_is_told_in_plain_words(html: str) -> None:
    sentence = "24 bars ahead, after costs, it earns nothing: it loses 3.7 % over 605 days; to hold the market brought"
    assert f"{sentence} +12.3 %." in _words(html)


def test_a_model_that_never_trades_earns_nothing_and_says_why() -> None:
    metrics = make_metrics()
    metrics["strategy"]["lstm"]["24"] |= {"n_trades": 0, "total_return": 0.0, "sharpe": None}
    metrics["overfitting"]["24"] |= {"deflated_sharpe": None, "pbo": None, "reason": "the strategy never traded"}
    words = _words(render_report(_contents(metrics=metrics)))
    assert "the LSTM never trades, so it earns nothing: no median forecast exceeds the threshold." in words
    assert "24 bars ahead: neither could be computed: the strategy never traded." in words


def test_an_evaluation_that_left_neither_errors_nor_equity_has_a_report() -> None:
    bare = make_metrics()
    for table in ("pit", "skill_over", "confidence_set", "spa", "strategy", "overfitting"):
        del bare[table]
    page = render_report(_contents(metrics=bare, errors=None, equity=None))
    assert set(_data(page)) == {"folds", "search", "ranges-0", "forecast-0"}
    assert "Is it worth money?" not in page and "Where it errs" not in page


def test_a_breach_of_the_leak_proof_takes_back_the_trust() -> None:
    page = render_report(_contents(leakage={**LEAKAGE, "breaches": [{"column": "return_1", "known": 0.5}]}))
    assert "1 of 18 columns changed what was known before, so the figures above cannot be trusted." in page
    assert "column return_1, known 0.5" in page


def test_the_leak_proof_tells_cuts_parity_and_folds(html: str) -> None:
    for words in (
        "The future was cut off and scrambled at 12 instants; none of 18 columns changed what was known before",
        "The features of 48 bars were built again as they are built live; all came out the same, to within 1e-06",
        "In 5 folds what came after was cut off and scrambled at 15 instants; scalers, train rows and forecasts stayed",
        "(15,528 values)",
    ):
        assert words in html


def test_a_breach_of_parity_or_of_a_fold_is_told_with_its_row_and_values() -> None:
    difference = {"column": "macd", "batch": 0.5, "alone": 0.75}
    live = render_report(_contents(leakage={**LEAKAGE, "parity": {**PARITY, "breaches": [difference]}}))
    assert "1 came out otherwise, so that a live forecast is not what was evaluated." in live
    assert "column macd, batch 0.5, alone 0.75" in live
    fold = render_report(_contents(fold_leakage={**FOLD_LEAKAGE, "breaches": [FOLD_BREACH]}))
    assert "mean of the scaler changed although it was known before, so the figures above cannot be trusted." in fold
    assert "fold 3, what scaler, column mean, feature rsi, known 0.125, after 0.25" in fold


def test_a_parity_that_was_not_checked_is_not_claimed() -> None:
    page = render_report(_contents(leakage={"n_cuts": 1, "n_columns": 1, "breaches": []}))
    assert "Whether features built live equal these was not checked." in page


def test_a_warning_is_a_plain_sentence_and_the_candles_have_passed() -> None:
    hole = _validation("the longest hole, in bars,", "warn", success=False, observed=33.0, limit=24.0)
    page = render_report(_contents(validation=hole))
    assert "Warning: the longest hole, in bars, is 33.0, above the limit." in page
    assert "Validation of the candles: passed, with warnings" in page
    assert "Beyond what goes without a warning: the longest hole, in bars." in page
    failed = render_report(_contents(validation=_validation(success=False)))
    assert "Validation of the candles: not passed" in failed
    assert "Not met: prices are above zero." in failed


def test_uncommitted_changes_are_told() -> None:
    page = render_report(_contents(provenance={"commit": "9f3c1e7a", "dirty": True}))
    assert "the commit alone does not rebuild this run" in page


def test_a_workspace_without_promotion_and_forecast_has_a_report(workspace: Workspace) -> None:
    contents = read_contents(workspace)
    assert (contents.promotion, contents.forecasts, contents.provenance) == (None, (), None)
    assert contents.errors == make_errors()
    assert contents.equity is not None and contents.equity.equals(make_equity())
    assert "At 24 bars ahead the LSTM beats every baseline" in render_report(contents)


def _put(workspace: Workspace, name: str, content: dict[str, Any]) -> None:
    if name == "promotion.json":
        content = {"metrics_sha256": file_sha256(workspace.reports / "metrics.json"), **content}
    (workspace.reports / name).write_text(json.dumps(content))


def test_forecast_is_drawn_after_the_stored_closes_that_were_known_then(workspace: Workspace) -> None:
    closes = make_history(130)  # ten candles more than the forecast knew
    candles = closes.with_columns(open="close", high="close", low="close").with_columns(volume=closes["close"] * 0)
    merge_candles(Store(workspace.candles, workspace.ledger), MARKET, candles)
    _put(workspace, "promotion.json", _promotion("refused"))
    _put(workspace, "forecast.json", _forecast())
    (forecast,) = read_contents(workspace).forecasts
    assert forecast.history["ts"][-1].astimezone(UTC) == START + timedelta(hours=119)
    assert forecast.history["close"][-1] == 63_240.0
    assert forecast.history["ts"].is_sorted()
    assert len(forecast.history) == 120


def test_newest_forecast_of_each_market_is_shown_and_that_of_a_foreign_market_is_not(workspace: Workspace) -> None:
    old = {**_forecast(), "issued_at": START.isoformat(), "model_version": "1"}
    foreign = {**_forecast(), "market": "binance ETH/USDT 1h"}
    _put(workspace, "promotion.json", _promotion("promoted"))
    for name, content in (("", _forecast()), ("-BTC-USDT", old), ("-ETH-USDT", foreign)):
        _put(workspace, f"forecast{name}.json", content)
    assert [each.content["model_version"] for each in read_contents(workspace).forecasts] == ["3"]


def test_forecast_that_is_left_from_before_is_hidden_while_there_is_no_champion(workspace: Workspace) -> None:
    _put(workspace, "promotion.json", {**_promotion("refused"), "champion_version": None})
    _put(workspace, "forecast.json", _forecast())
    assert "Last forecast" not in write_report(workspace).read_text(encoding="utf-8")


def test_a_decision_about_another_evaluation_is_not_shown(workspace: Workspace) -> None:
    _put(workspace, "promotion.json", _promotion("promoted"))
    assert "Promoted" in write_report(workspace).read_text(encoding="utf-8")
    metrics = json.loads((workspace.reports / "metrics.json").read_text())
    _put(workspace, "metrics.json", {**metrics, "verdict": "another"})
    html = write_report(workspace).read_text(encoding="utf-8")
    assert "Promoted" not in html
    assert "has not judged this model" in html


@pytest.mark.parametrize("name", REQUIRED)
def test_an_absent_file_says_to_run_first(workspace: Workspace, name: str) -> None:
    (workspace.reports / name).unlink()
    with pytest.raises(DataError, match=rf"^reports/{name} is absent.*run `gatecast run` first$"):
        read_contents(workspace)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _foreign(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{[")


@pytest.mark.parametrize("spoil", [_cut, _foreign])
@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "validation.json"])
def test_a_damaged_file_is_named_in_one_line(workspace: Workspace, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(workspace.reports / name)
    with pytest.raises(DataError, match=f"reports/{name} cannot be read") as caught:
        read_contents(workspace)
    assert "\n" not in str(caught.value)
