"""The baselines: what any model has to beat before it deserves a word.

Each is a fit: from the purged train rows and the horizons to a forecaster, which takes the history up to the end of a
test span and forecasts the bars of that span. A new one is a function of that shape and a line below.
"""

from gatecast.evaluation.baselines.additive_trend import prophet
from gatecast.evaluation.baselines.boosted_trees import lightgbm
from gatecast.evaluation.baselines.conditional_variance import garch
from gatecast.evaluation.baselines.linear_regression import linear
from gatecast.evaluation.baselines.location_scale import Baseline, Forecaster
from gatecast.evaluation.baselines.realised_variance import har
from gatecast.evaluation.baselines.simple import EWMA_HALF_LIVES, drift, ewma, naive, seasonal_naive

__all__ = [
    "BASELINES",
    "EWMA_HALF_LIVES",
    "Baseline",
    "Forecaster",
    "drift",
    "ewma",
    "garch",
    "har",
    "lightgbm",
    "linear",
    "naive",
    "prophet",
    "seasonal_naive",
]

BASELINES: dict[str, Baseline] = {
    "naive": naive,
    "drift": drift,
    "seasonal_naive": seasonal_naive,
    "ewma": ewma,
    "garch": garch,
    "har": har,
    "linear": linear,
    "lightgbm": lightgbm,
    "prophet": prophet,
}
