import json

import numpy as np
import polars as pl
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.metrics import METRICS
from gatecast.evaluation.statistics import holm
from gatecast.evaluation.verdict import compare, evaluate_predictions, with_loss
from tests.evaluation.forecast_tables import forecasts, market, unit_scales


def judged(
    tables: list[pl.DataFrame], baselines: tuple[str, ...], horizons: tuple[int, ...] = (1,), **other: tuple[int, ...]
) -> dict:  # type: ignore[type-arg] # JSON
    predictions = pl.concat(tables)
    promoted = other.get("promoted", horizons)
    return evaluate_predictions(predictions, unit_scales(predictions), baselines, horizons, promoted, 0.05)


def test_a_model_that_knows_the_volatility_beats_every_baseline() -> None:
    target, known, flat = market(0, skill=True)
    tables = [forecasts("lstm", target, known), forecasts("naive", target, flat), forecasts("ewma", target, flat * 1.1)]
    figures = judged(tables, ("naive", "ewma"))
    assert figures["beats_baselines"] == {"1": True}
    assert figures["best_baseline"]["1"] in ("naive", "ewma")
    losses = {name: figures["models"][name]["1"]["pinball"] for name in ("lstm", "naive", "ewma")}
    best = min(losses["naive"], losses["ewma"])
    assert np.isclose(figures["skill"]["1"], 1 - losses["lstm"] / best)
    assert figures["p_value"]["1"] == max(test["p_value"] for test in figures["diebold_mariano"]["1"].values())
    assert figures["confidence_set"]["1"]["members"] == ["lstm"]
    assert figures["spa"]["1"]["p_value"] == 1.0
    for name, over in figures["skill_over"]["1"].items():
        assert over["skill"] == pytest.approx(1 - losses["lstm"] / losses[name])
        assert 0 < over["low"] < over["skill"] < over["high"]
    assert figures["verdict"].startswith("At 1 bar the LSTM beats every baseline: ")


def test_a_random_walk_dressed_up_as_a_model_does_not_beat_the_random_walk() -> None:
    target, noisy, flat = market(1, skill=False)
    figures = judged([forecasts("lstm", target, noisy), forecasts("naive", target, flat)], ("naive",))
    assert figures["beats_baselines"] == {"1": False}
    assert "At 1 bar the LSTM is not proven better than naive: " in figures["verdict"]
    assert "naive" in figures["confidence_set"]["1"]["members"]


def test_every_baseline_has_to_be_beaten_and_not_just_the_weakest() -> None:
    target, known, flat = market(2, skill=True)
    tables = [forecasts("lstm", target, flat), forecasts("naive", target, flat * 2), forecasts("ewma", target, known)]
    figures = judged(tables, ("naive", "ewma"))
    assert not figures["beats_baselines"]["1"]
    assert figures["best_baseline"]["1"] == "ewma"
    assert figures["confidence_set"]["1"]["members"] == ["ewma"]
    assert figures["spa"]["1"]["p_value"] < 0.01


def test_a_model_with_the_forecasts_of_a_baseline_is_not_better_and_nothing_is_without_a_number() -> None:
    target, _, flat = market(3, skill=True)
    tables = [forecasts(model, target, flat) for model in ("lstm", "naive")]
    figures = judged([*tables, forecasts("ewma", target, flat * 2)], ("naive", "ewma"))
    assert figures["diebold_mariano"]["1"]["naive"] == {"statistic": 0.0, "p_value": 1.0}
    assert figures["skill_over"]["1"]["naive"] == {"skill": 0.0, "low": 0.0, "high": 0.0}
    assert figures["confidence_set"]["1"]["members"] == ["lstm", "naive"]
    json.dumps(figures, allow_nan=False)


def test_the_test_of_the_verdict_is_the_one_that_the_gate_makes() -> None:
    target, known, flat = market(4, skill=True)
    tables = [forecasts("lstm", target, known), forecasts("naive", target, flat)]
    own, rival = (with_loss(table) for table in tables)
    found = judged(tables, ("naive",))["diebold_mariano"]["1"]["naive"]
    assert found["statistic"] == pytest.approx(compare(own, rival, 1).statistic, rel=1e-12)
    assert found["p_value"] == pytest.approx(compare(own, rival, 1).p_value, rel=1e-9)


def test_skill_over_several_markets_is_the_geometric_mean_of_their_ratios() -> None:
    tables, ratios = [], []
    for seed, symbol, size in ((4, "BTC/USDT", 1.0), (5, "ETH/USDT", 40.0)):
        target, known, flat = market(seed, skill=True)
        own = [
            forecasts("lstm", target * size, known * size, symbol=symbol),
            forecasts("naive", target * size, flat * size, symbol=symbol),
        ]
        ratios.append(1 - judged(own, ("naive",))["skill"]["1"])
        tables += own
    together = judged(tables, ("naive",))
    expected = 1 - np.sqrt(ratios[0] * ratios[1])
    assert together["skill"]["1"] == pytest.approx(expected)
    over = together["skill_over"]["1"]["naive"]
    assert over["skill"] == pytest.approx(expected)
    assert over["low"] < expected < over["high"]
    assert set(together["by_market"]) == {"BTC/USDT", "ETH/USDT"}


def test_every_figure_of_merit_stands_by_model_horizon_and_market_and_in_every_fold() -> None:
    target, known, flat = market(6, skill=True)
    tables = [
        forecasts(model, target, scale, symbol=symbol, horizon=horizon)
        for symbol in ("BTC/USDT", "ETH/USDT")
        for horizon in (1, 6)
        for model, scale in (("lstm", known), ("naive", flat))
    ]
    figures = judged(tables, ("naive",), (1, 6))
    for part in (figures["models"], *figures["by_market"].values()):
        assert {model: list(scores) for model, scores in part.items()} == {"lstm": ["1", "6"], "naive": ["1", "6"]}
        assert all(tuple(scores) == METRICS for model in part.values() for scores in model.values())
    for model in ("lstm", "naive"):
        losses = figures["by_fold"][model]["6"]
        assert len(losses) == 4
        assert np.mean(losses) == pytest.approx(figures["models"][model]["6"]["pinball"])  # folds of the same length
        assert sum(figures["pit"][model]["6"]) == pytest.approx(1.0)
    scored = {symbol: figures["by_market"][symbol] for symbol in ("BTC/USDT", "ETH/USDT")}
    ratios = [part["lstm"]["6"]["pinball"] / part["naive"]["6"]["pinball"] for part in scored.values()]
    assert figures["skill"]["6"] == pytest.approx(1 - np.sqrt(np.prod(ratios)))
    assert np.mean(figures["fold_skill"]["naive"]["6"]) == pytest.approx(figures["skill"]["6"], abs=0.01)
    for nominal, by_fold in figures["coverage_by_fold"]["6"].items():  # folds of the same length
        assert np.mean(by_fold) == pytest.approx(figures["models"]["lstm"]["6"][f"coverage_{nominal}"])
    json.dumps(figures, allow_nan=False)


def test_the_skill_of_a_fold_is_not_that_of_its_wildest_market() -> None:
    target, known, flat = market(6, skill=True)
    tables = [
        forecasts(model, wild * target, wild * scale, symbol=symbol, horizon=6)
        for symbol, wild, rival in (("BTC/USDT", 1, known), ("ETH/USDT", 100, flat))
        for model, scale in (("lstm", known), ("naive", rival))
    ]
    skill = np.array(judged(tables, ("naive",), (6,))["fold_skill"]["naive"]["6"])
    alone = np.array(judged(tables[2:], ("naive",), (6,))["fold_skill"]["naive"]["6"])
    np.testing.assert_allclose(1 - skill, np.sqrt(1 - alone))  # in the other market both say the same


def test_a_verdict_over_several_markets_names_those_that_it_does_not_hold_in() -> None:
    target, known, flat = market(6, skill=True)
    pairs = (("BTC/USDT", known, flat), ("ETH/USDT", known, flat), ("BNB/USDT", 1.2 * known, known))
    tables = [
        forecasts(model, target, scale, symbol=symbol, horizon=6)
        for symbol, ours, rival in pairs
        for model, scale in (("lstm", ours), ("naive", rival))
    ]
    verdict = judged(tables, ("naive",), (6,))["verdict"]
    assert "the LSTM beats every baseline" in verdict
    assert "Not in BNB/USDT, where it loses more than naive." in verdict
    assert "Not in" not in judged(tables[:4], ("naive",), (6,))["verdict"]


def test_several_horizons_are_said_to_be_corrected_for() -> None:
    target, known, flat = market(6, skill=True)
    tables = [
        forecasts(model, target, scale, horizon=horizon)
        for horizon in (1, 6)
        for model, scale in (("lstm", known), ("naive", flat))
    ]
    assert "the verdict corrects for all 2 (Holm)" in judged(tables, ("naive",), (1, 6))["verdict"]


def test_holm_corrects_as_by_hand() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])  # Holm (1979): 4, 3, 2 and 1 times
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_spends_the_level_once_over_all_named_horizons() -> None:
    target, known, flat = market(6, skill=True)
    strong = [forecasts(m, target, s, horizon=h) for h in (1, 2) for m, s in (("lstm", known), ("naive", flat))]
    weak = [forecasts(m, target, s, horizon=3) for m, s in (("lstm", flat), ("naive", flat * 1.0001))]
    figures = judged(strong + weak, ("naive",), (1, 2, 3))
    assert figures["beats_baselines"]["1"]
    assert figures["beats_baselines"]["2"]
    assert figures["verdict"].count("At ") == 3


def test_a_level_that_holds_for_one_horizon_may_fail_for_two() -> None:
    target, _, flat = market(11, skill=True)
    ours = with_loss(forecasts("lstm", target, flat))

    def p_value(factor: float) -> float:
        return compare(ours, with_loss(forecasts("naive", target, flat * factor)), 1).p_value

    shade = next(factor for factor in np.linspace(1.0, 3.0, 400) if p_value(factor) <= 0.045)
    one = [forecasts("lstm", target, flat), forecasts("naive", target, flat * shade)]
    two = [forecasts(model, target, flat, horizon=2) for model in ("lstm", "naive")]
    assert judged(one, ("naive",))["beats_baselines"] == {"1": True}
    together = judged(one + two, ("naive",), (1, 2))
    assert 0.025 < together["p_value"]["1"] <= 0.05
    assert together["beats_baselines"] == {"1": False, "2": False}


def test_horizons_that_were_not_named_are_told_but_not_judged() -> None:
    target, known, flat = market(7, skill=True)
    tables = [forecasts(m, target, s, horizon=h) for h in (1, 6, 24) for m, s in (("lstm", known), ("naive", flat))]
    figures = judged(tables, ("naive",), (1, 6, 24), promoted=(24,))
    assert figures["beats_baselines"] == {"24": True}
    skill = {key: f"{value:.1%}" for key, value in figures["skill"].items()}
    judgement, others = figures["verdict"].split(" Not judged: ")
    assert judgement.startswith(
        f"At 24 bars the LSTM beats every baseline: {skill['24']} lower pinball loss than naive"
    )
    assert others == f"at 1 bar {skill['1']} lower than naive, at 6 bars {skill['6']} lower than naive."


def test_the_same_predictions_give_the_same_figures_to_the_last_bit() -> None:
    target, known, flat = market(8, skill=True)
    tables = [forecasts("lstm", target, known), forecasts("naive", target, flat), forecasts("ewma", target, flat * 1.1)]
    once, again = (json.dumps(judged(tables, ("naive", "ewma"))) for _ in range(2))
    assert once == again


def test_a_fold_in_which_a_model_is_silent_is_refused_by_name() -> None:
    target, known, flat = market(9, skill=True)
    tables = [forecasts("lstm", target, known), forecasts("naive", target, flat).filter(pl.col("fold") != 1)]
    with pytest.raises(DataError, match=r"fold 2 .* cannot be scored at 1 bar: naive made no forecast there"):
        judged(tables, ("naive",))


def test_too_few_forecasts_for_a_test_are_refused_with_what_is_needed() -> None:
    target, known, flat = (each[:230] for each in market(9, skill=True))
    tables = [forecasts(m, target, s, horizon=24) for m, s in (("lstm", known), ("naive", flat))]
    with pytest.raises(DataError, match="230 forecasts are too few for a test at horizon 24: at least 240 are needed"):
        judged(tables, ("naive",), (24,))


def test_the_least_number_of_forecasts_is_enough_for_every_figure() -> None:
    target, known, flat = (each[:240] for each in market(9, skill=True))
    tables = [forecasts(m, target, s, horizon=24) for m, s in (("lstm", known), ("naive", flat))]
    json.dumps(judged(tables, ("naive",), (24,)), allow_nan=False)


def test_a_market_that_moves_ten_times_as_much_does_not_carry_the_verdict_alone() -> None:
    (wild, known, flat), (calm, true, _) = market(6, skill=True), market(7, skill=True)
    tables = [
        forecasts("lstm", wild, known, symbol="DOGE/USDT"),
        forecasts("naive", wild, flat, symbol="DOGE/USDT"),
        forecasts("lstm", calm / 10, true * 0.03, symbol="BTC/USDT"),  # far too narrow
        forecasts("naive", calm / 10, true / 10, symbol="BTC/USDT"),
    ]
    figures = judged(tables, ("naive",))
    assert figures["p_value"]["1"] < 0.05  # of the mean loss
    assert figures["skill"]["1"] < 0  # of the mean ratio
    assert figures["beats_baselines"] == {"1": False}
    assert "beats" not in figures["verdict"]


def test_a_market_of_a_few_bars_has_no_interval_and_no_figure_that_is_no_number() -> None:
    target, known, flat = market(6, skill=True)
    tables = [forecasts(model, target, scale) for model, scale in (("lstm", known), ("naive", flat))]
    late = [
        forecasts(model, target, scale, symbol="ETH/USDT").tail(20)
        for model, scale in (("lstm", known), ("naive", flat))
    ]
    figures = judged([*tables, *late], ("naive",))
    over = figures["skill_over"]["1"]["naive"]
    assert (over["low"], over["high"]) == (None, None)
    json.dumps(figures, allow_nan=False)


def test_forecasts_that_a_model_left_out_are_counted() -> None:
    target, known, flat = market(6, skill=True)
    ours, theirs = forecasts("lstm", target, known), forecasts("naive", target, flat)
    silent = ours.filter(pl.int_range(pl.len()) % 3 > 0)
    figures = judged([silent, theirs], ("naive",))
    assert figures["left_out"] == {"1": {"n": 1500, "models": {"lstm": 500, "naive": 0}}}
    assert figures["models"]["naive"]["1"]["n"] == 1000


def test_a_verdict_names_the_baselines_that_were_not_asked() -> None:
    target, known, flat = market(6, skill=True)
    figures = judged([forecasts("lstm", target, known), forecasts("naive", target, flat)], ("naive",))
    assert figures["not_asked"] == [name for name in BASELINES if name != "naive"]
    assert f"Not asked: {', '.join(figures['not_asked'])}." in figures["verdict"]
