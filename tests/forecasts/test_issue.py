"""Live forecasts of several markets, and with sources that fall silent."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.features.build import build_features
from gatecast.features.feature import Recipe
from gatecast.features.targets import build_targets
from gatecast.forecasts.issue import issue_forecast
from gatecast.market.candles import SYMBOL, TS
from gatecast.market.publications.table import FEAR_GREED, PUBLISHED_AT, VALUE, as_publications
from gatecast.model.fitted import FittedModel
from gatecast.model.folder import ModelCard
from gatecast.model.predictions import QUANTILES
from gatecast.model.training import Hyperparameters
from tests.conftest import NO_PUBLICATIONS, SMALL_SPANS, clean_candles, random_candles
from tests.model.fitting import fit_model

SYMBOLS = ("BTC/USDT", "ETH/USDT")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RAW = pl.concat(random_candles(900, seed).with_columns(pl.lit(s).alias(SYMBOL)) for seed, s in enumerate(SYMBOLS))
START: datetime = RAW[TS][0]
INDEX = as_publications(
    pl.DataFrame(
        {PUBLISHED_AT: [START + n * DAY for n in range(30)], VALUE: [40.0 + 7 * (n % 5) for n in range(30)]},
        schema_overrides={PUBLISHED_AT: pl.Datetime("ms", "UTC")},
    ),
    FEAR_GREED,
)


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    features = config.features.model_copy(update=SMALL_SPANS)
    model = config.model.model_copy(update={"stride": 32, "burn_in": 16, "n_seeds": 1, "batch_blocks": 4})
    return config.model_copy(update={"features": features, "model": model})


def table(raw: pl.DataFrame, publications: pl.DataFrame, small: Config, sources: tuple[str, ...]) -> pl.DataFrame:
    candles = pl.concat(
        clean_candles(raw.filter(pl.col(SYMBOL) == symbol).drop(SYMBOL)).with_columns(pl.lit(symbol).alias(SYMBOL))
        for symbol in SYMBOLS
    )
    rows = build_features(candles, publications, Recipe(small.features, SYMBOLS, "1h", sources))
    return rows.hstack(build_targets(rows, small.model.horizons))


def fitted(rows: pl.DataFrame, small: Config) -> FittedModel:
    train = rows.filter(pl.col(TS) < START + 700 * HOUR)
    return fit_model(train, Hyperparameters(8, 0.01, 0.1, 0.01), 12, small.model)


def card(small: Config, sources: tuple[str, ...] = ()) -> ModelCard:
    starts, ends = dict.fromkeys(SYMBOLS, "2024-01-01T00:00Z"), dict.fromkeys(SYMBOLS, "2024-01-30T04:00Z")
    return ModelCard("binance", SYMBOLS, "1h", None, starts, ends, small.features, sources)


@pytest.mark.parametrize("late", SYMBOLS)
@pytest.mark.parametrize("n_late", [1, 3])
def test_a_market_that_lags_holds_up_the_others_so_that_live_equals_evaluated(
    late: str, n_late: int, small: Config
) -> None:
    rows = table(RAW, NO_PUBLICATIONS, small, ())
    model = fitted(rows, small)
    end = START + 850 * HOUR
    candles = RAW.filter(pl.col(TS) < pl.when(pl.col(SYMBOL) == late).then(end - n_late * HOUR).otherwise(end))
    warnings: list[str] = []
    live = issue_forecast(model, card(small), candles, NO_PUBLICATIONS, warnings.append)
    assert live["issued_at"].unique().to_list() == [end - n_late * HOUR]
    assert len(warnings) == 1
    assert late in warnings[0]
    evaluated = model.predict(rows).filter(pl.col(TS) == end - (n_late + 1) * HOUR)
    for symbol in SYMBOLS:
        ours = live.filter(pl.col("market").str.contains(symbol, literal=True)).sort("horizon", "level")["log_return"]
        theirs = evaluated.filter(pl.col(SYMBOL) == symbol).sort("horizon").select(QUANTILES).to_numpy().ravel()
        np.testing.assert_allclose(ours.to_numpy(), theirs, atol=1e-7)


def test_markets_that_are_not_compared_are_each_forecast_from_their_own_newest_bar(small: Config) -> None:
    alone = small.model_copy(update={"features": small.features.model_copy(update={"use": ("return_*", "rsi")})})
    model = fitted(table(RAW, NO_PUBLICATIONS, alone, ()), alone)
    end = START + 850 * HOUR
    candles = RAW.filter((pl.col(TS) < end) & ((pl.col(SYMBOL) == SYMBOLS[0]) | (pl.col(TS) < end - 3 * HOUR)))
    warnings: list[str] = []
    live = issue_forecast(model, card(alone), candles, NO_PUBLICATIONS, warnings.append)
    assert live["issued_at"].unique().sort().to_list() == [end - 3 * HOUR, end]
    assert warnings == []


def test_a_source_that_has_gone_stale_is_told(small: Config) -> None:
    model = fitted(table(RAW, INDEX, small, (FEAR_GREED,)), small)
    told, fresh = card(small, (FEAR_GREED,)), RAW.filter(pl.col(TS) < START + 29 * DAY + 12 * HOUR)
    ready = replace(told, train_ends=dict.fromkeys(SYMBOLS, "2024-01-20T00:00Z"))
    warnings: list[str] = []
    issue_forecast(model, ready, fresh, INDEX, warnings.append)
    assert warnings == []
    issue_forecast(model, ready, RAW, INDEX, warnings.append)
    assert len(warnings) == len(SYMBOLS)
    assert all("fear_greed" in line and "mask" in line for line in warnings)
