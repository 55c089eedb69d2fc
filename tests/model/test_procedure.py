from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from gatecast.config import Config, ModelConfig
from gatecast.errors import DataError, GatecastError
from gatecast.features.catalogue import look_back
from gatecast.forecasts.issue import issue_forecast
from gatecast.market.candles import SYMBOL
from gatecast.market.publications.table import FEAR_GREED, HEADLINES, PUBLISHED_AT, TEXT, as_publications
from gatecast.model.fitted import FittedModel
from gatecast.model.folder import ModelCard
from gatecast.model.predictions import LEVELS, PREDICTION_KEYS, QUANTILES
from gatecast.model.procedure import search_model, stopping_steps, training_inputs
from gatecast.model.training import Hyperparameters
from gatecast.model.windows import fit_scaler, history_bars
from tests.conftest import NO_PUBLICATIONS, SMALL_SPANS, clean_candles, feature_table, random_candles, small_recipe
from tests.model.fitting import fit_model

RAW = random_candles(900).filter(~pl.int_range(pl.len()).is_in([500, 501, 502]))
HYPERPARAMETERS = Hyperparameters(hidden_size=8, learning_rate=0.01, dropout=0.1, weight_decay=0.01)


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    features = config.features.model_copy(update=SMALL_SPANS)
    model = config.model.model_copy(update={"stride": 32, "burn_in": 16, "n_seeds": 2, "batch_blocks": 4})
    return config.model_copy(update={"features": features, "model": model})


@pytest.fixture(scope="module")
def rows(small: Config) -> pl.DataFrame:
    candles = clean_candles(RAW)
    return feature_table(candles, small_recipe(small), small.model.horizons)


@pytest.fixture(scope="module")
def model(rows: pl.DataFrame, small: Config) -> FittedModel:
    return fit_model(rows[:700], HYPERPARAMETERS, 12, small.model)


def card(small: Config) -> ModelCard:
    return ModelCard(
        "binance",
        ("BTC/USDT",),
        "1h",
        None,
        {"BTC/USDT": "2024-01-01T00:00Z"},
        {"BTC/USDT": "2024-02-01T00:00Z"},
        small.features,
        (),
    )


def test_the_same_rows_and_seed_give_the_same_weights(model: FittedModel, rows: pl.DataFrame, small: Config) -> None:
    again = fit_model(rows[:700], HYPERPARAMETERS, 12, small.model)
    assert again.scaler == model.scaler
    for one, other in zip(model.networks, again.networks, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_the_model_is_a_function_of_its_train_rows_alone(model: FittedModel, rows: pl.DataFrame, small: Config) -> None:
    changed = pl.concat([rows[:700], rows[700:].with_columns(pl.col("return_1") * 50)])
    again = fit_model(changed[:700], HYPERPARAMETERS, 12, small.model)
    assert again.predict(rows).equals(model.predict(rows))


def test_a_live_forecast_equals_what_the_evaluation_computes_for_that_bar(
    model: FittedModel, rows: pl.DataFrame, small: Config
) -> None:
    evaluated = model.predict(rows[600:])
    needed = history_bars(look_back(card(small).recipe), model.windows)
    for end in (800, 833, 864, 897):
        newest = RAW[:end]
        candles = newest.tail(needed).with_columns(symbol=pl.lit("BTC/USDT"))
        live = issue_forecast(model, card(small), candles, NO_PUBLICATIONS)
        bar = evaluated.filter(pl.col("ts") == newest["ts"][-1])
        scale = rows.filter(pl.col("ts") == newest["ts"][-1])["volatility"][0]
        for horizon in small.model.horizons:
            ours = live.filter(pl.col("horizon") == horizon)["log_return"].to_numpy()
            theirs = bar.filter(pl.col("horizon") == horizon).select(QUANTILES).to_numpy()[0]
            assert np.abs(ours - theirs).max() / (scale * np.sqrt(horizon)) < 1e-5


def test_no_forecast_is_issued_from_a_bar_whose_future_the_model_was_trained_on(
    model: FittedModel, small: Config
) -> None:
    fitted_later = replace(card(small), train_ends={"BTC/USDT": "2024-02-07T12:00Z"})  # bar 900 closes then
    candles = RAW.with_columns(symbol=pl.lit("BTC/USDT"))
    assert not issue_forecast(model, fitted_later, candles, NO_PUBLICATIONS).is_empty()
    with pytest.raises(DataError, match=r"closed at 2024-02-07T11:00Z.*would know its answer"):
        issue_forecast(model, fitted_later, candles[:-1], NO_PUBLICATIONS)


def test_a_model_of_published_sources_forecasts_from_nothing_less(model: FittedModel, small: Config) -> None:
    candles = RAW.with_columns(symbol=pl.lit("BTC/USDT"))
    hungry = replace(card(small), sources=(FEAR_GREED, HEADLINES))
    headlines = pl.DataFrame({PUBLISHED_AT: [RAW["ts"][5]], TEXT: ["markets rally"]})
    with pytest.raises(DataError, match=r"trained with fear_greed, headlines, and nothing published by fear_greed is"):
        issue_forecast(model, hungry, candles, as_publications(headlines, HEADLINES))


def test_too_few_candles_are_refused_and_the_first_one_needed_is_named(model: FittedModel, small: Config) -> None:
    candles = RAW.with_columns(symbol=pl.lit("BTC/USDT"))
    with pytest.raises(DataError, match=r"50 candles of .* reach back to .*, and the model needs those from"):
        issue_forecast(model, card(small), candles.tail(50), NO_PUBLICATIONS)


def test_prices_follow_from_log_returns_and_the_last_close(model: FittedModel, small: Config) -> None:
    forecast = issue_forecast(model, card(small), RAW.with_columns(symbol=pl.lit("BTC/USDT")), NO_PUBLICATIONS)
    np.testing.assert_allclose(forecast["price"], RAW["close"][-1] * np.exp(forecast["log_return"].to_numpy()))
    assert (forecast["target_at"] - forecast["issued_at"]).dt.total_hours().to_list() == forecast["horizon"].to_list()
    for _, prices in forecast.group_by("horizon"):
        assert prices.sort("level")["price"].is_sorted()


def test_an_open_last_block_does_not_change_earlier_predictions(model: FittedModel, rows: pl.DataFrame) -> None:
    whole = model.predict(rows)
    part = model.predict(rows[:777])
    shared = part.join(whole, on=PREDICTION_KEYS, suffix="_whole")
    assert len(shared) == len(part)
    for name in QUANTILES:
        assert (shared[name] - shared[f"{name}_whole"]).abs().max() < 1e-7  # type: ignore[operator]  # a number


def test_the_search_finds_a_number_of_steps_within_the_budget_and_trains_so_many(
    rows: pl.DataFrame, small: Config
) -> None:
    n_steps = stopping_steps(rows[:500], rows[550:700], HYPERPARAMETERS, small.model, max_epochs=4, patience=2)
    assert 0 < n_steps <= 4 * 5
    model = search_model(rows[:500], HYPERPARAMETERS, small.model, n_steps)
    assert len(model.networks) == 1
    assert not np.any(model.offsets)


def test_the_networks_are_trained_before_a_purged_calibration_slice(rows: pl.DataFrame, small: Config) -> None:
    inputs = training_inputs(rows[:700], HYPERPARAMETERS, small.model)
    start = rows["bar"][0] + 700 - 70  # a tenth
    last = rows["bar"][0] + len(inputs.bars) - 1
    assert last + max(small.model.horizons) == start - 1
    labelled = inputs.calibration.rows[inputs.calibration.known.sum(1) > 0]
    calibrating = inputs.calibration_bars[labelled.numpy()].join(rows, on=[SYMBOL, "ts"])["bar"]
    assert start <= calibrating.min() <= start + 5
    # what a network said of its own train rows would be narrower than what it says of others
    assert inputs.model.scaler == fit_scaler(rows[: len(inputs.bars)], inputs.model.features)


def test_ranges_hold_on_the_slice_that_calibrates_them(rows: pl.DataFrame, small: Config) -> None:
    model = fit_model(rows[:700], HYPERPARAMETERS, 12, small.model)
    assert np.any(model.offsets)
    targets = pl.concat(
        rows.select(SYMBOL, "ts", pl.lit(h, pl.Int64).alias("horizon"), pl.col(f"target_{h}").alias("target"))
        for h in small.model.horizons
    )
    slice_ = model.predict(rows[600:700]).join(rows[630:700].select("ts"), on="ts").join(targets, on=PREDICTION_KEYS)
    for _, table in slice_.drop_nulls("target").group_by("horizon"):
        for low, high, share in (("q0.05", "q0.95", 0.9), ("q0.1", "q0.9", 0.8), ("q0.25", "q0.75", 0.5)):
            inside = table["target"].is_between(table[low], table[high]).mean()
            assert inside >= share  # type: ignore[operator]  # a number
            assert inside <= share + 2 / len(table) + 0.001  # type: ignore[operator]


def test_a_market_that_begins_where_no_network_is_trained_any_more_is_named(rows: pl.DataFrame, small: Config) -> None:
    young = rows[650:700].with_columns(pl.lit("ETH/USDT").alias(SYMBOL))
    with pytest.raises(DataError, match=r"ETH/USDT begins where no network is trained .*model.calibration_share"):
        training_inputs(pl.concat([rows[:700], young]), HYPERPARAMETERS, small.model)


@pytest.mark.parametrize("n_known", [8, 9])
def test_a_slice_too_short_to_hold_its_widest_range_is_refused(n_known: int, rows: pl.DataFrame, small: Config) -> None:
    config = small.model.model_copy(update={"horizons": (1,), "n_seeds": 1, "calibration_share": n_known / 300})
    history = rows[:300]
    assert history["target_1"][-n_known:].null_count() == 0
    if n_known == 9:
        assert np.any(fit_model(history, HYPERPARAMETERS, 1, config).offsets)
        return
    with pytest.raises(DataError, match=r"has 8 known targets 1 bars ahead, and 9 are needed"):
        fit_model(history, HYPERPARAMETERS, 1, config)


def test_one_call_for_the_newest_bar_of_many_markets_is_what_each_gets_alone(rows: pl.DataFrame, small: Config) -> None:
    markets = []
    for number, end in enumerate((900, 871, 899)):  # the second market ends in an earlier block
        symbol = f"M{number}/USDT"
        market = rows[:end].with_columns(pl.lit(symbol).alias(SYMBOL), pl.col("return_1") * (1 - number))
        markets.append(market)
    gap = pl.int_range(pl.len()) >= 897  # the newest bars of the last market cannot be forecast from
    markets[2] = markets[2].with_columns(pl.when(~gap).then("volatility").alias("volatility"))
    train = pl.concat(market[:700] for market in markets)
    for embedding_size in (0, 4):
        config = small.model.model_copy(update={"embedding_size": embedding_size})
        model = fit_model(train, HYPERPARAMETERS, 6, config)
        newest = model.predict_newest(pl.concat(market.tail(model.windows.n_bars) for market in markets))
        whole = model.predict(pl.concat(markets))
        assert len(newest) == 3 * len(config.horizons)
        for market in markets:
            symbol = market[SYMBOL][0]
            mine, all_of_them = newest.filter(pl.col(SYMBOL) == symbol), whole.filter(pl.col(SYMBOL) == symbol)
            assert mine["ts"].unique().to_list() == [all_of_them["ts"].max()]
            alone = model.predict_newest(market.tail(model.windows.n_bars))
            scale = market.drop_nulls("volatility")["volatility"][-1]
            for other in (alone, all_of_them):
                pairs = mine.join(other, on=PREDICTION_KEYS, suffix="_other")
                assert len(pairs) == len(config.horizons)
                for name in QUANTILES:
                    assert (pairs[name] - pairs[f"{name}_other"]).abs().max() / scale < 1e-5
    assert newest[f"q{LEVELS[0]:g}"].n_unique() > 3  # markets differ
    silent = markets[0].tail(100).with_columns(volatility=pl.lit(None, pl.Float64))
    assert model.predict_newest(silent).is_empty()


def test_a_loss_that_is_no_number_is_one_line_with_the_epoch(rows: pl.DataFrame, small: Config) -> None:
    broken = rows[:300].with_columns(target_1=pl.lit(1e38))
    with pytest.raises(GatecastError, match=r"training loss is (inf|nan) at epoch 0, batch 0"):
        fit_model(broken, HYPERPARAMETERS, 3, ModelConfig.model_validate(small.model.model_dump()))


def test_two_markets_share_one_network_and_do_not_touch_each_other(rows: pl.DataFrame, small: Config) -> None:
    other = rows.with_columns(pl.lit("ETH/USDT").alias(SYMBOL), pl.col("return_1") * -1)
    both = pl.concat([rows, other]).sort(SYMBOL, "ts")
    model = fit_model(both.filter(pl.col("bar") < rows["bar"][700]), HYPERPARAMETERS, 6, small.model)
    together = model.predict(both).filter(pl.col(SYMBOL) == "BTC/USDT")
    assert together.equals(model.predict(rows))
    with pytest.raises(DataError, match="knows nothing of XRP/USDT"):
        model.predict(rows.with_columns(pl.lit("XRP/USDT").alias(SYMBOL)))
