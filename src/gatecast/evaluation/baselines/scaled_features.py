"""The features of a row and the volatility that its target is scaled by."""

import numpy as np
import polars as pl

from gatecast.evaluation.baselines.location_scale import values
from gatecast.features.feature import KEYS, VOLATILITY
from gatecast.model.predictions import Array


def feature_names(rows: pl.DataFrame) -> list[str]:
    """The columns that the networks see, in their order."""
    return [name for name in rows.columns if name not in KEYS and not name.startswith("target_")]


def one_bar_volatility(rows: pl.DataFrame) -> Array:
    """Volatility of one bar, known at its close, as log return, NaN where there is none, (N,)."""
    volatility = values(rows, VOLATILITY)
    return np.where(volatility > 0, volatility, np.nan)
