"""The stage `tune`: development rows → hyperparameters and number of steps, by an Optuna study."""

import polars as pl
from ruamel.yaml import YAML

from gatecast.config import ModelConfig, StrategyConfig, TuneConfig
from gatecast.database import database_url
from gatecast.steps.stage import run_stage, say
from gatecast.tuning.search import tuned
from gatecast.tuning.study import best_of
from gatecast.workspace import Workspace, file_sha256, write_atomically


def run(workspace: Workspace, *, settings: TuneConfig, model: ModelConfig, strategy: StrategyConfig) -> None:
    """Search on the development period.

    Reads data/features/development.parquet; writes reports/best.yaml, reports/trials.csv and
    reports/trial_returns.parquet. The study itself is kept in the state folder (or the database of
    GATECAST_DATABASE_URL), so that an interrupted search goes on.
    """
    development = pl.read_parquet(workspace.development_features)
    data = {"data": file_sha256(workspace.development_features)}
    storage = database_url(workspace.state, "studies.db")
    found = tuned(data, development, settings, model, strategy, storage, say)
    write_atomically(workspace.reports / "trials.csv", found.trials.write_csv)
    write_atomically(workspace.reports / "trial_returns.parquet", found.trial_returns.write_parquet)
    write_atomically(workspace.reports / "best.yaml", lambda path: YAML().dump(best_of(found.trials), path))


if __name__ == "__main__":
    run_stage(run)
