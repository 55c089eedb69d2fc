"""Looking things up in metrics.json, in which anything may be absent that older evaluations did not write."""

from collections.abc import Mapping
from typing import Any

from gatecast.evaluation.notation import finite
from gatecast.model.predictions import LSTM

Json = dict[str, Any]


def headline(metrics: Mapping[str, Any]) -> int:
    """The longest horizon that was named beforehand: the one that the verdict is about."""
    return max(map(int, metrics.get("beats_baselines") or metrics["horizons"]))


def headline_first(metrics: Mapping[str, Any]) -> list[int]:
    """All horizons, the headline before the others."""
    first = headline(metrics)
    return sorted(metrics["horizons"], key=lambda horizon: horizon != first)


def scores_of(metrics: Mapping[str, Any], horizon: int, model: str = LSTM) -> Json:
    """The figures of a model at a horizon; empty if it has none."""
    scores: Json = metrics["models"].get(model, {}).get(str(horizon), {})
    return scores


def at(metrics: Mapping[str, Any], table: str, horizon: int) -> Any:
    """What a table has by horizon; an empty mapping if it has nothing there."""
    found = metrics.get(table, {}).get(str(horizon))
    return {} if found is None else found


def best_baseline(metrics: Mapping[str, Any], horizon: int) -> str:
    """The baseline that loses least; an empty text if there is none."""
    return str(metrics.get("best_baseline", {}).get(str(horizon), ""))


def fold_skill(metrics: Mapping[str, Any], horizon: int, baseline: str = "") -> list[float]:
    """Skill of the LSTM over a baseline in each fold; NaN if unknown.

    Args:
        metrics: The content of metrics.json.
        horizon: Bars ahead.
        baseline: Its name; the best one of the horizon if there is none.
    """
    rival = baseline or best_baseline(metrics, horizon)
    return [finite(skill) for skill in metrics.get("fold_skill", {}).get(rival, {}).get(str(horizon), [])]


def shares_among_levels(metrics: Mapping[str, Any], model: str, horizon: int) -> list[float]:
    """The shares of the outcomes between neighbouring levels; empty if they are not known."""
    return [finite(share) for share in metrics.get("pit", {}).get(model, {}).get(str(horizon)) or ()]


def n_beaten(metrics: Mapping[str, Any], horizon: int, size: float = 0.05) -> tuple[int, int]:
    """How many baselines the LSTM beats, each by its own test at a size, and how many there are."""
    tests = at(metrics, "diebold_mariano", horizon)
    return sum(finite(test["p_value"]) <= size for test in tests.values()), len(tests)
