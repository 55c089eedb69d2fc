"""A market whose truth is known: hourly candles together with the distribution that their next closes are drawn from.

The log return of bar t is

    r_t = sqrt(clock_t * regime_t) * e_t,    e_t = sqrt(g_t) * z_t,
    g_t = omega + (alpha + leverage * [e_{t-1} < 0]) * e_{t-1}^2 + beta * g_{t-1},

with z of mean 0 and variance 1. The factors of variance, clock (hour of the day and weekend, by when the bar opens) and
regime (calm, or turbulent while the last close is below the one a day before), and g are functions of closes and of the
clock before bar t. So the truth is within the reach of a forecaster who sees no more than candles, and whoever falls
short of it has not learned what there was to learn.

Source:
    Glosten, Jagannathan and Runkle (1993), J. Finance 48(5), for g; Andersen and Bollerslev (1997), J. Empirical
    Finance 4(2-3), for the clock; Zakoian (1994), J. Economic Dynamics and Control 18(5), for regimes told by returns.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import numpy as np
import polars as pl
from scipy import stats

from gatecast.market.candles import CANDLE_SCHEMA, CLOSE, TS
from gatecast.model.predictions import LEVELS, Array

DAY: Final = 24  # bars that the regime looks back
_START: Final = datetime(2022, 1, 1, tzinfo=UTC)
_HOUR_MS: Final = 3_600_000
_FIRST_PRICE: Final = 100.0
_BUSIEST, _SATURDAY = 16, 5  # hour of the day, UTC; weekday counted from Monday
_AT_ONCE = 100  # bars whose paths are drawn together: they stay in the processor's cache

_Number = TypeVar("_Number", float, Array)


@dataclass(frozen=True)
class SimulatedMarket:
    """The law of one market; a bar is an hour, and never is one missing.

    Attributes:
        deviation: Standard deviation of e, log return of one bar.
        alpha: Weight of the last squared shock in the variance.
        leverage: What is added to it after a fall.
        beta: Weight of the last variance.
        degrees: Degrees of freedom of Student's t, above 2; infinite: normal.
        day: Factor of variance in the busiest hour, 16 UTC, against that of six hours before and after; the curve of a
            day is a wave.
        weekend: Factor of variance on Saturday and Sunday.
        turbulent: Factor of variance while the last close is below the one a day before.
    """

    deviation: float
    alpha: float = 0.0
    leverage: float = 0.0
    beta: float = 0.0
    degrees: float = math.inf
    day: float = 1.0
    weekend: float = 1.0
    turbulent: float = 1.0

    def candles(self, n_bars: int, seed: int) -> pl.DataFrame:
        """Draw a history.

        Args:
            n_bars: Bars, from 2022 on.
            seed: Decides all of it.

        Returns:
            Raw candles (ts, open, high, low, close, volume). A bar opens at the close before it. Shadows are in
            proportion to the deviation of their bar, and volume is noise: they say nothing that closes do not.
        """
        generator = np.random.default_rng(seed)
        draws = self._draws(generator, (n_bars,))
        opens_at = _START.timestamp() * 1000 + _HOUR_MS * np.arange(n_bars)  # ms
        clock = self._clock(opens_at)
        log_close, deviations = np.empty(n_bars), np.empty(n_bars)
        variance = self.deviation**2
        for t in range(n_bars):
            before = log_close[t - 1] if t else math.log(_FIRST_PRICE)
            fallen = t > DAY and before < log_close[t - 1 - DAY]
            shock = math.sqrt(variance) * draws[t]
            factor = math.sqrt(clock[t] * (self.turbulent if fallen else 1.0))
            log_close[t], deviations[t] = before + factor * shock, factor * math.sqrt(variance)
            variance = self._next_variance(variance, shock)
        close = np.exp(log_close)
        opened = np.concatenate([[_FIRST_PRICE], close[:-1]])
        shadow = np.exp(np.abs(generator.standard_normal((2, n_bars))) * deviations / 2)
        return pl.DataFrame(
            {
                TS: pl.Series(opens_at.astype(np.int64)).cast(CANDLE_SCHEMA[TS]),
                "open": opened,
                "high": np.maximum(opened, close) * shadow[0],
                "low": np.minimum(opened, close) / shadow[1],
                CLOSE: close,
                "volume": 10 * np.exp(generator.standard_normal(n_bars)),
            },
            schema=CANDLE_SCHEMA,
        )

    def next_deviation(self, candles: pl.DataFrame) -> Array:
        """Standard deviation of the next bar's log return, from closes and open times alone.

        Args:
            candles: From the first bar of the history on, (T).

        Returns:
            Known at the close of each bar, in log return, (T,).
        """
        return np.sqrt(self._next_clock(candles, 1) * self._regime(_log_close(candles)) * self.variances(candles))

    def variances(self, candles: pl.DataFrame) -> Array:
        """g of the next bar, recovered from closes and open times.

        Args:
            candles: From the first bar of the history on, (T).

        Returns:
            Known at the close of each bar, in squared log return, (T,).
        """
        log_close = _log_close(candles)
        regime = np.concatenate([[1.0], self._regime(log_close)[:-1]])  # of the bar itself
        factor = np.sqrt(self._next_clock(candles, 0) * regime)
        shocks = np.diff(log_close, prepend=math.log(_FIRST_PRICE)) / factor
        result = np.empty(len(shocks))
        variance = self.deviation**2
        for t, shock in enumerate(shocks.tolist()):
            variance = self._next_variance(variance, shock)
            result[t] = variance
        return result

    def true_quantiles(
        self, candles: pl.DataFrame, bars: np.ndarray, horizon: int, n_paths: int = 2000, seed: int = 0
    ) -> Array:
        """Quantiles of the log return over the next bars, given everything up to the close of each bar.

        Args:
            candles: From the first bar of the history on, (T).
            bars: Places in the candles, each at least `DAY`, (N,).
            horizon: Bars ahead, at most a day.
            n_paths: Continuations drawn for each bar where the horizon is above 1, an even number: each is drawn with
                its mirror image.
            seed: Of the paths.

        Returns:
            Log returns at `LEVELS`, (N, Q): exact at horizon 1, else quantiles of the paths.
        """
        if horizon == 1:
            return np.outer(self.next_deviation(candles)[bars], self._unit_quantiles())
        generator = np.random.default_rng(seed)
        variances = self.variances(candles)
        chunks = np.array_split(bars, max(len(bars) // _AT_ONCE, 1))
        halves = (self._draws(generator, (horizon, len(chunk), n_paths // 2)) for chunk in chunks)
        returns = [
            self.continued(candles, variances, chunk, np.concatenate([half, -half], axis=2))
            for chunk, half in zip(chunks, halves, strict=True)
        ]
        return np.concatenate([np.quantile(each, LEVELS, axis=1).T for each in returns])

    def continued(self, candles: pl.DataFrame, variances: Array, bars: np.ndarray, draws: Array) -> Array:
        """Log returns of paths that leave the history after each bar.

        Args:
            candles: From the first bar of the history on, (T).
            variances: Of the same, by `variances`, (T,).
            bars: Places in the candles, each at least `DAY`, (N,).
            draws: z of the bars to come, (H, N, P), H at most a day.

        Returns:
            Log return over all H bars, (N, P).
        """
        log_close = _log_close(candles)
        variance = np.broadcast_to(variances[bars, None], draws.shape[1:])  # (N, P)
        total = np.zeros(draws.shape[1:])  # log return since the bar, (N, P)
        for step, draw in enumerate(draws):
            day_before = (log_close[bars + step - DAY] - log_close[bars])[:, None]  # (N, 1)
            regime = np.where(total < day_before, self.turbulent, 1.0)  # (N, P)
            shock = np.sqrt(variance) * draw  # (N, P)
            total += np.sqrt(self._next_clock(candles, step + 1)[bars, None] * regime) * shock
            variance = self._next_variance(variance, shock)
        return total

    def _next_variance(self, variance: _Number, shock: _Number) -> _Number:
        persistence = self.alpha + self.leverage / 2 + self.beta
        return (
            (1 - persistence) * self.deviation**2
            + (self.alpha + self.leverage * (shock < 0)) * shock**2
            + self.beta * variance
        )

    def _regime(self, log_close: Array) -> Array:
        """Factor of the next bar, (T,)."""
        fallen = np.zeros(len(log_close), dtype=bool)
        fallen[DAY:] = log_close[DAY:] < log_close[:-DAY]
        return np.where(fallen, self.turbulent, 1.0)

    def _next_clock(self, candles: pl.DataFrame, n_bars: int) -> Array:
        """Factor of the bar so many bars later, (T,)."""
        return self._clock(candles[TS].dt.epoch("ms").to_numpy() + n_bars * _HOUR_MS)

    def _clock(self, opens_at: np.ndarray) -> Array:
        """Factor of bars that open at these milliseconds since 1970, a Thursday."""
        hours = opens_at // _HOUR_MS
        hour, weekday = hours % 24, (hours // 24 + 3) % 7
        wave = self.day ** np.cos(2 * math.pi / 24 * (hour - _BUSIEST))
        return wave * np.where(weekday >= _SATURDAY, self.weekend, 1.0)

    def _draws(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if math.isinf(self.degrees):
            return generator.standard_normal(shape)
        return generator.standard_t(self.degrees, shape) / self._spread()

    def _unit_quantiles(self) -> Array:
        """Quantiles of z, (Q,)."""
        quantiles: Array = stats.t(self.degrees).ppf(LEVELS) / self._spread()
        return quantiles

    def _spread(self) -> float:
        """Standard deviation of Student's t."""
        return 1.0 if math.isinf(self.degrees) else math.sqrt(self.degrees / (self.degrees - 2))


def _log_close(candles: pl.DataFrame) -> Array:
    closes: Array = candles[CLOSE].to_numpy()
    return np.log(closes)
