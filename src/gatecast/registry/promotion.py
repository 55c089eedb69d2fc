"""The promotion gate: what is proven better than every baseline, and no worse than the champion, goes live."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from gatecast.config import MIN_FOLDS, REQUIRED_BASELINES
from gatecast.evaluation.loss_panel import bars_words
from gatecast.evaluation.statistics import TestResult, p_words
from gatecast.evaluation.verdict import compare, loss_difference, with_loss
from gatecast.model.predictions import HORIZON, LSTM, MODEL, TARGET

MOST_LEFT_OUT = 0.001  # of the outcomes: a model that chooses where it is scored can look good anywhere

_BEATS = "beats "  # begins the name of the check of one baseline
Outcome = Literal["promoted", "already champion", "refused"]


@dataclass(frozen=True)
class Check:
    """One condition of the gate and how it came out."""

    check: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Asked:
    """What a model is judged by.

    Attributes:
        baselines: Whom it has to beat.
        horizons: Bars ahead at which, as named beforehand.
        alpha: Level of the tests; that of several runs is the lowest.
    """

    baselines: tuple[str, ...] = ()
    horizons: tuple[int, ...] = ()
    alpha: float = 1.0


@dataclass(frozen=True)
class Decision:
    """What the gate decided, as it stands in promotion.json.

    Attributes:
        decision: promoted, already champion or refused.
        model_name: Registered name.
        version: Version of the challenger in the registry; None when it was refused.
        champion_version: Version that carries the alias champion afterwards; None if there is none.
        checks: Every condition.
        run_id: MLflow run of the pipeline.
    """

    decision: Outcome
    model_name: str
    version: int | None
    champion_version: int | None
    checks: tuple[Check, ...]
    run_id: str

    @property
    def reason(self) -> str:
        """Why it was refused, in one line; each baseline by itself stands in the checks."""
        failed = [check for check in self.checks if not check.passed]
        return "; ".join(check.detail for check in failed if not check.check.startswith(_BEATS))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "reason": self.reason}


def proof_checks(
    validation: Mapping[str, Any], leakage: Mapping[str, Any], fold_leakage: Mapping[str, Any]
) -> list[Check]:
    """The data were valid, and neither a feature nor anything fitted in a fold saw the future.

    What is not there is not proven: a proof has to have compared something and to have found nothing.

    Args:
        validation: validation.json.
        leakage: leakage.json, the proof of the features and their parity.
        fold_leakage: fold_leakage.json, the proof of the folds.
    """
    parity = leakage.get("parity") or {}
    valid = validation.get("success") is True
    detail = "the candles passed validation" if valid else "the candles did not pass validation"
    return [
        Check("validation", valid, detail),
        _proof(
            "leak proof",
            leakage,
            ("n_columns", "n_cuts", "n_values"),
            "{} columns stayed the same, to the last bit, when what came after was changed at {} cuts: {:,} values",
            "the features do not see the future",
        ),
        _proof(
            "parity of the features",
            parity,
            ("n_bars",),
            "built live, the features of {} bars are those that the model was trained on",
            "features built live are those that the model was trained on",
        ),
        _proof(
            "leak proof of the folds",
            fold_leakage,
            ("n_folds", "n_cuts", "n_values"),
            "what was fitted and forecast in {} folds stayed the same, to the last bit, when what came after was"
            " changed at {} cuts: {:,} values",
            "nothing that is fitted in a fold sees the future",
        ),
    ]


def _proof(name: str, found: Mapping[str, Any], counts: Sequence[str], proven: str, claim: str) -> Check:
    """A proof with no breach and with all of these counts above zero."""
    breaches, numbers = found.get("breaches"), [found.get(key) or 0 for key in counts]
    if breaches:
        return Check(name, False, f"it is not so that {claim}: {len(breaches)} breach(es), see the report")
    if breaches is None or not all(number > 0 for number in numbers):
        return Check(name, False, f"there is no proof that {claim}: run `gatecast run`")
    return Check(name, True, proven.format(*numbers))


def evaluation_checks(metrics: Mapping[str, Any]) -> list[Check]:
    """Enough folds, against the baselines that no configuration can leave out, and not where it suited the LSTM."""
    n_folds, absent = len(metrics["folds"]), [name for name in REQUIRED_BASELINES if name not in metrics["models"]]
    silent = {int(horizon): (found["models"][LSTM], found["n"]) for horizon, found in metrics["left_out"].items()}
    horizon = max(silent, key=lambda horizon: silent[horizon][0] / silent[horizon][1])
    n_silent, n_outcomes = silent[horizon]
    return [
        Check("folds", n_folds >= MIN_FOLDS, f"folds evaluated: {n_folds}, at least {MIN_FOLDS} are needed"),
        Check(
            "baselines",
            not absent,
            f"the evaluation lacks {', '.join(absent)}" if absent else _compared(metrics),
        ),
        Check(
            "forecasts",
            n_silent <= MOST_LEFT_OUT * n_outcomes,
            f"the LSTM left out {n_silent:,} of {n_outcomes:,} forecasts that others made at {bars_words(horizon)},"
            f" allowed {MOST_LEFT_OUT:.1%}",
        ),
    ]


def _compared(metrics: Mapping[str, Any]) -> str:
    compared = ", ".join(name for name in metrics["models"] if name != LSTM)
    left = metrics.get("not_asked") or ()
    return f"{compared} were compared" + (f"; not asked: {', '.join(left)}" if left else "")


def fixed_checks(asked: Asked, before: Asked, model_name: str) -> list[Check]:
    """The question was fixed before a run, not by how one went: nothing has been dropped of it, and no level raised.

    Args:
        asked: Of this evaluation.
        before: Of earlier runs under the same registered name, together.
        model_name: That name.
    """
    by_name, or_else = f"earlier runs of {model_name}", "or set another promote.model_name"
    dropped = sorted(set(before.baselines) - set(asked.baselines))
    unnamed = [bars_words(horizon) for horizon in sorted(set(before.horizons) - set(asked.horizons))]
    raised = asked.alpha > before.alpha
    return [
        Check(
            "no baseline dropped",
            not dropped,
            f"{by_name} were judged against {', '.join(dropped)} as well: put {', '.join(dropped)} back into"
            f" evaluate.baselines, {or_else}"
            if dropped
            else f"every baseline that {by_name} were judged against was asked",
        ),
        Check(
            "no horizon dropped",
            not unnamed,
            f"{by_name} were judged at {', '.join(unnamed)} as well: put that back into promote.horizons, {or_else}"
            if unnamed
            else f"every horizon that {by_name} were judged at was named",
        ),
        Check(
            "level not raised",
            not raised,
            f"{by_name} were judged at a level of {before.alpha:g}: set evaluate.alpha back from {asked.alpha:g},"
            f" {or_else}"
            if raised
            else f"{by_name} were judged at no lower level than {asked.alpha:g}",
        ),
    ]


def baseline_checks(metrics: Mapping[str, Any], horizons: Sequence[int], alpha: float) -> list[Check]:
    """Every baseline is beaten at every horizon named beforehand: skill, Diebold-Mariano test, Holm."""
    checks = []
    for horizon in horizons:
        key, unbeaten = str(horizon), list[str]()
        for name, test in metrics["diebold_mariano"][key].items():
            loss, rival = (metrics["models"][model][key]["pinball"] for model in (LSTM, name))
            skill = float(metrics["skill_over"][key][name]["skill"])  # over several markets no ratio of mean losses
            detail = (
                f"pinball loss {loss:.6f} against {rival:.6f} of {name} at {bars_words(horizon)}, skill {skill:+.2%},"
                f" p {p_words(test['p_value'])}"
            )
            passed = skill > 0 and test["p_value"] <= alpha
            unbeaten += [] if passed else [name]
            checks.append(Check(f"{_BEATS}{name} at {bars_words(horizon)}", passed, detail))
        passed = bool(metrics["beats_baselines"][key])
        whom = f"not proven better than {', '.join(unbeaten)}" if unbeaten else "better than each baseline alone"
        corrected = f", Holm-corrected over {len(horizons)} horizons" if len(horizons) > 1 else ""
        largest = f"the largest p {p_words(metrics['p_value'][key])}, allowed {alpha:g}{corrected}"
        checks.append(Check(f"proven at {bars_words(horizon)}", passed, f"at {bars_words(horizon)} {whom}: {largest}"))
    return checks


def champion_checks(challenger: pl.DataFrame, champion: pl.DataFrame, horizons: Sequence[int]) -> list[Check]:
    """The challenger loses no more than the champion on the bars that both forecast out of sample.

    The means decide: a test at 5 % would let a model through that is a little worse, again and again.

    Args:
        challenger: Predictions of the challenger's evaluation.
        champion: Predictions of the champion's evaluation.
        horizons: The horizons named beforehand.
    """
    checks = []
    for horizon in horizons:
        own, rival = (_scored(table, horizon) for table in (challenger, champion))
        difference = loss_difference(own, rival)["difference"]
        name = f"not worse than the champion at {horizon} bars"
        if difference.is_empty():
            detail = f"no bar at horizon {horizon} was forecast by both; the champion was evaluated on other data"
            checks.append(
                Check(name, False, f"{detail}: set promote.model_name to register this market under its own name")
            )
            continue
        mean = float(difference.to_numpy().mean())
        test = compare(own, rival, horizon) if len(difference) >= 10 * horizon else TestResult(0.0, 1.0)
        words = f"mean loss {'lower' if mean > 0 else 'higher' if mean < 0 else 'equal'} by {abs(mean):.2e}"
        detail = (
            f"{words} on {len(difference)} shared bars at {horizon} bars, p of being better {p_words(test.p_value)}"
        )
        checks.append(Check(name, mean >= 0, detail))
    return checks


def _scored(predictions: pl.DataFrame, horizon: int) -> pl.DataFrame:
    own = (pl.col(MODEL) == LSTM) & (pl.col(HORIZON) == horizon)
    return with_loss(predictions.filter(own).drop_nulls(TARGET))
