"""What a forecast would have earned: a threshold strategy on the median, after costs, bar by bar and then day by day.

Where the median forecast lies beyond the threshold a position is opened and held for the horizon; the positions of
neighbouring bars overlap, each a share 1/h of the capital. A position is taken at the close that the forecast was made
from, which is known then, and earns what the close does from there on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.config import StrategyConfig
from gatecast.errors import DataError
from gatecast.market.candles import CLOSE, SYMBOL, TS
from gatecast.model.predictions import HORIZON, MODEL, Array

BUY_AND_HOLD: Final = "buy_and_hold"
DATE: Final = "date"
RETURN: Final = "return"
EQUITY: Final = "equity"
_MEDIAN: Final = "q0.5"
_BASIS_POINT: Final = 1e-4
_YEAR_DAYS: Final = 365
_WEEK_DAYS: Final = 7


@dataclass(frozen=True)
class _Market:
    """The closes that a strategy trades at: T bars of S markets."""

    bars: pl.Series  # (T) open times
    symbols: list[str]  # (S)
    newest: npt.NDArray[np.int64]  # (T, S) bar of the newest close that is known, -1 before the first
    moves: Array  # (T, S) simple return of each bar; after a hole, of the whole hole

    def places(self, rows: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Bar and market of each row."""
        return _places(rows, self.bars, self.symbols)


def strategy_returns(predictions: pl.DataFrame, horizon: int, settings: StrategyConfig) -> pl.DataFrame:
    """Daily net returns of the strategy on the forecasts of one model at one horizon.

    The signal of a bar is 1 where the median is above the threshold, -1 where it is below minus the threshold, else 0,
    as where there is no forecast. The position after the close of bar t is the mean of the signals of bars t - h + 1 to
    t. It earns the simple return of bar t + 1, and each change of it costs fee and slippage at the close where it is
    made. Nothing is held before the first bar or after the last one. Without a close nothing is traded: the position
    is held over the hole, and earns its move when the close is known again. Each market has an equal share of the
    capital, at every bar; that positions are kept at their shares of it costs nothing.

    Args:
        predictions: symbol, ts, close (null where unknown) and q0.5 (log return, null where there is no forecast); a
            row a market and bar.
        horizon: Bars ahead.
        settings: Costs and threshold.

    Returns:
        A row a UTC day, in order: date, return (simple, net), turnover (capital traded, as a multiple of it), n_trades
        (changes of a position) and exposure (mean size of the position). All of a day is known when it has ended.

    Raises:
        DataError: No row.
    """
    market = _market(predictions)
    return _daily_returns(market, _signals(market, predictions, settings), horizon, settings)


def strategy_figures(
    predictions: pl.DataFrame, horizons: Sequence[int], settings: StrategyConfig
) -> dict[str, dict[str, dict[str, Any]]]:
    """What the strategy earned on the forecasts of each model, and what holding the markets earned.

    Args:
        predictions: The table of predictions, with close.
        horizons: Bars ahead.
        settings: Costs and threshold.

    Returns:
        By model (`buy_and_hold` among them) and horizon: total_return; annual_return (None where a year of it would be
        beyond all numbers); sharpe, a year's, of the daily returns (None where nothing was traded); max_drawdown, the
        largest loss from an earlier height, as a share of it; turnover, capital traded in a year as a multiple of it;
        n_trades; exposure, mean size of the position; n_days.

    Raises:
        DataError: No prediction.
    """
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for model, horizon, daily in _each(predictions, horizons, settings):
        figures.setdefault(model, {})[str(horizon)] = _figures(daily)
    return figures


def equity_table(predictions: pl.DataFrame, horizons: Sequence[int], settings: StrategyConfig) -> pl.DataFrame:
    """The daily net returns of the strategy on the forecasts of each model, and of holding the markets.

    Args:
        predictions: The table of predictions, with close.
        horizons: Bars ahead.
        settings: Costs and threshold.

    Returns:
        date, horizon, model (`buy_and_hold` among them), return (simple, net) and equity (that of 1 at the start), by
        model, horizon and date.

    Raises:
        DataError: No prediction.
    """
    return pl.concat(
        daily.select(
            DATE,
            pl.lit(horizon, dtype=pl.Int64).alias(HORIZON),
            pl.lit(model).alias(MODEL),
            RETURN,
            (1 + pl.col(RETURN)).cum_prod().alias(EQUITY),
        )
        for model, horizon, daily in _each(predictions, horizons, settings)
    )


def daily_sharpe(returns: Array) -> float | None:
    """Mean over standard deviation, not annualised; None where nothing was earned or lost, or on a single day.

    Args:
        returns: Simple returns, (T,).

    Source:
        Sharpe (1994), The Sharpe Ratio, Journal of Portfolio Management 21(1); the riskless rate is taken as zero.
    """
    if np.ptp(returns) == 0:
        return None
    return float(returns.mean()) / float(returns.std(ddof=1))


def days_a_year(dates: pl.Series) -> float:
    """Days of a year that have bars: 365 where a market never closes, about 252 where it has sessions.

    Args:
        dates: The days that have bars, in order, without a hole between them.
    """
    n_calendar_days = int((dates[-1] - dates[0]).days) + 1
    return _YEAR_DAYS * len(dates) / n_calendar_days


def _each(
    predictions: pl.DataFrame, horizons: Sequence[int], settings: StrategyConfig
) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Model, horizon and daily returns; all of them on the same bars, those of any model."""
    market = _market(predictions)
    parts = predictions.partition_by(MODEL, HORIZON, as_dict=True)
    for model in predictions[MODEL].unique().sort():
        for horizon in horizons:
            rows = parts.get((model, horizon), predictions.clear())
            yield model, horizon, _daily_returns(market, _signals(market, rows, settings), horizon, settings)
    held = _daily_returns(market, np.ones_like(market.moves), 1, settings)
    for horizon in horizons:
        yield BUY_AND_HOLD, horizon, held


def _market(rows: pl.DataFrame) -> _Market:
    if rows.is_empty():
        raise DataError("there is no forecast that a strategy could trade on: run `gatecast evaluate`")
    bars, symbols = _bars(rows[TS]), rows[SYMBOL].unique().sort().to_list()
    known_rows = rows.filter(pl.col(CLOSE).is_not_null() & pl.col(CLOSE).is_not_nan())
    closes = np.full((len(bars), len(symbols)), np.nan)
    closes[_places(known_rows, bars, symbols)] = known_rows[CLOSE].to_numpy()
    newest = np.maximum.accumulate(np.where(np.isfinite(closes), np.arange(len(bars))[:, None], -1), axis=0)
    at_hand = np.where(newest >= 0, np.take_along_axis(closes, newest, axis=0), np.nan)
    moves = np.zeros_like(closes)
    moves[1:] = np.where(newest[:-1] >= 0, at_hand[1:] / at_hand[:-1] - 1, 0)  # there is no move to the first close
    return _Market(bars, symbols, newest, moves)


def _bars(instants: pl.Series) -> pl.Series:
    """Every bar from the first to the last, in order.

    A market that trades on all days of the week never closes: a bar that the table lacks is a hole, through which a
    signal ages as through any other bar. Elsewhere the bars are those of the table.
    """
    bars = instants.unique().sort()
    if bars.dt.weekday().n_unique() < _WEEK_DAYS:
        return bars
    step = timedelta(milliseconds=int(np.diff(bars.dt.epoch("ms").to_numpy()).min()))
    grid = pl.datetime_range(bars[0], bars[-1], step, time_unit="ms", eager=True).alias(bars.name)
    return grid if bars.is_in(grid.implode()).all() else bars


def _places(
    rows: pl.DataFrame, bars: pl.Series, symbols: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    bar = bars.search_sorted(rows[TS]).cast(pl.Int64).to_numpy()
    return bar, rows[SYMBOL].cast(pl.Enum(symbols)).to_physical().cast(pl.Int64).to_numpy()


def _signals(market: _Market, rows: pl.DataFrame, settings: StrategyConfig) -> Array:
    """1, -1 or 0 for each bar and market, (T, S)."""
    median = rows[_MEDIAN].fill_null(0.0).fill_nan(0.0).to_numpy()
    signals = np.zeros_like(market.moves)
    signals[market.places(rows)] = np.sign(median) * (np.abs(median) > settings.threshold_bps * _BASIS_POINT)
    return signals


def _positions(market: _Market, signals: Array, horizon: int) -> Array:
    """The position after the close of each bar, as a share of the capital of its market, (T, S)."""
    wanted = signals.cumsum(axis=0)  # of whole numbers, so that signals that cancel leave exactly nothing
    wanted[horizon:] -= wanted[:-horizon].copy()
    wanted /= horizon
    positions = np.where(market.newest >= 0, np.take_along_axis(wanted, market.newest, axis=0), 0.0)
    positions[-1] = 0
    return positions


def _daily_returns(market: _Market, signals: Array, horizon: int, settings: StrategyConfig) -> pl.DataFrame:
    positions = _positions(market, signals, horizon)
    changes = np.abs(np.diff(positions, axis=0, prepend=0))  # (T, S)
    earned = np.zeros(len(positions))
    earned[1:] = (positions[:-1] * market.moves[1:]).mean(axis=1)
    traded = changes.mean(axis=1)
    cost = (settings.fee_bps + settings.slippage_bps) * _BASIS_POINT
    growth = np.maximum((1 + earned) * (1 - cost * traded), 0)  # who has lost everything owes nothing
    dates = market.bars.dt.date()
    starts = np.flatnonzero((dates != dates.shift()).fill_null(value=True).to_numpy())
    n_bars = np.diff(starts, append=len(dates))
    return pl.DataFrame(
        {
            DATE: dates.gather(starts),
            RETURN: np.multiply.reduceat(growth, starts) - 1,
            "turnover": np.add.reduceat(traded, starts),
            "n_trades": np.add.reduceat((changes > 0).sum(axis=1), starts),
            "exposure": np.add.reduceat(np.abs(positions).mean(axis=1), starts) / n_bars,
        }
    )


def _figures(daily: pl.DataFrame) -> dict[str, Any]:
    returns, yearly = daily[RETURN].to_numpy(), days_a_year(daily[DATE])
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    sharpe = daily_sharpe(returns)
    with np.errstate(over="ignore"):
        annual = float(np.power(equity[-1], yearly / len(returns)) - 1)
    return {
        "total_return": float(equity[-1] - 1),
        "annual_return": annual if np.isfinite(annual) else None,
        "sharpe": sharpe * float(np.sqrt(yearly)) if sharpe is not None else None,
        "max_drawdown": float((1 - equity / np.maximum.accumulate(equity)).max()),
        "turnover": float(daily["turnover"].to_numpy().mean() * yearly),
        "n_trades": int(daily["n_trades"].sum()),
        "exposure": float(daily["exposure"].to_numpy().mean()),
        "n_days": len(daily),
    }
