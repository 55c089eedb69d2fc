"""The stage `tune`: development rows → hyperparameters and number of steps, by an Optuna study."""

import hashlib
import json
from collections.abc import Iterator

import polars as pl
from ruamel.yaml import YAML

from gatecast.config import ModelConfig, TuneConfig
from gatecast.database import database_url
from gatecast.evaluation.splits import bars_of, inner_folds
from gatecast.model.training import Hyperparameters
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.space import InnerScore, inner_scores
from gatecast.tuning.study import best_of, search
from gatecast.workspace import Workspace, code_sha256, file_sha256, write_atomically


def run(workspace: Workspace, *, settings: TuneConfig, model: ModelConfig) -> None:
    """Search on the development period.

    Reads data/features/development.parquet; writes reports/best.yaml and reports/trials.csv. The study itself is kept
    in the state folder (or the database of GATECAST_DATABASE_URL), so that an interrupted search goes on.
    """
    development = pl.read_parquet(workspace.development_features)
    folds = inner_folds(bars_of(development), settings.n_inner_folds, max(model.horizons))

    def score(hyperparameters: Hyperparameters) -> Iterator[InnerScore]:
        return inner_scores(development, folds, hyperparameters, model, settings)

    storage = database_url(workspace.state, "studies.db")
    trials = search(_study_name(workspace, settings, model), storage, settings, score, say)
    write_atomically(workspace.reports / "trials.csv", trials.write_csv)
    write_atomically(workspace.reports / "best.yaml", lambda path: YAML().dump(best_of(trials), path))


def _study_name(workspace: Workspace, settings: TuneConfig, model: ModelConfig) -> str:
    """A hash of inputs, code and parameters: whatever would change the result starts a study of its own."""
    inputs = {
        "data": file_sha256(workspace.development_features),
        "code": code_sha256(),
        "tune": settings.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
    }
    return "tune-" + hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    run_stage(run)
