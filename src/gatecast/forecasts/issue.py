"""From a fitted model and candles to the forecast of the newest bar, in the flow and in the registry's pyfunc alike."""

from collections.abc import Callable, Iterator
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
from gatecast.model.fitted import FittedModel
from gatecast.model.folder import ModelCard
from gatecast.model.predictions import HORIZON, LEVELS, QUANTILES
from gatecast.model.windows import history_bars


def issue_forecast(
    model: FittedModel,
    card: ModelCard,
    candles: pl.DataFrame,
    publications: pl.DataFrame,
    warn: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Quantiles of every horizon from the newest usable bar of each market.

    Where a feature compares markets, that is the newest bar which all of them have: evaluation never saw a bar at which
    a market that is there later had not come in yet.

    Args:
        model: The fitted model.
        card: Its markets and how its features are built.
        candles: Closed candles with a column symbol, any order; `bars_needed` of each market suffice.
        publications: What has been published, not yet scored; no row where the model needs none.
        warn: Takes a line where a forecast is not what it could be: a market that holds up the others, a silent source.

    Returns:
        market, issued_at (UTC, when the newest bar closed), horizon (bars), target_at (UTC), level, log_return and
        price (quote units), a row a quantile.

    Raises:
        DataError: No candle of the model's markets, too few to forecast from, none that is newer than what the model
            was trained on, or nothing published by a source that the model needs.
    """
    _require_sources(card, publications)
    grid = Grid(card.timeframe, card.calendar)
    regular = _newest_grids(candles, model, card, warn)
    rows = newest_features(regular, scored(publications), card.recipe, model.windows.n_bars)
    forecasts = model.predict_newest(rows).join(rows.select(SYMBOL, TS, CLOSE), on=[SYMBOL, TS], maintain_order="left")
    tables = []
    for symbol in card.symbols:
        market, forecast = Market(card.exchange, symbol, card.timeframe), forecasts.filter(pl.col(SYMBOL) == symbol)
        if forecast.is_empty():
            raise DataError(f"no candle of {market} has a known volatility to forecast from")
        tables.append(_as_rows(forecast, market, grid))
        for line in _silent_sources(rows.filter((pl.col(SYMBOL) == symbol) & (pl.col(TS) == forecast[TS][0])), card):
            warn(f"{market}: {line}")
        issued_at, train_end = tables[-1][ISSUED_AT][0], datetime.fromisoformat(card.train_ends[symbol])
        if issued_at < train_end:
            raise DataError(
                f"the newest usable candle of {market} closed at {iso(issued_at)}, but the model has been trained on"
                f" what came after it, up to {iso(train_end)}: a forecast from there would know its answer"
            )
    return pl.concat(tables)


def bars_needed(model: FittedModel, card: ModelCard) -> int:
    """Candles of a market from which a forecast equals, to rounding, the one from its whole history."""
    return history_bars(look_back(card.recipe), model.windows)


def _require_sources(card: ModelCard, publications: pl.DataFrame) -> None:
    there = set(publications[SOURCE].unique())
    used = {entry.published for entry in catalogue(card.recipe)} - {""}
    if absent := sorted(used - there):
        raise DataError(
            f"the model was trained with {', '.join(sorted(used))}, and nothing published by {', '.join(absent)} is at"
            " hand: candles alone do not give the forecast that was evaluated; use `gatecast forecast` with the sources"
            " of `ingest`"
        )


def _silent_sources(newest: pl.DataFrame, card: ModelCard) -> Iterator[str]:
    """A line for each source of which no feature of the newest bar has a value."""
    entries = [entry for entry in catalogue(card.recipe) if entry.published]
    for source in dict.fromkeys(entry.published for entry in entries):
        names = [entry.name for entry in entries if entry.published == source]
        if all(newest[name][0] is None for name in names):
            yield (
                f"nothing that {source} has published still holds at {iso(newest[TS][0])}, so that the network is given"
                " a mask in its place, as it was in training wherever the source was silent: is its file or feed fresh?"
            )


def _newest_grids(
    candles: pl.DataFrame, model: FittedModel, card: ModelCard, warn: Callable[[str], None]
) -> pl.DataFrame:
    """The regular grids of all markets, up to the newest bar of all where a feature compares markets."""
    needed = bars_needed(model, card)
    grids = {symbol: _newest_grid(candles, symbol, card, needed) for symbol in sorted(card.symbols)}
    ends: dict[str, datetime] = {symbol: regular[TS][-1] for symbol, regular in grids.items()}
    common = min(ends.values())
    if common < max(ends.values()) and any(entry.n_markets > 1 for entry in catalogue(card.recipe)):
        late = min(ends, key=lambda symbol: ends[symbol])
        warn(
            f"{late} has no good candle after {iso(common)}: all markets are forecast from there, as they are compared"
        )
        known = candles.filter(pl.col(TS) <= common)
        grids = {symbol: _newest_grid(known, symbol, card, needed) for symbol in grids}
    return pl.concat(grids.values())


def _newest_grid(candles: pl.DataFrame, symbol: str, card: ModelCard, needed: int) -> pl.DataFrame:
    """The regular grid of the newest candles of one market."""
    own = candles.filter(pl.col(SYMBOL) == symbol).drop(SYMBOL)
    if own.is_empty():
        raise DataError(f"no candle of {symbol} to forecast from; the model forecasts {', '.join(card.symbols)}")
    market, grid = Market(card.exchange, symbol, card.timeframe), Grid(card.timeframe, card.calendar)
    newest = own.sort(TS, maintain_order=True).tail(needed)
    last = grid.bar_of(newest[TS][-1])
    first = max(last - needed + 1, grid.bar_of(datetime.fromisoformat(card.train_starts[symbol])))
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
