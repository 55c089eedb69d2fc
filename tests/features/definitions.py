"""Every feature a second time, as its formula and the literature have it: plain loops over lists, slow and obvious.

A definition belongs to a family, the name of an entry without the spans at its end: `return_24` and `return_72` are of
the family `return`, and its definition is called with 24 and with 72. It gives a value, or None, for each candle of
`history.candles`, which are the candles that are there, one after the other. No value here is computed by
polars or TA-Lib.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from statistics import stdev
from typing import TypeVar

import polars as pl

from gatecast.config import FeaturesConfig
from gatecast.features.feature import Recipe

Value = TypeVar("Value", float, float | None)
Values = list[float | None]
Definition = Callable[..., Values]

DEFINITIONS: dict[str, Definition] = {}
LEAST_VARIANCE = 1e-12  # of log returns: what logarithms of volatilities are kept above
LENGTHS = {"1h": timedelta(hours=1), "1d": timedelta(days=1)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Candle:
    """One candle that is there."""

    bar: int
    ts: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True)
class Publication:
    """One publication that concerns a market."""

    source: str
    published_at: datetime
    value: float


@dataclass(frozen=True)
class History:
    """What the definitions of one market look at.

    Attributes:
        candles: Its candles that are there.
        opens: Open times of all bars of its grid, missing ones included, by bar.
        publications: What concerns it or every market.
        recipe: The spans.
        markets: All markets, by symbol.
    """

    candles: list[Candle]
    opens: dict[int, datetime]
    publications: list[Publication]
    recipe: Recipe
    markets: "dict[str, History]" = field(repr=False)

    @property
    def spans(self) -> FeaturesConfig:
        return self.recipe.spans

    @cached_property
    def places(self) -> dict[int, int]:
        """Where among the candles a bar is."""
        return {candle.bar: place for place, candle in enumerate(self.candles)}

    @cached_property
    def log_returns(self) -> Values:
        """From one candle to the next, None where the bar before is missing."""
        before = [None, *self.candles[:-1]]
        return [
            math.log(now.close / then.close) if then and then.bar == now.bar - 1 else None
            for then, now in zip(before, self.candles, strict=True)
        ]

    @cached_property
    def volatility(self) -> Values:
        """RiskMetrics: root of the weighted mean of squared log returns, and never less than the floor."""
        half_life = self.spans.scale_half_life
        squares = each(lambda move: move**2, self.log_returns)
        return each(
            lambda variance: max(math.sqrt(variance), self.spans.volatility_floor),
            weighted_mean(squares, half_life, half_life),
        )

    def scaled(self, values: Values, span: int) -> Values:
        """In volatilities of so many bars."""
        return each(lambda value, scale: value / (scale * math.sqrt(span)), values, self.volatility)

    def closes_at(self, bar: int) -> datetime:
        return self.opens[bar] + LENGTHS[self.recipe.timeframe]


def histories(candles: pl.DataFrame, publications: pl.DataFrame, recipe: Recipe) -> dict[str, History]:
    """A history a market, by symbol.

    Args:
        candles: Clean candles.
        publications: Scored publications.
        recipe: Which features.
    """
    found: dict[str, History] = {}
    for row in candles.iter_rows(named=True):
        if row["symbol"] not in found:
            own = [
                Publication(each["source"], each["published_at"], each["value"])
                for each in publications.iter_rows(named=True)
                if each["symbol"] in (None, row["symbol"])
            ]
            found[row["symbol"]] = History([], {}, own, recipe, found)
        history = found[row["symbol"]]
        history.opens[row["bar"]] = row["ts"]
        if not row["missing"]:
            prices = (row[name] for name in ("open", "high", "low", "close", "volume"))
            history.candles.append(Candle(row["bar"], row["ts"], *prices))
    return found


def family_of(name: str) -> tuple[str, tuple[int, ...]]:
    """The family of an entry, and the spans in its name: average_cross_12_48 is average_cross of 12 and 48."""
    family = re.sub(r"(_\d+)+$", "", name)
    return family, tuple(int(span) for span in re.findall(r"\d+", name[len(family) :]))


def defined(name: str, history: History) -> Values:
    """What a feature is by its definition, a value for each candle that is there."""
    family, spans = family_of(name)
    return DEFINITIONS[family](history, *spans)


def definition(family: str) -> Callable[[Definition], Definition]:
    """Enter the definition of a family."""

    def enter(function: Definition) -> Definition:
        DEFINITIONS[family] = function
        return function

    return enter


def each(function: Callable[..., float | None], *columns: Sequence[float | None]) -> Values:
    """The function of each row, None where one of its values is."""
    return [None if None in row else function(*row) for row in zip(*columns, strict=True)]


def weighted_mean(values: Values, half_life: float, least: int) -> Values:
    """Weights halve every half-life over the values that are there; kept where there is none; None before `least`."""
    means: Values = []
    seen: list[float] = []
    for value in values:
        if value is not None:
            seen.append(value)
        if len(seen) < least:
            means.append(None)
        elif value is None:
            means.append(means[-1])
        else:
            weights = [0.5 ** (age / half_life) for age in range(len(seen))]
            total = math.fsum(weight * old for weight, old in zip(weights, reversed(seen), strict=True))
            means.append(total / math.fsum(weights))
    return means


def weighted_variance(values: Values, half_life: float, least: int) -> Values:
    """The weighted mean of squared distances from the weighted mean of the same candle."""
    variances: Values = []
    seen: list[float] = []
    for value in values:
        if value is not None:
            seen.append(value)
        if len(seen) < least:
            variances.append(None)
        elif value is None:
            variances.append(variances[-1])
        else:
            weights = [0.5 ** (age / half_life) for age in reversed(range(len(seen)))]
            mean = math.fsum(w * x for w, x in zip(weights, seen, strict=True)) / math.fsum(weights)
            squares = (w * (x - mean) ** 2 for w, x in zip(weights, seen, strict=True))
            variances.append(math.fsum(squares) / math.fsum(weights))
    return variances


def moving_mean(values: Sequence[float], span: int) -> Values:
    return [mean(window) if len(window) == span else None for window in windows(values, span)]


def windows(values: Sequence[Value], span: int) -> Iterable[Sequence[Value]]:
    """The last so many values up to each, fewer at the beginning."""
    return (values[max(end - span, 0) : end] for end in range(1, len(values) + 1))


def mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)


def known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def wilder_average(values: Sequence[float], span: int) -> Values:
    """Wilder (1978): the mean of the first so many, then each new value counts as one of so many."""
    averages: Values = [None] * (span - 1)
    average = mean(values[:span])
    averages.append(average)
    for value in values[span:]:
        average = (average * (span - 1) + value) / span
        averages.append(average)
    return averages[: len(values)]


def exponential_average(values: Sequence[float], span: int, first: int) -> Values:
    """Appel: alpha = 2 / (span + 1), begun at a place with the mean of the values up to there."""
    averages: Values = [None] * first
    average = mean(values[first - span + 1 : first + 1])
    averages.append(average)
    for value in values[first + 1 :]:
        average += 2 / (span + 1) * (value - average)
        averages.append(average)
    return averages


@definition("return")
def log_return(history: History, span: int) -> Values:
    """Over so many bars of the clock: None unless both candles are there."""
    moves: Values = []
    for candle in history.candles:
        then = history.places.get(candle.bar - span)
        moves.append(None if then is None else math.log(candle.close / history.candles[then].close))
    return history.scaled(moves, span)


@definition("log_volatility")
def log_volatility(history: History) -> Values:
    return each(math.log, history.volatility)


@definition("atr_ratio")
def atr_ratio(history: History) -> Values:
    """Wilder (1978): of two candles, the largest of the three distances; the first is that of the second candle."""
    ranges = [
        max(now.high - now.low, abs(now.high - then.close), abs(now.low - then.close))
        for then, now in pairwise(history.candles)
    ]
    average = [None, *wilder_average(ranges, history.spans.atr_bars)]
    closes = [candle.close for candle in history.candles]
    return each(
        lambda spread, close, scale: math.log(max(spread / close, math.sqrt(LEAST_VARIANCE)) / scale),
        average,
        closes,
        history.volatility,
    )


def volatility_ratio(history: History, variances: Values) -> Values:
    return each(
        lambda variance, scale: math.log(math.sqrt(max(variance, LEAST_VARIANCE)) / scale),
        variances,
        history.volatility,
    )


@definition("volatility_ratio")
def close_to_close(history: History, half_life: int) -> Values:
    squares = each(lambda move: move**2, history.log_returns)
    return volatility_ratio(history, weighted_mean(squares, half_life, half_life))


@definition("parkinson_ratio")
def parkinson(history: History, half_life: int) -> Values:
    """Parkinson (1980): the squared log range / (4 ln 2)."""
    squares: Values = [math.log(c.high / c.low) ** 2 / (4 * math.log(2)) for c in history.candles]
    return volatility_ratio(history, weighted_mean(squares, half_life, half_life))


@definition("garman_klass_ratio")
def garman_klass(history: History, half_life: int) -> Values:
    """Garman and Klass (1980): 0.5 ln(high / low)² - (2 ln 2 - 1) ln(close / open)²."""
    squares: Values = [
        0.5 * math.log(c.high / c.low) ** 2 - (2 * math.log(2) - 1) * math.log(c.close / c.open) ** 2
        for c in history.candles
    ]
    return volatility_ratio(history, weighted_mean(squares, half_life, half_life))


@definition("yang_zhang_ratio")
def yang_zhang(history: History, half_life: int) -> Values:
    """Yang and Zhang (2000): V_open + k V_close + (1 - k) V_rs, k = 0.34 / (1.34 + (n + 1) / (n - 1)).

    The paper has n equal weights; the same mean age as those here is that of n = (1 + λ) / (1 - λ), λ = 2^(-1 / h).
    An opening is a step from the close before, which must be there.
    """
    openings: Values = [
        math.log(now.open / then.close) if then and then.bar == now.bar - 1 else None
        for then, now in zip([None, *history.candles[:-1]], history.candles, strict=True)
    ]
    bodies: Values = [math.log(c.close / c.open) for c in history.candles]
    rogers_satchell: Values = [
        math.log(c.high / c.close) * math.log(c.high / c.open) + math.log(c.low / c.close) * math.log(c.low / c.open)
        for c in history.candles
    ]
    kept = 0.5 ** (1 / half_life)
    n = max((1 + kept) / (1 - kept), 2.0)
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    variances = each(
        lambda opening, body, within: opening + k * body + (1 - k) * within,
        weighted_variance(openings, half_life, half_life),
        weighted_variance(bodies, half_life, half_life),
        weighted_mean(rogers_satchell, half_life, half_life),
    )
    return volatility_ratio(history, variances)


@definition("average_distance")
def average_distance(history: History, span: int) -> Values:
    closes = [candle.close for candle in history.candles]
    distances = each(lambda close, average: math.log(close / average), closes, moving_mean(closes, span))
    return history.scaled(distances, span)


@definition("average_cross")
def average_cross(history: History, short: int, long: int) -> Values:
    closes = [candle.close for candle in history.candles]
    crosses = each(lambda a, b: math.log(a / b), moving_mean(closes, short), moving_mean(closes, long))
    return history.scaled(crosses, long)


@definition("rsi")
def relative_strength_index(history: History) -> Values:
    """Wilder (1978), as a share: gains / (gains + losses), both averaged his way.

    In the middle where nothing has moved for as long as the averages remember: the first of them, and 32 half-lives.
    """
    bars = history.spans.rsi_bars
    memory = bars + math.ceil(32 * math.log(2) / -math.log(1 - 1 / bars))
    moves = [math.log(now.close / then.close) for then, now in pairwise(history.candles)]
    gains = wilder_average([max(move, 0.0) for move in moves], bars)
    losses = wilder_average([max(-move, 0.0) for move in moves], bars)
    farthest = [max(map(abs, window)) for window in windows(moves, memory)]
    return [None, *each(lambda up, down, far: up / (up + down) - 0.5 if far > 0 else 0.0, gains, losses, farthest)]


def macd_lines(history: History) -> tuple[Values, Values]:
    """The line and its signal; TA-Lib begins the fast average at the same candle as the slow one."""
    fast, slow, signal = history.spans.macd_bars
    levels = [math.log(candle.close) for candle in history.candles]
    line = known(
        each(
            lambda quick, late: quick - late,
            exponential_average(levels, fast, slow - 1),
            exponential_average(levels, slow, slow - 1),
        )
    )
    before: Values = [None] * (slow - 1)
    return [*before, *line], [*before, *exponential_average(line, signal, signal - 1)]


@definition("macd")
def macd(history: History) -> Values:
    """Given from where its signal is known on, as by TA-Lib."""
    line, signal = macd_lines(history)
    return each(lambda value, _, scale: value / scale, line, signal, history.volatility)


@definition("macd_histogram")
def macd_histogram(history: History) -> Values:
    line, signal = macd_lines(history)
    return each(lambda value, late, scale: (value - late) / scale, line, signal, history.volatility)


def bollinger(history: History) -> tuple[Values, Values]:
    """Mean of the closes, and their deviation as a share of it, which is at least the floor of volatilities."""
    bars, closes = history.spans.bollinger_bars, [candle.close for candle in history.candles]
    middle = moving_mean(closes, bars)
    spread: Values = []
    for window, centre in zip(windows(closes, bars), middle, strict=True):
        deviation = None if centre is None else math.sqrt(mean((close - centre) ** 2 for close in window)) / centre
        spread.append(None if deviation is None else max(deviation, history.spans.volatility_floor))
    return middle, spread


@definition("bollinger_position")
def bollinger_position(history: History) -> Values:
    middle, spread = bollinger(history)
    closes = [candle.close for candle in history.candles]
    return each(lambda close, centre, share: (close - centre) / (2 * share * centre), closes, middle, spread)


@definition("bollinger_width")
def bollinger_width(history: History) -> Values:
    return each(math.log, history.scaled(bollinger(history)[1], history.spans.bollinger_bars))


def share_of_range(history: History, part: Callable[[Candle], float], centre: float = 0.0) -> Values:
    return [part(c) / (c.high - c.low) - centre if c.high > c.low else 0.0 for c in history.candles]


@definition("close_position")
def close_position(history: History) -> Values:
    return share_of_range(history, lambda c: c.close - c.low, 0.5)


@definition("body")
def body(history: History) -> Values:
    return share_of_range(history, lambda c: c.close - c.open)


@definition("upper_shadow")
def upper_shadow(history: History) -> Values:
    return share_of_range(history, lambda c: c.high - max(c.open, c.close))


@definition("lower_shadow")
def lower_shadow(history: History) -> Values:
    return share_of_range(history, lambda c: min(c.open, c.close) - c.low)


@definition("drawdown")
def drawdown(history: History) -> Values:
    bars, closes = history.spans.window_bars, [candle.close for candle in history.candles]
    falls: Values = [
        math.log(window[-1] / max(window)) if len(window) == bars else None for window in windows(closes, bars)
    ]
    return history.scaled(falls, bars)


def stands_still(history: History, moves: Sequence[float]) -> bool:
    """Whether the returns of a window are no more than rounding."""
    return mean(move**2 for move in moves) <= (history.spans.volatility_floor / 100) ** 2


@definition("skew")
def skew(history: History) -> Values:
    """Third central moment / second to the power 3/2, of a window of which at least half is known."""
    skews: Values = []
    for window in windows(history.log_returns, history.spans.window_bars):
        moves = known(window)
        if len(moves) < history.spans.window_bars // 2:
            skews.append(None)
        elif stdev(moves) <= history.spans.volatility_floor / 100:
            skews.append(0.0)
        else:
            centre = mean(moves)
            second, third = (mean((move - centre) ** power for move in moves) for power in (2, 3))
            skews.append(third / second**1.5)
    return skews


@definition("autocorrelation")
def autocorrelation(history: History) -> Values:
    """Mean product of neighbours / mean square, of windows of which at least half is known."""
    bars = history.spans.window_bars
    products = each(lambda then, now: then * now, [None, *history.log_returns[:-1]], history.log_returns)
    correlations: Values = []
    for moved, multiplied in zip(windows(history.log_returns, bars), windows(products, bars), strict=True):
        moves, pairs = known(moved), known(multiplied)
        if len(moves) >= bars // 2 and stands_still(history, moves):
            correlations.append(0.0)
        elif min(len(moves), len(pairs)) < bars // 2:
            correlations.append(None)
        else:
            correlations.append(mean(pairs) / mean(move**2 for move in moves))
    return correlations


@definition("volume_z")
def volume_z(history: History, half_life: int) -> Values:
    """Distance from the weighted mean / weighted standard deviation, of the log of one and the volume."""
    logs: Values = [math.log(1 + candle.volume) for candle in history.candles]
    distances = each(lambda value, centre: value - centre, logs, weighted_mean(logs, half_life, half_life))
    spreads = each(math.sqrt, weighted_variance(logs, half_life, half_life))
    return each(lambda distance, spread: distance / max(spread, 1e-5), distances, spreads)


@definition("vwap_distance")
def vwap_distance(history: History) -> Values:
    half_life = history.spans.volume_half_lives[-1]
    traded: Values = [c.volume for c in history.candles]
    paid: Values = [c.volume * (c.high + c.low + c.close) / 3 for c in history.candles]
    distances = each(
        lambda close, money, amount: math.log(close / (money / amount)) if amount > 0 else None,
        [c.close for c in history.candles],
        weighted_mean(paid, half_life, half_life),
        weighted_mean(traded, half_life, half_life),
    )
    return history.scaled(distances, half_life)


@definition("obv_slope")
def obv_slope(history: History) -> Values:
    """Granville (1963): the volume counts as bought where the close rose and as sold where it fell."""
    half_life = history.spans.volume_half_lives[-1]
    steps: Values = []
    volumes: Values = []
    for candle, move in zip(history.candles, history.log_returns, strict=True):
        side = None if move is None else 1.0 if move > 0 else -1.0 if move < 0 else 0.0
        steps.append(None if side is None else side * candle.volume)
        volumes.append(None if side is None else candle.volume)
    return each(
        lambda step, volume: step / volume if volume > 0 else None,
        weighted_mean(steps, half_life, half_life),
        weighted_mean(volumes, half_life, half_life),
    )


def hours_since_epoch(history: History) -> list[float]:
    return [(candle.ts - EPOCH).total_seconds() / 3600 for candle in history.candles]


def enter_calendar(period: str, length_h: int) -> None:
    for wave, function in (("sine", math.sin), ("cosine", math.cos)):

        @definition(f"{period}_{wave}")
        def turn(history: History, function: Callable[[float], float] = function) -> Values:
            return [function(2 * math.pi * (hour % length_h) / length_h) for hour in hours_since_epoch(history)]


for period, length_h in (("day", 24), ("week", 168), ("funding", 8)):
    enter_calendar(period, length_h)


def span_returns(history: History, bar: int) -> dict[str, float]:
    """Of each market that has both candles, over `universe_bars` up to a bar, in its own volatilities."""
    span = history.spans.universe_bars
    found = {symbol: market_return(market, bar, span) for symbol, market in history.markets.items()}
    return {symbol: value for symbol, value in found.items() if value is not None}


def market_return(history: History, bar: int, span: int) -> float | None:
    now, then = history.places.get(bar), history.places.get(bar - span)
    if now is None or then is None:
        return None
    scale = history.volatility[now]
    move = math.log(history.candles[now].close / history.candles[then].close)
    return None if scale is None else move / (scale * math.sqrt(span))


@definition("lead_return")
def lead_return(history: History, span: int) -> Values:
    """Of the market named in the configuration, else of Bitcoin, else of the first one."""
    symbols = history.recipe.symbols
    bitcoin = [symbol for symbol in symbols if symbol.split("/")[0] == "BTC"]
    configured = [symbol for symbol in symbols if symbol == history.spans.lead_symbol]
    lead = history.markets[(configured or bitcoin or list(symbols))[0]]
    return [market_return(lead, candle.bar, span) for candle in history.candles]


@definition("breadth")
def breadth(history: History) -> Values:
    shares: Values = []
    for candle in history.candles:
        returns = span_returns(history, candle.bar).values()
        shares.append(sum(value > 0 for value in returns) / len(returns) - 0.5 if returns else None)
    return shares


@definition("relative_strength")
def relative_strength(history: History) -> Values:
    strengths: Values = []
    for candle in history.candles:
        own = market_return(history, candle.bar, history.spans.universe_bars)
        strengths.append(None if own is None else own - mean(span_returns(history, candle.bar).values()))
    return strengths


def newest(history: History, source: str, instant: datetime, oldest: timedelta) -> float | None:
    """The last value published before an instant; None if that is longer ago than it may be."""
    own = [each for each in history.publications if each.source == source and each.published_at < instant]
    last = max(own, key=lambda each: each.published_at, default=None)
    return None if last is None or instant - last.published_at > oldest else last.value


@definition("fear_greed")
def fear_greed(history: History) -> Values:
    """Of a daily index: null once it is older than a day."""
    closes = (history.closes_at(candle.bar) for candle in history.candles)
    indices = [newest(history, "fear_greed", close, timedelta(hours=25)) for close in closes]
    return each(lambda index: index / 100 - 0.5, indices)


@definition("fear_greed_change")
def fear_greed_change(history: History) -> Values:
    closes = [history.closes_at(candle.bar) for candle in history.candles]
    now, then = (
        [newest(history, "fear_greed", close - timedelta(days=days), timedelta(hours=25)) for close in closes]
        for days in (0, 7)
    )
    return each(lambda index, before: (index - before) / 100, now, then)


def weighted_headlines(history: History) -> list[tuple[float, float] | None]:
    """Of each candle: headlines a bar, and the sum of their scores; None where none came in it or in two days.

    Weights halve every half-life of the clock, missing bars included; a bar that is silent for long does not count.
    """
    half_life = history.spans.published_half_life
    headlines = [each for each in history.publications if each.source == "headlines"]
    scores: dict[int, list[float] | None] = {}
    since = min(history.opens.values())
    for bar in sorted(history.opens):
        close = history.closes_at(bar)
        inside = [each.value for each in headlines if since <= each.published_at < close]
        speaks = inside or any(close - timedelta(days=2) <= each.published_at < close for each in headlines)
        scores[bar] = inside if speaks else None
        since = close
    found: list[tuple[float, float] | None] = []
    for candle in history.candles:
        if scores[candle.bar] is None:
            found.append(None)
            continue
        past = [(0.5 ** ((candle.bar - bar) / half_life), s) for bar, s in scores.items() if bar <= candle.bar]
        heard = [(weight, s) for weight, s in past if s is not None]
        total = sum(weight for weight, _ in heard)
        count, score = (sum(weight * of(s) for weight, s in heard) / total for of in (len, sum))
        found.append((count, score))
    return found


@definition("news_intensity")
def news_intensity(history: History) -> Values:
    return [None if heard is None else math.log(1 + heard[0]) for heard in weighted_headlines(history)]


@definition("news_sentiment")
def news_sentiment(history: History) -> Values:
    return [heard[1] / heard[0] if heard and heard[0] > 1e-9 else None for heard in weighted_headlines(history)]


FUNDING_PERIOD = timedelta(hours=8, minutes=1)  # a minute of grace


@definition("funding_rate")
def funding_rate(history: History) -> Values:
    closes = (history.closes_at(candle.bar) for candle in history.candles)
    return each(lambda rate: rate * 1e4, [newest(history, "funding", close, FUNDING_PERIOD) for close in closes])


@definition("funding_rate_average")
def funding_rate_average(history: History) -> Values:
    """Mean over the bars at which a rate is known, weights halved every half-life of the clock."""
    half_life = history.spans.published_half_life
    rates = {bar: newest(history, "funding", history.closes_at(bar), FUNDING_PERIOD) for bar in history.opens}
    averages: Values = []
    for candle in history.candles:
        past = [(0.5 ** ((candle.bar - b) / half_life), r) for b, r in rates.items() if b <= candle.bar]
        paid = [(weight, rate) for weight, rate in past if rate is not None]
        total = sum(weight for weight, _ in paid)
        silent = rates[candle.bar] is None
        averages.append(None if silent else sum(weight * rate for weight, rate in paid) / total * 1e4)
    return averages
