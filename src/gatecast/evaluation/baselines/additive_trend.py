"""Prophet: a trend that bends and seasons that repeat, fitted to the log price. The only import of prophet."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from multiprocessing.util import Finalize
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from gatecast.evaluation.baselines.calendar_spans import DAY, bar_duration, bars_of
from gatecast.evaluation.baselines.location_scale import Forecaster, Rule, market_by_market, moving_returns, no_fit
from gatecast.market.candles import CLOSE, SYMBOL, TS
from gatecast.model.predictions import Array

if TYPE_CHECKING:
    from prophet import Prophet

N_CHANGEPOINTS = 10  # with the 25 of the library, and seasons of the year, a fit takes three times as long
_SEED = 7


def prophet(train: pl.DataFrame, horizons: Sequence[int]) -> Forecaster:
    """Prophet's curve through the log price of the train part: the centre is its increment over the horizon.

    Only the increment: the curve itself leaves the price within weeks. The curve follows from the clock alone, so that
    it is fitted once for a train span; the bar h ahead is taken to open h mean durations of a train bar later. Seasons
    of the day and of the week where a day has several bars. Missing closes are left out of the fit. Market by market.
    Arguments and result as for `naive`.

    Raises:
        DataError: A close that does not move, or an optimiser that ends without a result.

    Source:
        Taylor and Letham (2018), Forecasting at Scale, The American Statistician 72(1).
    """

    def fit(market: pl.DataFrame) -> Rule:
        moving_returns("prophet", market)
        duration = bar_duration(market)
        model = fit_prophet(market, duration)

        def rule(rows: pl.DataFrame) -> list[tuple[Array, Array]]:
            now, flat = curve(model, rows[TS]), np.ones(len(rows))
            return [(curve(model, rows[TS] + horizon * duration) - now, flat) for horizon in horizons]

        return rule

    return market_by_market("prophet", train, horizons, fit)


def fit_prophet(market: pl.DataFrame, duration: timedelta) -> "Prophet":
    """The most likely parameters for one market.

    Args:
        market: Train rows of one market.
        duration: Of a bar.

    Raises:
        DataError: As `prophet`.
    """
    import pandas as pd
    from prophet import Prophet

    _delete_folder_at_exit()
    intraday = bars_of(DAY, duration) > 1
    model = Prophet(
        n_changepoints=N_CHANGEPOINTS,
        yearly_seasonality=False,
        weekly_seasonality=intraday,
        daily_seasonality=intraday,
        uncertainty_samples=0,
    )
    known = market.drop_nulls(CLOSE)
    frame = pd.DataFrame({"ds": _stamps(known[TS]), "y": known[CLOSE].log().to_numpy()})
    try:
        with _quietly(), TemporaryDirectory() as folder:  # otherwise its files lie about until the process ends
            model.fit(frame, seed=_SEED, output_dir=folder)
    except RuntimeError as error:
        raise no_fit("prophet", market[SYMBOL][0], "the optimiser of Stan ends without a result") from error
    return model


def curve(model: "Prophet", stamps: pl.Series) -> Array:
    """Fitted log price at instants, (N,).

    As `Prophet.predict` has it, but added term by term: its matrix product may round otherwise where it has another
    number of rows.
    """
    import pandas as pd

    with _quietly():
        frame = model.setup_dataframe(pd.DataFrame({"ds": _stamps(stamps)}))
        fitted = np.array(model.predict_trend(frame), dtype=np.float64)
        seasons = model.make_all_seasonality_features(frame)[0].to_numpy().T
    for weight, season in zip(model.params["beta"][0], seasons, strict=True):
        fitted += model.y_scale * weight * season
    return fitted


def _stamps(stamps: pl.Series) -> npt.NDArray[np.datetime64]:
    """In UTC without saying so, as Prophet wants them."""
    return stamps.dt.replace_time_zone(None).to_numpy()


@lru_cache(maxsize=1)
def _delete_folder_at_exit() -> None:
    """The library's folder of temporary files, made at its import: it leaves it behind in a forked worker."""
    import cmdstanpy

    Finalize(None, rmtree, (cmdstanpy._TMPDIR,), {"ignore_errors": True}, exitpriority=0)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the lines that a fit writes to stderr, and without its warnings of what pandas will drop one day."""
    loggers = [logging.getLogger(name) for name in ("cmdstanpy", "prophet", "prophet.models")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
