"""The report: whole in one file, honest in both directions, and deaf to hostile text."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from gatecast.errors import DataError
from gatecast.evaluation import figures
from gatecast.evaluation.contents import Forecast, ReportContents, read_contents
from gatecast.evaluation.report import render_report, write_report
from gatecast.market.candles import Market
from gatecast.market.store import Store, merge_candles
from gatecast.workspace import Workspace
from tests.evaluation.test_figures import (
    HOSTILE,
    START,
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
    )  # fmt: skip
    return replace(contents, **changes)


def _statements(html: str) -> list[str]:
    return re.findall(r'<p class="statement">(.*?)</p>', html)


@pytest.fixture(scope="module")
def html() -> str:
    """A report with everything in it."""
    return render_report(_contents())


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are slow to write; a test of words can do without them."""
    monkeypatch.setattr(figures, "as_svg", lambda _: '<svg viewBox="0 0 1 1"></svg>')


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
    contents.predictions.write_parquet(workspace.reports / "predictions.parquet")
    contents.trials.write_csv(workspace.reports / "trials.csv")
    return workspace


def test_report_opens_offline_without_script_or_anything_to_load(html: str) -> None:
    assert html.startswith("<!doctype html>")
    assert "http:" not in html and "https:" not in html
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
    assert not re.search(r"@import|\bsrc\s*=|\sdata\s*=", html)
    beside = {"data_docs/index.html", "feature_docs/index.html"}  # links that a reader may follow; nothing is loaded
    assert {target for target in re.findall(r'href="([^"]*)"', html) if not target.startswith("#")} == beside
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_every_reference_inside_a_picture_finds_its_one_target(html: str) -> None:
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', html) + re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_equal_contents_give_equal_bytes(html: str) -> None:
    assert render_report(_contents()) == html


def test_every_pinball_loss_appears_to_four_significant_digits(html: str) -> None:
    for scores in make_metrics()["models"].values():
        for each in scores.values():
            assert f"{each['pinball']:#.4g}" in html


def test_verdict_comes_first_and_then_the_decision(html: str) -> None:
    verdict, decision = _statements(html)
    assert verdict == make_metrics()["verdict"]
    assert decision == "Promoted: version 3 of gatecast is now the champion, in place of version 2."
    assert html.index(verdict) < html.index(decision) < html.index("<table")


@pytest.mark.usefixtures("blank_pictures")
def test_refusal_is_shown_as_prominently_as_success(html: str) -> None:
    refused = render_report(_contents(metrics=make_metrics(skill=-0.004), promotion=_promotion("refused")))
    assert _statements(refused) == [
        "24 bars ahead the LSTM is not better than the best baseline, EWMA volatility (p = 0.61).",
        "Refused: this model does not go live; version 2 stays champion.",
    ]
    top, top_refused = (page[page.index("<body>") : page.index("<dl")] for page in (html, refused))
    tags = re.compile(r"<[^>]+>")
    assert tags.findall(top) == tags.findall(top_refused), "both outcomes wear the same markup"
    assert "Not passed: beats every baseline." in refused
    assert "24 bars ahead the LSTM does not beat every baseline by more than chance explains" in refused


@pytest.mark.usefixtures("blank_pictures")
def test_refusal_without_a_champion_says_that_nothing_is_forecast() -> None:
    promotion = {**_promotion("refused"), "champion_version": None}
    page = render_report(_contents(promotion=promotion, forecasts=()))
    assert _statements(page)[1] == "Refused: this model does not go live; there is no champion, and no forecast."
    assert "Last forecast" not in page


@pytest.mark.usefixtures("blank_pictures")
def test_report_before_promotion_says_so() -> None:
    page = render_report(_contents(promotion=None, forecasts=(), provenance=None))
    assert _statements(page)[1].startswith("Not decided yet")
    assert "The provenance of this run was not recorded." in page


def test_each_table_ends_with_a_plain_sentence(html: str) -> None:
    after = re.findall(r"</table></div>\s*(<p class=\"reading\">[^<]+\.</p>)?", html)
    assert len(after) > 8
    assert all(after)


def test_hostile_names_are_escaped_everywhere() -> None:
    metrics = make_metrics()
    metrics["by_market"] = {HOSTILE: metrics["models"]}
    metrics["verdict"] = HOSTILE
    metrics["models"][HOSTILE] = metrics["models"].pop("naive")
    promotion = {**_promotion("refused"), "model_name": HOSTILE}
    promotion["checks"][0] |= {"check": HOSTILE, "detail": HOSTILE}
    page = render_report(
        _contents(
            metrics=metrics, promotion=promotion, counts=_counts(HOSTILE), predictions=make_predictions(HOSTILE),
            forecasts=(Forecast({**_forecast(), "market": HOSTILE}, make_history()),),
            validation=_validation(HOSTILE, success=False, observed=HOSTILE, limit=[HOSTILE]),
            feature_validation=_validation(HOSTILE, "warn", success=False),
            leakage={"n_cuts": 1, "n_columns": 1, "breaches": [{"column": HOSTILE}], "columns": []},
            fold_leakage={**FOLD_LEAKAGE, "breaches": [{**FOLD_BREACH, "what": HOSTILE, "column": HOSTILE}]},
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") > 8


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
@pytest.mark.usefixtures("blank_pictures")
def test_unknown_and_non_finite_numbers_are_an_en_dash(unknown: float | None) -> None:
    metrics = make_metrics()
    metrics["models"]["lstm"]["24"] = dict.fromkeys(metrics["models"]["lstm"]["24"], unknown)
    metrics["skill"]["24"] = metrics["p_value"]["24"] = unknown
    metrics["diebold_mariano"]["24"]["ewma"]["p_value"] = unknown
    metrics["by_fold"]["lstm"]["24"][0] = unknown
    page = render_report(_contents(metrics=metrics))
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\b(NaN|nan|inf|Infinity|None)\b", words)
    assert words.count("\N{EN DASH}") > 10


@pytest.mark.usefixtures("blank_pictures")
def test_skill_of_several_markets_is_that_of_the_geometric_mean() -> None:
    metrics = make_metrics()
    by_market = {
        symbol: {"lstm": {"24": {"pinball": ours}}, "ewma": {"24": {"pinball": 1.0}}}
        for symbol, ours in (("BTC/USDT", 0.5), ("ETH/USDT", 0.98))
    }
    page = render_report(_contents(metrics={**metrics, "horizons": [24], "by_market": by_market}))
    assert "<td>+30.00\N{NO-BREAK SPACE}%</td>" in page  # 1 - sqrt(0.5 * 0.98)


@pytest.mark.usefixtures("blank_pictures")
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


@pytest.mark.usefixtures("blank_pictures")
def test_a_breach_of_parity_or_of_a_fold_is_told_with_its_row_and_values() -> None:
    difference = {"column": "macd", "batch": 0.5, "alone": 0.75}
    live = render_report(_contents(leakage={**LEAKAGE, "parity": {**PARITY, "breaches": [difference]}}))
    assert "1 came out otherwise, so that a live forecast is not what was evaluated." in live
    assert "column macd, batch 0.5, alone 0.75" in live
    fold = render_report(_contents(fold_leakage={**FOLD_LEAKAGE, "breaches": [FOLD_BREACH]}))
    assert "mean of the scaler changed although it was known before, so the figures above cannot be trusted." in fold
    assert "fold 3, what scaler, column mean, feature rsi, known 0.125, after 0.25" in fold


@pytest.mark.usefixtures("blank_pictures")
def test_a_parity_that_was_not_checked_is_not_claimed() -> None:
    page = render_report(_contents(leakage={"n_cuts": 1, "n_columns": 1, "breaches": []}))
    assert "Whether features built live equal these was not checked." in page


@pytest.mark.usefixtures("blank_pictures")
def test_a_warning_is_a_plain_sentence_and_the_candles_have_passed() -> None:
    hole = _validation("the longest hole, in bars,", "warn", success=False, observed=33.0, limit=24.0)
    page = render_report(_contents(validation=hole))
    assert "Warning: the longest hole, in bars, is 33.0, above the limit." in page
    assert "Validation of the candles: passed, with warnings" in page
    assert "Beyond what goes without a warning: the longest hole, in bars." in page
    failed = render_report(_contents(validation=_validation(success=False)))
    assert "Validation of the candles: not passed" in failed
    assert "Not met: prices are above zero." in failed


@pytest.mark.usefixtures("blank_pictures")
def test_uncommitted_changes_are_told() -> None:
    page = render_report(_contents(provenance={"commit": "9f3c1e7a", "dirty": True}))
    assert "the commit alone does not rebuild this run" in page


@pytest.mark.usefixtures("blank_pictures")
def test_a_workspace_without_promotion_and_forecast_has_a_report(workspace: Workspace) -> None:
    contents = read_contents(workspace)
    assert (contents.promotion, contents.forecasts, contents.provenance) == (None, (), None)
    assert make_metrics()["verdict"] in render_report(contents)


def _put(workspace: Workspace, name: str, content: dict[str, Any]) -> None:
    (workspace.reports / name).write_text(json.dumps(content))


@pytest.mark.usefixtures("blank_pictures")
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


@pytest.mark.usefixtures("blank_pictures")
def test_newest_forecast_of_each_market_is_shown_and_that_of_a_foreign_market_is_not(workspace: Workspace) -> None:
    old = {**_forecast(), "issued_at": START.isoformat(), "model_version": "1"}
    foreign = {**_forecast(), "market": "binance ETH/USDT 1h"}
    _put(workspace, "promotion.json", _promotion("promoted"))
    for name, content in (("", _forecast()), ("-BTC-USDT", old), ("-ETH-USDT", foreign)):
        _put(workspace, f"forecast{name}.json", content)
    assert [each.content["model_version"] for each in read_contents(workspace).forecasts] == ["3"]


@pytest.mark.usefixtures("blank_pictures")
def test_forecast_that_is_left_from_before_is_hidden_while_there_is_no_champion(workspace: Workspace) -> None:
    _put(workspace, "promotion.json", {**_promotion("refused"), "champion_version": None})
    _put(workspace, "forecast.json", _forecast())
    assert "Last forecast" not in write_report(workspace).read_text(encoding="utf-8")


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
