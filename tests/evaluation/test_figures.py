"""The pictures: the same bytes for the same content, nothing of the reader's machine or of the hour in them."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from gatecast.evaluation.figures import (
    DASH,
    as_svg,
    coverage,
    fan_chart,
    fold_skill,
    interval_history,
    price_text,
    save_png,
    search_history,
    skill_by_fold,
)
from gatecast.model.predictions import LEVELS, QUANTILES

HORIZONS = (1, 6, 24)
START = datetime(2024, 3, 1, tzinfo=UTC)
HOSTILE = '<script>alert("$x$")</script> & --><b>'
_NORMAL = np.array([-1.645, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.645])
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


def _scores(pinball: float) -> dict[str, float]:
    return {
        "pinball": pinball, "crps": 2 * pinball, "mae": 2.9 * pinball, "rmse": 4.4 * pinball,
        "direction_accuracy": 0.5073, "coverage_50": 0.5121, "coverage_80": 0.8064, "coverage_90": 0.8968,
        "width_90": 9.7 * pinball, "n": 14_412,
    }  # fmt: skip


def make_predictions(symbol: str = "BTC/USDT", n: int = 700) -> pl.DataFrame:
    """Predictions of three models at 24 bars, with realised returns that fit them and one that is unknown."""
    generator = np.random.default_rng(5)
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


def _ledger_frame() -> pl.DataFrame:
    instants = ("issued_at", "target_at")
    return pl.DataFrame([{**row, **{at: datetime.fromisoformat(row[at]) for at in instants}} for row in make_ledger()])


def _draw(name: str, title: str = "BTC/USDT", narrow: bool = False) -> Figure:
    drawings = {
        "fan_chart": lambda: fan_chart(make_history(), _ledger_frame(), title=title, narrow=narrow),
        "skill_by_fold": lambda: skill_by_fold(make_metrics(), narrow=narrow),
        "coverage": lambda: coverage(make_metrics(), narrow=narrow),
        "interval_history": lambda: interval_history(make_predictions(title), symbol=title, horizon=24, narrow=narrow),
        "search_history": lambda: search_history(make_trials(), narrow=narrow),
    }
    return drawings[name]()


ALL = ("fan_chart", "skill_by_fold", "coverage", "interval_history", "search_history")


@pytest.mark.parametrize("name", ALL)
def test_equal_content_gives_equal_svg_bytes_without_a_date(name: str) -> None:
    svg = as_svg(_draw(name))
    assert svg == as_svg(_draw(name))
    assert "<metadata" not in svg
    assert "dc:date" not in svg


@pytest.mark.parametrize("name", ["fan_chart", "interval_history"])
def test_a_hostile_symbol_is_text_in_a_picture_and_never_markup_or_mathematics(name: str) -> None:
    svg = as_svg(_draw(name, title=HOSTILE))
    assert "<script" not in svg
    assert "<b>" not in svg
    assert "&lt;script&gt;" in svg


def test_fan_starts_at_the_last_close_when_it_became_known() -> None:
    figure = _draw("fan_chart")
    median = next(line for line in figure.axes[0].lines if line.get_label() == "median")
    xs, ys = median.get_xdata(), median.get_ydata()
    assert xs[0] == START + timedelta(hours=120)  # type: ignore[index]  # matplotlib types data as ArrayLike
    assert ys[0] == pytest.approx(63_240)  # type: ignore[index]  # matplotlib types data as ArrayLike
    assert len(np.asarray(xs)) == 1 + len(HORIZONS)


def test_fan_is_drawn_after_a_single_close() -> None:
    figure = fan_chart(make_history().tail(1), _ledger_frame(), title="")
    assert figure.axes[0].lines[0].get_xdata()[0] == START + timedelta(hours=120)  # type: ignore[index]  # matplotlib types data as ArrayLike


def test_fan_bands_are_nested_and_widen() -> None:
    bands = _draw("fan_chart").axes[0].collections
    heights = [np.ptp(np.asarray(band.get_paths()[0].vertices)[:, 1]) for band in bands]
    assert heights[0] > heights[1] > heights[2] > 0


def test_fold_skill_is_one_less_the_ratio_to_the_best_baseline() -> None:
    metrics = make_metrics()
    ours, theirs = metrics["by_fold"]["lstm"]["24"], metrics["by_fold"]["ewma"]["24"]
    assert fold_skill(metrics, 24) == pytest.approx([1 - a / b for a, b in zip(ours, theirs, strict=True)])


def test_unknown_fold_losses_leave_a_gap_instead_of_an_error() -> None:
    metrics = make_metrics()
    metrics["by_fold"]["lstm"]["24"][1] = None
    metrics["by_fold"]["lstm"]["24"][2] = math.inf
    skill = fold_skill(metrics, 24)
    assert [math.isnan(value) for value in skill] == [False, True, True, False, False]
    assert "nan" not in as_svg(skill_by_fold(metrics)).lower()


def test_missing_figures_of_merit_leave_gaps_in_the_coverage_picture() -> None:
    metrics = make_metrics()
    metrics["models"]["naive"]["24"]["coverage_50"] = None
    del metrics["models"]["ewma"]["6"]
    assert "<svg" in as_svg(coverage(metrics))


def test_prices_keep_five_significant_digits_at_any_size() -> None:
    assert [price_text(p) for p in (63_240.4, 1.08342, 0.000123456)] == ["63,240", "1.0834", "0.00012346"]
    assert price_text(math.nan) == price_text(math.inf) == DASH


def test_png_is_written_whole_and_equal_for_equal_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "new" / "b.png"
    save_png(_draw("fan_chart"), first)
    save_png(_draw("fan_chart"), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "new"]
