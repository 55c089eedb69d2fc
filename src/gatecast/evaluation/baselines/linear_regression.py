"""Ridge regression: the centre of the scaled return is a line in the features that the networks see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.evaluation.baselines.location_scale import (
    Forecaster,
    Rule,
    market_by_market,
    moving_returns,
    no_fit,
    values,
)
from gatecast.evaluation.baselines.scaled_features import feature_names, one_bar_volatility
from gatecast.features.targets import target_name
from gatecast.market.candles import BAR, SYMBOL
from gatecast.model.predictions import Array

# the train part picks one a horizon: on the development period of the sample the best stand at every place of this row
PENALTIES = (1e2, 1e3, 1e4, 1e5, 1e6)
N_SLICES = 4  # of the second half of the train bars: each judges the penalties on what is fitted before it
_MIN_BARS = 250  # fewer say little about a score of features

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """A line in standardised features, fitted.

    Attributes:
        names: Of the features.
        mean: Of each on the train rows, (F,).
        deviation: Of each on the train rows, (F,).
        weights: A deviation's worth of each, in volatilities of the horizon, (F,).
        intercept: Mean of the scaled return.
    """

    names: Sequence[str]
    mean: Array
    deviation: Array
    weights: Array
    intercept: float

    def centre(self, rows: pl.DataFrame) -> Array:
        """Of the scaled return, known at the close of each bar, (N,)."""
        centre = np.full(len(rows), self.intercept)
        # feature by feature: a matrix product may round otherwise where it has another number of rows
        for name, mean, deviation, weight in zip(self.names, self.mean, self.deviation, self.weights, strict=True):
            feature = values(rows, name)
            centre += weight * ((np.where(np.isfinite(feature), feature, mean) - mean) / deviation)
        return centre


def linear(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """Ridge regression of the return over its volatility, a line a horizon for all markets together.

    The volatility is that of the rows, times the root of the horizon; the quantiles around the line are those of each
    market. A missing feature counts as its train mean, where it adds nothing: a line has no branch for what is unknown,
    and without a forecast the bar would count for no model. A bar without a close or a volatility gets none. Arguments
    and result as for `naive`.

    Raises:
        DataError: Too few train bars, or a close that does not move.

    Source:
        Hoerl and Kennard (1970), Ridge Regression: Biased Estimation for Nonorthogonal Problems, Technometrics 12(1).
    """
    lines = [fit_line(train, horizon) for horizon in horizons]

    def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
        scales = [one_bar_volatility(rows) * np.sqrt(horizon) for horizon in horizons]
        return [(scale * line.centre(rows), scale) for line, scale in zip(lines, scales, strict=True)]

    def fit(market: pl.DataFrame) -> Rule:
        moving_returns("linear", market)
        return rule

    return market_by_market("linear", train, horizons, fit)


def fit_line(train: pl.DataFrame, horizon: int) -> Line:
    """The line with the penalty that does best on later parts of the train rows.

    Args:
        train: Train rows of all markets.
        horizon: Bars ahead.

    Raises:
        DataError: Too few train bars.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import StandardScaler

    names = feature_names(train)
    scaled = values(train, target_name(horizon)) / (one_bar_volatility(train) * np.sqrt(horizon))
    known = np.isfinite(scaled)
    if known.sum() < _MIN_BARS:
        found = f"{known.sum()} train bars with a return over {horizon} bars and a volatility"
        symbols = ", ".join(train[SYMBOL].unique().sort()) or "no market"
        raise no_fit("linear", symbols, f"{found}, {_MIN_BARS} are needed")
    features = train.select(pl.col(names).cast(pl.Float64)).to_numpy()[known]
    # one that is never known is 0 throughout, and its weight, as that of one that is always the same, is 0
    imputer = SimpleImputer(keep_empty_features=True)
    filled = imputer.fit_transform(np.where(np.isfinite(features), features, np.nan))
    scaler = StandardScaler()
    inputs = scaler.fit_transform(filled)
    later = _later_slices(train[BAR].to_numpy()[known], horizon)
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, cv=later, scoring="neg_mean_squared_error")
    ridge = search.fit(inputs, scaled[known]).best_estimator_
    return Line(names, imputer.statistics_, scaler.scale_, ridge.coef_, float(ridge.intercept_))


def _later_slices(bars: Places, horizon: int) -> list[tuple[Places, Places]]:
    """Places of rows to fit and of later ones to judge, purged between them."""
    first, end = bars.min(), bars.max() + 1
    edges = np.linspace((first + end) // 2, end, N_SLICES + 1).astype(np.int64)
    return [
        (np.flatnonzero(bars + horizon < start), np.flatnonzero((bars >= start) & (bars < stop)))
        for start, stop in pairwise(edges)
    ]
