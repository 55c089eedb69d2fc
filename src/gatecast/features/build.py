"""Candles and publications to feature rows: a market at a time, or the newest bars of many at once.

Both evaluate the same entries of the catalogue. A value at `ts` uses candles up to and including `ts` and what was
published before they closed, so it is known at `ts + timeframe`. Only operations whose result is the same from run to
run to the last bit are used.
"""

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from gatecast.features.catalogue import catalogue
from gatecast.features.feature import KEYS, LOG_CLOSE, LOG_RETURN, VOLATILITY, Feature, Recipe
from gatecast.features.indicators.volatility import scale_volatility
from gatecast.features.released import with_publications
from gatecast.features.universe import Universe, by_market, universe_of
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL
from gatecast.market.publications.table import SOURCE

_ALIKE, _SHORT = 0.6, 128  # share of the longest, and candles: features of like look-back are built together

ReadMarket = Callable[[str], pl.DataFrame]


def build_features(candles: pl.DataFrame, publications: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Feature rows of a clean grid in memory.

    Args:
        candles: Clean candles (regular grid, missing bars null), sorted by symbol and ts; any number of markets.
        publications: Scored publications; no row where the recipe has no source.
        recipe: Which features.

    Returns:
        A row a bar in the same order: symbol, ts, bar, close, missing, volatility (of one bar, as log return), then a
        column a feature. Null where a bar is missing, too little came before it, or a source is silent.
    """
    markets = {str(symbol): rows for (symbol,), rows in candles.partition_by(SYMBOL, as_dict=True).items()}
    return pl.concat(feature_rows(markets.__getitem__, tuple(markets), publications, recipe))


def feature_rows(
    read: ReadMarket, symbols: Sequence[str], publications: pl.DataFrame, recipe: Recipe
) -> Iterator[pl.DataFrame]:
    """The same, a market at a time, so that memory follows the largest market.

    Args:
        read: Clean candles of one market; called once a market, twice where there are several.
        symbols: The markets, sorted.
        publications: Scored publications.
        recipe: Which features.

    Yields:
        The rows of each market in turn.
    """
    universe = universe_of((_with_base(read(symbol), recipe) for symbol in symbols), recipe)
    for symbol in symbols:
        yield _market_rows(read(symbol), universe, publications, recipe)


def newest_features(
    candles: pl.DataFrame, publications: pl.DataFrame, recipe: Recipe, n_bars: int, *, exactly: bool = False
) -> pl.DataFrame:
    """Feature rows of the newest bars of every market, each feature from no more candles than it has to look back.

    Args:
        candles: As for `build_features`; of each market the last `look_back(recipe) + n_bars` candles suffice, counted
            from the last bar that all markets have.
        publications: Scored publications.
        recipe: Which features.
        n_bars: How many bars of each market, at most.
        exactly: Give each feature its own look-back and not a candle more, to prove that it suffices.

    Returns:
        As `build_features`, the last `n_bars` rows of each market.
    """
    entries = catalogue(recipe)
    scale = _with_base(_tail(candles, recipe.scale_bars + n_bars - 1), recipe)
    newest = scale.select(KEYS).group_by(SYMBOL, maintain_order=True).tail(n_bars)
    stretch = candles
    for bars, tier in _tiers(entries, exactly=exactly).items():
        stretch = _tail(stretch, bars + n_bars - 1)  # of the one before, which was longer
        for values in _tail_values(_prepared(stretch, tier, publications, recipe), tier, n_bars):
            newest = newest.join(values, on=[SYMBOL, BAR], how="left", maintain_order="left")
    return newest.select(*KEYS, *(entry.name for entry in entries))


def _market_rows(candles: pl.DataFrame, universe: Universe, publications: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    entries = catalogue(recipe)
    grid = _with_published(universe.joined_to(_with_base(candles, recipe)), publications, entries, recipe)
    there = ~grid[MISSING]
    row = pl.select(pl.when(there).then(there.cum_sum() - 1)).to_series()  # of the grid, among the candles
    of_candles = {entry.name: entry.expression.gather(row) for entry in entries if entry.rows == "candles"}
    of_grid = {entry.name: pl.when(there).then(entry.expression) for entry in entries if entry.rows == "grid"}
    tables = [grid.select(KEYS)]
    for frame, columns in ((grid.filter(there), of_candles), (grid, of_grid)):
        if columns:
            # lazily, so that what several formulas share is computed once; in memory, since the streaming engine keeps
            # no order
            tables.append(frame.lazy().select(**columns).collect(engine="in-memory"))
    return pl.concat(tables, how="horizontal").select(*KEYS, *(entry.name for entry in entries))


def _with_base(candles: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Log close, log return and volatility of each market, on the grid."""
    return (
        candles.with_columns(pl.col(CLOSE).log().alias(LOG_CLOSE))
        .with_columns(by_market(pl.col(LOG_CLOSE) - pl.col(LOG_CLOSE).shift(1), candles).alias(LOG_RETURN))
        .with_columns(
            by_market(scale_volatility(recipe.spans.scale_half_life, recipe.spans.volatility_floor), candles).alias(
                VOLATILITY
            )
        )
    )


def _with_published(
    grid: pl.DataFrame, publications: pl.DataFrame, entries: Sequence[Feature], recipe: Recipe
) -> pl.DataFrame:
    sources = {entry.published for entry in entries} - {""}
    return with_publications(grid, publications.filter(pl.col(SOURCE).is_in(sources)), sources, recipe)


def _tail(candles: pl.DataFrame, n_candles: int) -> pl.DataFrame:
    """The grid from the last so many candles that are there on, of each market.

    They are counted from the last bar that all markets have, so that one which lags finds the others at its own bars.
    """
    ends = candles.group_by(SYMBOL).agg(pl.col(BAR).max())[BAR]
    counted = ~pl.col(MISSING) & (pl.col(BAR) <= ends.min())
    since_end = counted.cum_sum(reverse=True).over(SYMBOL)
    return candles.filter(since_end <= n_candles)


def _tiers(entries: Sequence[Feature], *, exactly: bool) -> dict[int, list[Feature]]:
    """Entries of like look-back under the longest of them, the longest tier first."""
    tiers: dict[int, list[Feature]] = {}
    longest = 0
    for entry in sorted(entries, key=lambda each: each.look_back, reverse=True):
        alike = entry.look_back > _ALIKE * longest or longest <= _SHORT
        if not tiers or (entry.look_back != longest if exactly else not alike):
            longest = entry.look_back
        tiers.setdefault(longest, []).append(entry)
    return tiers


def _prepared(
    candles: pl.DataFrame, tier: Sequence[Feature], publications: pl.DataFrame, recipe: Recipe
) -> pl.DataFrame:
    grid = _with_base(candles, recipe)
    if not any(entry.rows == "grid" for entry in tier):
        return grid
    grid = universe_of([grid], recipe).joined_to(grid)
    if not any(entry.published for entry in tier):
        return grid
    markets = grid.partition_by(SYMBOL, maintain_order=True)
    return pl.concat(_with_published(market, publications, tier, recipe) for market in markets)


def _tail_values(rows: pl.DataFrame, tier: Sequence[Feature], n_bars: int) -> Iterator[pl.DataFrame]:
    """Values of the last candles of each market, and those of its last bars of the grid, where a candle is there."""
    grid = rows.lazy()  # so that what several formulas share is computed once
    for frame, kind in ((grid.filter(~pl.col(MISSING)), "candles"), (grid, "grid")):
        chosen = {entry.name: entry.expression for entry in tier if entry.rows == kind}
        if chosen:
            columns = {BAR: pl.col(BAR), MISSING: pl.col(MISSING), **chosen}
            newest = (column.tail(n_bars).alias(name) for name, column in columns.items())
            values = frame.group_by(SYMBOL, maintain_order=True).agg(newest).explode(*columns)
            yield values.filter(~pl.col(MISSING)).drop(MISSING).collect(engine="in-memory")
