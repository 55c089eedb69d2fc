import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, TuneConfig
from gatecast.errors import DataError
from gatecast.model.training import Hyperparameters
from gatecast.tuning.result import read_best
from gatecast.tuning.space import InnerScore
from gatecast.tuning.study import best_of, search
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def settings(config: Config) -> TuneConfig:
    return config.tune.model_copy(update={"n_trials": 14, "n_startup_trials": 4, "n_inner_folds": 3})


def bowl(hyperparameters: Hyperparameters) -> Iterator[InnerScore]:
    """A smooth loss with a least point inside the space, told fold by fold."""
    distance = (hyperparameters.dropout - 0.1) ** 2 + (hyperparameters.learning_rate - 0.004) ** 2 * 1e4
    for fold in range(3):
        yield InnerScore(1.0 + distance + 0.01 * fold, 10 + hyperparameters.hidden_size + fold)


def silent(line: str) -> None:
    del line


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings: TuneConfig) -> pl.DataFrame:
    return search("s", storage(tmp_path_factory.mktemp("whole")), settings, bowl, silent)


def test_the_same_study_again_is_computed_anew_and_gives_the_same_trials(
    tmp_path: Path, settings: TuneConfig, whole: pl.DataFrame
) -> None:
    n_calls = 0

    def counted(hyperparameters: Hyperparameters) -> Iterator[InnerScore]:
        nonlocal n_calls
        n_calls += 1
        return bowl(hyperparameters)

    assert search("s", storage(tmp_path), settings, counted, silent).equals(whole)
    assert search("s", storage(tmp_path), settings, counted, silent).equals(whole)
    assert n_calls == 2 * settings.n_trials == 2 * len(whole)


@pytest.mark.parametrize("n_scores", [1, 9, 20])
def test_an_interrupted_study_ends_as_an_uninterrupted_one(
    tmp_path: Path, settings: TuneConfig, whole: pl.DataFrame, n_scores: int
) -> None:
    left = n_scores

    def interrupted(hyperparameters: Hyperparameters) -> Iterator[InnerScore]:
        nonlocal left
        for score in bowl(hyperparameters):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            yield score

    for _ in range(2):  # twice in the same place: the second time it is resumed and cut again
        left = n_scores
        with pytest.raises(KeyboardInterrupt):
            search("s", storage(tmp_path), settings, interrupted, silent)
        n_scores //= 2
    assert search("s", storage(tmp_path), settings, bowl, silent).equals(whole)


def test_a_killed_study_ends_as_an_uninterrupted_one(tmp_path: Path, settings: TuneConfig, whole: pl.DataFrame) -> None:
    code = f"""
import os, signal
from tests.tuning.test_study import bowl, silent, search
from gatecast.config import TuneConfig
settings = TuneConfig.model_validate_json({settings.model_dump_json()!r})
count = 0
def dying(hyperparameters):
    global count
    for score in bowl(hyperparameters):
        count += 1
        if count == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        yield score
search("s", {storage(tmp_path)!r}, settings, dying, silent)
"""
    died = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ, check=False)
    assert died.returncode == -signal.SIGKILL
    assert search("s", storage(tmp_path), settings, bowl, silent).equals(whole)


def test_poor_trials_are_pruned_and_never_chosen(whole: pl.DataFrame) -> None:
    assert "PRUNED" in whole["state"].to_list()
    best = best_of(whole)
    assert best["value"] == whole.filter(pl.col("state") == "COMPLETE")["value"].min()
    assert best["n_steps"] == 10 + best["hidden_size"] + 1  # the median over the inner folds


def test_what_tune_leaves_is_read_back_or_named(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(
        "hidden_size: 16\nlearning_rate: 0.01\ndropout: 0.1\nweight_decay: 0.001\nn_steps: 30\nvalue: 1.0\n"
    )
    assert read_best(path) == (Hyperparameters(16, 0.01, 0.1, 0.001), 30)
    path.write_text("hidden_size: 16\nlearning_rate: 0.01\ndropout: 0.1\nweight_decay: 0.001\nn_steps: 0\n")
    with pytest.raises(DataError, match=r"n_steps is 0.*gatecast tune"):
        read_best(path)
    path.write_text("hidden_size: 16\n")
    with pytest.raises(Exception, match="gatecast tune"):
        read_best(path)
