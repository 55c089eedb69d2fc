"""The catalogue: every feature that a recipe gives, and which of them are used."""

from difflib import get_close_matches
from fnmatch import fnmatchcase

from gatecast.errors import ConfigurationError
from gatecast.features.feature import Feature, Recipe
from gatecast.features.indicators import calendar, cross_market, price, published, volatility, volume

_KINDS = (
    price.returns,
    volatility.level,
    volatility.ratios,
    price.averages,
    price.momentum,
    price.bands,
    price.candle_shape,
    price.memory,
    volume.volume,
    calendar.calendar,
    cross_market.cross_market,
    published.fear_greed,
    published.headlines,
    published.funding,
)


def declared(recipe: Recipe) -> tuple[Feature, ...]:
    """Every entry, also those that need a published source or a second market, in the order of the network's inputs."""
    return tuple(feature for kind in _KINDS for feature in kind(recipe))


def catalogue(recipe: Recipe) -> tuple[Feature, ...]:
    """The features in use: named in `features.use`, and possible with the markets and sources of the run.

    Raises:
        ConfigurationError: A name or pattern of `features.use` fits no entry, or nothing is left.
    """
    entries = declared(recipe)
    for pattern in recipe.spans.use:
        if not any(fnmatchcase(entry.name, pattern) for entry in entries):
            near = get_close_matches(pattern, [entry.name for entry in entries], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "`gatecast features --list` shows all"
            raise ConfigurationError(f"features.use names {pattern!r}, which fits no feature: {hint}")
    chosen = tuple(
        entry
        for entry in entries
        if any(fnmatchcase(entry.name, pattern) for pattern in recipe.spans.use) and _possible(entry, recipe)
    )
    if not chosen:
        raise ConfigurationError(
            f"features.use = {', '.join(recipe.spans.use)} leaves no feature: those need a source or a second market"
        )
    return chosen


def _possible(entry: Feature, recipe: Recipe) -> bool:
    return len(recipe.symbols) >= entry.n_markets and entry.published in ("", *recipe.sources)


def feature_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the features in use, in the order of the network's inputs."""
    return tuple(feature.name for feature in catalogue(recipe))


def look_back(recipe: Recipe) -> int:
    """Candles from which every feature in use and the volatility follow."""
    return max(recipe.scale_bars, *(feature.look_back for feature in catalogue(recipe)))


def warm_up(recipe: Recipe) -> int:
    """Candles of a history without holes after which every feature in use has a value."""
    return max(feature.warm_up for feature in catalogue(recipe))
