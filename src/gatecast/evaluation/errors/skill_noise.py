"""How far the skill of one group of forecasts may lie from that of another by chance alone.

Losses of neighbouring bars belong together, since their labels overlap and calm and wild times come in spells; so do
those of several markets at one bar. The noise of a mean is therefore told from covariances, and never from a count.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft
from scipy.stats import t as student_t

from gatecast.model.predictions import Array

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Losses:
    """Losses of a model and its rival at the same forecasts.

    Attributes:
        ours: Losses of the model in units of the mean loss of the rival in that market, (N,): markets count alike.
        theirs: Losses of the rival in the same units, (N,).
        bars: Bar of each forecast, (N,).
        markets: Number of its market, from 0, (N,).
        horizon: Bars ahead.
    """

    ours: Array
    theirs: Array
    bars: Places
    markets: Places
    horizon: int

    def skill(self, chosen: npt.NDArray[np.bool_]) -> float:
        """1 less the ratio of the losses over the forecasts chosen, (N,)."""
        return float(1 - self.ours[chosen].sum() / self.theirs[chosen].sum())

    @property
    def gains(self) -> Array:
        """What each forecast saved beyond the skill of all, (N,): they sum to zero."""
        saved: Array = self.ours.sum() / self.theirs.sum() * self.theirs - self.ours
        return saved

    def n_separate(self, chosen: npt.NDArray[np.bool_]) -> int:
        """How many spans of one horizon the forecasts chosen touch: about as many labels do not overlap."""
        spans = self.bars[chosen] // self.horizon
        return int(np.count_nonzero(np.bincount(spans - spans.min())))


def relative_losses(ours: Array, theirs: Array, bars: Places, markets: Places, horizon: int) -> Losses:
    """Losses in log return, (N,), brought to the units of `Losses`."""
    n_markets = np.bincount(markets)
    mean = np.bincount(markets, theirs) / np.maximum(n_markets, 1)
    return Losses(ours / mean[markets], theirs / mean[markets], bars, markets, horizon)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of weighted sums of gains, were they without any pattern.

    The variance of gains may differ from group to group; their correlation over time, and between markets, is taken to
    be the same throughout. So the noise of a month follows from how gains hang together over the whole evaluation,
    where the month alone, centred at its own mean, would look far too calm.

    Attributes:
        scale: Typical size of a gain in the group of each forecast, (N,).
        own: Bartlett-weighted covariance of scaled gains of one market at each lag, (K,).
        cross: The same of gains of two markets, (K,).
        bars: Bar of each forecast, (N,).
        markets: Number of its market, (N,).
    """

    scale: Array
    own: Array
    cross: Array
    bars: Places
    markets: Places

    def deviation(self, weights: Array) -> float:
        """Standard deviation of the sum of gains times these weights, (N,)."""
        own, cross = _products(weights * self.scale, self.bars, self.markets, len(self.own))
        terms = self.own * own + self.cross * cross  # (K,)
        return float(np.sqrt(max(terms[0] + 2 * terms[1:].sum(), 0.0)))


def noise(losses: Losses, groups: Places) -> Noise:
    """The noise of gains whose variance differs between groups.

    Bartlett weights reach over max(2h, T/10) lags, as those of the Diebold-Mariano test.

    Args:
        losses: Of N forecasts.
        groups: Number of the group of each forecast, (N,), -1 for none.

    Source:
        Newey and West (1987), Econometrica 55(3).
    """
    gains, places = losses.gains, groups + 1
    counts = np.maximum(np.bincount(places), 1)
    typical = np.sqrt(np.bincount(places, gains**2) / counts)
    scale = typical[places]
    scaled = np.divide(gains, scale, out=np.zeros_like(gains), where=scale > 0)
    n_bars = int(np.ptp(losses.bars)) + 1
    n_lags = min(max(2 * losses.horizon, n_bars // 10), n_bars)
    own, cross = _products(scaled - scaled.mean(), losses.bars, losses.markets, n_lags)
    n_at_bar = np.bincount(losses.bars - losses.bars.min())
    n_pairs = int((n_at_bar**2).sum()) - len(gains)
    taper = 1 - np.arange(n_lags) / n_lags
    return Noise(scale, taper * own / len(gains), taper * cross / max(n_pairs, 1), losses.bars, losses.markets)


def p_of_difference(losses: Losses, spread: Noise, chosen: npt.NDArray[np.bool_], rest: npt.NDArray[np.bool_]) -> float:
    """Two-sided p-value of the difference in skill between two groups of forecasts, each not empty.

    Held against a Student-t with as many degrees of freedom as the smaller group has labels that do not overlap.

    Args:
        losses: Of N forecasts.
        spread: Their noise.
        chosen: One group, (N,).
        rest: The other, (N,).
    """
    weights = chosen / losses.theirs[chosen].sum() - rest / losses.theirs[rest].sum()
    freedom = min(losses.n_separate(chosen), losses.n_separate(rest)) - 1
    return min(2 * _upper_p(abs(_total(weights, losses)), spread.deviation(weights), freedom), 1.0)


def p_of_fall(losses: Losses, spread: Noise, groups: Places, n_groups: int) -> float:
    """One-sided p-value against the null that skill does not fall from the first group to the last, by its slope.

    Args:
        losses: Of N forecasts.
        spread: Their noise.
        groups: Number of the group of each forecast, (N,), -1 for none; each group has a forecast.
        n_groups: How many there are.
    """
    slope = (n_groups - 1) / 2 - np.arange(n_groups)  # positive where skill counts against a fall
    here = groups >= 0
    totals = np.bincount(groups[here], losses.theirs[here], n_groups)
    weights = np.where(here, (slope / totals)[groups], 0.0)
    freedom = min(losses.n_separate(groups == group) for group in range(n_groups)) - 1
    return _upper_p(_total(weights, losses), spread.deviation(weights), freedom)


def _total(weights: Array, losses: Losses) -> float:
    return float((weights * losses.gains).sum())  # without BLAS, whose threads wait for each other on a busy machine


def _upper_p(estimate: float, deviation: float, freedom: int) -> float:
    if deviation == 0 or freedom < 1:  # equal losses, or one label: nothing can be told
        return 1.0
    return float(student_t.sf(estimate / deviation, freedom))


def _products(values: Array, bars: Places, markets: Places, n_lags: int) -> tuple[Array, Array]:
    """Sums of products of values a lag apart, within one market and between two, (K,) each."""
    n_markets, n_bars = int(markets.max()) + 1, int(np.ptp(bars)) + 1
    series = np.bincount(markets * n_bars + bars - bars.min(), values, n_markets * n_bars).reshape(n_markets, n_bars)
    length = next_fast_len(n_bars + n_lags, real=True)
    own, total = np.zeros(length // 2 + 1), np.zeros(length // 2 + 1, dtype=complex)
    for market in series:  # one after the other, so that memory stays small
        spectrum = rfft(market, length)
        own += np.abs(spectrum) ** 2
        total += spectrum
    within = irfft(own, length)[:n_lags]
    return within, irfft(np.abs(total) ** 2, length)[:n_lags] - within
