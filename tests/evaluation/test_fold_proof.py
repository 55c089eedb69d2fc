"""What a fold must not see is changed: an honest procedure stays as it is, and a planted leak is caught and named."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from gatecast.config import Config, ModelConfig
from gatecast.errors import DataError
from gatecast.evaluation import refits, walk_forward
from gatecast.evaluation.baselines import BASELINES, Forecaster, naive
from gatecast.evaluation.changed_rows import CHANGES, changed_rows
from gatecast.evaluation.fold_proof import Breach, FoldProof, cut_within, prove_fitted, prove_forecasts
from gatecast.evaluation.rivals import columns_for, prove_rival
from gatecast.evaluation.splits import Fold, Span
from gatecast.market.candles import BAR, MISSING, SYMBOL, TS, iso
from gatecast.model.calibration import split_train
from gatecast.model.ensemble import N_WORKERS_VARIABLE
from gatecast.model.fitted import FittedModel
from gatecast.model.networks import Network
from gatecast.model.predictions import QUANTILES
from gatecast.model.procedure import TrainingInputs
from gatecast.model.training import Hyperparameters
from gatecast.model.windows import fit_scaler
from tests.evaluation.small_market import FEATURES, FIRST_BAR, HORIZONS, small_market

HYPERPARAMETERS = Hyperparameters(hidden_size=4, learning_rate=0.01, dropout=0.0, weight_decay=0.01)
PURGE = max(HORIZONS)


def fold_from(number: int, start: int, purge: int = PURGE) -> Fold:
    """A fold whose test begins so many bars after the first."""
    test = Span(FIRST_BAR + start, FIRST_BAR + start + 100)
    return Fold(number, Span(FIRST_BAR, test.start - purge), test)


FOLDS = (fold_from(0, 200), fold_from(1, 300))


@pytest.fixture(scope="module")
def model(config: Config) -> ModelConfig:
    small = {"horizons": HORIZONS, "stride": 16, "burn_in": 8, "n_seeds": 1, "batch_blocks": 4}
    return config.model.model_copy(update=small)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return small_market()


@pytest.fixture(autouse=True)
def planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process would not have what a test plants."""
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")


def plant(monkeypatch: pytest.MonkeyPatch, leaking: Callable[..., TrainingInputs]) -> None:
    """Train and prove with another preparation of a fold."""
    for module in (refits, walk_forward):
        monkeypatch.setattr(module, "fold_inputs", leaking)


def proof_of(rows: pl.DataFrame, model: ModelConfig, folds: Sequence[Fold] = FOLDS[1:]) -> FoldProof:
    chosen = [(HYPERPARAMETERS, 2)] * len(folds)
    return walk_forward.evaluate_folds(rows, folds, ("naive", "ewma"), chosen, model, lambda _: None).proof


def proper(rows: pl.DataFrame, fold: Fold, model: ModelConfig) -> pl.DataFrame:
    """The part of a train span that the networks are trained on."""
    return split_train(fold.train.rows(rows), model.calibration_share, PURGE)[0]


def ts_at(rows: pl.DataFrame, bar: int) -> str:
    return iso(rows.filter(pl.col(BAR) == bar)[TS][0])


def assert_named(breach: Breach) -> None:
    """The line tells what moved, where, and both values."""
    line = str(breach)
    assert breach.known != breach.after
    for part in (breach.what, breach.column, *breach.row.values(), breach.cut, breach.change):
        assert str(part) in line
    assert f"fold {breach.fold + 1}:" in line
    assert all("no number" in line if value is None else repr(value) in line for value in (breach.known, breach.after))


def test_the_procedure_stays_as_it_is_whatever_comes_after(rows: pl.DataFrame, model: ModelConfig) -> None:
    proof = proof_of(rows, model, FOLDS)
    assert proof.breaches == ()
    found = proof.as_dict()
    assert (found["n_folds"], found["n_cuts"], found["breaches"]) == (2, 8, [])
    assert found["changes"] == ["cut off", "scrambled", "scaled", "made NaN"]
    of_panels = [f"{of} {what}" for of in ("train", "calibration") for what in ("inputs", "targets", "known", "scale")]
    of_forecasts = ["forecasts of lstm", "forecasts of naive", "forecasts of ewma"]
    assert found["compared"] == ["scaler", *of_panels, *of_forecasts]
    n_train_rows = 2 * sum(fold.train.n_bars - PURGE for fold in FOLDS)
    assert found["n_values"] > len(CHANGES) * n_train_rows * (len(FEATURES) + 3 * len(HORIZONS))


def test_all_that_a_network_is_trained_on_is_compared(rows: pl.DataFrame, model: ModelConfig) -> None:
    inputs = refits.fold_inputs(rows, FOLDS[0], HYPERPARAMETERS, model)
    tables = inputs.tables()
    for name in ("inputs", "targets", "known", "scale"):
        for which, panel in (("train", inputs.panel), ("calibration", inputs.calibration)):
            cells = tables[f"{which} {name}"].drop(SYMBOL, TS, "position").to_numpy()
            np.testing.assert_array_equal(cells, getattr(panel, name).numpy())
    (mean,) = tables["scaler"].filter(pl.col("feature") == "two")["mean"]
    assert mean == pytest.approx(proper(rows, FOLDS[0], model)["two"].mean())
    shown = tables["train targets"].drop_nulls(TS).join(rows, on=[SYMBOL, TS])
    scaled = shown["target_6_right"] / shown["volatility"] / np.sqrt(6)
    np.testing.assert_allclose(shown["target_6"], scaled.fill_null(0), rtol=1e-6)


def test_a_scaler_that_is_fitted_on_everything_is_caught(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = refits.fold_inputs

    def leaking(some: pl.DataFrame, fold: Fold, *arguments: object) -> TrainingInputs:
        inputs = honest(some, fold, *arguments)  # type: ignore[arg-type]
        fitted = replace(inputs.model, scaler=fit_scaler(some, FEATURES))
        return replace(inputs, model=fitted, panel=fitted.panel(proper(some, fold, model)))

    plant(monkeypatch, leaking)
    breaches = proof_of(rows, model).breaches
    found = {(breach.what, breach.column): breach for breach in breaches}
    assert {"mean", "deviation"} == {column for what, column in found if what == "scaler"}
    assert found["scaler", "mean"].row == {"feature": "one"}
    assert found["scaler", "mean"].known == pytest.approx(rows["one"].mean())
    past = rows.filter(pl.col(BAR) < FOLDS[1].test.start)
    assert found["scaler", "mean"].after == pytest.approx(past["one"].mean())
    assert ("train inputs", "one") in found
    for breach in breaches:
        assert_named(breach)


def test_a_target_that_overlaps_the_test_is_caught(rows: pl.DataFrame, model: ModelConfig) -> None:
    short = fold_from(1, 300, purge=3)
    breaches = proof_of(rows, model, [short]).breaches
    assert {
        (breach.what, breach.column) for breach in breaches if "targets" in breach.what or "known" in breach.what
    } == {
        ("calibration targets", "target_6"),  # the newest rows of a train span calibrate
        ("calibration known", "target_6"),
    }
    (target,) = (breach for breach in breaches if breach.what == "calibration targets")
    first = short.test.start - 6  # its target is known at the first test bar
    assert target.row == {"symbol": "BTC/USDT", "ts": ts_at(rows, first)}
    (row,) = rows.filter((pl.col(BAR) == first) & (pl.col(SYMBOL) == "BTC/USDT")).iter_rows(named=True)
    assert target.known == pytest.approx(row["target_6"] / row["volatility"] / 6**0.5, rel=1e-5)
    assert target.after == 0  # masked, where it was known before
    assert target.cut == ts_at(rows, short.test.start)
    assert_named(target)


def test_a_calibration_that_sees_test_rows_is_caught(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = refits.fold_inputs

    def leaking(some: pl.DataFrame, fold: Fold, *arguments: object) -> TrainingInputs:
        inputs = honest(some, fold, *arguments)  # type: ignore[arg-type]
        seen = some.filter(pl.col(BAR).is_between(fold.test.start - 50, fold.test.start))
        return replace(inputs, calibration=inputs.model.panel(seen), calibration_bars=seen.select(SYMBOL, TS))

    plant(monkeypatch, leaking)
    breaches = proof_of(rows, model).breaches
    assert "calibration targets" in {breach.what for breach in breaches}
    assert not [breach for breach in breaches if breach.what.startswith(("train", "scaler"))]
    for breach in breaches:
        assert_named(breach)


@pytest.mark.parametrize("purge", range(-2, PURGE + 1))
def test_the_largest_horizon_is_the_least_purge_that_is_clean(
    purge: int, rows: pl.DataFrame, model: ModelConfig
) -> None:
    fold = fold_from(0, 200, purge)

    def fit(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return refits.fold_inputs(some, fold, HYPERPARAMETERS, model).tables()

    breaches = prove_fitted(rows, fold, HORIZONS, fit(rows), fit).breaches
    assert bool(breaches) == (purge < PURGE)
    for breach in breaches:
        assert_named(breach)


def next_bar(inputs: Tensor) -> Tensor:
    """Each bar is shown the next one."""
    return torch.cat([inputs[:, 1:], inputs[:, -1:]], dim=1)


def whole_batch(inputs: Tensor) -> Tensor:
    """Each bar is shown all blocks, those that come later as well."""
    return inputs - inputs.mean(dim=(0, 1))


@pytest.mark.parametrize("ahead", [next_bar, whole_batch])
def test_a_network_that_looks_ahead_is_caught(
    ahead: object, rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Network.states
    monkeypatch.setattr(Network, "states", lambda self, inputs, markets: honest(self, ahead(inputs), markets))  # type: ignore[operator]
    breaches = proof_of(rows, model).breaches
    assert {breach.what for breach in breaches} == {"forecasts of lstm"}
    cuts = [cut_within(FOLDS[1], model.stride), FOLDS[1].test.end - 1]
    assert {breach.cut for breach in breaches} == {ts_at(rows, cut) for cut in cuts}
    if ahead is next_bar:
        last = [{"symbol": "BTC/USDT", "ts": ts_at(rows, cut - 1), "horizon": 1} for cut in cuts]
        assert [breach.row for breach in breaches if breach.column == "q0.5"] == last
    for breach in breaches:
        assert_named(breach)


def test_a_network_that_begins_to_look_ahead_late_in_the_test_is_caught(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = FOLDS[1].test
    late = rows.filter(pl.col(BAR) == test.end - 20)[TS].item(0)

    def ahead(some: pl.DataFrame, fold: Fold, fitted: FittedModel) -> pl.DataFrame:
        after = some.select(SYMBOL, TS, pl.col("close").shift(-1).over(SYMBOL).fill_nan(0.0).alias("next"))
        said = honest(some, fold, fitted).join(after, on=[SYMBOL, TS], how="left", maintain_order="left")
        seen = pl.when(pl.col(TS) > late).then(pl.col("next").fill_null(0.0)).otherwise(0.0)
        return said.with_columns(pl.col("q0.95") + seen).drop("next")

    honest = walk_forward.lstm_forecasts
    monkeypatch.setattr(walk_forward, "lstm_forecasts", ahead)
    breaches = proof_of(rows, model).breaches
    assert {(breach.what, breach.column) for breach in breaches} == {("forecasts of lstm", "q0.95")}
    assert {breach.cut for breach in breaches} == {ts_at(rows, test.end - 1)}


@pytest.mark.parametrize("n_bars", [2, 100])
def test_a_baseline_that_is_fitted_on_test_rows_is_caught(
    n_bars: int, rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        del train

        def forecast(history: pl.DataFrame, test: Span) -> pl.DataFrame:
            return naive(history.filter(pl.col(BAR) < test.start + n_bars), horizons)(history, test)

        return forecast

    monkeypatch.setitem(BASELINES, "naive", leaking)
    breaches = proof_of(rows, model).breaches
    assert {breach.what for breach in breaches} == {"forecasts of naive"}
    first = FOLDS[1].test.start
    assert breaches[0].cut == ts_at(rows, first + 1)
    assert breaches[0].row == {"symbol": "BTC/USDT", "ts": ts_at(rows, first), "horizon": 1}
    for breach in breaches:
        assert_named(breach)


def test_a_baseline_is_fitted_once_unless_its_train_rows_differ_and_a_short_purge_still_shows(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def counted(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        fits.append(len(train))
        return naive(train, horizons)

    monkeypatch.setitem(BASELINES, "naive", counted)
    assert proof_of(rows, model).breaches == ()
    assert len(fits) == 1
    fits.clear()
    short = fold_from(1, 300, purge=-2)
    assert "forecasts of naive" in {breach.what for breach in proof_of(rows, model, [short]).breaches}
    assert len(fits) > 1


def test_a_forecaster_that_fits_itself_when_it_is_first_asked_has_seen_no_test_bar(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lazy(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        del train
        kept: list[Forecaster] = []

        def forecast(history: pl.DataFrame, test: Span) -> pl.DataFrame:
            if not kept:
                kept.append(naive(history, horizons))
            return kept[0](history, test)

        return forecast

    fold = FOLDS[1]
    monkeypatch.setitem(BASELINES, "naive", lazy)
    found, proofs = prove_rival("naive", rows.filter(pl.col(BAR) < fold.test.end), fold, HORIZONS, model.stride)
    seen = rows.filter(pl.col(BAR) <= fold.test.start).with_columns(
        pl.when(pl.col(BAR) + horizon <= fold.test.start).then(pl.col(f"target_{horizon}")) for horizon in HORIZONS
    )
    assert found.equals(naive(seen, HORIZONS)(rows, fold.test))
    assert [proof.breaches for proof in proofs] == [(), (), ()]


def test_a_baseline_that_begins_to_look_ahead_late_in_the_test_is_caught(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        honest = naive(train, horizons)

        def forecast(history: pl.DataFrame, test: Span) -> pl.DataFrame:
            after = history.with_columns(pl.col("close").shift(-1).over(SYMBOL).alias("next")).select(
                SYMBOL, TS, BAR, "next"
            )
            said = honest(history, test).join(after, on=[SYMBOL, TS], how="left", maintain_order="left")
            seen = pl.when(pl.col(BAR) > test.end - 20).then(pl.col("next").fill_null(0.0)).otherwise(0.0)
            return said.with_columns(pl.col("q0.95") + seen).drop(BAR, "next")

        return forecast

    monkeypatch.setitem(BASELINES, "naive", late)
    history = rows.filter(pl.col(BAR) < FOLDS[1].test.end)
    _, proofs = prove_rival("naive", history, FOLDS[1], HORIZONS, model.stride)
    assert [bool(proof.breaches) for proof in proofs] == [False, False, True]


def test_a_baseline_that_cannot_be_fitted_is_named_with_its_fold(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
        del train, horizons
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setitem(BASELINES, "ewma", failing)
    with pytest.raises(
        DataError, match=r"^fold 2: baseline ewma failed \(Singular matrix\); take ewma out of evaluate"
    ):
        proof_of(rows, model)
    monkeypatch.undo()
    still, fold = rows.with_columns(pl.lit(100.0).alias("close")), FOLDS[1]
    with pytest.raises(DataError, match=r"^fold 2: baseline har cannot be fitted to BTC/USDT: its close does not move"):
        prove_rival("har", columns_for("har", still, HORIZONS), fold, HORIZONS, model.stride)


def test_forecasts_and_proof_do_not_depend_on_the_number_of_processes(
    rows: pl.DataFrame, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("naive", "drift", "seasonal_naive", "ewma")
    found = []
    for n_workers in ("1", "2"):
        monkeypatch.setenv(N_WORKERS_VARIABLE, n_workers)
        found.append(walk_forward.evaluate_folds(rows, FOLDS, names, [(HYPERPARAMETERS, 2)] * 2, model, lambda _: None))
    one, two = found
    assert one.predictions.equals(two.predictions)
    assert one.importance.equals(two.importance)
    assert one.proof == two.proof


def test_predictions_hold_every_model_with_outcome_and_price_at_each_bar(
    rows: pl.DataFrame, model: ModelConfig
) -> None:
    names, chosen = ("naive", "ewma"), [(HYPERPARAMETERS, 2)] * 2
    found = walk_forward.evaluate_folds(rows, FOLDS, names, chosen, model, lambda _: None).predictions
    assert found.columns == [SYMBOL, TS, "horizon", "model", "fold", "target", *QUANTILES, "close"]
    assert found.equals(found.sort("model", "horizon", SYMBOL, TS))
    of_row = {(row[SYMBOL], row[TS]): row for row in rows.iter_rows(named=True)}
    for row in found.iter_rows(named=True):
        there = of_row[row[SYMBOL], row[TS]]
        assert (row["close"], row["target"]) == (there["close"], there[f"target_{row['horizon']}"])
        assert FOLDS[row["fold"]].test.start <= there[BAR] < FOLDS[row["fold"]].test.end
        assert all(row[low] <= row[high] for low, high in pairwise(QUANTILES))
    assert set(found["model"]) == {"lstm", *names}


def test_a_proof_is_plain_data_even_where_a_value_is_no_number(rows: pl.DataFrame) -> None:
    def last_value(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {"level": some.select(SYMBOL, pl.col("one").last()).head(1)}

    proof = FoldProof((prove_fitted(rows, FOLDS[0], HORIZONS, last_value(rows), last_value),))
    (breach,) = json.loads(json.dumps(proof.as_dict(), allow_nan=False))["breaches"]
    assert list(breach) == ["fold", "what", "column", "symbol", "cut", "change", "known", "after"]
    assert breach["known"] == rows["one"][-1]

    def last_but_nan(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {"level": last_value(some)["level"].with_columns(pl.when(pl.col("one").is_nan()).then("one"))}

    (breach,) = prove_fitted(rows, FOLDS[0], HORIZONS, last_but_nan(rows), last_but_nan).breaches
    assert (breach.change, breach.known, breach.after) == ("made NaN", None, "nan")
    assert "is no number, and becomes nan" in str(breach)


def test_rows_that_appear_or_vanish_and_the_sign_of_zero_count_as_moved(rows: pl.DataFrame) -> None:
    last = rows[BAR].max()

    def only_whole(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        whole = some[BAR].max() == last
        keys = some.filter(pl.col(BAR) == FIRST_BAR).select(SYMBOL, TS)
        return {
            "vanishing": keys.with_columns(value=1.0).head(2 if whole else 1),
            "appearing": keys.with_columns(value=1.0).head(1 if whole else 2),
            "zero": keys.head(1).with_columns(value=pl.lit(0.0 if whole else -0.0)),
            "nan": keys.with_columns(value=pl.lit(float("nan"))),
        }

    breaches = prove_fitted(rows, FOLDS[0], HORIZONS, only_whole(rows), only_whole).breaches
    assert [(breach.what, breach.known, breach.after) for breach in breaches] == [
        ("vanishing", 1.0, None),
        ("appearing", None, 1.0),
        ("zero", 0.0, -0.0),
    ]


def test_forecasts_from_the_cut_on_may_follow_from_what_was_changed(rows: pl.DataFrame) -> None:
    cut = FOLDS[0].test.start + 10

    def copied(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {"copy": some.select(SYMBOL, TS, q=pl.col("one"))}

    def of_next(some: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {"next": some.select(SYMBOL, TS, q=pl.col("one").shift(-1).over(SYMBOL))}

    clean = prove_forecasts(cut, rows, FOLDS[0], HORIZONS, copied(rows), copied)
    assert (clean.breaches, clean.n_values) == ((), len(CHANGES) * 2 * (cut - FIRST_BAR))
    (breach,) = prove_forecasts(cut, rows, FOLDS[0], HORIZONS, of_next(rows), of_next).breaches
    assert breach.row == {"symbol": "BTC/USDT", "ts": ts_at(rows, cut - 1)}


def test_a_change_touches_all_that_becomes_known_later_and_nothing_else(rows: pl.DataFrame) -> None:
    delays = {f"target_{horizon}": horizon for horizon in HORIZONS}
    for cut in random.Random(3).sample(range(FIRST_BAR + 60, FIRST_BAR + 420), 3):
        for change, changed in changed_rows(rows, cut, HORIZONS):
            assert changed.schema == rows.schema
            of_row = {(row[SYMBOL], row[BAR]): row for row in changed.iter_rows(named=True)}
            for row in rows.iter_rows(named=True):
                after = of_row.get((row[SYMBOL], row[BAR]))
                assert (after is None) == (change == "cut off" and row[BAR] >= cut)
                for name in (*rows.columns[3:],) if after else ():
                    assert after is not None
                    if row[BAR] + delays.get(name, 0) < cut:
                        assert after[name] == row[name]
                    elif row[name] is not None and not (name == MISSING and change == "scrambled"):
                        assert after[name] != row[name]


def test_scrambled_values_come_back_in_reverse_within_their_market(rows: pl.DataFrame) -> None:
    cut = FIRST_BAR + 400
    _, scrambled = list(changed_rows(rows, cut, HORIZONS))[CHANGES.index("scrambled")]
    for _, market in rows.with_columns(scrambled.select(pl.col("one", "target_6").name.suffix("_after"))).group_by(
        SYMBOL
    ):
        one = market.filter(pl.col(BAR) >= cut)
        np.testing.assert_array_equal(one["one_after"], one["one"].reverse() * 10)
        target = market.filter(pl.col(BAR) + 6 >= cut)
        assert target["target_6_after"].to_list() == (target["target_6"].reverse() * 10).to_list()


@pytest.mark.parametrize("n_bars", [2, 5, 16, 17, 100, 1000])
def test_forecasts_are_cut_within_the_test_and_where_it_can_be_inside_a_block(n_bars: int) -> None:
    for start in range(1000, 1016):
        cut = cut_within(Fold(0, Span(0, start), Span(start, start + n_bars)), 16)
        assert start < cut < start + n_bars
        if n_bars > 32:
            assert cut % 16 == 8
            assert abs(cut - start - n_bars // 2) <= 8
