import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import optuna
import polars as pl
import pytest

from gatecast.config import Config, TuneConfig
from gatecast.errors import DataError
from gatecast.model.ensemble import N_WORKERS_VARIABLE, training_workers
from gatecast.model.training import Hyperparameters
from gatecast.tuning.result import read_best
from gatecast.tuning.space import InnerScore
from gatecast.tuning.study import best_of, forget, search
from tests.conftest import REPOSITORY

N_FOLDS = 3
Trials = tuple[pl.DataFrame, pl.DataFrame]


@pytest.fixture(scope="module")
def settings(config: Config) -> TuneConfig:
    return config.tune.model_copy(
        update={"n_trials": 14, "n_startup_trials": 4, "n_inner_folds": N_FOLDS, "batch_trials": 4}
    )


@dataclass(frozen=True)
class Bowl:
    """An inner fold whose loss has a least point inside the space and grows with the fold; sent to other processes."""

    fold: int
    before: Callable[[], object] = int

    def n_steps(self, hyperparameters: Hyperparameters) -> float:
        self.before()
        return hyperparameters.hidden_size + (90.0, 0.0, 10.0)[self.fold]

    def score(self, hyperparameters: Hyperparameters, n_steps: int) -> InnerScore:
        self.before()
        assert n_steps == hyperparameters.hidden_size + 10  # on every fold: the median
        loss = distance(hyperparameters.dropout, hyperparameters.learning_rate)
        return InnerScore(1.0 + loss + 0.01 * self.fold, earned(loss, self.fold))


def distance(dropout: float, learning_rate: float) -> float:
    return (dropout - 0.1) ** 2 + (learning_rate - 0.004) ** 2 * 1e4


def earned(loss: float, fold: int) -> pl.DataFrame:
    """Two days a fold, at two horizons; the second day is the first one of the next fold."""
    days = [date(2024, 1, 1) + timedelta(days=fold + each) for each in range(2)] * 2
    returns = [(0.1 - loss) / 3**each + 0.01 * fold for each in range(4)]
    return pl.DataFrame({"horizon": [6, 6, 24, 24], "date": days, "return": returns})


def silent(line: str) -> None:
    del line


def searched(
    folder: Path,
    settings: TuneConfig,
    before: Callable[[], object] = int,
    say: Callable[[str], None] = silent,
    *,
    n_jobs: int = 1,
    again: bool = True,
) -> Trials:
    folds = [Bowl(fold, before) for fold in range(N_FOLDS)]
    with training_workers(n_jobs) as workers:
        return search("s", storage(folder), settings, folds, workers, say, again=again)


def as_bytes(trials: Trials) -> tuple[bytes, bytes]:
    """What `tune` writes of a study."""
    table, returns = BytesIO(), BytesIO()
    trials[0].write_csv(table)
    trials[1].write_parquet(returns)
    return table.getvalue(), returns.getvalue()


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


class Cut:
    """Lets so many calls pass, and then interrupts."""

    def __init__(self, n_calls: int) -> None:
        self.left = n_calls

    def __call__(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1

    def say(self, line: str) -> None:
        del line
        self()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings: TuneConfig) -> Trials:
    return searched(tmp_path_factory.mktemp("whole"), settings)


def test_the_same_study_again_is_computed_anew_and_gives_the_same_trials(
    tmp_path: Path, settings: TuneConfig, whole: Trials
) -> None:
    n_calls = 0

    def counted() -> None:
        nonlocal n_calls
        n_calls += 1

    assert as_bytes(searched(tmp_path, settings, counted)) == as_bytes(whole)
    assert as_bytes(searched(tmp_path, settings, counted)) == as_bytes(whole)
    n_once = n_calls // 2
    assert n_once > settings.n_trials == len(whole[0])
    # of a caller that has not done all of its work yet, and then has
    assert as_bytes(searched(tmp_path, settings, counted, again=False)) == as_bytes(whole)
    assert n_calls == 2 * n_once
    forget("s", storage(tmp_path))
    forget("s", storage(tmp_path))
    assert as_bytes(searched(tmp_path, settings, counted, again=False)) == as_bytes(whole)
    assert n_calls == 3 * n_once


def test_the_number_of_workers_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: TuneConfig, whole: Trials
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    assert as_bytes(searched(tmp_path, settings, n_jobs=2)) == as_bytes(whole)


@pytest.mark.parametrize("n_networks", [1, 14, 30, 60])
def test_an_interrupted_study_ends_as_an_uninterrupted_one(
    tmp_path: Path, settings: TuneConfig, whole: Trials, n_networks: int
) -> None:
    for n_left in (n_networks, n_networks // 2):  # resumed and cut again
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path, settings, Cut(n_left))
    assert as_bytes(searched(tmp_path, settings)) == as_bytes(whole)


@pytest.mark.parametrize("n_lines", [0, 2, 3, 5, 12])
def test_a_batch_that_was_cut_between_its_trials_is_asked_anew(
    tmp_path: Path, settings: TuneConfig, whole: Trials, n_lines: int
) -> None:
    with pytest.raises(KeyboardInterrupt):  # when so many trials and one more are told
        searched(tmp_path, settings, say=Cut(n_lines).say)
    lines: list[str] = []
    assert as_bytes(searched(tmp_path, settings, say=lines.append)) == as_bytes(whole)
    assert len(lines) == settings.n_trials - 4 * ((n_lines + 1) // 4)  # whole batches are not asked again
    told = optuna.load_study(study_name="s", storage=storage(tmp_path)).get_trials(deepcopy=False)
    assert sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in told) == settings.n_trials


@pytest.mark.parametrize("dies_in", ["training", "telling"])
def test_a_killed_study_ends_as_an_uninterrupted_one(
    tmp_path: Path, settings: TuneConfig, whole: Trials, dies_in: str
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from tests.tuning.test_study import searched
from gatecast.config import TuneConfig
settings = TuneConfig.model_validate_json({settings.model_dump_json()!r})
left = {{"training": 30, "telling": 6}}
def passing(where):
    left[where] -= 1
    if left[where] == 0 and where == {dies_in!r}:
        os.kill(os.getpid(), signal.SIGKILL)
searched(Path({str(tmp_path)!r}), settings, lambda: passing("training"), lambda line: passing("telling"))
"""
    died = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ, check=False)
    assert died.returncode == -signal.SIGKILL
    assert as_bytes(searched(tmp_path, settings)) == as_bytes(whole)


def test_the_trials_of_a_batch_share_each_inner_fold_and_are_pruned_and_shown_in_order(
    tmp_path: Path, settings: TuneConfig
) -> None:
    waves: list[list[tuple[str, int]]] = []
    lines: list[str] = []

    class Waiting(Executor):
        """Begins nothing before a result is asked for: whatever is sent by then would run side by side."""

        sent: ClassVar[list[tuple[str, int]]] = []

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.sent.append((fn.__name__, fn.__self__.fold))  # type: ignore[attr-defined]  # a method of a fold
            return Late(partial(fn, *args, **kwargs))

    class Late(Future[Any]):
        def __init__(self, job: Callable[[], Any]) -> None:
            super().__init__()
            self.job = job

        def result(self, timeout: float | None = None) -> Any:
            del timeout
            if Waiting.sent:
                waves.append(Waiting.sent.copy())
                Waiting.sent.clear()
            return self.job()

    folds = [Bowl(fold) for fold in range(N_FOLDS)]
    table, _ = search("s", storage(tmp_path), settings, folds, Waiting(), lines.append)
    expected = []
    for first in range(0, settings.n_trials, settings.batch_trials):
        batch = table[first : first + settings.batch_trials]
        expected.append([("n_steps", fold) for _ in range(len(batch)) for fold in range(N_FOLDS)])
        n_scored = [_n_folds_scored(trial) for trial in batch.iter_rows(named=True)]
        expected += [[("score", fold)] * sum(fold < each for each in n_scored) for fold in range(max(n_scored))]
    assert waves == expected
    assert [line.split(":")[0] for line in lines] == [f"trial {number + 1}/14" for number in range(14)]
    assert [": pruned" in line for line in lines] == [state == "PRUNED" for state in table["state"]]


def _n_folds_scored(trial: dict[str, Any]) -> int:
    """As the value is the mean of one to three folds, each of which adds 0.01 to the one before."""
    added: float = trial["value"] - 1 - distance(trial["dropout"], trial["learning_rate"])
    return round(2 * added / 0.01) + 1


def test_poor_trials_are_pruned_and_never_chosen(whole: Trials) -> None:
    table, _ = whole
    assert "PRUNED" in table["state"].to_list()
    best = best_of(table)
    assert best["value"] == table.filter(pl.col("state") == "COMPLETE")["value"].min()
    assert best["n_steps"] == best["hidden_size"] + 10


def test_completed_trials_alone_leave_their_daily_returns_by_the_numbers_of_the_table(whole: Trials) -> None:
    table, returns = whole
    completed = table.filter(pl.col("state") == "COMPLETE")
    assert returns.equals(returns.sort("number", "horizon", "date"))
    assert returns["number"].unique().sort().to_list() == completed["number"].to_list()
    for trial in completed.iter_rows(named=True):
        folds = [earned(trial["value"] - 1.01, fold) for fold in range(3)]  # the mean of what the folds add is 0.01
        for horizon in (6, 24):
            growth: dict[date, float] = {}
            for day, value in (
                pl.concat(folds).filter(pl.col("horizon") == horizon).select("date", "return").iter_rows()
            ):
                growth[day] = growth.get(day, 1.0) * (1 + value)
            here = returns.filter((pl.col("number") == trial["number"]) & (pl.col("horizon") == horizon))
            assert dict(zip(here["date"], here["return"] + 1, strict=True)) == pytest.approx(growth, abs=1e-12)


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
