from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config, EvaluateConfig
from gatecast.errors import DataError
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.fold_proof import CutProof, cut_within, prove_forecasts
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold, Span, bars_of
from gatecast.model.predictions import LEVELS, QUANTILES
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe
from tests.evaluation.small_market import FIRST_BAR, HORIZONS, small_market


@pytest.fixture(scope="module")
def rows(config: Config) -> pl.DataFrame:
    candles = clean_candles(random_candles(3500).filter(~pl.int_range(pl.len()).is_in([3200, 3201])))
    return feature_table(candles, small_recipe(config), HORIZONS)


@pytest.fixture(scope="module")
def fold(rows: pl.DataFrame) -> Fold:
    start = bars_of(rows).start
    return Fold(0, Span(start, start + 2994), Span(start + 3000, start + 3500))


def test_naive_answers_with_the_quantiles_of_the_train_returns(rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES["naive"](rows, fold, HORIZONS)
    expected = np.quantile(rows["target_6"][:2994].drop_nulls().to_numpy(), LEVELS)
    six = forecasts.filter(pl.col("horizon") == 6)
    assert len(six) == 498
    np.testing.assert_allclose(six.select(QUANTILES).unique().to_numpy(), expected[None])


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_is_fitted_on_train_bars_and_sees_no_future(name: str, rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES[name](rows, fold, HORIZONS)
    cut = fold.test.start + 200
    after, targets = pl.col("bar") > cut, [f"target_{h}" for h in HORIZONS]
    changed = rows.with_columns(
        pl.when(after).then(pl.col("close") * 5).otherwise("close").alias("close"),
        *(pl.when(pl.col("bar") >= fold.train.end).then(9.0).otherwise(target).alias(target) for target in targets),
    )
    again = BASELINES[name](changed, fold, HORIZONS)
    known = forecasts["ts"] <= rows.filter(pl.col("bar") == cut)["ts"][0]
    assert known.sum() > 300
    assert again.filter(known).equals(forecasts.filter(known))


def test_ewma_scales_with_the_volatility_of_its_best_half_life(rows: pl.DataFrame, fold: Fold) -> None:
    forecasts = BASELINES["ewma"](rows, fold, HORIZONS).filter(pl.col("horizon") == 1)
    squares = rows["close"].log().diff().to_list()
    widths = (forecasts["q0.95"] - forecasts["q0.05"]).to_list()
    candidates = []
    for half_life in (6, 12, 24, 48, 96, 168, 336, 720):
        mean, weight, volatility = 0.0, 0.0, []
        for move in squares:
            if move is not None:
                mean, weight = mean * 0.5 ** (1 / half_life) + move**2, weight * 0.5 ** (1 / half_life) + 1
            volatility.append((mean / weight) ** 0.5 if weight else float("nan"))
        ratio = np.array(widths) / np.array(volatility)[rows["ts"].is_in(forecasts["ts"].implode()).to_numpy()]
        candidates.append(np.ptp(ratio) / ratio.mean())
    assert min(candidates) < 1e-9


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_forecasts_every_bar_that_has_a_close_and_its_quantiles_never_cross(
    name: str, rows: pl.DataFrame, fold: Fold
) -> None:
    forecasts = BASELINES[name](rows, fold, HORIZONS)
    present = fold.test.rows(rows).drop_nulls("close")["ts"]
    for horizon in HORIZONS:
        table = forecasts.filter(pl.col("horizon") == horizon)
        assert table["ts"].equals(present)
        assert (np.diff(table.select(QUANTILES).to_numpy()) >= 0).all()


def test_the_configuration_allows_every_baseline_and_no_other() -> None:
    allowed, _ = get_args(EvaluateConfig.model_fields["baselines"].annotation)
    assert get_args(allowed) == tuple(BASELINES)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"naive"}))
def test_a_baseline_that_follows_volatility_beats_the_random_walk_where_it_comes_in_waves(
    name: str, rows: pl.DataFrame, fold: Fold
) -> None:
    def loss(baseline: str) -> float:
        forecasts = BASELINES[baseline](rows, fold, (6,))
        scored = forecasts.join(rows.select("symbol", "ts", "target_6"), on=["symbol", "ts"]).drop_nulls("target_6")
        return mean_pinball(scored["target_6"].to_numpy(), scored.select(QUANTILES).to_numpy())

    assert loss(name) < 0.97 * loss("naive")


TWO_MARKETS = Fold(0, Span(FIRST_BAR, FIRST_BAR + 1494), Span(FIRST_BAR + 1500, FIRST_BAR + 1600))


def proof_of(name: str, cut: int, n_seen: int = 0) -> CutProof:
    """Of a baseline that is fitted on so many bars after its train span as well."""
    rows = small_market(1620)
    train = Span(TWO_MARKETS.train.start, TWO_MARKETS.train.end + n_seen)

    def forecast(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        history = some.filter(pl.col("bar") < TWO_MARKETS.test.end)
        return {name: BASELINES[name](history, replace(TWO_MARKETS, train=train), HORIZONS)}

    return prove_forecasts(cut, rows, TWO_MARKETS, HORIZONS, forecast(rows), forecast)


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_forecast_moves_by_a_bit_whatever_comes_after_it(name: str) -> None:
    for cut in (TWO_MARKETS.test.start + 1, cut_within(TWO_MARKETS, 16)):
        proof = proof_of(name, cut)
        assert proof.breaches == ()
        n_forecasts = 2 * len(HORIZONS) * (cut - TWO_MARKETS.test.start)
        assert proof.n_values == 4 * n_forecasts * len(LEVELS)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_that_is_fitted_on_one_bar_too_many_gives_itself_away(name: str) -> None:
    first = TWO_MARKETS.test.start
    proof = proof_of(name, first + 1, n_seen=first + 2 - TWO_MARKETS.train.end)
    assert {breach.what for breach in proof.breaches} == {f"forecasts of {name}"}
    assert proof.breaches[0].row["ts"] == "2024-03-03T12:00Z"


@pytest.mark.parametrize(
    ("name", "n_bars", "words"),
    [
        ("garch", 400, ("BTC/USDT", "395 train bars with a return", "500 are needed")),
        ("har", 960, ("BTC/USDT", "235 train bars", "720 returns behind them and 1 before them", "250 are needed")),
        ("lightgbm", 1200, ("BTC/USDT, ETH/USDT", "bars with a return over 6 bars", "2448 are needed")),
    ],
)
def test_a_market_too_short_to_fit_is_one_line_that_names_it_and_the_remedy(
    name: str, n_bars: int, words: tuple[str, ...]
) -> None:
    short = replace(TWO_MARKETS, number=2, train=Span(FIRST_BAR, FIRST_BAR + n_bars))
    with pytest.raises(DataError) as error:
        BASELINES[name](small_market(1620), short, HORIZONS)
    line = str(error.value)
    for part in (f"baseline {name}", "fold 3", *words, "fetch a longer history", "evaluate.baselines"):
        assert part in line, line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["garch", "har"])
def test_a_close_that_never_moves_is_one_line(name: str) -> None:
    still = small_market(1620).with_columns(pl.when(pl.col("close").is_not_null()).then(100.0).alias("close"))
    with pytest.raises(DataError, match=rf"{name} .* BTC/USDT in fold 1: its close does not move in 1489 train bars"):
        BASELINES[name](still, TWO_MARKETS, HORIZONS)


@pytest.mark.parametrize("name", ["garch", "har", "lightgbm"])
def test_a_market_that_ended_before_the_test_stops_no_fit(name: str) -> None:
    rows = small_market(1620, ("BTC/USDT", "ETH/USDT", "LUNA/USDT"))
    ended = rows.filter((pl.col("symbol") != "LUNA/USDT") | (pl.col("bar") < FIRST_BAR + 300))
    assert BASELINES[name](ended, TWO_MARKETS, HORIZONS)["symbol"].unique().sort().to_list() == ["BTC/USDT", "ETH/USDT"]
