"""What an evaluation leaves behind, made by hand after the contracts: figures, predictions, errors, equity, trials."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from gatecast.model.predictions import LEVELS, QUANTILES

HORIZONS = (1, 6, 24)
START = datetime(2024, 3, 1, tzinfo=UTC)
HOSTILE = '<script>alert("$x$")</script> & --><b>'
_NORMAL = np.array([-1.645, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.645])
_SHARES = [0.055, 0.053, 0.148, 0.262, 0.241, 0.139, 0.05, 0.052]
_FACTORS = {"lstm": 1.0, "naive": 1.0496, "ewma": 1.013}


def make_metrics(skill: float = 0.0129) -> dict[str, Any]:
    """The content of metrics.json, with an LSTM ahead of the best baseline by the skill at 24 bars only."""
    losses = {1: 0.00254871, 6: 0.00623459, 24: 0.0122913}
    gain = {1: 1.02, 6: 1.002, 24: 1.013 * (1 - skill)}
    models = {
        model: {str(h): _scores(losses[h] * (gain[h] if model == "lstm" else factor)) for h in HORIZONS}
        for model, factor in _FACTORS.items()
    }
    shift = [0.004, -0.001, 0.006, -0.012, 0.002]
    by_fold = {
        model: {h: [s["pinball"] * (1 + (d if model == "lstm" else 0)) for d in shift] for h, s in scores.items()}
        for model, scores in models.items()
    }
    tests = [datetime(2022, 1, 1, tzinfo=UTC) + timedelta(days=121 * k) for k in range(6)]
    good = skill > 0
    return {
        "horizons": list(HORIZONS),
        "levels": list(LEVELS),
        "folds": [
            {"fold": k, "train_start": "2017-08-17T04:00Z", "train_end": "2021-12-30T00:00Z",
             "test_start": tests[k].isoformat(), "test_end": tests[k + 1].isoformat(), "n_forecasts": 2904}
            for k in range(5)
        ],
        "models": models,
        "by_market": {"BTC/USDT": models},
        "by_fold": by_fold,
        "fold_skill": {
            model: {
                h: [1 - ours / theirs for ours, theirs in zip(by_fold["lstm"][h], losses_of, strict=True)]
                for h, losses_of in by_fold[model].items()
            }
            for model in ("ewma", "naive")
        },
        "pit": {model: {str(h): _SHARES for h in HORIZONS} for model in models},
        "skill_over": {
            str(h): {"ewma": {"skill": 0.0129, "low": 0.0041, "high": 0.0218},
                     "naive": {"skill": 0.0484, "low": -0.0012, "high": 0.0713}}
            for h in HORIZONS
        },
        "confidence_set": {
            str(h): {"size": 0.05, "members": ["lstm"], "p_values": {"lstm": 1.0, "ewma": 0.031, "naive": 0.0002}}
            for h in HORIZONS
        },
        "spa": {str(h): {"p_value": 0.731, "lower": 0.62, "upper": 0.88} for h in HORIZONS},
        "strategy": {
            model: {str(h): _strategy(total) for h in HORIZONS}
            for model, total in (("ewma", -0.0213), ("lstm", -0.0371), ("naive", 0.0), ("buy_and_hold", 0.1234))
        },
        "overfitting": {
            str(h): {"deflated_sharpe": 0.4137, "sharpe": -0.31, "expected_sharpe": 0.87, "n_trials": 10,
                     "trial_sharpe_spread": 0.4, "n_days": 605, "pbo": 0.5571, "n_combinations": 12_870, "reason": None}
            for h in HORIZONS
        },
        "best_baseline": {"1": "ewma", "6": "ewma", "24": "ewma"},
        "skill": {"1": -0.0069, "6": 0.0109, "24": skill},
        "diebold_mariano": {
            h: {"naive": {"statistic": 3.1, "p_value": 0.0002}, "ewma": {"statistic": 2.1, "p_value": p}}
            for h, p in (("1", 0.83), ("6", 0.062), ("24", 0.0214 if good else 0.61))
        },
        "p_value": {"1": 0.83, "6": 0.062, "24": 0.0214 if good else 0.61},
        "beats_baselines": {"24": good},  # the horizons named beforehand
        "verdict": "24 bars ahead the LSTM is 1.29 % better than the best baseline, EWMA volatility (p = 0.021)."
        if good
        else "24 bars ahead the LSTM is not better than the best baseline, EWMA volatility (p = 0.61).",
    }  # fmt: skip


def _strategy(total_return: float) -> dict[str, Any]:
    return {"total_return": total_return, "annual_return": total_return / 2, "sharpe": 10 * total_return or None,
            "max_drawdown": 0.2, "turnover": 31.5, "n_trades": 412 if total_return else 0, "exposure": 0.3,
            "n_days": 605}  # fmt: skip


def _scores(pinball: float) -> dict[str, float]:
    return {
        "pinball": pinball, "crps": 2 * pinball, "mae": 2.9 * pinball, "rmse": 4.4 * pinball,
        "direction_accuracy": 0.5073, "coverage_50": 0.5121, "coverage_80": 0.8064, "coverage_90": 0.8968,
        "width_90": 9.7 * pinball, "n": 14_412,
    }  # fmt: skip


def make_predictions(symbol: str = "BTC/USDT", n: int = 700, seed: int = 5) -> pl.DataFrame:
    """Predictions of three models at 24 bars, with realised returns that fit them and one that is unknown."""
    generator = np.random.default_rng(seed)
    scale = 0.02 * np.exp(0.5 * np.sin(np.arange(n) / 60) + 0.25 * np.sin(np.arange(n) / 11))
    noise = np.convolve(generator.standard_normal(n + 23), np.ones(24) / math.sqrt(24), "valid")
    quantiles = pl.DataFrame(scale[:, None] * _NORMAL, schema=list(QUANTILES))
    rows = pl.DataFrame(
        {
            "symbol": [symbol] * n,
            "ts": [START + timedelta(hours=k) for k in range(n)],
            "horizon": [24] * n,
            "fold": [4] * n,
            "target": [*(scale * noise)[:-1].tolist(), None],
        },
        schema_overrides={"ts": pl.Datetime("ms", "UTC")},
    ).hstack(quantiles)
    return pl.concat([rows.with_columns(pl.lit(model).alias("model")) for model in _FACTORS])


def make_errors() -> dict[str, Any]:
    """The content of error_analysis.json, at 24 bars and at one."""
    rows = [
        {"bucket": f"{hour:02}", "n": 600, "loss": 0.0123, "baseline_loss": 0.0125, "skill": 0.016 if hour else None,
         "coverage_90": 0.897, "bias": 0.0004}
        for hour in range(24)
    ]  # fmt: skip
    columns = ["hour", "n", "loss", "baseline_loss", "skill", "coverage_90", "bias"]
    hours = {"name": "hour", "title": "By hour of the day, UTC", "columns": columns, "rows": rows,
             "sentence": "No hour differs from the rest by more than chance explains."}  # fmt: skip
    worst = {"symbol": "BTC/USDT", "ts": "2024-03-02T05:00Z", "fold": 4, "target": -0.1986, "median": 0.001,
             "low": -0.03, "high": 0.031, "loss": 0.08, "return_before": 0.012, "volatility": 0.004,
             "bars_since_gap": 408}  # fmt: skip
    importance = [
        {"feature": "log_volatility", "loss_increase": 0.0696, "low": 0.061, "high": 0.078},
        {"feature": "rsi", "loss_increase": 0.0001, "low": None, "high": None},
    ]
    found = {
        "baseline": "ewma",
        "tables": [hours, {**hours, "name": "weekday", "title": "By weekday, UTC"}],
        "worst": {"rows": [worst], "sentence": "The worst forecast stands alone."},
        "importance": {"rows": importance, "sentence": "Shifted in time, log_volatility raises the loss."},
    }
    return {"24": found, "1": found}


def make_equity(n: int = 1500) -> pl.DataFrame:
    """Daily equity of three strategies at each horizon."""
    days = [(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=k)).date().isoformat() for k in range(n)]
    return pl.concat(
        pl.DataFrame(
            {"date": days, "horizon": h, "model": m, "return": 0.0, "equity": [1 + slope * k for k in range(n)]}
        )
        for h in HORIZONS
        for m, slope in (("lstm", -1e-4), ("ewma", -2e-4), ("buy_and_hold", 1e-3))
    )


def make_history(n: int = 120) -> pl.DataFrame:
    """Hourly closes that end at 63,240."""
    steps = np.random.default_rng(3).standard_normal(n).cumsum()
    closes = 63_240 * np.exp(0.004 * (steps - steps[-1]))
    return pl.DataFrame(
        {"ts": [START + timedelta(hours=k) for k in range(n)], "close": closes},
        schema_overrides={"ts": pl.Datetime("ms", "UTC")},
    )


def make_ledger(market: str = "binance BTC/USDT 1h") -> list[dict[str, Any]]:
    """Ledger rows of the forecast issued when the last of those closes was known."""
    issued_at = START + timedelta(hours=120)
    return [
        {
            "market": market, "issued_at": issued_at.isoformat(), "horizon": horizon,
            "target_at": (issued_at + timedelta(hours=horizon)).isoformat(), "level": level,
            "log_return": (r := 0.0005 + 0.0045 * math.sqrt(horizon) * float(z)), "price": 63_240 * math.exp(r),
            "model_version": "3",
        }
        for horizon in HORIZONS
        for level, z in zip(LEVELS, _NORMAL, strict=True)
    ]  # fmt: skip


def make_trials() -> pl.DataFrame:
    """Ten trials, three of them pruned."""
    values = [0.01291, 0.01262, 0.01315, 0.01258, 0.0127, 0.01249, 0.01301, 0.01247, 0.01253, 0.01288]
    pruned = {2, 6, 9}
    return pl.DataFrame(
        {
            "number": range(10),
            "state": ["PRUNED" if k in pruned else "COMPLETE" for k in range(10)],
            "value": values,
            "hidden_size": [32] * 10,
            "learning_rate": [0.003] * 10,
            "dropout": [0.1] * 10,
            "weight_decay": [0.01] * 10,
            "n_steps": [None if k in pruned else 640 for k in range(10)],
        }
    )
