"""What a feature is: one declared entry, and the columns that its formula may use."""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import polars as pl

from gatecast.config import FeaturesConfig
from gatecast.market.candles import BAR, CLOSE, MISSING, SYMBOL, TS

VOLATILITY: Final = "volatility"  # of one bar, as log return: scales the target
KEYS: Final = (SYMBOL, TS, BAR, CLOSE, MISSING, VOLATILITY)  # columns of a feature frame that are not features
LOG_CLOSE: Final = "_log_close"
LOG_RETURN: Final = "_log_return"  # null where the bar before is missing
LEAD_RETURN: Final = "_lead_return"  # of the lead market, in volatilities
LEAD_SPAN_RETURN: Final = "_lead_span_return"  # the same over `universe_bars`
UNIVERSE_RETURN: Final = "_universe_return"  # mean over all markets, over `universe_bars`, in volatilities
BREADTH: Final = "_breadth"  # share of the markets that have risen over `universe_bars`
FEAR_GREED_NOW: Final = "_fear_greed"
FEAR_GREED_BEFORE: Final = "_fear_greed_before"  # a week earlier
NEWS_SCORE: Final = "_news_score"  # sum of the scores of the headlines published during a bar, 0 without one
NEWS_COUNT: Final = "_news_count"  # how many these are; null where the source is silent for long
FUNDING_NOW: Final = "_funding"
HALF_LIVES: Final = 32  # an exponential average forgets 2**-32 (2e-10) of what came before so many half-lives

Rows = Literal["candles", "grid"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides which features there are and how they are built, besides the data.

    Attributes:
        spans: The section `features`.
        symbols: Markets of the run, in the order of the configuration; features across markets need two.
        timeframe: Length of a bar.
        sources: Published sources of the run (`gatecast.market.publications`), whose features join the others.
    """

    spans: FeaturesConfig
    symbols: tuple[str, ...]
    timeframe: str
    sources: tuple[str, ...] = ()

    @property
    def lead(self) -> str:
        """The market that the others are said to follow: the configured one, else that of BTC, else the first."""
        of_btc = next((symbol for symbol in self.symbols if symbol.startswith("BTC/")), self.symbols[0])
        return self.spans.lead_symbol or of_btc

    @property
    def scale_bars(self) -> int:
        """Candles from which the volatility that scales follows."""
        return self.spans.scale_half_life * HALF_LIVES + 1

    @property
    def scale_warm_up(self) -> int:
        """Candles before and with the first volatility."""
        return self.spans.scale_half_life + 1


@dataclass(frozen=True)
class Feature:
    """One entry of the catalogue.

    Attributes:
        name: Column name.
        expression: Formula of one market. On rows `candles` it runs over the candles that are there, one after the
            other; on rows `grid` over the regular grid, missing bars null. Columns: open, high, low, close, volume, ts,
            bar, and those named in this module.
        unit: What the numbers count.
        formula: The definition in words, for people.
        source: Where the definition comes from.
        look_back: Candles, the present one included, from which the value follows to 1e-6 of its standard deviation.
        warm_up: Candles of a history without holes, the present one included, before which there is no value.
        bounds: Smallest and largest value that the definition allows.
        rows: What the expression runs over.
        published: The published source that it needs; empty for candles alone. It is off unless the run has that
            source, and where the source is silent it is null.
        n_markets: Markets that it needs; with fewer it is off.
    """

    name: str
    expression: pl.Expr
    unit: str
    formula: str
    source: str
    look_back: int
    warm_up: int
    bounds: tuple[float, float] = field(default=(-math.inf, math.inf))
    rows: Rows = "candles"
    published: str = ""
    n_markets: int = 1


def ewm(values: pl.Expr, half_life: int, *, gapless: bool = False) -> pl.Expr:
    """Exponential average over the values that are there, carried over those that are not; `half_life` are needed.

    Args:
        values: Of one market.
        half_life: Values after which a weight has halved.
        gapless: Each row has a value, as those of a candle have on rows `candles`; there is then nothing to carry.
    """
    average = values.ewm_mean(half_life=half_life, ignore_nulls=True, min_samples=half_life)
    return average if gapless else average.forward_fill()


def decay(half_life: float) -> int:
    """Values after which an exponential average has forgotten what came before them."""
    return math.ceil(half_life * HALF_LIVES)
