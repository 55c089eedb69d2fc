from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config, ModelConfig, StrategyConfig, TuneConfig
from gatecast.evaluation.splits import Span
from gatecast.model.ensemble import N_WORKERS_VARIABLE
from gatecast.model.training import Hyperparameters
from gatecast.tuning import search, space
from gatecast.tuning.search import study_name, tuned
from gatecast.tuning.space import InnerSearch, inner_searches
from tests.evaluation.small_market import HORIZONS, small_market

FREE = StrategyConfig(fee_bps=0, slippage_bps=0, threshold_bps=0)
DEAR = StrategyConfig(fee_bps=50, slippage_bps=0, threshold_bps=0)


@pytest.fixture(scope="module")
def model(config: Config) -> ModelConfig:
    small = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 1, "batch_blocks": 4}
    return config.model.model_copy(update=small)


@pytest.fixture(scope="module")
def tune(config: Config) -> TuneConfig:
    small = {"n_trials": 2, "n_startup_trials": 2, "n_inner_folds": 2, "max_epochs": 1, "hidden_size": (4,)}
    return config.tune.model_copy(update=small)


def silent(line: str) -> None:
    del line


def test_costs_move_the_returns_of_the_trials_and_nothing_else(
    tmp_path: Path, tune: TuneConfig, model: ModelConfig
) -> None:
    rows, storage = small_market(), f"sqlite:///{tmp_path / 'studies.db'}"
    free, dear = (tuned({"data": "x"}, rows, tune, model, costs, storage, silent) for costs in (FREE, DEAR))
    assert free.trials.equals(dear.trials)
    assert (free.hyperparameters, free.n_steps) == (dear.hyperparameters, dear.n_steps)
    keys = ["number", "horizon", "date"]
    assert free.trial_returns.select(keys).equals(dear.trial_returns.select(keys))
    lost = (free.trial_returns["return"] - dear.trial_returns["return"]).to_numpy()
    assert lost.min() > -1e-12
    assert lost.max() > 0.001


def test_returns_are_those_of_the_scoring_slices_and_know_nothing_after_them(
    tune: TuneConfig, model: ModelConfig
) -> None:
    rows = small_market()
    hyperparameters = Hyperparameters(tune.hidden_size[0], tune.learning_rate.low, 0.0, tune.weight_decay.low)
    first, *_ = inner_searches(rows, model, tune, FREE)
    returns = first.score(hyperparameters, 5).returns
    days = first.fold.scoring.rows(rows)["ts"].dt.date().unique().sort()
    for horizon in HORIZONS:
        assert returns.filter(pl.col("horizon") == horizon)["date"].equals(days.alias("date"))
    later = pl.col("bar") >= first.fold.scoring.end
    changed = rows.with_columns(pl.when(later).then(pl.col("close") * 3).otherwise("close").alias("close"))
    assert replace(first, rows=changed).score(hyperparameters, 5).returns.equals(returns)


def test_steps_are_found_on_the_stopping_slice_alone_and_scored_on_the_scoring_slice_alone(
    tune: TuneConfig, model: ModelConfig
) -> None:
    hyperparameters = Hyperparameters(4, 0.3, 0.0, 0.0)  # so fast that it is soon worse again
    whole, *_ = inner_searches(small_market(), model, tune.model_copy(update={"max_epochs": 30, "patience": 30}), FREE)

    def without(span: Span) -> InnerSearch:
        here = pl.col("bar").is_between(span.start, span.end, closed="left")
        later = [pl.when(~here).then(f"target_{horizon}").otherwise(0.01) for horizon in HORIZONS]
        return replace(whole, rows=whole.rows.with_columns(later))

    found = whole.n_steps(hyperparameters)
    assert without(whole.fold.scoring).n_steps(hyperparameters) == found
    assert without(whole.fold.stopping).n_steps(hyperparameters) != found
    value = whole.score(hyperparameters, 5).pinball
    assert without(whole.fold.stopping).score(hyperparameters, 5).pinball == value
    assert without(whole.fold.scoring).score(hyperparameters, 5).pinball != value


@pytest.mark.parametrize(("schedule", "factor"), [("cosine", 4.0), ("constant", 1.0)])
def test_an_inner_fold_makes_as_many_passes_as_the_first_fold_will_and_more_of_them_on_a_falling_rate(
    monkeypatch: pytest.MonkeyPatch, tune: TuneConfig, model: ModelConfig, schedule: str, factor: float
) -> None:
    class Trained(Exception):
        pass

    def training(rows: pl.DataFrame, *others: object) -> None:
        raise Trained(len(rows), others[-1])

    monkeypatch.setattr(space, "stopping_steps", lambda *_: 50)
    monkeypatch.setattr(space, "search_model", training)
    tune = tune.model_copy(update={"step_factor": 4.0})
    rows, hyperparameters = small_market(), Hyperparameters(4, 0.01, 0.0, 0.0)
    for inner in inner_searches(rows, model.model_copy(update={"schedule": schedule}), tune, FREE):
        n_steps = round(inner.n_steps(hyperparameters))
        evaluated = len(rows) * (1 - model.calibration_share)
        with pytest.raises(Trained) as trained:
            inner.score(hyperparameters, n_steps)
        n_rows, n_here = trained.value.args
        assert n_here == 50 * factor
        assert n_steps / evaluated == pytest.approx(n_here / n_rows, rel=0.01)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_search_that_runs_in_a_process_of_its_own_starts_none(
    monkeypatch: pytest.MonkeyPatch, tune: TuneConfig, model: ModelConfig, side_by_side: bool
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    trained_in: list[Executor] = []

    def unsearched(*arguments: object, again: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
        trained_in.extend(each for each in arguments if isinstance(each, Executor))
        assert again
        found = {"number": 0, "state": "COMPLETE", "value": 1.0, "n_steps": 1}
        return pl.DataFrame([{**found, "hidden_size": 4, "learning_rate": 0.1, "dropout": 0.1, "weight_decay": 0.1}]), (
            pl.DataFrame()
        )

    monkeypatch.setattr(search, "search", unsearched)
    tuned({"data": "x"}, small_market(), tune, model, FREE, "", silent, side_by_side=side_by_side)
    assert [isinstance(each, ProcessPoolExecutor) for each in trained_in] == [side_by_side]


def test_whatever_would_change_the_result_starts_a_study_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tune: TuneConfig, model: ModelConfig
) -> None:
    rows: dict[str, str | int] = {"data": "x", "fold": 1}
    names = [
        study_name(rows, tune, model, FREE),
        study_name({**rows, "data": "y"}, tune, model, FREE),
        study_name({**rows, "fold": 2}, tune, model, FREE),
        study_name(rows, tune.model_copy(update={"seed": tune.seed + 1}), model, FREE),
        study_name(rows, tune, model.model_copy(update={"stride": 32}), FREE),
        study_name(rows, tune, model, DEAR),
    ]
    for library in ("torch", "pytorch-lightning", "optuna"):
        with monkeypatch.context() as patch:
            patch.setattr(search, "version", lambda name, newer=library: "99" if name == newer else "1")
            names.append(study_name(rows, tune, model, FREE))
    assert len(set(names)) == len(names)
    assert study_name({"fold": 1, "data": "x"}, tune, model, FREE) == names[0]
