"""Boosted trees: the quantiles of the scaled return as a function of the very features that the networks see."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from gatecast.evaluation.baselines.scaled_returns import markets_to_forecast, no_fit, values
from gatecast.evaluation.splits import Fold
from gatecast.features.feature import KEYS, VOLATILITY
from gatecast.features.targets import target_name
from gatecast.market.candles import CLOSE, SYMBOL
from gatecast.model.predictions import LEVELS, Array, predictions

# chosen on the development period of the sample: 150 rounds with leaves of 300 bars at every horizon cost 0.6, 2.4 and
# 5.5 % of pinball loss at 1, 6 and 24 bars
N_ROUNDS = 50
LEAF_BARS = 500  # fewest train bars of a leaf, times the root of the horizon: labels that overlap say less
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


def lightgbm(history: pl.DataFrame, fold: Fold, horizons: Sequence[int]) -> pl.DataFrame:
    """LightGBM quantile regression, a booster a horizon and level, of the return over its volatility.

    All markets are fitted together, as the networks are, with the market as one more feature; the volatility is that of
    the rows, times the root of the horizon. Where two levels cross they are put in order. A bar without a close or a
    volatility gets no forecast. Arguments and result as for `naive`.

    Raises:
        DataError: Too few train bars for a tree of two leaves.

    Source:
        Ke et al. (2017), LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NeurIPS 30; ordered quantiles:
        Chernozhukov, Fernández-Val and Galichon (2010), Quantile and Probability Curves Without Crossing,
        Econometrica 78(3).
    """
    rows = pl.concat(markets_to_forecast(history, fold))
    train, test = fold.train.rows(rows), fold.test.rows(rows)
    symbols = train[SYMBOL].unique().sort().to_list()
    inputs, later = _inputs(train, symbols), _inputs(test, symbols)
    volatility = np.where(test[CLOSE].is_not_null().to_numpy(), _volatility(test), np.nan)
    tables = []
    for horizon in horizons:
        scaled = values(train, target_name(horizon)) / (_volatility(train) * np.sqrt(horizon))
        known, leaf_bars = np.isfinite(scaled), int(LEAF_BARS * horizon**0.5)
        if known.sum() < 2 * leaf_bars:
            found = f"{known.sum()} train bars with a return over {horizon} bars and a volatility"
            raise no_fit("lightgbm", ", ".join(symbols) or "no market", fold, f"{found}, {2 * leaf_bars} are needed")
        levels = _fit_predict(inputs[known], scaled[known], later, leaf_bars, categorical=len(symbols) > 1)
        tables.append(predictions(test, horizon, (volatility * np.sqrt(horizon))[:, None] * levels))
    return pl.concat(tables)


def _inputs(rows: pl.DataFrame, symbols: Sequence[str]) -> Array:
    """The features of each row and the number of its market, NaN where unknown, (N, F + 1)."""
    features = [name for name in rows.columns if name not in KEYS and not name.startswith("target_")]
    market = pl.col(SYMBOL).replace_strict(symbols, range(len(symbols)), default=None, return_dtype=pl.Float64)
    return rows.select(pl.col(features).cast(pl.Float64), market).to_numpy()


def _volatility(rows: pl.DataFrame) -> Array:
    volatility = values(rows, VOLATILITY)
    return np.where(volatility > 0, volatility, np.nan)


def _fit_predict(inputs: Array, scaled: Array, later: Array, leaf_bars: int, *, categorical: bool) -> Array:
    """Quantiles of the scaled return after other inputs, in order, (M, Q)."""
    import lightgbm

    parameters: dict[str, Any] = {**_PARAMETERS, "min_data_in_leaf": leaf_bars}
    market = [inputs.shape[1] - 1] if categorical else []
    binned = lightgbm.Dataset(inputs, scaled, params=parameters, categorical_feature=market).construct()
    boosters = [lightgbm.train({**parameters, "alpha": level}, binned, N_ROUNDS) for level in LEVELS]
    return np.sort(np.column_stack([np.asarray(booster.predict(later)) for booster in boosters]), axis=1)
