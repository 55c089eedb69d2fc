"""The baselines: what any model has to beat before it deserves a word.

Each takes the history up to the end of the test span, fits on the bars of the train span only, and forecasts the bars
of the test span. A new one is a function of that shape and a line below.
"""

from gatecast.evaluation.baselines.boosted_trees import lightgbm
from gatecast.evaluation.baselines.conditional_variance import garch
from gatecast.evaluation.baselines.realised_variance import har
from gatecast.evaluation.baselines.scaled_returns import Baseline
from gatecast.evaluation.baselines.simple import EWMA_HALF_LIVES, ewma, naive

__all__ = ["BASELINES", "EWMA_HALF_LIVES", "Baseline", "ewma", "garch", "har", "lightgbm", "naive"]

BASELINES: dict[str, Baseline] = {"naive": naive, "ewma": ewma, "garch": garch, "har": har, "lightgbm": lightgbm}
