"""Boosted trees: the quantiles of the scaled return as a function of the very features that the networks see."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from gatecast.errors import GatecastError
from gatecast.evaluation.baselines.location_scale import Forecaster, no_fit, values
from gatecast.evaluation.baselines.scaled_features import feature_names, one_bar_volatility
from gatecast.evaluation.splits import Span
from gatecast.features.targets import target_name
from gatecast.market.candles import CLOSE, SYMBOL
from gatecast.model.predictions import LEVELS, Array, predictions

if TYPE_CHECKING:
    from lightgbm import Booster

# chosen on the development period of the sample: 150 rounds with leaves of 300 bars at every horizon cost 0.6, 2.4 and
# 5.5 % of pinball loss at 1, 6 and 24 bars
N_ROUNDS = 50
LEAF_BARS = 500  # fewest train bars of a leaf, times the root of the horizon: labels that overlap say less
LEAF_SHARE = 1 / 3  # of the train bars at most: on 360 to 700 daily bars a tenth cost 4 % at 5 bars, 5 % at 20
_MIN_BARS = 250  # fewer say little about a score of features
_PARAMETERS = {
    "objective": "quantile",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "max_bin": 63,  # a fifth faster than 255, and no worse
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # with two it is twelve times slower where another process wants a core
    "verbosity": -1,
}


def lightgbm(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """LightGBM quantile regression, a booster a horizon and level, of the return over its volatility.

    All markets are fitted together, as the networks are, with the market as one more feature, so that one without a
    train row is forecast by the others; the volatility is that of the rows, times the root of the horizon. Where two
    levels cross they are put in order. A bar without a close or a volatility gets no forecast. Arguments and result as
    for `naive`.

    Raises:
        DataError: Too few train bars.
        GatecastError: LightGBM lacks its OpenMP library.

    Source:
        Ke et al. (2017), LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NeurIPS 30; ordered quantiles:
        Chernozhukov, Fernández-Val and Galichon (2010), Quantile and Probability Curves Without Crossing,
        Econometrica 78(3).
    """
    names, symbols = feature_names(train), train[SYMBOL].unique().sort().to_list()
    boosters = fit_boosters(train, horizons)

    def forecast(history: pl.DataFrame, test: Span) -> pl.DataFrame:
        rows = test.rows(history)
        later = _inputs(rows, names, symbols)
        volatility = np.where(rows[CLOSE].is_not_null().to_numpy(), one_bar_volatility(rows), np.nan)
        tables = []
        for horizon, of_levels in zip(horizons, boosters, strict=True):
            levels = np.sort(np.column_stack([_predict(booster, later) for booster in of_levels]), axis=1)
            tables.append(predictions(rows, horizon, (volatility * np.sqrt(horizon))[:, None] * levels))
        return pl.concat(tables)

    return forecast


def fit_boosters(train: pl.DataFrame, horizons: Sequence[int]) -> "list[list[Booster]]":
    """For each horizon a booster a level. Arguments and errors as for `lightgbm`."""
    symbols = train[SYMBOL].unique().sort().to_list()
    inputs, volatility = _inputs(train, feature_names(train), symbols), one_bar_volatility(train)
    boosters = []
    for horizon in horizons:
        scaled = values(train, target_name(horizon)) / (volatility * np.sqrt(horizon))
        known = np.isfinite(scaled)
        if known.sum() < _MIN_BARS:
            found = f"{known.sum()} train bars with a return over {horizon} bars and a volatility"
            raise no_fit("lightgbm", ", ".join(symbols) or "no market", f"{found}, {_MIN_BARS} are needed")
        leaf_bars = int(min(LEAF_BARS * horizon**0.5, LEAF_SHARE * known.sum()))
        boosters.append(_fit(inputs[known], scaled[known], leaf_bars, categorical=len(symbols) > 1))
    return boosters


def _inputs(rows: pl.DataFrame, names: Sequence[str], symbols: Sequence[str]) -> Array:
    """The features of each row and the number of its market, NaN where unknown, (N, F + 1)."""
    market = pl.col(SYMBOL).replace_strict(symbols, range(len(symbols)), default=None, return_dtype=pl.Float64)
    return rows.select(pl.col(names).cast(pl.Float64), market).to_numpy()


def _predict(booster: "Booster", inputs: Array) -> Array:
    return np.asarray(booster.predict(inputs)) if len(inputs) else np.empty(0)  # which LightGBM refuses


def _fit(inputs: Array, scaled: Array, leaf_bars: int, *, categorical: bool) -> "list[Booster]":
    """A booster a level."""
    try:
        import lightgbm
    except OSError as error:  # its shared library, or the OpenMP library that it is linked to
        raise GatecastError(
            f"baseline lightgbm cannot be loaded ({error}): install the OpenMP runtime (apt-get install libgomp1, dnf"
            " install libgomp, brew install libomp), or take lightgbm out of evaluate.baselines"
        ) from error
    parameters: dict[str, Any] = {**_PARAMETERS, "min_data_in_leaf": leaf_bars}
    market = [inputs.shape[1] - 1] if categorical else []
    binned = lightgbm.Dataset(inputs, scaled, params=parameters, categorical_feature=market).construct()
    return [lightgbm.train({**parameters, "alpha": level}, binned, N_ROUNDS) for level in LEVELS]
