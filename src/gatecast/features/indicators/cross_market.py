"""Features across markets, all of the same bar: the lead, how many rise, and who does better than the mean."""

import math
from collections.abc import Iterator

import polars as pl

from gatecast.features.feature import (
    BREADTH,
    LEAD_RETURN,
    LEAD_SPAN_RETURN,
    LOG_CLOSE,
    UNIVERSE_RETURN,
    VOLATILITY,
    Feature,
    Recipe,
)


def span_return(span: int) -> pl.Expr:
    """Log return over so many bars of the grid, in volatilities."""
    return (pl.col(LOG_CLOSE) - pl.col(LOG_CLOSE).shift(span)) / (pl.col(VOLATILITY) * math.sqrt(span))


def cross_market(recipe: Recipe) -> Iterator[Feature]:
    """Entries that compare markets; the catalogue leaves them out where a single one runs."""
    span = recipe.spans.universe_bars
    entries = {
        "lead_return_1": (pl.col(LEAD_RETURN), "volatilities", f"return of {recipe.lead} over 1 bar / its volatility"),
        f"lead_return_{span}": (
            pl.col(LEAD_SPAN_RETURN),
            "volatilities",
            f"return of {recipe.lead} over {span} bars / (its volatility √{span})",
        ),
        "breadth": (pl.col(BREADTH) - 0.5, "share", f"share of the markets that rose over {span} bars - 1/2"),
        "relative_strength": (
            span_return(span) - pl.col(UNIVERSE_RETURN),
            "volatilities",
            f"return over {span} bars / (volatility √{span}), less its mean over all markets",
        ),
    }
    for name, (expression, unit, formula) in entries.items():
        bars = 1 if name == "lead_return_1" else span
        yield Feature(
            name,
            expression,
            unit=unit,
            formula=formula,
            source="Moskowitz, Ooi and Pedersen (2012), J. Financial Economics 104(2)"
            if name == "relative_strength"
            else "Lo and MacKinlay (1990), Review of Financial Studies 3(2)",
            look_back=max(bars + 1, recipe.scale_bars),
            warm_up=max(bars + 1, recipe.scale_warm_up),
            bounds=(-0.5, 0.5) if name == "breadth" else (-math.inf, math.inf),
            rows="grid",
            n_markets=2,
        )
