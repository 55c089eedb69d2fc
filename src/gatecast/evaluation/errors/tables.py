"""Figures of the groups that forecasts fall into, and whether these differ by more than chance explains."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatecast.evaluation.errors.context import AGE, LEAST_FORECASTS, MONTH, Buckets
from gatecast.evaluation.errors.skill_noise import Losses, Noise, Places, noise, p_of_difference, p_of_fall
from gatecast.evaluation.errors.wording import Finding, age_sentence, groups_sentence, months_sentence, too_few_sentence
from gatecast.evaluation.notation import model_name
from gatecast.evaluation.statistics import holm
from gatecast.model.predictions import Array

Json = dict[str, Any]

_FIGURES: Final = ("loss", "baseline_loss", "skill", "coverage_90", "bias")
_PAIR: Final = 2


@dataclass(frozen=True)
class Outcomes:
    """How the forecasts of one horizon turned out.

    Attributes:
        ours: Pinball loss of the model, in log return, (N,).
        theirs: The same of the baseline, (N,).
        covered: Whether the outcome lay in the 90 % range of the model, (N,).
        errors: Outcome less median of the model, in log return, (N,).
        losses: The losses as they are compared.
    """

    ours: Array
    theirs: Array
    covered: npt.NDArray[np.bool_]
    errors: Array
    losses: Losses


def error_table(buckets: Buckets, outcomes: Outcomes, baseline: str) -> Json:
    """One table with its sentence, as it stands in error_analysis.json; groups without a forecast are left out.

    The skill weighs markets alike, so over several it is not exactly 1 less the ratio of the losses beside it.

    Args:
        buckets: The groups.
        outcomes: Of the same N forecasts.
        baseline: Name of the baseline.
    """
    counts = np.bincount(buckets.groups[buckets.groups >= 0], minlength=len(buckets.labels))
    return {
        "name": buckets.name,
        "title": buckets.title,
        "columns": [buckets.noun, "n", *_FIGURES],
        "rows": [_row(buckets, number, outcomes) for number in np.flatnonzero(counts).tolist()],
        "sentence": _sentence(buckets, np.flatnonzero(counts >= LEAST_FORECASTS), outcomes.losses, baseline),
    }


def _row(buckets: Buckets, number: int, outcomes: Outcomes) -> Json:
    here = buckets.groups == number
    n = int(here.sum())
    figures: dict[str, float | None] = dict.fromkeys(_FIGURES)
    if n >= LEAST_FORECASTS:
        figures = {
            "loss": float(outcomes.ours[here].mean()),
            "baseline_loss": float(outcomes.theirs[here].mean()),
            "skill": outcomes.losses.skill(here),
            "coverage_90": float(outcomes.covered[here].mean()),
            "bias": float(outcomes.errors[here].mean()),
        }
    return {"bucket": buckets.labels[number], "n": n, **figures}


def _sentence(buckets: Buckets, shown: Places, losses: Losses, baseline: str) -> str:
    every = len(shown) == len(buckets.labels)
    if len(shown) < _PAIR or (buckets.name == AGE and not every):
        return too_few_sentence([buckets.phrases[number] for number in shown], buckets.noun, LEAST_FORECASTS)
    spread, rival = noise(losses, buckets.groups), model_name(baseline)
    findings = _findings(buckets, shown, losses, spread)
    if buckets.name == AGE:
        return age_sentence(findings, p_of_fall(losses, spread, buckets.groups, len(shown)), rival)
    words = months_sentence if buckets.name == MONTH else groups_sentence
    return words(findings, buckets.noun, rival)


def _findings(buckets: Buckets, shown: Places, losses: Losses, spread: Noise) -> list[Finding]:
    """Each group that has figures, held against all others that have."""
    compared = np.isin(buckets.groups, shown)
    members = [buckets.groups == number for number in shown]
    p_values = [p_of_difference(losses, spread, here, compared & ~here) for here in members]
    if len(p_values) > _PAIR:  # two groups are one difference
        p_values = holm(p_values)
    return [
        Finding(
            label=buckets.labels[number],
            phrase=buckets.phrases[number],
            skill=losses.skill(here),
            elsewhere=losses.skill(compared & ~here),
            p_value=p_value,
        )
        for number, here, p_value in zip(shown, members, p_values, strict=True)
    ]
