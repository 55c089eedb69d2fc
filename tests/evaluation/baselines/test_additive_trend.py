"""Prophet against its own `predict`, planted curves, and what it must not leave behind."""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.baselines import prophet
from gatecast.evaluation.baselines.additive_trend import curve, fit_prophet
from gatecast.evaluation.baselines.calendar_spans import bar_duration
from gatecast.evaluation.splits import Fold, Span
from gatecast.features.targets import build_targets
from gatecast.market.candles import BAR, CLOSE, TS
from gatecast.model.predictions import LEVELS, QUANTILES, Array
from tests.evaluation.baselines.session_market import FIRST_SESSION, session_market
from tests.evaluation.small_market import FIRST_BAR, small_market

HOURLY = Fold(0, Span(FIRST_BAR, FIRST_BAR + 676), Span(FIRST_BAR + 700, FIRST_BAR + 800))
DAILY = Fold(0, Span(FIRST_SESSION, FIRST_SESSION + 480), Span(FIRST_SESSION + 500, FIRST_SESSION + 600))


def with_price(log_price: Callable[[Array], Array]) -> pl.DataFrame:
    """Hourly rows of a market whose log price is a function of the hour."""
    market = small_market(840, ("BTC/USDT",)).drop("target_1", "target_6")
    price = pl.Series("price", np.exp(log_price(np.arange(840.0))))
    market = market.with_columns(pl.when(pl.col(CLOSE).is_not_null()).then(price).alias(CLOSE))
    return market.hstack(build_targets(market, (1, 6)))


def of_library(train: pl.DataFrame, stamps: pl.Series, seasons: str | bool) -> Array:
    """The fitted log price, as the library has it."""
    model = pytest.importorskip("prophet").Prophet(
        n_changepoints=10,
        yearly_seasonality=False,
        weekly_seasonality=seasons,
        daily_seasonality=seasons,
        uncertainty_samples=0,
    )
    known = train.drop_nulls(CLOSE)
    naive_stamps = known[TS].dt.replace_time_zone(None).to_numpy()
    model.fit(pd.DataFrame({"ds": naive_stamps, "y": np.log(known[CLOSE].to_numpy())}), seed=7)
    fitted: Array = model.predict(pd.DataFrame({"ds": stamps.dt.replace_time_zone(None).to_numpy()}))["yhat"].to_numpy()
    return fitted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library, which is called as it is
@pytest.mark.parametrize(
    ("rows", "fold", "horizon", "seasons"),
    [
        (small_market(840, ("BTC/USDT",)), HOURLY, 1, True),
        (small_market(840, ("BTC/USDT",)), HOURLY, 6, True),
        (session_market(620), DAILY, 20, False),
    ],
)
def test_forecasts_are_the_increments_of_the_curve_and_the_train_quantiles_of_what_is_left(
    rows: pl.DataFrame, fold: Fold, horizon: int, seasons: bool
) -> None:
    train, history = fold.train.rows(rows), rows.filter(pl.col(BAR) < fold.test.end)
    length = (train[TS][-1] - train[TS][0]) / (len(train) - 1)  # a weekend is shared out among the sessions
    now, then = (of_library(train, history[TS] + ahead, seasons) for ahead in (timedelta(0), horizon * length))
    centre = then - now
    residuals = train[f"target_{horizon}"].to_numpy() - centre[: len(train)]
    levels = np.quantile(residuals[np.isfinite(residuals)], LEVELS)
    test = history[BAR].is_between(fold.test.start, fold.test.end, closed="left").to_numpy()
    forecasts = prophet(train, (horizon,))(history, fold.test)
    np.testing.assert_allclose(
        forecasts.select(QUANTILES).to_numpy(), centre[test][:, None] + levels, rtol=1e-6, atol=1e-9
    )


def test_a_steady_rise_is_the_centre() -> None:
    rows = with_price(lambda hour: 4 + 0.001 * hour)
    forecasts = prophet(HOURLY.train.rows(rows), (6,))(rows, HOURLY.test)
    np.testing.assert_allclose(forecasts["q0.5"].to_numpy(), 0.006, rtol=0.01)


def test_an_hour_of_the_day_that_repeats_is_found() -> None:
    rows = with_price(lambda hour: 4 + 0.05 * np.sin(hour * 2 * np.pi / 24))
    forecasts = prophet(HOURLY.train.rows(rows), (6,))(rows, HOURLY.test)
    target = HOURLY.test.rows(rows)["target_6"].to_numpy()
    assert np.corrcoef(forecasts["q0.5"].to_numpy(), target)[0, 1] > 0.999


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 33])
def test_the_curve_at_an_instant_does_not_depend_on_which_others_are_asked_for(n_rows: int) -> None:
    rows = small_market(840, ("BTC/USDT",))
    model = fit_prophet(HOURLY.train.rows(rows), bar_duration(rows))
    whole = curve(model, rows[TS])
    assert curve(model, rows[TS][:n_rows]).tolist() == whole[:n_rows].tolist()
    assert curve(model, rows[TS][-n_rows:]).tolist() == whole[-n_rows:].tolist()


def test_an_optimiser_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error during optimization!\nCommand failed")

    monkeypatch.setattr("cmdstanpy.CmdStanModel.optimize", broken)
    with pytest.raises(
        DataError, match=r"prophet cannot be fitted to BTC/USDT: the optimiser of Stan .*; fetch"
    ) as error:
        prophet(HOURLY.train.rows(small_market(840)), (1,))
    assert "\n" not in str(error.value)


def test_loggers_are_left_as_they_were_and_warnings_are_kept_to_itself() -> None:
    rows = small_market(840, ("BTC/USDT",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prophet(HOURLY.train.rows(rows), (1,))(rows, HOURLY.test)
    assert not any(logging.getLogger(name).disabled for name in ("prophet", "cmdstanpy", "prophet.models"))


def fit_and_forecast() -> list[str]:
    """Files that lie about in the temporary folder afterwards, whatever their process does when it ends."""
    rows = small_market(840)
    for _ in range(2):
        prophet(HOURLY.train.rows(rows), (1, 6))(rows, HOURLY.test)
    return [path.name for path in Path(os.environ["TMPDIR"]).rglob("*.*") if not path.is_dir()]


ALONE = """
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tests.evaluation.baselines.test_additive_trend import fit_and_forecast

if __name__ == "__main__":
    assert fit_and_forecast() == []
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as workers:
        assert workers.submit(fit_and_forecast).result() == []
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for temporary files whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_nothing_is_written_to_the_screen_and_no_file_is_left_behind(tmp_path: Path, short_folder: Path) -> None:
    root, folder = Path(__file__).parents[3], short_folder
    environment = {
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "PYTHONPATH": f"{root}:{root / 'src'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(folder.rglob("*")) == []
