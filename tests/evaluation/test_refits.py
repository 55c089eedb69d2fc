"""Refits over random configurations: no label reaches across a boundary, and nothing fitted sees past its slice."""

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from gatecast.config import Config, ModelConfig
from gatecast.errors import DataError
from gatecast.evaluation import refits as module
from gatecast.evaluation.refits import fold_inputs, refit_last, refits
from gatecast.evaluation.splits import Fold, Span, bars_of, newest_fold, resolve_split, walk_forward
from gatecast.evaluation.walk_forward import evaluate_folds
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.ensemble import N_WORKERS_VARIABLE, training_workers
from gatecast.model.procedure import TrainingInputs, begin_training
from gatecast.model.training import Hyperparameters
from tests.evaluation.small_market import FIRST_BAR, HORIZONS, small_market

HYPERPARAMETERS = Hyperparameters(4, 0.01, 0.0, 0.01)
ROWS = small_market()


def small(config: Config, **changes: Any) -> ModelConfig:
    sizes = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 2, "batch_blocks": 4}
    return config.model.model_copy(update={**sizes, **changes})


def labels(inputs: TrainingInputs, which: str) -> list[tuple[int, int]]:
    """First and last bar of the window of every label that is used, seen bar by bar."""
    bar_of = {(symbol, ts): bar for symbol, ts, bar in ROWS.select(SYMBOL, TS, BAR).iter_rows()}
    used = inputs.tables()[f"{which} known"]
    return [
        (bar_of[row[SYMBOL], row[TS]], bar_of[row[SYMBOL], row[TS]] + horizon)
        for row in used.iter_rows(named=True)
        for horizon in inputs.model.horizons
        if row[TS] is not None and row[f"target_{horizon}"] > 0
    ]


@settings(max_examples=40, deadline=None)
@given(
    n_bars=st.integers(150, 420),
    n_folds=st.integers(1, 6),
    horizons=st.sets(st.integers(1, 30), min_size=1, max_size=3),
    share=st.floats(0.05, 0.5),
    train_bars=st.none() | st.integers(60, 400),
    stride=st.integers(8, 40),
)
def test_no_label_of_train_or_calibration_touches_what_it_is_tested_on(
    config: Config,
    n_bars: int,
    n_folds: int,
    horizons: set[int],
    share: float,
    train_bars: int | None,
    stride: int,
) -> None:
    ahead = tuple(sorted(horizons))
    rows = ROWS.filter(pl.col(BAR) < FIRST_BAR + n_bars).drop("target_1", "target_6")
    rows = rows.hstack(build_targets(rows, ahead))
    model = small(config, horizons=ahead, stride=stride, calibration_share=share, train_bars=train_bars)
    try:
        boundary, fold_bars = resolve_split(bars_of(rows), n_folds)
        folds = walk_forward(bars_of(rows), boundary, fold_bars, max(ahead))
    except DataError:
        assume(False)
    for fold in folds:
        try:
            inputs = fold_inputs(rows, fold, HYPERPARAMETERS, model)
        except DataError:
            continue
        fitted, calibrating = labels(inputs, "train"), labels(inputs, "calibration")
        assume(fitted and calibrating)
        first_calibrating = min(first for first, _ in calibrating)
        assert max(last for _, last in fitted) < first_calibrating
        assert max(last for _, last in calibrating) < fold.test.start
        # nothing after the slice that the networks are trained on moves the scaler
        last_trained = inputs.bars.join(rows, on=[SYMBOL, TS])[BAR].max()
        later = pl.when(pl.col(BAR) > last_trained).then(pl.col("one") * 1000 + 7).otherwise(pl.col("one"))
        moved = fold_inputs(rows.with_columns(later), fold, HYPERPARAMETERS, model)
        assert moved.model.scaler == inputs.model.scaler
        assert moved.panel.inputs.equal(inputs.panel.inputs)


def test_a_purge_that_is_one_bar_short_is_seen_by_the_law_above(config: Config) -> None:
    fold = Fold(0, Span(FIRST_BAR, FIRST_BAR + 300 - max(HORIZONS) + 1), Span(FIRST_BAR + 300, FIRST_BAR + 400))
    inputs = fold_inputs(ROWS, fold, HYPERPARAMETERS, small(config))
    assert max(last for _, last in labels(inputs, "calibration")) == fold.test.start


def refitted(model: ModelConfig, n_folds: int = 2, widths: tuple[int, ...] = (4, 4)) -> list[list[bytes]]:
    boundary, fold_bars = FIRST_BAR + 420 - 80 * n_folds, 80
    folds = walk_forward(bars_of(ROWS), boundary, fold_bars, max(HORIZONS))
    chosen = [(replace(HYPERPARAMETERS, hidden_size=width), 4) for width in widths]
    with training_workers(len(folds) * model.n_seeds) as workers:
        found = refits(ROWS, folds, chosen, model, workers, "test", None)
        return [[network.result() for network in each.pending.networks] for each in found]


def test_sliding_folds_are_trained_on_the_newest_bars_alone(config: Config) -> None:
    model = small(config, train_bars=150)
    folds = walk_forward(bars_of(ROWS), FIRST_BAR + 260, 80, max(HORIZONS))
    assert folds[0].train.n_bars > 150
    forgotten = ROWS.with_columns(
        pl.when(pl.col(BAR) >= folds[0].train.end - 150).then(pl.col(name)) for name in ("close", "one", "target_1")
    )
    for fold in folds:
        honest, other = (fold_inputs(rows, fold, HYPERPARAMETERS, model) for rows in (ROWS, forgotten))
        assert all(honest.tables()[name].equals(table) for name, table in other.tables().items())
        used = pl.concat([honest.bars, honest.calibration_bars]).join(ROWS, on=[SYMBOL, TS])
        assert used[BAR].min() == fold.train.end - 150


def test_a_warm_start_goes_on_from_the_fold_before_and_takes_its_share_of_the_steps(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    begun: list[tuple[int, list[bytes] | None]] = []
    honest = begin_training

    def watched(*arguments: Any) -> Any:
        before = arguments[7]
        begun.append((arguments[2], [each.result() for each in before.networks] if before else None))
        return honest(*arguments)

    monkeypatch.setattr(module, "begin_training", watched)
    cold, warm = refitted(small(config)), refitted(small(config, warm_start=0.5))
    assert cold[0] == warm[0]
    assert cold[1] != warm[1]
    assert [(n_steps, before) for n_steps, before in begun[2:]] == [(4, None), (2, warm[0])]
    begun.clear()
    refitted(small(config, warm_start=0.5), widths=(4, 8))  # another width has nothing to go on from
    assert begun == [(4, None), (4, None)]


def test_a_warm_start_without_learning_would_stay_where_it_was(config: Config) -> None:
    still = replace(HYPERPARAMETERS, learning_rate=1e-12, weight_decay=0.0)
    model = small(config, warm_start=1.0, n_seeds=1)
    folds = walk_forward(bars_of(ROWS), FIRST_BAR + 260, 80, max(HORIZONS))
    with training_workers(1) as workers:
        first, second = (
            load(each.pending.networks[0].result())
            for each in refits(ROWS, folds, [(still, 2)] * 2, model, workers, "test", None)
        )
    assert all((first[name] - second[name]).abs().max() < 1e-6 for name in first)


@pytest.mark.parametrize("changes", [{}, {"warm_start": 0.5}])
def test_the_weights_do_not_depend_on_the_number_of_processes(
    config: Config, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    model = small(config, **changes)
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    parallel = refitted(model)
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    assert refitted(model) == parallel


def test_fit_is_the_fold_after_the_last_by_the_same_chain(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    model = small(config, warm_start=0.5)
    folds = walk_forward(bars_of(ROWS), FIRST_BAR + 260, 80, max(HORIZONS))
    now = newest_fold(bars_of(ROWS), len(folds))
    assert (now.number, now.train, now.test.n_bars) == (2, bars_of(ROWS), 0)
    chosen = [(HYPERPARAMETERS, 4)] * 3
    with training_workers(1) as workers:
        *_, last = refits(ROWS, [*folds, now], chosen, model, workers, "test", None)
        expected = last.pending.fitted()
    found = refit_last(ROWS, [*folds, now], chosen, model, "fit")
    assert found.offsets == expected.offsets
    for own, other in zip(found.networks, expected.networks, strict=True):
        assert all(value.equal(other.state_dict()[name]) for name, value in own.state_dict().items())


def test_the_next_fold_is_under_way_while_one_is_used(config: Config) -> None:
    submitted: list[int] = []

    class Counting(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            submitted.append(len(submitted))
            return real.submit(fn, *args, **kwargs)

    folds = walk_forward(bars_of(ROWS), FIRST_BAR + 180, 80, max(HORIZONS))
    model = small(config)
    with training_workers(1) as real:
        counts = [
            len(submitted) for _ in refits(ROWS, folds, [(HYPERPARAMETERS, 1)] * 3, model, Counting(), "test", None)
        ]
    assert counts == [4, 6, 6]


def test_a_market_that_begins_too_late_is_none_of_a_folds_and_the_next_fold_knows_it(config: Config) -> None:
    late = pl.concat(
        [
            ROWS.filter(pl.col(SYMBOL) == "BTC/USDT"),
            ROWS.filter((pl.col(SYMBOL) != "BTC/USDT") & (pl.col(BAR) >= FIRST_BAR + 245)),
        ]
    )
    folds = walk_forward(bars_of(late), FIRST_BAR + 260, 80, max(HORIZONS))
    known = [fold_inputs(late, fold, HYPERPARAMETERS, small(config)).model.symbols for fold in folds]
    assert known == [("BTC/USDT",), ("BTC/USDT", "ETH/USDT")]
    now = newest_fold(Span(FIRST_BAR, FIRST_BAR + 260), 2)  # what goes live has to know every market
    with pytest.raises(DataError, match=r"fold 3: ETH/USDT begins where no network is trained any more"):
        fold_inputs(late, now, HYPERPARAMETERS, small(config))


def test_sliding_folds_do_not_shorten_what_the_baselines_are_fitted_to(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    folds = walk_forward(bars_of(ROWS), FIRST_BAR + 260, 160, max(HORIZONS))
    said = [
        evaluate_folds(ROWS, folds, ("naive", "ewma"), [(HYPERPARAMETERS, 1)], model, lambda _: None).predictions
        for model in (small(config), small(config, train_bars=150))
    ]
    ours, baselines = pl.col("model") == "lstm", pl.col("model") != "lstm"
    assert said[0].filter(baselines).equals(said[1].filter(baselines))
    assert not said[0].filter(ours).equals(said[1].filter(ours))
