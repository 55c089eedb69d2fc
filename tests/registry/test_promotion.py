from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.registry.models import Registered
from gatecast.registry.promotion import (
    Asked,
    baseline_checks,
    champion_checks,
    evaluation_checks,
    fixed_checks,
    proof_checks,
)
from gatecast.steps.promote import _against
from gatecast.workspace import Workspace
from tests.evaluation.forecast_tables import forecasts, market


def metrics(loss: float, p_value: float, beats: bool) -> dict[str, object]:
    models = {name: {"24": {"pinball": value}} for name, value in (("lstm", loss), ("naive", 1.2), ("ewma", 1.0))}
    tests = {"24": {name: {"statistic": 1.0, "p_value": p_value} for name in ("naive", "ewma")}}
    folds = [{"fold": number} for number in range(4)]
    return {
        "folds": folds,
        "models": models,
        "diebold_mariano": tests,
        "p_value": {"24": p_value},
        "beats_baselines": {"24": beats},
        "skill_over": {"24": {name: {"skill": 1 - loss / models[name]["24"]["pinball"]} for name in ("naive", "ewma")}},
        "left_out": {"24": {"n": 1000, "models": {"lstm": 0, "naive": 0, "ewma": 3}}},
    }


@pytest.mark.parametrize(
    ("loss", "p_value", "beats", "passes"),
    [(0.9, 0.01, True, True), (0.9, 0.06, False, False), (1.1, 0.5, False, False), (0.9, 0.04, False, False)],
)
def test_only_what_is_proven_better_than_every_baseline_passes(
    loss: float, p_value: float, beats: bool, passes: bool
) -> None:
    checks = baseline_checks(metrics(loss, p_value, beats), (24,), 0.05)
    assert all(check.passed for check in checks) == passes
    assert all(check.detail for check in checks)


VALID = {"success": True}
PARITY: dict[str, object] = {"n_bars": 40, "tolerance": 1e-6, "worst": None, "breaches": []}
LEAKAGE = {"n_cuts": 5, "n_columns": 3, "n_values": 90, "breaches": [], "parity": PARITY}
FOLD_LEAKAGE = {"n_folds": 4, "n_cuts": 12, "n_values": 900, "breaches": []}
BREACH = [{"column": "x", "known": 1.0, "after": 2.0}]


def test_validation_and_all_proofs_together_pass_and_say_what_was_compared() -> None:
    checks = proof_checks(VALID, LEAKAGE, FOLD_LEAKAGE)
    assert [check.check for check in checks] == [
        "validation", "leak proof", "parity of the features", "leak proof of the folds",
    ]  # fmt: skip
    assert all(check.passed for check in checks)
    assert "3 columns stayed the same" in checks[1].detail
    assert "at 5 cuts" in checks[1].detail
    assert "4 folds" in checks[3].detail


@pytest.mark.parametrize(
    ("validation", "leakage", "fold_leakage", "refused"),
    [
        ({"success": False}, LEAKAGE, FOLD_LEAKAGE, "validation"),
        ({}, LEAKAGE, FOLD_LEAKAGE, "validation"),
        (VALID, {"parity": PARITY}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "breaches": BREACH}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "breaches": None}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "n_cuts": 0}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "n_columns": 0}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "n_columns": None}, FOLD_LEAKAGE, "leak proof"),
        (VALID, {**LEAKAGE, "parity": None}, FOLD_LEAKAGE, "parity of the features"),
        (VALID, {**LEAKAGE, "parity": {}}, FOLD_LEAKAGE, "parity of the features"),
        (VALID, {**LEAKAGE, "parity": {**PARITY, "n_bars": 0}}, FOLD_LEAKAGE, "parity of the features"),
        (VALID, {**LEAKAGE, "parity": {**PARITY, "breaches": BREACH}}, FOLD_LEAKAGE, "parity of the features"),
        (VALID, LEAKAGE, {}, "leak proof of the folds"),
        (VALID, LEAKAGE, {**FOLD_LEAKAGE, "breaches": BREACH}, "leak proof of the folds"),
        (VALID, LEAKAGE, {**FOLD_LEAKAGE, "n_folds": 0}, "leak proof of the folds"),
        (VALID, LEAKAGE, {**FOLD_LEAKAGE, "n_cuts": 0}, "leak proof of the folds"),
        (VALID, LEAKAGE, {**FOLD_LEAKAGE, "n_values": 0}, "leak proof of the folds"),
    ],
)
def test_nothing_passes_without_validation_and_each_proof(
    validation: dict[str, object], leakage: dict[str, object], fold_leakage: dict[str, object], refused: str
) -> None:
    checks = proof_checks(validation, leakage, fold_leakage)
    (failed,) = (check for check in checks if not check.passed)
    assert failed.check == refused
    assert failed.detail


def test_nothing_at_all_proves_nothing() -> None:
    assert not any(check.passed for check in proof_checks({}, {}, {}))


def test_too_few_folds_or_a_missing_baseline_are_refused() -> None:
    whole = metrics(0.9, 0.01, beats=True)
    assert all(check.passed for check in evaluation_checks(whole))
    (folds, _, _) = evaluation_checks({**whole, "folds": [{"fold": 0}]})
    assert (folds.passed, folds.detail) == (False, "folds evaluated: 1, at least 4 are needed")
    (_, baselines, _) = evaluation_checks({**whole, "models": {"lstm": {}, "naive": {}}})
    assert (baselines.passed, baselines.detail) == (False, "the evaluation lacks ewma")


def test_a_model_that_keeps_silent_where_it_suits_it_is_refused() -> None:
    whole = metrics(0.9, 0.01, beats=True)
    left_out = {"1": {"n": 1000, "models": {"lstm": 0}}, "24": {"n": 1200, "models": {"lstm": 2}}}
    (_, _, forecast) = evaluation_checks({**whole, "left_out": left_out})
    assert not forecast.passed
    assert forecast.detail == "the LSTM left out 2 of 1,200 forecasts that others made at 24 bars, allowed 0.1%"


@pytest.mark.parametrize(
    ("asked", "dropped", "words"),
    [
        (Asked(("naive", "ewma", "har"), (1, 24), 0.05), [], ""),
        (Asked(("naive", "ewma"), (24,), 0.05), ["no baseline dropped"], "judged against har as well: put har back"),
        (Asked(("naive", "ewma", "har"), (1,), 0.05), ["no horizon dropped"], "judged at 24 bars as well"),
        (Asked(("naive", "ewma", "har"), (24,), 0.1), ["level not raised"], "set evaluate.alpha back from 0.1"),
    ],
)
def test_what_earlier_runs_were_asked_is_asked_again(asked: Asked, dropped: list[str], words: str) -> None:
    checks = fixed_checks(asked, Asked(("ewma", "har", "naive"), (24,), 0.05), "gatecast")
    assert [check.check for check in checks if not check.passed] == dropped
    assert all(words in check.detail for check in checks if not check.passed)
    assert all(check.passed for check in fixed_checks(asked, Asked(), "gatecast"))


def test_a_lower_mean_loss_without_skill_over_the_markets_is_refused() -> None:
    found = metrics(0.9, 0.01, beats=True) | {
        "skill_over": {"24": {name: {"skill": -0.01} for name in ("naive", "ewma")}}
    }
    checks = baseline_checks(found, (24,), 0.05)
    assert [check.passed for check in checks] == [False, False, True]


def test_bars_count_as_shared_only_with_the_same_target() -> None:
    target, known, _ = market(0, skill=True)
    (check,) = champion_checks(forecasts("lstm", target, known), forecasts("lstm", target * 4, known), (1,))
    assert not check.passed
    assert "no bar" in check.detail


def test_a_challenger_that_loses_more_than_the_champion_is_refused_however_little() -> None:
    target, known, _ = market(0, skill=True)
    champion = forecasts("lstm", target, known)
    assert all(check.passed for check in champion_checks(champion, champion, (1,)))
    worse = forecasts("lstm", target, known * 1.01)
    (check,) = champion_checks(worse, champion, (1,))
    assert not check.passed
    assert "1400 shared bars" in champion_checks(worse, champion[100:], (1,))[0].detail
    assert champion_checks(champion, worse, (1,))[0].passed


def test_a_champion_of_another_market_or_horizon_is_not_compared_in_silence() -> None:
    target, known, _ = market(0, skill=True)
    other = forecasts("lstm", target, known, symbol="ETH/USDT")
    (check,) = champion_checks(forecasts("lstm", target, known), other, (1,))
    assert not check.passed
    assert "promote.model_name" in check.detail


def test_a_champion_of_another_timeframe_refuses_the_challenger(config: Config, tmp_path: Path) -> None:
    champion = Registered(3, "run", "digest", "binance BTC/USDT 4h", (24,))
    (check,) = _against(champion, Workspace(tmp_path), config)
    assert not check.passed
    assert "champion version 3 forecasts binance BTC/USDT 4h, not binance BTC/USDT 1h" in check.detail
    assert "promote.model_name" in check.detail


def test_only_matured_forecasts_are_compared() -> None:
    target, known, _ = market(0, skill=True)
    late = forecasts("lstm", np.where(np.arange(1500) > 1000, np.nan, target), known).with_columns(
        pl.col("target").fill_nan(None)
    )
    assert "1001 shared bars" in champion_checks(forecasts("lstm", target, known), late, (1,))[0].detail
