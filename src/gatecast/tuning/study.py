"""The study: the only place that talks to Optuna. Interrupted and resumed, it ends as an uninterrupted one does."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from statistics import median
from typing import Any, Protocol

import optuna
import polars as pl
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from gatecast.config import TuneConfig
from gatecast.errors import GatecastError
from gatecast.evaluation.strategy import DATE, RETURN
from gatecast.model.predictions import HORIZON
from gatecast.model.training import Hyperparameters
from gatecast.tuning.space import InnerScore

_NUMBER = "number"
_N_STEPS = "n_steps"
_RETURNS = "returns"
_RETURN_SCHEMA = pl.Schema({_NUMBER: pl.Int64(), HORIZON: pl.Int64(), DATE: pl.Date(), RETURN: pl.Float64()})
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Inner(Protocol):
    """An inner fold, sent to the workers."""

    def n_steps(self, hyperparameters: Hyperparameters) -> float:
        """Optimiser steps to train with, as this fold has it."""
        ...

    def score(self, hyperparameters: Hyperparameters, n_steps: int) -> InnerScore:
        """What a network of so many steps is worth on this fold."""
        ...


def search(
    name: str,
    storage: str,
    tune: TuneConfig,
    folds: Sequence[Inner],
    workers: Executor,
    say: Callable[[str], None],
    *,
    again: bool = True,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Run the study up to its budget, batch by batch, and return its trials.

    The trials of a batch are asked before the first of them is scored, and told when all have been: what is asked
    follows from the batches before, whatever number of workers there is. Trials left running by a killed process are
    marked as failed, and a batch of which not all were told is asked anew; the sampler is seeded from the number of
    trials before the batch, so they come out as they were. A study that has ended already is run again from the start:
    whoever asks for it again (`dvc repro --force`) wants it computed.

    Args:
        name: Name of the study, a hash of its inputs.
        storage: Database address.
        tune: Budget and space.
        folds: The inner folds, in order.
        workers: Where their networks are trained.
        say: Takes a line of progress a trial.
        again: False: a study that has ended is taken as it is, by a caller that forgets it when all is done.

    Returns:
        A row a finished trial, in order: number, state, value, the hyperparameters and n_steps. And the daily net
        returns of the strategy on the forecasts of each completed trial, sorted: number, horizon, date, return.

    Raises:
        GatecastError: Every trial failed, or the database did.
        BrokenProcessPool: A process was killed; `training_workers` makes a line of it.
    """
    with _database_errors():
        study = _open(name, storage, tune, again)
        while (done := len(_finished(study))) < tune.n_trials:
            study.sampler = _sampler(tune, done)
            size = min(tune.batch_trials, tune.n_trials - done)
            batch = [_ask(study, tune) for _ in range(size)]
            _find_steps(batch, folds, workers)
            for fold in range(len(folds)):
                _score_fold(batch, fold, folds, workers)
            for number, asked in enumerate(batch, done + 1):
                _tell(study, asked)
                shown = "pruned" if asked.pruned else f"{asked.value:.5f}"
                say(f"trial {number}/{tune.n_trials}: {shown}  {_in_words(asked.trial.params)}  best {_best(study)}")
        return _table(study), _trial_returns(study)


def forget(name: str, storage: str) -> None:
    """Delete a study, if it is there.

    Args:
        name: Its name.
        storage: Database address.

    Raises:
        GatecastError: The database failed.
    """
    with _database_errors(), suppress(KeyError):
        optuna.delete_study(study_name=name, storage=storage)


def best_of(trials: pl.DataFrame) -> dict[str, Any]:
    """Hyperparameters, steps and value of the best completed trial, the earliest of equals."""
    completed = trials.filter(pl.col("state") == TrialState.COMPLETE.name)
    return completed.sort("value", "number").drop("number", "state").row(0, named=True)


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise GatecastError(
            f"the database of studies failed: {str(error.__cause__ or error).splitlines()[0]}"
        ) from error


def _open(name: str, storage: str, tune: TuneConfig, again: bool) -> optuna.Study:
    """The study as it stood after its last whole batch, or after its last trial if it has ended."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept: list[optuna.trial.FrozenTrial] = []
    try:
        study = optuna.load_study(study_name=name, storage=storage, pruner=_pruner(tune))
    except KeyError:
        pass
    else:
        for abandoned in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(abandoned.number, state=TrialState.FAIL)
        finished = _finished(study)
        if len(finished) < tune.n_trials:
            kept = finished[: len(finished) - len(finished) % tune.batch_trials]
        elif not again:
            kept = finished
        if len(kept) == len(finished):
            return study
        # of a batch that was cut: what was told of it would move the rest, and Optuna takes no trial back
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize", pruner=_pruner(tune))
    study.add_trials(kept)
    return study


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


@dataclass
class _Asked:
    """A trial of the batch under way."""

    trial: optuna.Trial
    hyperparameters: Hyperparameters
    n_steps: int = 0
    scores: list[InnerScore] = field(default_factory=list)
    pruned: bool = False

    @property
    def value(self) -> float:
        """Mean of the inner folds so far."""
        return sum(each.pinball for each in self.scores) / len(self.scores)


def _ask(study: optuna.Study, tune: TuneConfig) -> _Asked:
    trial = study.ask()
    return _Asked(trial, _suggest(trial, tune))


def _find_steps(batch: Sequence[_Asked], folds: Sequence[Inner], workers: Executor) -> None:
    """One number of steps a trial, the median over the inner folds: each is scored with it, as those of `evaluate`."""
    pending = [[workers.submit(inner.n_steps, asked.hyperparameters) for inner in folds] for asked in batch]
    for asked, found in zip(batch, pending, strict=True):
        asked.n_steps = max(round(median(each.result() for each in found)), 1)


def _score_fold(batch: Sequence[_Asked], fold: int, folds: Sequence[Inner], workers: Executor) -> None:
    """Score the trials that are left side by side on one inner fold, then report and prune them in order."""
    alive = [asked for asked in batch if not asked.pruned]
    pending = [workers.submit(folds[fold].score, asked.hyperparameters, asked.n_steps) for asked in alive]
    for asked, scored in zip(alive, pending, strict=True):
        asked.scores.append(scored.result())
        asked.trial.report(asked.value, fold)
        asked.pruned = fold + 1 < len(folds) and asked.trial.should_prune()


def _tell(study: optuna.Study, asked: _Asked) -> None:
    asked.trial.set_user_attr(_N_STEPS, asked.n_steps)
    if asked.pruned:
        study.tell(asked.trial, state=TrialState.PRUNED)
        return
    asked.trial.set_user_attr(_RETURNS, _as_json(pl.concat(each.returns for each in asked.scores)))
    study.tell(asked.trial, asked.value)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that count, in order: their places number them, since Optuna counts a killed trial as well."""
    return sorted(study.get_trials(deepcopy=False, states=_FINISHED), key=lambda trial: trial.number)


def _best(study: optuna.Study) -> str:
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return f"{min(t.value for t in completed if t.value is not None):.5f}" if completed else "none yet"


def _in_words(params: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in params.items())


def _table(study: optuna.Study) -> pl.DataFrame:
    finished = _finished(study)
    if not any(trial.state is TrialState.COMPLETE for trial in finished):
        raise GatecastError(f"no trial of study {study.study_name} completed; raise tune.n_trials")
    return pl.DataFrame(
        [
            {
                _NUMBER: number,
                "state": trial.state.name,
                "value": trial.value
                if trial.state is TrialState.COMPLETE
                else trial.intermediate_values[max(trial.intermediate_values)],
                **{key: trial.params[key] for key in asdict(Hyperparameters(0, 0.0, 0.0, 0.0))},
                _N_STEPS: trial.user_attrs[_N_STEPS],
            }
            for number, trial in enumerate(finished)
        ],
        infer_schema_length=None,
    )


def _as_json(returns: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return by horizon and date; what two inner folds earned on one day is compounded."""
    daily: dict[str, dict[str, float]] = {}
    for horizon, on, value in returns.select(HORIZON, DATE, RETURN).iter_rows():
        days = daily.setdefault(str(horizon), {})
        day = on.isoformat()
        days[day] = (1 + days[day]) * (1 + value) - 1 if day in days else value
    return daily


def _trial_returns(study: optuna.Study) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (number, int(horizon), date.fromisoformat(day), value)
            for number, trial in enumerate(_finished(study))
            for horizon, days in trial.user_attrs.get(_RETURNS, {}).items()
            for day, value in days.items()
        ],
        schema=_RETURN_SCHEMA,
        orient="row",
    ).sort(_NUMBER, HORIZON, DATE)
