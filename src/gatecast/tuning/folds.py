"""What each fold is refitted with: the search of `tune`, or one of its own on the train span of the fold."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from gatecast.config import ModelConfig, StrategyConfig, TuneConfig
from gatecast.evaluation.refits import Chosen
from gatecast.evaluation.splits import Fold
from gatecast.model.ensemble import training_workers
from gatecast.tuning.result import read_best
from gatecast.tuning.search import study_name, tuned
from gatecast.tuning.study import forget


def chosen_for(
    rows: pl.DataFrame,
    folds: Sequence[Fold],
    search: Literal["once", "every_fold"],
    best: Path,
    tune: TuneConfig,
    model: ModelConfig,
    strategy: StrategyConfig,
    storage: str,
    say: Callable[[str], None],
) -> list[Chosen]:
    """Hyperparameters and optimiser steps of each fold.

    A search of every fold sees its train span and nothing else. The searches run side by side, and one that is
    interrupted goes on where it was.

    Args:
        rows: All feature rows with targets.
        folds: Their train spans.
        search: `once`: those of best.yaml in each.
        best: That file.
        tune: Budget and space.
        model: Network and training.
        strategy: Costs and threshold, for the trials' returns.
        storage: Database address of the studies.
        say: Takes a line of progress a trial; it can be sent to another process.

    Raises:
        DataError: best.yaml is absent or damaged, or a train span is too short for a search.
        GatecastError: Every trial failed, the database did, or a process was killed.
    """
    if search == "once":
        return [read_best(best)] * len(folds)
    settings = (tune, model, strategy)
    with training_workers(len(folds), model.n_devices) as workers:
        spans = [fold.train.rows(rows) for fold in folds]
        searches = [
            workers.submit(_search, span, *settings, storage, partial(_say_of, say, fold.number + 1))
            for span, fold in zip(spans, folds, strict=True)
        ]
        found = [each.result() for each in searches]
    for span in spans:  # all have ended: whoever asks again wants them computed
        forget(study_name(_told_by(span), *settings), storage)
    return found


def _search(
    span: pl.DataFrame,
    tune: TuneConfig,
    model: ModelConfig,
    strategy: StrategyConfig,
    storage: str,
    say: Callable[[str], None],
) -> Chosen:
    parts = (_told_by(span), span, tune, model, strategy, storage, say)
    result = tuned(*parts, again=False, side_by_side=False)
    return result.hyperparameters, result.n_steps


def _told_by(span: pl.DataFrame) -> dict[str, str | int]:
    content = span.write_ipc(None, compression="uncompressed").getvalue()
    return {"data": hashlib.sha256(content).hexdigest()}


def _say_of(say: Callable[[str], None], number: int, line: str) -> None:
    say(f"search of fold {number}: {line}")
