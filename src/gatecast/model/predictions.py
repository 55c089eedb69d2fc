"""The table of predictions: a row a market, bar and horizon, a column a quantile level, in log returns."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.features.targets import target_name
from gatecast.market.candles import SYMBOL, TS

LEVELS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HORIZON: Final = "horizon"
MODEL: Final = "model"
LSTM: Final = "lstm"  # ours, among the models of the table
FOLD: Final = "fold"
TARGET: Final = "target"
QUANTILES: Final = tuple(f"q{level:g}" for level in LEVELS)
PREDICTION_KEYS: Final = (SYMBOL, TS, HORIZON)

Array = npt.NDArray[np.float64]


def predictions(rows: pl.DataFrame, horizon: int | npt.NDArray[np.int64], quantiles: Array) -> pl.DataFrame:
    """Quantiles as rows of the table.

    Args:
        rows: The bars forecast from, with symbol and ts, (N).
        horizon: Bars ahead, of all rows or of each, (N).
        quantiles: Log returns, (N, Q); a row with a NaN is a bar that cannot be forecast, and is left out.
    """
    columns = {name: quantiles[:, place] for place, name in enumerate(QUANTILES)}
    # columns put side by side cost a fifth of what expressions do, and that is most of the time of a live forecast
    table = pl.DataFrame(
        {SYMBOL: rows[SYMBOL], TS: rows[TS], HORIZON: np.broadcast_to(horizon, len(rows)), **columns},
        schema_overrides={HORIZON: pl.Int64, **dict.fromkeys(QUANTILES, pl.Float64)},
    )
    known = np.isfinite(quantiles).all(axis=1)
    return table if known.all() else table.filter(pl.Series(known))


def realised(rows: pl.DataFrame, horizons: Sequence[int]) -> pl.DataFrame:
    """What came: symbol, ts, horizon, target (log return, null where not known)."""
    return pl.concat(
        rows.select(SYMBOL, TS, pl.lit(h, dtype=pl.Int64).alias(HORIZON), pl.col(target_name(h)).alias(TARGET))
        for h in horizons
    )
