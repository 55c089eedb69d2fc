"""GARCH: the variance of the next bar follows from its last move and its last variance."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatecast.evaluation.baselines.location_scale import Forecaster, Rule, bar_returns, market_by_market, no_fit
from gatecast.market.candles import SYMBOL
from gatecast.model.predictions import Array

_MIN_RETURNS = 400  # with fewer, simulated GARCH markets were forecast no better than by an exponential average
_N_STARTS = 3  # on the sample, one start in eight ends without converging, or up to a log likelihood of 4 short
_INSIDE = np.array([1.0, 0.98, 0.98, 1.0])  # a restart leaves the edge alpha + beta = 1, where the optimiser gets stuck


@dataclass(frozen=True)
class Garch:
    """GARCH(1,1) without a mean, fitted.

    Attributes:
        omega: Constant part of the variance, in squares of `unit`.
        alpha: Weight of the last squared return.
        beta: Weight of the last variance.
        start: Variance of the first return, in squares of `unit`.
        unit: Root mean square of the train returns, in log return.
    """

    omega: float
    alpha: float
    beta: float
    start: float
    unit: float

    def variances(self, returns: Array) -> Array:
        """Variance of the bar that follows each bar, a bar without a return left out as it is in the fit.

        It is a loop of our own because arch bounds the variance by the largest return of all that it is given, those
        that come later as well.

        Args:
            returns: Of the bars, in log return, NaN where there is none, (N,).

        Returns:
            Known at the close of each bar, in squares of `unit`, (N,).
        """
        variance, following = self.start, []
        for value in (returns / self.unit).tolist():
            if np.isfinite(value):
                variance = self.omega + self.alpha * value**2 + self.beta * variance
            following.append(variance)
        return np.array(following)

    def volatility(self, variances: Array, horizon: int) -> Array:
        """Of the return over the next bars, as log return: the root of the sum of their expected variances.

        The k-th is expected at p^(k-1) v + omega (1 + p + ... + p^(k-2)) with p = alpha + beta and v the first; written
        as powers the sum holds for p = 1 as well.

        Args:
            variances: Of the next bar, in squares of `unit`, (N,).
            horizon: Bars ahead.
        """
        powers = ((self.alpha + self.beta) ** np.arange(horizon)).cumsum()  # 1, 1 + p, 1 + p + p^2, ...
        volatility: Array = self.unit * np.sqrt(powers[-1] * variances + self.omega * powers[:-1].sum())
        return volatility


def garch(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """GARCH(1,1) with Student-t innovations, its parameters held fast over the test span.

    The t law is for the fit alone: the quantiles are those of the train part's scaled returns, market by market.
    Arguments and result as for `naive`.

    Raises:
        DataError: Too few train returns, none that moves, or no start from which the optimiser converges.

    Source:
        Bollerslev (1987), A Conditionally Heteroskedastic Time Series Model for Speculative Prices and Rates of Return,
        Review of Economics and Statistics 69(3); the arch package of K. Sheppard.
    """

    def fit(market: pl.DataFrame) -> Rule:
        returns = bar_returns(market)
        fitted = fit_garch(returns[np.isfinite(returns)], market[SYMBOL][0])

        def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
            variances = fitted.variances(bar_returns(rows))
            return [(np.zeros(len(rows)), fitted.volatility(variances, horizon)) for horizon in horizons]

        return rule

    return market_by_market("garch", train, horizons, fit)


def fit_garch(returns: Array, symbol: str) -> Garch:
    """Maximum likelihood, the best of several starts.

    Args:
        returns: Train returns without gaps, in log return, (N,).
        symbol: The market, for the line of an error.

    Raises:
        DataError: As `garch`.
    """
    from arch import arch_model

    if len(returns) < _MIN_RETURNS:
        raise no_fit("garch", symbol, f"{len(returns)} train bars with a return, {_MIN_RETURNS} are needed")
    unit = float(np.sqrt((returns**2).mean()))
    if unit == 0:
        raise no_fit("garch", symbol, f"its close does not move in {len(returns)} train bars")
    # in units of their size, not percent: those suit some timeframes, and on one span of the sample the optimiser
    # reported success where it had begun, 831 of log likelihood short
    model = arch_model(returns / unit, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False)
    fits, start = [], None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # of steps that the optimiser then takes back
        for _ in range(_N_STARTS):
            fits.append(model.fit(disp="off", show_warning=False, starting_values=start))
            start = max(fits, key=lambda fit: fit.loglikelihood).params.to_numpy() * _INSIDE
    converged = [fit for fit in fits if fit.convergence_flag == 0]
    if not converged:
        flags = ", ".join(str(fit.convergence_flag) for fit in fits)
        still = f"; its close did not move in {int((returns == 0).sum())} of {len(returns)} train bars"
        raise no_fit("garch", symbol, f"no start of {_N_STARTS} converges (flags of the optimiser: {flags}){still}")
    best = max(converged, key=lambda fit: fit.loglikelihood)
    omega, alpha, beta, _ = best.params.tolist()
    return Garch(omega, alpha, beta, start=float(best.conditional_volatility[0]) ** 2, unit=unit)
