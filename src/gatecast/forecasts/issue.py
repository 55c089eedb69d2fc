"""From a fitted model and candles to the forecast of the newest bar, in the flow and in the registry's pyfunc alike."""

from datetime import datetime

import polars as pl

from gatecast.errors import DataError
from gatecast.features.build import newest_features
from gatecast.features.catalogue import catalogue, look_back
from gatecast.features.sentiment import scored
from gatecast.forecasts.columns import ISSUED_AT, LEVEL, LOG_RETURN, MARKET, PRICE, TARGET_AT
from gatecast.market.candles import CLOSE, SYMBOL, TS, TS_TYPE, Market, iso
from gatecast.market.cleaning import clean_grid
from gatecast.market.grid import Grid
from gatecast.market.publications.table import SOURCE
from gatecast.model.folder import ModelCard
from gatecast.model.predictions import HORIZON, LEVELS, QUANTILES
from gatecast.model.procedure import FittedModel
from gatecast.model.windows import history_bars


def issue_forecast(
    model: FittedModel, card: ModelCard, candles: pl.DataFrame, publications: pl.DataFrame
) -> pl.DataFrame:
    """Quantiles of every horizon from the newest usable bar of each market.

    Args:
        model: The fitted model.
        card: Its markets and how its features are built.
        candles: Closed candles with a column symbol, any order; `bars_needed` of each market suffice.
        publications: What has been published, not yet scored; no row where the model needs none.

    Returns:
        market, issued_at (UTC, when the newest bar closed), horizon (bars), target_at (UTC), level, log_return and
        price (quote units), a row a quantile.

    Raises:
        DataError: No candle of the model's markets, too few to forecast from, none that is newer than what the model
            was trained on, or nothing published by a source that the model needs.
    """
    _require_sources(card, publications)
    grid, needed = Grid(card.timeframe, card.calendar), bars_needed(model, card)
    ends: list[datetime] = [_of_market(candles, symbol, card)[TS][-1] for symbol in card.symbols]
    regular = pl.concat(_newest_grid(candles, symbol, card, needed, min(ends)) for symbol in sorted(card.symbols))
    rows = newest_features(regular, scored(publications), card.recipe, model.stride + model.burn_in)
    forecasts = model.predict(rows).join(rows.select(SYMBOL, TS, CLOSE), on=[SYMBOL, TS], maintain_order="left")
    tables = []
    for symbol in card.symbols:
        market, forecast = Market(card.exchange, symbol, card.timeframe), forecasts.filter(pl.col(SYMBOL) == symbol)
        if forecast.is_empty():
            raise DataError(f"no candle of {market} has a known volatility to forecast from")
        tables.append(_as_rows(forecast.filter(pl.col(TS) == forecast[TS].max()), market, grid))
        issued_at, train_end = tables[-1][ISSUED_AT][0], datetime.fromisoformat(card.train_ends[symbol])
        if issued_at < train_end:
            raise DataError(
                f"the newest usable candle of {market} closed at {iso(issued_at)}, but the model has been trained on"
                f" what came after it, up to {iso(train_end)}: a forecast from there would know its answer"
            )
    return pl.concat(tables)


def bars_needed(model: FittedModel, card: ModelCard) -> int:
    """Candles of a market from which a forecast equals, to rounding, the one from its whole history."""
    return history_bars(look_back(card.recipe), model.stride, model.burn_in)


def _require_sources(card: ModelCard, publications: pl.DataFrame) -> None:
    there = set(publications[SOURCE].unique())
    used = {entry.published for entry in catalogue(card.recipe)} - {""}
    if absent := sorted(used - there):
        raise DataError(
            f"the model was trained with {', '.join(sorted(used))}, and nothing published by {', '.join(absent)} is at"
            " hand: candles alone do not give the forecast that was evaluated; use `gatecast forecast` with the sources"
            " of `ingest`"
        )


def _of_market(candles: pl.DataFrame, symbol: str, card: ModelCard) -> pl.DataFrame:
    own = candles.filter(pl.col(SYMBOL) == symbol).drop(SYMBOL)
    if own.is_empty():
        raise DataError(f"no candle of {symbol} to forecast from; the model forecasts {', '.join(card.symbols)}")
    return own.sort(TS, maintain_order=True)


def _newest_grid(
    candles: pl.DataFrame, symbol: str, card: ModelCard, needed: int, common_end: datetime
) -> pl.DataFrame:
    """The regular grid of one market: so many candles up to the last that all markets have, and all later ones."""
    own = _of_market(candles, symbol, card)
    market, grid = Market(card.exchange, symbol, card.timeframe), Grid(card.timeframe, card.calendar)
    newest = pl.concat([own.filter(pl.col(TS) <= common_end).tail(needed), own.filter(pl.col(TS) > common_end)])
    last = grid.bar_of(newest[TS][-1])
    first = max(grid.bar_of(common_end) - needed + 1, grid.bar_of(datetime.fromisoformat(card.train_starts[symbol])))
    reach = grid.opens_at(first)
    if newest[TS][0] > reach:
        raise DataError(
            f"{len(newest)} candles of {market} reach back to {iso(newest[TS][0])}, and the model needs those from"
            f" {iso(reach)} on: a forecast from fewer would not be the one that was evaluated"
        )
    regular, _, _ = clean_grid(newest, market, grid.closes_at(last), card.calendar)
    return regular


def _as_rows(newest: pl.DataFrame, market: Market, grid: Grid) -> pl.DataFrame:
    long = newest.unpivot(QUANTILES, index=[TS, HORIZON, CLOSE], variable_name=LEVEL, value_name=LOG_RETURN)
    level_of = dict(zip(QUANTILES, LEVELS, strict=True))
    bar = grid.bar_of(newest[TS][0])
    target_at = {horizon: grid.closes_at(bar + horizon) for horizon in newest[HORIZON].unique()}
    return long.select(
        pl.lit(str(market)).alias(MARKET),
        pl.lit(grid.closes_at(bar), dtype=TS_TYPE).alias(ISSUED_AT),
        HORIZON,
        pl.col(HORIZON).replace_strict(target_at, return_dtype=TS_TYPE).alias(TARGET_AT),
        pl.col(LEVEL).replace_strict(level_of, return_dtype=pl.Float64),
        LOG_RETURN,
        (pl.col(CLOSE) * pl.col(LOG_RETURN).exp()).alias(PRICE),
    ).sort(HORIZON, LEVEL)
