"""The study: the only place that talks to Optuna. Interrupted and resumed, it ends as an uninterrupted one does."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

import optuna
import polars as pl
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from gatecast.config import TuneConfig
from gatecast.errors import GatecastError
from gatecast.model.training import Hyperparameters
from gatecast.tuning.space import InnerScore

Score = Callable[[Hyperparameters], Iterator[InnerScore]]
_N_STEPS = "n_steps"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def search(name: str, storage: str, tune: TuneConfig, score: Score, say: Callable[[str], None]) -> pl.DataFrame:
    """Run the study up to its budget, and return its trials.

    Trials left running by a killed process are marked as failed and asked anew; the sampler is seeded from the number
    of finished trials, so they come out as they were. A study that has ended already is run again from the start:
    whoever asks for it again (`dvc repro --force`) wants it computed.

    Args:
        name: Name of the study, a hash of its inputs.
        storage: Database address.
        tune: Budget and space.
        score: Scores of the inner folds of a set of hyperparameters, in order.
        say: Takes a line of progress a trial.

    Returns:
        A row a finished trial: number, state, value, the hyperparameters and n_steps, in order.

    Raises:
        GatecastError: Every trial failed, or the database did.
    """
    try:
        return _search(name, storage, tune, score, say)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise GatecastError(
            f"the database of studies failed: {str(error.__cause__ or error).splitlines()[0]}"
        ) from error


def _search(name: str, storage: str, tune: TuneConfig, score: Score, say: Callable[[str], None]) -> pl.DataFrame:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(name, storage, tune)
    for abandoned in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(abandoned.number, state=TrialState.FAIL)
    while (done := _n_finished(study)) < tune.n_trials:
        study.sampler = _sampler(tune, done)
        trial = study.ask()
        state, value = _run(study, trial, score, tune)
        shown = f"{value:.5f}" if state is TrialState.COMPLETE else "pruned"
        say(f"trial {done + 1}/{tune.n_trials}: {shown}  {_in_words(trial.params)}  best {_best(study)}")
    return _table(study)


def best_of(trials: pl.DataFrame) -> dict[str, Any]:
    """Hyperparameters, steps and value of the best completed trial, the earliest of equals."""
    completed = trials.filter(pl.col("state") == TrialState.COMPLETE.name)
    return completed.sort("value", "number").drop("number", "state").row(0, named=True)


def _open(name: str, storage: str, tune: TuneConfig) -> optuna.Study:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        pass
    else:
        if _n_finished(study) < tune.n_trials:
            study.pruner = _pruner(tune)
            return study
        optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(study_name=name, storage=storage, direction="minimize", pruner=_pruner(tune))


def _pruner(tune: TuneConfig) -> optuna.pruners.BasePruner:
    # a trial is cut after its first inner folds when it stands below the median of those before it
    return optuna.pruners.MedianPruner(n_startup_trials=max(tune.n_startup_trials, 1), n_warmup_steps=0)


def _sampler(tune: TuneConfig, n_finished: int) -> optuna.samplers.BaseSampler:
    # a seeded sampler that is resumed repeats its first suggestions; the count of finished trials moves it on
    return optuna.samplers.TPESampler(n_startup_trials=tune.n_startup_trials, seed=tune.seed * 100_003 + n_finished)


def _suggest(trial: optuna.Trial, tune: TuneConfig) -> Hyperparameters:
    rate, decay = tune.learning_rate, tune.weight_decay
    return Hyperparameters(
        hidden_size=trial.suggest_categorical("hidden_size", tune.hidden_size),
        learning_rate=trial.suggest_float("learning_rate", rate.low, rate.high, log=True),
        dropout=trial.suggest_categorical("dropout", tune.dropout),
        weight_decay=trial.suggest_float("weight_decay", decay.low, decay.high, log=True),
    )


def _run(study: optuna.Study, trial: optuna.Trial, score: Score, tune: TuneConfig) -> tuple[TrialState, float]:
    scores: list[InnerScore] = []
    for number, inner in enumerate(score(_suggest(trial, tune))):
        scores.append(inner)
        value = sum(each.pinball for each in scores) / len(scores)
        trial.report(value, number)
        if number + 1 < tune.n_inner_folds and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return TrialState.PRUNED, value
    trial.set_user_attr(_N_STEPS, round(median(each.n_steps for each in scores)))
    study.tell(trial, value)
    return TrialState.COMPLETE, value


def _n_finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=_FINISHED))


def _best(study: optuna.Study) -> str:
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return f"{min(t.value for t in completed if t.value is not None):.5f}" if completed else "none yet"


def _in_words(params: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in params.items())


def _table(study: optuna.Study) -> pl.DataFrame:
    finished = study.get_trials(deepcopy=False, states=_FINISHED)
    if not any(trial.state is TrialState.COMPLETE for trial in finished):
        raise GatecastError(f"no trial of study {study.study_name} completed; raise tune.n_trials")
    return pl.DataFrame(
        [
            {
                "number": number,  # of finished trials: Optuna's own shifts when a killed trial is asked anew
                "state": trial.state.name,
                "value": trial.value
                if trial.state is TrialState.COMPLETE
                else trial.intermediate_values[max(trial.intermediate_values)],
                **{key: trial.params[key] for key in asdict(Hyperparameters(0, 0.0, 0.0, 0.0))},
                _N_STEPS: trial.user_attrs.get(_N_STEPS),
            }
            for number, trial in enumerate(sorted(finished, key=lambda each: each.number))
        ],
        infer_schema_length=None,
    )
