"""The laws of every baseline: fitted on train bars, blind to the future, ordered quantiles, clear refusals."""

from typing import get_args

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config, EvaluateConfig
from gatecast.errors import DataError
from gatecast.evaluation.baselines import BASELINES, Forecaster
from gatecast.evaluation.changed_rows import CHANGES
from gatecast.evaluation.fold_proof import CutProof, Tables, cut_within, prove_forecasts
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold, Span, bars_of
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.model.predictions import HORIZON, LEVELS, QUANTILES
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe
from tests.evaluation.baselines.session_market import FIRST_SESSION, SESSION_HORIZONS, session_market
from tests.evaluation.small_market import FIRST_BAR, HORIZONS, small_market

ALL = tuple(BASELINES)
OF_ALL_MARKETS = ("linear", "lightgbm")  # the others are fitted market by market
ON_VOLATILITY = ("ewma", "garch", "har", "linear", "lightgbm")
GONE = (3200, 3201)


@pytest.fixture(scope="module")
def rows(config: Config) -> pl.DataFrame:
    candles = clean_candles(random_candles(3500).filter(~pl.int_range(pl.len()).is_in(GONE)))
    return feature_table(candles, small_recipe(config), HORIZONS)


@pytest.fixture(scope="module")
def fold(rows: pl.DataFrame) -> Fold:
    start = bars_of(rows).start
    return Fold(0, Span(start, start + 2994), Span(start + 3000, start + 3500))


@pytest.fixture(scope="module")
def fitted(rows: pl.DataFrame, fold: Fold) -> dict[str, Forecaster]:
    return {name: fit(fold.train.rows(rows), HORIZONS) for name, fit in BASELINES.items()}


def forecasts_of(name: str, rows: pl.DataFrame, fold: Fold, horizons: tuple[int, ...] = HORIZONS) -> pl.DataFrame:
    """As a fold of an evaluation has them."""
    history = rows.filter(pl.col(BAR) < fold.test.end)
    return BASELINES[name](fold.train.rows(history), horizons)(history, fold.test)


def loss(forecasts: pl.DataFrame, rows: pl.DataFrame, horizon: int) -> float:
    target = f"target_{horizon}"
    of_horizon = forecasts.filter(pl.col(HORIZON) == horizon)
    scored = of_horizon.join(rows.select(SYMBOL, TS, target), on=[SYMBOL, TS]).drop_nulls(target)
    return mean_pinball(scored[target].to_numpy(), scored.select(QUANTILES).to_numpy())


def test_the_configuration_allows_every_baseline_and_no_other() -> None:
    allowed, _ = get_args(EvaluateConfig.model_fields["baselines"].annotation)
    assert set(get_args(allowed)) == set(BASELINES)


def test_naive_answers_with_the_quantiles_of_the_train_returns(
    rows: pl.DataFrame, fold: Fold, fitted: dict[str, Forecaster]
) -> None:
    expected = np.quantile(rows["target_6"][:2994].drop_nulls().to_numpy(), LEVELS)
    six = fitted["naive"](rows, fold.test).filter(pl.col(HORIZON) == 6)
    assert len(six) == 498
    np.testing.assert_allclose(six.select(QUANTILES).unique().to_numpy(), expected[None])


def test_ewma_scales_with_the_volatility_of_its_best_half_life(
    rows: pl.DataFrame, fold: Fold, fitted: dict[str, Forecaster]
) -> None:
    forecasts = fitted["ewma"](rows, fold.test).filter(pl.col(HORIZON) == 1)
    squares = rows[CLOSE].log().diff().to_list()
    widths = (forecasts["q0.95"] - forecasts["q0.05"]).to_list()
    candidates = []
    for half_life in (6, 12, 24, 48, 96, 168, 336, 720):
        mean, weight, volatility = 0.0, 0.0, []
        for move in squares:
            if move is not None:
                mean, weight = mean * 0.5 ** (1 / half_life) + move**2, weight * 0.5 ** (1 / half_life) + 1
            volatility.append((mean / weight) ** 0.5 if weight else float("nan"))
        ratio = np.array(widths) / np.array(volatility)[rows[TS].is_in(forecasts[TS].implode()).to_numpy()]
        candidates.append(np.ptp(ratio) / ratio.mean())
    assert min(candidates) < 1e-9


@pytest.mark.parametrize("name", ALL)
def test_a_baseline_forecasts_every_bar_that_has_a_close_and_its_quantiles_never_cross(
    name: str, rows: pl.DataFrame, fold: Fold, fitted: dict[str, Forecaster]
) -> None:
    forecasts = fitted[name](rows, fold.test)
    present = fold.test.rows(rows).drop_nulls(CLOSE)[TS]
    assert len(present) == fold.test.n_bars - len(GONE)
    for horizon in HORIZONS:
        table = forecasts.filter(pl.col(HORIZON) == horizon)
        assert table[TS].equals(present)
        assert (np.diff(table.select(QUANTILES).to_numpy()) >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_a_fit_says_the_same_however_often_it_is_asked_and_wherever_the_history_ends(
    name: str, rows: pl.DataFrame, fold: Fold, fitted: dict[str, Forecaster]
) -> None:
    whole = fitted[name](rows, fold.test)
    assert fitted[name](rows, fold.test).equals(whole)
    for end in (fold.test.start + 1, fold.test.start + 77):
        short = Span(fold.test.start, end)
        known = whole.join(short.rows(rows), on=[SYMBOL, TS], how="semi", maintain_order="left")
        assert fitted[name](rows.filter(pl.col(BAR) < end), short).equals(known)


@pytest.mark.parametrize("name", ALL)
def test_one_fit_serves_every_horizon_as_a_fit_for_each_would(name: str, rows: pl.DataFrame, fold: Fold) -> None:
    together = forecasts_of(name, rows, fold)
    for horizon in HORIZONS:
        assert forecasts_of(name, rows, fold, (horizon,)).equals(together.filter(pl.col(HORIZON) == horizon))


@pytest.mark.parametrize("name", ON_VOLATILITY)
def test_a_baseline_that_follows_volatility_beats_the_random_walk_where_it_comes_in_waves(
    name: str, rows: pl.DataFrame, fold: Fold, fitted: dict[str, Forecaster]
) -> None:
    of_name, of_naive = (loss(fitted[some](rows, fold.test), rows, 6) for some in (name, "naive"))
    assert of_name < 0.98 * of_naive


TWO_MARKETS = Fold(0, Span(FIRST_BAR, FIRST_BAR + 1494), Span(FIRST_BAR + 1500, FIRST_BAR + 1600))


def proof_of(name: str, cut: int, n_seen: int = 0, n_ahead: int = 0) -> CutProof:
    """Of a baseline that is fitted on so many bars after its train span as well, or shown rows so many bars ahead."""
    rows = small_market(1620)
    train = Span(TWO_MARKETS.train.start, TWO_MARKETS.train.end + n_seen)
    known = train.rows(rows)
    first = BASELINES[name](known, HORIZONS)

    def forecast(some: pl.DataFrame) -> Tables:
        history = some.filter(pl.col(BAR) < TWO_MARKETS.test.end)
        here = train.rows(history)
        fit = first if here.equals(known) else BASELINES[name](here, HORIZONS)
        ahead = pl.exclude(SYMBOL, TS, BAR).shift(-n_ahead).over(SYMBOL)
        return {name: fit(history.with_columns(ahead), TWO_MARKETS.test)}

    return prove_forecasts(cut, rows, TWO_MARKETS, HORIZONS, forecast(rows), forecast)


@pytest.mark.parametrize("name", ALL)
def test_no_forecast_moves_by_a_bit_whatever_comes_after_it(name: str) -> None:
    for cut in (TWO_MARKETS.test.start + 1, cut_within(TWO_MARKETS, 16)):
        proof = proof_of(name, cut)
        assert proof.breaches == ()
        n_forecasts = 2 * len(HORIZONS) * (cut - TWO_MARKETS.test.start)
        assert proof.n_values == len(CHANGES) * n_forecasts * len(LEVELS)


@pytest.mark.parametrize("name", ALL)
def test_a_baseline_that_is_fitted_on_one_bar_too_many_gives_itself_away(name: str) -> None:
    first = TWO_MARKETS.test.start
    proof = proof_of(name, first + 1, n_seen=first + 2 - TWO_MARKETS.train.end)
    assert {breach.what for breach in proof.breaches} == {f"forecasts of {name}"}
    assert proof.breaches[0].row[TS] == "2024-03-03T12:00Z"


@pytest.mark.parametrize("name", ALL)
def test_a_forecaster_that_peeks_one_bar_ahead_gives_itself_away(name: str) -> None:
    cut = cut_within(TWO_MARKETS, 16)
    proof = proof_of(name, cut, n_ahead=1)
    last = small_market(1620).filter((pl.col(BAR) == cut - 1) & (pl.col(SYMBOL) == "BTC/USDT"))[TS][0]
    assert {breach.what for breach in proof.breaches} == {f"forecasts of {name}"}
    assert {breach.row[TS] for breach in proof.breaches} == {f"{last:%Y-%m-%dT%H:%MZ}"}


@pytest.mark.parametrize("name", sorted(set(ALL) - set(OF_ALL_MARKETS)))
def test_what_is_fitted_market_by_market_does_not_see_the_others(name: str) -> None:
    rows = small_market(1620)
    together = forecasts_of(name, rows, TWO_MARKETS)
    for symbol in ("BTC/USDT", "ETH/USDT"):
        of_symbol = together.filter(pl.col(SYMBOL) == symbol)
        assert len(of_symbol) == len(HORIZONS) * TWO_MARKETS.test.n_bars
        assert forecasts_of(name, rows.filter(pl.col(SYMBOL) == symbol), TWO_MARKETS).equals(of_symbol)


@pytest.mark.parametrize("name", ALL)
def test_a_market_that_ended_before_the_test_stops_no_fit(name: str) -> None:
    rows = small_market(1620, ("BTC/USDT", "ETH/USDT", "LUNA/USDT"))
    ended = rows.filter((pl.col(SYMBOL) != "LUNA/USDT") | (pl.col(BAR) < FIRST_BAR + 100))
    forecasts = forecasts_of(name, ended, TWO_MARKETS)
    assert forecasts[SYMBOL].unique().sort().to_list() == ["BTC/USDT", "ETH/USDT"]


@pytest.mark.parametrize("name", ALL)
def test_a_market_without_a_train_row_gets_no_forecast_but_that_of_the_others(name: str) -> None:
    rows = small_market(1620)
    young = rows.filter((pl.col(SYMBOL) == "BTC/USDT") | (pl.col(BAR) >= TWO_MARKETS.train.end))
    forecast = ["BTC/USDT", "ETH/USDT"] if name == "lightgbm" else ["BTC/USDT"]
    assert forecasts_of(name, young, TWO_MARKETS)[SYMBOL].unique().sort().to_list() == forecast


@pytest.mark.parametrize("name", ["naive", "ewma"])
def test_a_market_too_young_to_have_a_target_is_left_out_by_the_baselines_that_nobody_can_take_out(name: str) -> None:
    rows = small_market(1620)
    young = rows.filter((pl.col(SYMBOL) == "BTC/USDT") | (pl.col(BAR) >= TWO_MARKETS.train.end - 1))
    young = young.with_columns(
        pl.when(pl.col(SYMBOL) == "BTC/USDT").then(target).alias(target) for target in ("target_1", "target_6")
    )
    assert forecasts_of(name, young, TWO_MARKETS)[SYMBOL].unique().to_list() == ["BTC/USDT"]


SESSIONS = Fold(0, Span(FIRST_SESSION, FIRST_SESSION + 480), Span(FIRST_SESSION + 500, FIRST_SESSION + 600))


@pytest.mark.parametrize("name", ALL)
def test_half_of_a_thousand_daily_sessions_is_enough_to_train_on(name: str) -> None:
    rows = session_market(1000, ("AAPL", "MSFT"))
    forecasts = forecasts_of(name, rows, SESSIONS, SESSION_HORIZONS)
    assert len(forecasts) == 2 * len(SESSION_HORIZONS) * SESSIONS.test.n_bars
    assert (np.diff(forecasts.select(QUANTILES).to_numpy()) >= 0).all()
    naive = forecasts_of("naive", rows, SESSIONS, SESSION_HORIZONS)
    assert loss(forecasts, rows, 5) < (1.5 if name in {"seasonal_naive", "prophet"} else 1.2) * loss(naive, rows, 5)


@pytest.mark.parametrize(
    ("name", "n_bars", "words"),
    [
        (
            "drift",
            60,
            ("BTC/USDT", "no train bar has both a return over 6 bars and the history before it that is needed"),
        ),
        (
            "seasonal_naive",
            23,
            ("BTC/USDT", "no train bar has both a return over 1 bars and the history before it that is needed"),
        ),
        ("garch", 400, ("BTC/USDT", "395 train bars with a return", "400 are needed")),
        ("har", 960, ("BTC/USDT", "235 train bars", "720 returns behind them and 1 before them", "250 are needed")),
        ("linear", 120, ("BTC/USDT, ETH/USDT", "232 train bars with a return over 1 bars", "250 are needed")),
        ("lightgbm", 120, ("BTC/USDT, ETH/USDT", "232 train bars with a return over 1 bars", "250 are needed")),
    ],
)
def test_a_market_too_short_to_fit_is_one_line_that_names_it_and_the_remedy(
    name: str, n_bars: int, words: tuple[str, ...]
) -> None:
    short = small_market(1620).filter(pl.col(BAR) < FIRST_BAR + n_bars)
    with pytest.raises(DataError) as error:
        BASELINES[name](short, HORIZONS)
    line = str(error.value)
    for part in (f"baseline {name} cannot be fitted to", *words, "fetch a longer history, or take", "out of evaluate."):
        assert part in line, line
    assert "\n" not in line


@pytest.mark.parametrize("name", sorted(set(ALL) - {"naive", "ewma", "lightgbm"}))
def test_a_close_that_never_moves_is_one_line(name: str) -> None:
    still = small_market(1620).with_columns(pl.when(pl.col(CLOSE).is_not_null()).then(100.0).alias(CLOSE))
    with pytest.raises(DataError, match=rf"{name} .* BTC/USDT: its close does not move in 1489 train bars"):
        BASELINES[name](TWO_MARKETS.train.rows(still), HORIZONS)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"naive", "ewma"}))
def test_targets_that_are_all_null_are_one_line(name: str) -> None:
    empty = small_market(1620).with_columns(target_1=pl.lit(None, pl.Float64))
    with pytest.raises(DataError, match=rf"baseline {name} cannot be fitted to BTC/USDT.* over 1 bars"):
        BASELINES[name](TWO_MARKETS.train.rows(empty), HORIZONS)
