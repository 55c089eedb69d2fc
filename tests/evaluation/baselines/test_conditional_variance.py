"""GARCH against arch itself, a loop over its definition, and a market that is one."""

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from arch import arch_model
from scipy.optimize import minimize

from gatecast.errors import DataError
from gatecast.evaluation.baselines import garch
from gatecast.evaluation.baselines.conditional_variance import Garch, fit_garch
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, SYMBOL, TS
from gatecast.model.predictions import LEVELS, QUANTILES, Array
from tests.evaluation.small_market import FIRST_BAR, small_market

OMEGA, ALPHA, BETA = 0.05, 0.1, 0.85  # of returns in percent
FOLD = Fold(0, Span(FIRST_BAR, FIRST_BAR + 3976), Span(FIRST_BAR + 4000, FIRST_BAR + 4200))


def planted(n_bars: int) -> Array:
    """Log returns of a GARCH(1,1) with Student-t innovations."""
    generator = np.random.default_rng(5)
    variance, returns = OMEGA / (1 - ALPHA - BETA), []
    for innovation in generator.standard_t(5, n_bars) * np.sqrt(3 / 5):
        returns.append(innovation * np.sqrt(variance))
        variance = OMEGA + ALPHA * returns[-1] ** 2 + BETA * variance
    return np.array(returns) / 100


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """One market with holes in train and test."""
    market = small_market(4300, ("BTC/USDT",)).select(SYMBOL, TS, BAR)
    close = pl.Series(CLOSE, 100 * np.exp(planted(4300).cumsum()))
    gone = (pl.col(BAR) - FIRST_BAR).is_in([50, 51, 4100, 4101, 4102])
    market = market.with_columns(pl.when(~gone).then(close).alias(CLOSE))
    return market.hstack(build_targets(market, (1, 24)))


def test_the_parameters_of_a_planted_process_are_found() -> None:
    fitted = fit_garch(planted(8000), "BTC/USDT")
    assert fitted.omega * (100 * fitted.unit) ** 2 == pytest.approx(OMEGA, abs=0.03)
    assert (fitted.alpha, fitted.beta) == pytest.approx((ALPHA, BETA), abs=0.03)


def test_the_variance_is_the_one_that_arch_has_for_the_same_parameters() -> None:
    returns = planted(3000)
    fitted = fit_garch(returns, "BTC/USDT")
    model = arch_model(returns / fitted.unit, mean="Zero", dist="t", rescale=False)
    of_arch = model.fix([fitted.omega, fitted.alpha, fitted.beta, 5.0]).conditional_volatility
    np.testing.assert_allclose(fitted.variances(returns)[:-1], of_arch[1:] ** 2, rtol=1e-9)


def test_percent_or_a_hundredth_of_it_makes_no_difference() -> None:
    returns = planted(3000)
    once, small = (fit_garch(some, "BTC/USDT") for some in (returns, returns / 100))
    assert (once.alpha, once.beta, once.omega) == pytest.approx((small.alpha, small.beta, small.omega), rel=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.85), (0.07, 0.93), (0.0, 0.0)])
@pytest.mark.parametrize("horizon", [1, 2, 6, 24])
def test_the_variance_over_a_horizon_is_the_sum_of_those_expected_bar_by_bar(
    alpha: float, beta: float, horizon: int
) -> None:
    fitted = Garch(omega=0.05, alpha=alpha, beta=beta, start=1.0, unit=0.01)
    expected, total = 2.0, 0.0
    for _ in range(horizon):
        total, expected = total + expected, 0.05 + (alpha + beta) * expected
    (volatility,) = fitted.volatility(np.array([2.0]), horizon)
    assert volatility == pytest.approx(0.01 * total**0.5, rel=1e-12)


def test_forecasts_are_volatility_times_the_quantiles_of_the_scaled_train_returns(rows: pl.DataFrame) -> None:
    closes = rows[CLOSE].to_list()
    pairs = zip([None, *closes[:-1]], closes, strict=True)
    moves = [None if before is None or after is None else np.log(after / before) for before, after in pairs]
    fitted = fit_garch(np.array([move for move in moves[:3976] if move is not None]), "BTC/USDT")
    variance, volatilities = fitted.start, []
    for move in moves:
        if move is not None:
            variance = fitted.omega + fitted.alpha * (move / fitted.unit) ** 2 + fitted.beta * variance
        expected, total = variance, 0.0
        for _ in range(24):
            total, expected = total + expected, fitted.omega + (fitted.alpha + fitted.beta) * expected
        volatilities.append(fitted.unit * total**0.5)
    pairs_of_train = zip(rows["target_24"].to_list()[:3976], volatilities, strict=False)
    levels = np.quantile([target / scale for target, scale in pairs_of_train if target is not None], LEVELS)
    present = [place for place in range(4000, 4200) if closes[place] is not None]
    forecasts = garch(FOLD.train.rows(rows), (24,))(rows, FOLD.test)
    assert len(forecasts) == len(present) == 197
    expected_quantiles = np.outer([volatilities[place] for place in present], levels)
    # the logarithms of polars and numpy differ in the last bit, and the optimiser makes more of it
    np.testing.assert_allclose(forecasts.select(QUANTILES).to_numpy(), expected_quantiles, rtol=1e-5)


def test_an_optimiser_that_does_not_converge_is_one_line(rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(*arguments: Any, **options: Any) -> Any:
        return minimize(*arguments, **{**options, "options": {"maxiter": 1}})

    monkeypatch.setattr("arch.univariate.base.minimize", hurried)
    with pytest.raises(DataError, match=r"garch .* BTC/USDT: no start of 3 converges .*: 9, 9, 9\); .*take"):
        garch(FOLD.train.rows(rows), (24,))(rows, FOLD.test)


def test_a_fit_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_garch(planted(2000), "BTC/USDT")
    assert capfd.readouterr() == ("", "")
