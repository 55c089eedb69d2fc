import numpy as np
import polars as pl

from gatecast.evaluation.verdict import evaluate_predictions
from gatecast.evaluation.walk_forward import shared_forecasts
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.conftest import random_candles

STAMPS = random_candles(1500)["ts"]
NORMAL = np.array([-1.645, -1.282, -0.674, 0.0, 0.674, 1.282, 1.645])


def table(
    model: str, target: np.ndarray, scale: np.ndarray, symbol: str = "BTC/USDT", horizon: int = 1
) -> pl.DataFrame:
    keys = {"symbol": symbol, "ts": STAMPS, "horizon": horizon, "model": model, "fold": np.arange(1500) // 375}
    quantiles = dict(zip(QUANTILES, (scale[:, None] * NORMAL).T, strict=True))
    return pl.DataFrame({**keys, "target": target, **quantiles})


def market(seed: int, skill: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    true = np.exp(0.8 * np.sin(np.arange(1500) / 50))
    target = true * generator.standard_normal(1500)
    flat = np.full(1500, true.mean())
    return target, (true if skill else flat * np.exp(0.1 * generator.standard_normal(1500))), flat


def test_a_model_that_knows_the_volatility_beats_every_baseline() -> None:
    target, known, flat = market(0, skill=True)
    predictions = pl.concat(
        [table("lstm", target, known), table("naive", target, flat), table("ewma", target, flat * 1.1)]
    )
    figures = evaluate_predictions(predictions, ("naive", "ewma"), (1,), (1,), 0.05)
    assert figures["beats_baselines"] == {"1": True}
    assert figures["best_baseline"]["1"] in ("naive", "ewma")
    losses = {name: figures["models"][name]["1"]["pinball"] for name in ("lstm", "naive", "ewma")}
    best = min(losses["naive"], losses["ewma"])
    assert np.isclose(figures["skill"]["1"], 1 - losses["lstm"] / best)
    assert figures["p_value"]["1"] == max(test["p_value"] for test in figures["diebold_mariano"]["1"].values())
    assert "beats every baseline" in figures["verdict"]


def test_a_random_walk_dressed_up_as_a_model_does_not_beat_the_random_walk() -> None:
    target, noisy, flat = market(1, skill=False)
    predictions = pl.concat([table("lstm", target, noisy), table("naive", target, flat)])
    figures = evaluate_predictions(predictions, ("naive",), (1,), (1,), 0.05)
    assert figures["beats_baselines"] == {"1": False}
    assert "not proven better than naive" in figures["verdict"]


def test_every_baseline_has_to_be_beaten_and_not_just_the_weakest() -> None:
    target, known, flat = market(2, skill=True)
    predictions = pl.concat(
        [table("lstm", target, flat), table("naive", target, flat * 2), table("ewma", target, known)]
    )
    assert not evaluate_predictions(predictions, ("naive", "ewma"), (1,), (1,), 0.05)["beats_baselines"]["1"]


def test_models_are_compared_only_where_all_of_them_forecast_and_the_outcome_is_known() -> None:
    target, known, flat = market(3, skill=True)
    target[-5:] = np.nan
    full = table("lstm", target, known).with_columns(pl.col("target").fill_nan(None))
    part = table("naive", target, flat).with_columns(pl.col("target").fill_nan(None))[100:]
    shared = shared_forecasts(pl.concat([full, part]))
    assert shared.group_by("model").len()["len"].to_list() == [1395, 1395]


def test_skill_over_several_markets_is_the_geometric_mean_of_their_ratios() -> None:
    tables, ratios = [], []
    for seed, symbol, size in ((4, "BTC/USDT", 1.0), (5, "ETH/USDT", 40.0)):
        target, known, flat = market(seed, skill=True)
        own = [table("lstm", target * size, known * size, symbol), table("naive", target * size, flat * size, symbol)]
        single = evaluate_predictions(pl.concat(own), ("naive",), (1,), (1,), 0.05)
        ratios.append(1 - single["skill"]["1"])
        tables += own
    together = evaluate_predictions(pl.concat(tables), ("naive",), (1,), (1,), 0.05)
    assert np.isclose(together["skill"]["1"], 1 - np.sqrt(ratios[0] * ratios[1]))
    assert set(together["by_market"]) == {"BTC/USDT", "ETH/USDT"}


def test_holm_spends_the_level_once_over_all_named_horizons() -> None:
    target, known, flat = market(6, skill=True)
    tables = [table(m, target, s, horizon=h) for h in (1, 2) for m, s in (("lstm", known), ("naive", flat))]
    weak = [table(m, target, s, horizon=3) for m, s in (("lstm", flat), ("naive", flat * 1.0001))]
    figures = evaluate_predictions(pl.concat(tables + weak), ("naive",), (1, 2, 3), (1, 2, 3), 0.05)
    assert figures["beats_baselines"]["1"]
    assert figures["beats_baselines"]["2"]
    assert len(LEVELS) == len(QUANTILES)
